"""The row program in C, with the whole row as one tile.

A lift reduces a tile, and what it reduces needs earlier reductions (t = l - m needs m).  So it
becomes a few loops over the row, which stays in cache between them: each loop computes the class
values that its reductions need, and the row values between the loops are doubles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from lossgen.emit.c_text import CText
from lossgen.emit.program_c import Program, Reduction, Statement
from lossgen.ir.program import Line, Name, Node, variables
from lossgen.lower.model import RowModel, Sweep
from lossgen.lower.sweep import counting, gradient, lift

__all__ = ["CSweep", "GradientLoop", "Loop", "row_lines"]

_TILE, _ROW = CText(tile=True), CText(tile=False)


@dataclass
class Loop:
    """One pass over the classes, which computes ``body`` and then ``roots``: what its reductions
    sum, or its results.

    ``loads`` and ``stores``: the buffer of each class value that an earlier loop kept, and that
    it keeps for a later one; of those, ``late`` are for the gradient alone.
    """

    program: Program
    name: str
    roots: list[Node]
    reductions: list[Reduction] = field(default_factory=list)
    own: list[Line] = field(default_factory=list)  # row values that it alone needs
    after: list[str] = field(default_factory=list)  # row values that follow from it
    loads: dict[str, int] = field(default_factory=dict)
    stores: dict[str, int] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.body, self._rows = self.program.tile_lines(self.roots)

    def copy(self) -> Loop:
        """The same pass, to be rewritten by itself."""
        return replace(self, own=[], loads={}, stores={}, late=set())

    def rewrite(self, body: list[Statement], roots: list[Node]) -> None:
        """Compute this instead; ``loads`` and ``stores`` are known."""
        known = {s.name: s for s in body}
        wanted, rows, todo = set[str](), set[str](), [*roots, *(Name(n) for n in self.stores)]
        while todo:
            for name in sorted(variables(todo.pop()) - wanted - rows):
                if name in known:
                    wanted.add(name)
                    todo.append(known[name].value)
                elif name not in self.program.tiles and name not in self.loads:
                    rows.add(name)
        self.body, self._rows = [s for s in body if s.name in wanted], rows
        self.roots = roots
        self.reductions = [
            replace(r, body=root) for r, root in zip(self.reductions, roots, strict=False)
        ]

    @property
    def rows(self) -> set[str]:
        """The row values that it reads."""
        return set(self._rows)

    # ------------------------------------------------------------------ for the template
    @property
    def before(self) -> list[str]:
        """Its own row values."""
        return row_lines(self.own, set())

    @property
    def scalars(self) -> list[tuple[str, str]]:
        """(type, name) of what it reads of the row."""
        kinds = self.program.integers
        return [("int" if n in kinds else "real", n) for n in sorted(self._rows)]

    @property
    def streams(self) -> list[str]:
        """What it loads per class."""
        values = [*(s.value for s in self.body), *self.roots]
        read = {n for value in values for n in variables(value)}
        return [n for n in self.program.streams if n in read]

    @property
    def lines(self) -> list[str]:
        kind = self.program.type_of
        return [f"const {kind(s.name)} {s.name} = {_TILE(s.value)};" for s in self.body]

    @property
    def results(self) -> list[str]:
        return [_TILE(root) for root in self.roots]


class CSweep:
    """The loops of one sweep, the lines after the last that name the state, and the row values
    ``between`` it and the next."""

    def __init__(self, sweep: Sweep, variables: set[str], between: list[str]) -> None:
        model = sweep.model
        program = Program([counting(sweep), *lift(sweep, whole_row=True)], model.tile_streams)
        known = {"y", *sweep.values}
        if model.pivot == "argmax" and sweep.level > 1:  # the first sweep finds it
            program.integers.add("pivot")
            known.add("pivot")
        first, *rest = program.rounds(known)
        self.before = _row_values(first[1], variables)
        self.loops = []
        for k, (ready, follow) in enumerate(rest):
            name = f"lift{sweep.suffix}_{k + 1}"
            after = _row_values(follow, variables)
            self.loops.append(Loop(program, name, [r.body for r in ready], ready, after=after))
        self.widest = max([1, *(len(loop.reductions) for loop in self.loops)])
        versions = [(n, program.names.get(n, n)) for n in sweep.state]
        self.results = [f"{n} = {version};" for n, version in versions if n != version]
        self.between = between


class GradientLoop:
    """The gradients of all classes; the values at the pivot are written after it.

    ``before``: the row values that it needs beside the coefficients, whose names are ``declared``:
    it may use one again for a value of its own.
    """

    def __init__(self, model: RowModel, declared: set[str]) -> None:
        program = Program(gradient(model), model.tile_streams)
        results = [program.names[f"grad_{g.stream}"] for g in model.gradients]
        self.loop = Loop(program, f"gradient{model.suffix}", [Name(n) for n in results])
        # A gradient that is the same for all classes is a row value.
        self.before = _row_values(program.row_lines(self.loop.rows), declared)


def _row_values(statements: list[Statement], variables: set[str]) -> list[str]:
    """Lines of row values; ``variables`` are declared already."""
    types = {s.name: "" if s.name in variables else "const double " for s in statements}
    return [f"{types[s.name]}{s.name} = {_ROW(s.value)};" for s in statements]


def row_lines(lines: Iterable[Line], declared: set[str]) -> list[str]:
    """Lines of row values in C: doubles, declared the first time; adds to ``declared``."""
    found = []
    for line in lines:
        kind = "" if line.name in declared else "double "
        found.append(f"{kind}{line.name} = {_ROW(line.value)};")
        declared.add(line.name)
    return found
