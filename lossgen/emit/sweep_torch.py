"""The row program in torch, for a chunk of whole rows: statistics, then the gradients.

A chunk is small enough to stay in cache.  A mask that leaves out one class is a scatter there, and
what is not read again is overwritten:

    valid = cols != y                                    l0 = x.scatter_(1, y, -inf)
    l0 = select(valid, x, -inf)                     →    m0 = l0.amax(1, keepdim=True)
    m0 = row_max(l0); t0 = l0 - m0                       t0 = l0.sub_(m0)

``x`` is a buffer of the caller's that the forward may overwrite; the backward has the logits
themselves, and other streams are only read.
"""

from __future__ import annotations

from collections.abc import Iterable

from lossgen.emit.root_torch import RootFunction
from lossgen.emit.torch_writer import RESULTS, Writer
from lossgen.ir.program import Call, Line, Name, Node, as_node, variables
from lossgen.lower.constants import FAR, MASKED
from lossgen.lower.fuse import folded, masked, needed, once
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import counting, finished_maxima, gradient, lift

__all__ = ["TorchProgram"]


class TorchProgram:
    """The functions of one variant, as lines of text: ``rows`` computes results and, unless ``g``
    is None, the gradients; ``backward`` the gradients of what was saved."""

    def __init__(self, model: RowModel) -> None:
        self.model, self.scalars = model, RowScalars(model, sums_pivot=False)
        self.functions: list[RootFunction] = []
        cotangents = [f"{n} = g[:, {k} : {k + 1}]" for k, n in enumerate(model.cotangents)]
        results = self.scalars.results(with_gradient=True)
        coefficients = self.scalars.coefficients(saved=False)
        held = tuple(map(Name, [*model.outputs, *model.saved]))
        first = [*self._statistics(), *results, Line(RESULTS, Call(RESULTS, held))]
        returned = ["if g is None:", f"    return {self._outputs}, {self._saved}", *cotangents]
        whole = [*first, *coefficients, *self._gradient()]
        self.rows = self._text(whole, [*self._gradients, *model.outputs], returned=returned)
        self.rows.append(f"return {self._outputs}, {self._tuple}")
        saved = [*self.scalars.coefficients(saved=True), *self._gradient()]
        self.backward = cotangents + self._reloaded() + self._text(saved, self._gradients, owned=())
        self.backward.append(f"return {self._tuple}")

    @property
    def _outputs(self) -> str:
        names = self.model.outputs
        return names[0] if len(names) == 1 else f"torch.cat([{', '.join(names)}], 1)"

    @property
    def _saved(self) -> str:
        if not self.model.saved:
            return "x.new_empty(0, x.shape[0])"
        return f"torch.cat([{', '.join(self.model.saved)}], 1).t().to(x.dtype)"

    @property
    def _tuple(self) -> str:
        return f"({''.join(f'{n}, ' for n in self._gradients)})"

    @property
    def _gradients(self) -> list[str]:
        return [f"grad_{g.stream}" for g in self.model.gradients]

    # ------------------------------------------------------------------ the program
    def _statistics(self) -> list[Line]:
        """From the streams to the state, and to what the last sweep knows."""
        model, lines = self.model, list[Line]()
        for sweep in model.sweep_models:
            for root in sweep.roots:
                function = RootFunction(model, sweep, root, self.scalars)
                self.functions.append(function)
                lines.append(function.call)
            lines += [counting(sweep), *lift(sweep, whole_row=True)]
            lines += finished_maxima(sweep)
            if sweep.level < len(model.sweep_models):
                lines += self.scalars.between(sweep.level)
        return lines

    def _gradient(self) -> list[Line]:
        """Each with its value at y, times the gradient of the row."""
        model, lines = self.model, gradient(self.model)
        for name in self._gradients:
            own, at_y = Name(name), as_node(f"{name}_y")
            if not model.cotangents:
                lines.append(Line(name, own * as_node("g")))
                at_y = at_y * as_node("g")
            if model.pivot != "none":
                lines.append(Line(name, Call("put", (own, self._pivot, at_y))))
        return lines

    @property
    def _pivot(self) -> Node:
        return Name("y") if self.model.pivot == "target" else Call("index", (Name("pivot"),))

    def _reloaded(self) -> list[str]:
        model = self.model
        names = ", ".join(model.saved)
        one = len(model.saved) == 1
        lines = [f"{f'({names},)' if one else names} = saved.unsqueeze(2)"] if names else []
        return lines + (self._values_at("pivot.to(torch.int64)") if model.pivot == "argmax" else [])

    def _values_at(self, at: str) -> list[str]:
        """The streams' values at y, once y or the pivot is known."""
        model = self.model
        lines = [f"{n}_y = {n}.gather(1, {at})" for n in ["x", *model.streams]]
        if model.needs_reference:
            lines.append(f"x_ref = torch.where(x_y > {MASKED}, x_y, 0.0)")
            lines.append("x_own = x_y - x_ref")
        lines += [f"{n}_y = {n}_y.clamp_min({FAR})" for n in model.floored]
        lines += [f"{v}_y = {v}[{at}]" for v in model.vocab]
        return lines + ([f"index_y = {at}.to(x.dtype)"] if model.needs_index else [])

    # ------------------------------------------------------------------ its text
    def _text(
        self,
        lines: list[Line],
        results: list[str],
        owned: Iterable[str] = ("x",),
        returned: Iterable[str] = (),
    ) -> list[str]:
        model = self.model
        head = self._values_at("y") if model.pivot == "target" else []
        exponents = {f"{name}{f.index}" for f in model.forms for name in "te"}
        program = _sunk(folded(once(masked(lines), exponents), model.tile_streams))
        if returned:
            body = self._with_return(program, results, owned, list(returned))
        else:
            body = Writer(model, program, results, owned).text(results)
        if any("cols" in _words(line) for line in body):
            head.append("cols = torch.arange(x.shape[1], device=x.device)")
        return head + body

    def _with_return(
        self, program: list[Line], results: list[str], owned: Iterable[str], returned: list[str]
    ) -> list[str]:
        """A call without gradients overwrites what they would read."""
        writer = Writer(self.model, program, [*results, RESULTS], owned)
        body = writer.text(results)
        end = body.index(RESULTS)
        first = writer.lines[: end + 1]
        wanted = {id(line) for line in needed(first, [RESULTS])}
        others = [line.name for line in first if id(line) not in wanted]
        alone = Writer(self.model, first, [RESULTS, *others], owned)
        texts = dict(zip(map(id, alone.lines), alone.text(()), strict=True))
        for k, line in enumerate(first[:-1]):
            text = texts.get(id(line), body[k])
            if text != body[k]:
                body[k] = f"{text} if g is None else {body[k].partition(' = ')[2]}"
        return [*body[:end], *returned, *body[end + 1 :]]


def _sunk(lines: list[Line]) -> list[Line]:
    """What the results do not need stands behind them, unless what it reads is another by then."""
    names = [line.name for line in lines]
    if RESULTS not in names:
        return lines
    end = names.index(RESULTS)
    wanted = {id(line) for line in needed(lines[: end + 1], [RESULTS])}
    bound = 0  # what stands before the last that cannot move stays with it
    for k, line in enumerate(lines[:end]):
        later = {other.name for other in lines[k + 1 : end] if id(other) in wanted}
        if id(line) not in wanted and later & (variables(line.value) | {line.name}):
            bound = k + 1
    first, behind = list[Line](), list[Line]()
    for k, line in enumerate(lines[:end]):
        (first if k < bound or id(line) in wanted else behind).append(line)
    return [*first, lines[end], *behind, *lines[end + 1 :]]


def _words(line: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in line).split())
