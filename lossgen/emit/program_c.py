"""Lines of class and row values as a program in single assignment, for the C emitter.

The lines are those of the Triton emitters with the whole row as one tile.  A reduction in them is
taken out of its expression, as everything after it must wait for it; what is the same for all
classes becomes a row value of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lossgen.errors import CompilerBug
from lossgen.ir.program import (
    REDUCTIONS,
    Call,
    Line,
    Name,
    Node,
    call,
    is_condition,
    renamed,
    rewritten,
    variables,
    without_padding,
)

__all__ = ["Program", "Reduction", "Statement"]

_INTEGERS = {"y", "cols"}


@dataclass(frozen=True)
class Reduction:
    name: str
    kind: str  # sum, max, max_or_nan; min is of class indices
    body: Node


@dataclass(frozen=True)
class Statement:
    name: str
    value: Node
    tile: bool


_INSIDE = Name("inside")


class Program:
    """Lines in single assignment, with the reductions taken out of the expressions."""

    def __init__(self, lines: Iterable[Line], tiles: Iterable[str]) -> None:
        self.statements: list[Statement] = []
        self.reductions: dict[str, Reduction] = {}
        self.streams = list(tiles)
        self.tiles = {"cols", *self.streams}
        self.names: dict[str, str] = {}  # the last version of each name
        self.conditions: set[str] = set()
        self.integers = set(_INTEGERS)
        self._constants: dict[Node, str] = {}  # names of row values that stood in class values
        for line in lines:
            self._add(line)

    def _add(self, line: Line) -> None:
        target, value = line.name, without_padding(renamed(line.value, self.names))
        value = self._without_reductions(value)
        if value == _INSIDE:
            self.names[target] = "inside"
            return
        known = {s.name for s in self.statements} | self.tiles
        version = target
        for k in range(2, 9):
            version = version if version not in known else f"{target}_{k}"
        self.names[target] = version
        tile = bool(variables(value) & self.tiles)
        if tile:
            self.tiles.add(version)
            value = self._hoisted(value)
        if is_condition(value, self.conditions):
            self.conditions.add(version)
        if isinstance(value, Name) and value.name in self.integers:
            self.integers.add(version)
        self.statements.append(Statement(version, value, tile))

    def _hoisted(self, node: Node) -> Node:
        """What is the same for all classes becomes a row value of its own."""
        names = variables(node)
        if not isinstance(node, Call) or not names:
            return node
        if names & self.tiles:
            return Call(node.op, tuple(map(self._hoisted, node.args)))
        cast = node.op in ("number", "index")
        if cast or is_condition(node, self.conditions):
            return node
        if node not in self._constants:
            self._constants[node] = f"same{len(self._constants)}"
            self.statements.append(Statement(self._constants[node], node, False))
        return Name(self._constants[node])

    def _without_reductions(self, node: Node) -> Node:
        def change(entry: Node) -> Node | None:
            match entry:
                case Call(op="take", args=[Name(name=vector), at]):
                    return call("at", f"{vector}_ptr", at)
                case Call(op=op, args=[body]) if op in REDUCTIONS:
                    return self._reduction(op.removeprefix("row_"), body)
            return None

        return rewritten(node, change)

    def _reduction(self, kind: str, body: Node) -> Node:
        name = f"reduced{len(self.reductions)}"
        self.reductions[name] = Reduction(name, kind, self._hoisted(body))
        if kind == "min":
            self.integers.add(name)
        return Name(name)

    # ------------------------------------------------------------------ order
    @cached_property
    def of(self) -> dict[str, Statement]:
        return {s.name: s for s in self.statements}

    def type_of(self, name: str) -> str:
        """The C type of a value inside a loop."""
        return "int" if name in self.conditions | self.integers else "real"

    def tile_lines(self, values: Iterable[Node]) -> tuple[list[Statement], set[str]]:
        """The class values that ``values`` need, in order, and the row values they read."""
        wanted, rows, todo = set[str](), set[str](), list(values)
        while todo:
            for name in sorted(variables(todo.pop()) - wanted - rows):
                entry = self.of.get(name)
                if entry and entry.tile:
                    wanted.add(name)
                    todo.append(entry.value)
                elif name not in self.tiles:
                    rows.add(name)
        return [s for s in self.statements if s.name in wanted], rows

    def row_lines(self, names: set[str]) -> list[Statement]:
        """The row values ``names``, and what they need, in order."""
        wanted, todo = set[str](), sorted(names)
        while todo:
            entry = self.of.get(todo.pop())
            if entry is not None and entry.name not in wanted:
                wanted.add(entry.name)
                todo += sorted(variables(entry.value))
        return [s for s in self.statements if s.name in wanted]

    def rounds(self, known: set[str]) -> list[tuple[list[Reduction], list[Statement]]]:
        """Reductions that can run together, and the row values that follow; until all is done."""
        left = dict(self.reductions)
        pending = [s for s in self.statements if not s.tile]
        known = set(known)
        found: list[tuple[list[Reduction], list[Statement]]] = [([], self._settle(pending, known))]
        while left or pending:
            ready = [r for r in left.values() if self._reads([r.body]) <= known]
            if not ready:
                raise CompilerBug(f"cannot order {[*left, *(s.name for s in pending)]}")
            for reduction in ready:
                del left[reduction.name]
                known.add(reduction.name)
            found.append((ready, self._settle(pending, known)))
        return found

    def _settle(self, pending: list[Statement], known: set[str]) -> list[Statement]:
        """The row values that can be computed now; moves them from ``pending`` to ``known``."""
        found = []
        for entry in list(pending):
            if self._reads([entry.value]) <= known:
                pending.remove(entry)
                found.append(entry)
                known.add(entry.name)
        return found

    def _reads(self, values: Iterable[Node]) -> set[str]:
        return {n for n in self.tile_lines(values)[1] if not n.endswith("_ptr")}
