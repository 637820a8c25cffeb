"""The function that finds a root in torch: sweeps over a chunk of whole rows, until all have it.

It only reads what the rows are made of.  A row is what it would be in any other chunk: where it has
its root, it keeps it.
"""

from __future__ import annotations

from lossgen.emit.torch_writer import SOLVED, Writer
from lossgen.ir.plan import SWEEPS
from lossgen.ir.program import Call, Line, Name, variables
from lossgen.ir.statistics import Root
from lossgen.lower.fuse import masked, needed
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import counting, finished_maxima, lift
from lossgen.lower.sweep_model import Sweep

__all__ = ["RootFunction"]


class RootFunction:
    """``call`` is the line of the program that calls it; ``text`` its definition."""

    def __init__(self, model: RowModel, sweep: Sweep, root: Root, scalars: RowScalars) -> None:
        self.model, self.root = model, root
        before = masked([*scalars.started(sweep)])
        body = [counting(sweep), *lift(sweep, whole_row=True), *finished_maxima(sweep)]
        body = masked([*body, *scalars.stepped(sweep)])
        self.before, self.body = needed(before, root.state), needed(body, root.state)
        self.name = f"{SOLVED}{root.index}{model.suffix}"
        self.arguments = self._read()

    @property
    def call(self) -> Line:
        return Line(self.root.symbol.name, Call(self.name, tuple(map(Name, self.arguments))))

    def _read(self) -> list[str]:
        """What its lines read and do not make; ``x`` at least, whose rows are counted."""
        found, made = {"x": None}, {"cols"}
        for line in (*self.before, *self.body):
            found |= dict.fromkeys(sorted(variables(line.value) - made))
            made.add(line.name)
        return list(found)

    @property
    def text(self) -> list[str]:
        state = self.root.state
        before = Writer(self.model, self.before, [*state], owned=()).text(())
        body = Writer(self.model, self.body, [*state], owned=()).text(())
        if any("cols" in variables(line.value) for line in self.body):
            before.insert(0, "cols = torch.arange(x.shape[1], device=x.device)")
        t, moving = self.root.trial.name, state[-1]
        return [
            *before,
            "rows = x.new_zeros(x.shape[0], 1)",
            *(f"{name} = {name} + rows" for name in state),
            f"for _ in range({SWEEPS}):",
            *(f"    {line}" for line in body),
            f"    if not ({moving} > 0.0).any().item():",
            f"        return {t}",
            f"return {t}",
        ]
