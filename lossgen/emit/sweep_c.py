"""The row program in C, with the whole row as one tile.

A lift reduces a tile, and what it reduces needs earlier reductions (t = l - m needs m).  So it
becomes a few loops over the row, which stays in cache between them: each loop computes the class
values that its reductions need, and the row values between the loops are doubles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from lossgen.emit.c_text import CText
from lossgen.emit.program_c import Program, Reduction, Statement
from lossgen.ir.plan import SWEEPS
from lossgen.ir.program import Line, Name, Node, variables
from lossgen.lower.model import RowModel
from lossgen.lower.sweep import counting, gradient, lift
from lossgen.lower.sweep_model import Sweep

__all__ = ["CSweep", "GradientLoop", "Loop", "row_lines"]


@dataclass
class Loop:
    """One pass over the classes, which computes ``body`` and then ``roots``: what its reductions
    sum, or its results.

    ``loads`` and ``stores``: the buffer of each class value that an earlier loop kept, and that
    it keeps for a later one; of those, ``late`` are for the gradient alone.  ``names``: what its
    results, and the row values before it, are called.
    """

    program: Program
    roots: list[Node]
    names: Mapping[str, str]
    reductions: list[Reduction] = field(default_factory=list)
    own: list[Line] = field(default_factory=list)  # row values that it alone needs
    after: list[Statement] = field(default_factory=list)  # row values that follow from it
    loads: dict[str, int] = field(default_factory=dict)
    stores: dict[str, int] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.body, self.rows = self.program.tile_lines(self.roots)

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
        rows -= {"fused", *(n for n in rows if n.endswith("_ptr"))}
        self.body, self.rows = [s for s in body if s.name in wanted], rows
        self.roots = roots
        self.reductions = [
            replace(r, body=root) for r, root in zip(self.reductions, roots, strict=False)
        ]

    def _is_kept(self, node: Node) -> TypeGuard[Name]:
        return isinstance(node, Name) and (node.name in self.stores or node.name in self.loads)

    @property
    def values(self) -> list[tuple[str, str, str]]:
        """Of each reduction: its kind, what it is called, and the class value that it is of."""
        found = []
        for entry in self.reductions:
            name = self.names.get(entry.name, entry.name)
            own = isinstance(entry.body, Name) and entry.body.name in self.program.tiles
            value = entry.body.name if own and isinstance(entry.body, Name) else f"{name}_j"
            found.append((entry.kind.upper(), name, value))
        return found

    @property
    def lines(self) -> list[str]:
        """Its class values, and what it keeps of them."""
        kept = {s.value.name: s.name for s in reversed(self.body) if self._is_kept(s.value)}
        names = {**self.names, **kept}
        spelled = CText(True, names, self.rows, self.program.integers)
        kind = self.program.type_of
        lines = [f"const real {names.get(n, n)} = {n}_ptr[cols];" for n in self.loads]
        for s in self.body:
            name = names.get(s.name, s.name)
            if not self._is_kept(s.value) or name not in kept.values():
                lines.append(f"const {kind(s.name)} {name} = {spelled(s.value)};")
        for n in self.stores:
            late = "if (fused) " if n in self.late else ""
            lines.append(f"{late}{n}_ptr[cols] = {names.get(n, n)};")
        for entry, (_, _, name) in zip(self.reductions, self.values, strict=True):
            if entry.body != Name(name):
                real = "int" if entry.kind == "min" else "real"
                lines.append(f"const {real} {name} = {spelled(entry.body)};")
        return lines


class CSweep:
    """The loops of one sweep, and the row values ``between`` it and the next; ``variables`` are
    those that are declared already.  ``repeated``: lines before it, and after each of its runs."""

    def __init__(
        self,
        sweep: Sweep,
        variables: set[str],
        between: list[str],
        number: int,
        alone: bool,
        repeated: tuple[list[str], list[str]] | None = None,
    ) -> None:
        model = sweep.model
        self.program = Program([counting(sweep), *lift(sweep, whole_row=True)], model.tile_streams)
        known = {"y", *sweep.values}
        if model.pivot == "argmax" and sweep.level > 1:  # the first sweep finds it
            self.program.integers.add("pivot")
            known.add("pivot")
        first, *rest = self.program.rounds(known)
        self.before, self.variables, self.between = first[1], variables, between
        self.number, self.alone, self.sweep, self.repeated = number, alone, sweep, repeated
        self.names: dict[str, str] = {}
        self.loops = []
        for ready, follow in rest:
            reduced = {r.name for r in ready}
            for s in follow:
                of = s.value.name if isinstance(s.value, Name) else ""
                if of in reduced - self.names.keys():
                    self.names[of] = s.name
            after = [s for s in follow if s.name not in self.names.values()]
            roots = [r.body for r in ready]
            self.loops.append(Loop(self.program, roots, self.names, ready, after=after))

    @property
    def lists(self) -> list[str]:
        """What the loops reduce, as the header takes it."""
        return [
            f"#define SUMS_{k}(EACH) " + " ".join(f"EACH({', '.join(v)})" for v in loop.values)
            for k, loop in enumerate(self.loops, self.number)
        ]

    @property
    def lines(self) -> list[str]:
        declared = set(self.variables)
        found = _row_values(self.before, declared, self.names)
        for k, loop in enumerate(self.loops, self.number):
            found += row_lines(loop.own, declared, self.names)
            new = [name for _, name, _ in loop.values if name not in declared]
            found += [f"double {', '.join(new)};"] if new else []
            declared.update(new)
            found += [f"REDUCE(SUMS_{k},", *(f"    {line}" for line in loop.lines)]
            found[-1] += ")"
            found += _row_values(loop.after, declared, self.names)
        versions = [(n, self.program.names.get(n, n)) for n in self.sweep.state]
        named = [(n, self.names.get(version, version)) for n, version in versions]
        found += [f"{n} = {version};" for n, version in named if n != version]
        if self.repeated is not None:
            found = self._until_found(found, *self.repeated)
        if not self.alone:  # names of one sweep may come again in the next
            found = ["{", *(f"    {line}" for line in found), "}"]
        return found + self.between

    def _until_found(self, sweep: list[str], before: list[str], after: list[str]) -> list[str]:
        roots = self.sweep.roots
        moving = " || ".join(f"{r.state[-1]} > 0" for r in roots)
        return [
            "{",
            *before,
            f"REPEATED({SWEEPS}, {moving}) {{",
            *(f"    {line}" for line in (*sweep, "{", *after, "}")),
            "}",
            *(f"{r.symbol} = {r.trial};" for r in roots),
            "}",
        ]


class GradientLoop:
    """The gradients of all classes; the values at the pivot are written after it."""

    def __init__(self, model: RowModel) -> None:
        program = self.program = Program(gradient(model), model.tile_streams)
        names = dict[str, str]()
        for entry in model.gradients:
            name = f"grad_{entry.stream}"
            last = program.names[name]
            names |= {name: f"{name}_first", last: name} if last != name else {}
        roots: list[Node] = [Name(program.names[f"grad_{g.stream}"]) for g in model.gradients]
        self.results = [f"grad_{g.stream}" for g in model.gradients]
        self.loop = Loop(program, roots, names)
        # A gradient that is the same for all classes is a row value, of another name than in the
        # loop, where the name would be its own initial value.
        same = {n for n in self.results if n in program.of and not program.of[n].tile}
        self.row_names = {name: f"{name}_row" for name in same}
        self.before = [
            replace(s, name=self.row_names.get(s.name, s.name))
            for s in program.row_lines(self.loop.rows)
        ]

    @property
    def reads(self) -> set[str]:
        """The row values that it needs and does not make itself."""
        found, made = set[str](), set[str]()
        own = [(line.name, line.value) for line in self.loop.own]
        for name, value in [*((s.name, s.value) for s in self.before), *own]:
            found |= variables(value) - made
            made.add(name)
        return found | (self.loop.rows - made)

    def lines(self, declared: set[str]) -> tuple[list[str], list[str]]:
        """Of the row, and of the loop; ``declared``: row values that may be used again."""
        declared, loop = set(declared), self.loop
        before = _row_values(self.before, declared, {}) + row_lines(loop.own, declared)
        lines = loop.lines
        names = {**loop.names, **self.row_names}
        spelled = CText(True, names, loop.rows, self.program.integers)
        for result, root in zip(self.results, loop.roots, strict=True):
            value = spelled(root)
            lines += [f"const real {result} = {value};"] if value != result else []
        return before, lines


def _row_values(
    statements: list[Statement], declared: set[str], names: Mapping[str, str]
) -> list[str]:
    return row_lines([Line(s.name, s.value) for s in statements], declared, names)


def row_lines(
    lines: Iterable[Line], declared: set[str], names: Mapping[str, str] | None = None
) -> list[str]:
    """Lines of row values in C: doubles, declared the first time; adds to ``declared``."""
    found, spelled = [], CText(tile=False, names=names or {})
    for line in lines:
        kind = "" if line.name in declared else "double "
        found.append(f"{kind}{line.name} = {spelled(line.value)};")
        declared.add(line.name)
    return found
