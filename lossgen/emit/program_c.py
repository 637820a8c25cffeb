"""Lines of class and row values as a program in single assignment, for the C emitter.

The lines are those of the Triton emitters with the whole row as one tile.  A reduction in them is
taken out of its expression, as everything after it must wait for it; what is the same for all
classes becomes a row value of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lossgen.emit.c_text import CText, assignment, is_condition
from lossgen.errors import CompilerBug

__all__ = ["Program", "Reduction", "Statement", "is_pivot_mask", "names_of"]

_TILE = CText(tile=True)
_IDENTITY = {"sum": "0", "max": "-INFINITY", "max_or_nan": "-INFINITY", "min": "INT_MAX"}
_REDUCTIONS = {f"row_{kind}": kind for kind in _IDENTITY}
_BETTER = {"max": ">", "min": "<"}
_INTEGERS = {"y", "cols"}


@dataclass(frozen=True)
class Reduction:
    name: str
    kind: str  # sum, max, max_or_nan; min is of class indices
    body: ast.expr

    @property
    def type(self) -> str:
        return "int" if self.kind == "min" else "real"

    @property
    def identity(self) -> str:
        return _IDENTITY[self.kind]

    @property
    def text(self) -> str:
        return _TILE(self.body)

    def join(self, total: str, value: str) -> str:
        """Text of the two as one."""
        if self.kind == "sum":
            return f"{total} + {value}"
        if self.kind == "max_or_nan":
            return f"{value} == {value} ? ({value} > {total} ? {value} : {total}) : {value}"
        return f"{value} {_BETTER[self.kind]} {total} ? {value} : {total}"


@dataclass(frozen=True)
class Statement:
    name: str
    value: ast.expr
    tile: bool


class _Renamed(ast.NodeTransformer):
    """Names as they stand at this point of the lines; ``inside`` is true, as nothing is padding."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.names.get(node.id, node.id))

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.right if _is_inside(node.left) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[1] if node.args and _is_inside(node.args[0]) else node


def _is_inside(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "inside"


class Program:
    """Lines in single assignment, with the reductions taken out of the expressions."""

    def __init__(self, lines: Iterable[str], tiles: Iterable[str]) -> None:
        self.statements: list[Statement] = []
        self.reductions: dict[str, Reduction] = {}
        self.streams = list(tiles)
        self.tiles = {"cols", *self.streams}
        self.names: dict[str, str] = {}  # the last version of each name
        self.conditions: set[str] = set()
        self.integers = set(_INTEGERS)
        self._constants: dict[str, str] = {}  # names of row values that stood in class values
        for line in lines:
            self._add(line)

    def _add(self, line: str) -> None:
        target, value = assignment(line)
        value = self._without_reductions(_Renamed(self.names).visit(value))
        if _is_inside(value):
            self.names[target] = "inside"
            return
        known = {s.name for s in self.statements} | self.tiles
        version = target
        for k in range(2, 9):
            version = version if version not in known else f"{target}_{k}"
        self.names[target] = version
        tile = bool(names_of(value) & self.tiles)
        if tile:
            self.tiles.add(version)
            value = self._hoisted(value)
        if is_condition(value, self.conditions):
            self.conditions.add(version)
        if isinstance(value, ast.Name) and value.id in self.integers:
            self.integers.add(version)
        self.statements.append(Statement(version, value, tile))

    def _hoisted(self, node: ast.expr) -> ast.expr:
        """What is the same for all classes becomes a row value of its own."""
        names = names_of(node)
        if isinstance(node, (ast.Name, ast.Constant)) or not names:
            return node
        if names & self.tiles:
            for field_, value in ast.iter_fields(node):
                if isinstance(value, ast.expr) and field_ != "func":
                    setattr(node, field_, self._hoisted(value))
                elif isinstance(value, list):
                    parts = [self._hoisted(v) if isinstance(v, ast.expr) else v for v in value]
                    setattr(node, field_, parts)
            return node
        cast = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".to")
        if cast or is_condition(node, self.conditions):
            return node
        text = ast.unparse(node)
        if text not in self._constants:
            self._constants[text] = f"same{len(self._constants)}"
            self.statements.append(Statement(self._constants[text], node, False))
        return ast.Name(self._constants[text])

    def _without_reductions(self, node: ast.expr) -> ast.expr:
        program = self

        class Extract(ast.NodeTransformer):
            def visit_Call(self, call: ast.Call) -> ast.AST:
                function = call.func
                if isinstance(function, ast.Attribute) and function.attr in _REDUCTIONS:
                    return program._reduction(_REDUCTIONS[function.attr], call.args[0])
                self.generic_visit(call)
                return call

        found: ast.expr = Extract().visit(node)
        return found

    def _reduction(self, kind: str, body: ast.expr) -> ast.expr:
        gathered = _gathered(body)
        if gathered is not None:
            return gathered
        name = f"reduced{len(self.reductions)}"
        self.reductions[name] = Reduction(name, kind, self._hoisted(body))
        if kind == "min":
            self.integers.add(name)
        return ast.Name(name)

    # ------------------------------------------------------------------ order
    @cached_property
    def of(self) -> dict[str, Statement]:
        return {s.name: s for s in self.statements}

    def type_of(self, name: str) -> str:
        """The C type of a value inside a loop."""
        return "int" if name in self.conditions | self.integers else "real"

    def tile_lines(self, values: Iterable[ast.expr]) -> tuple[list[Statement], set[str]]:
        """The class values that ``values`` need, in order, and the row values they read."""
        wanted, rows, todo = set[str](), set[str](), list(values)
        while todo:
            for name in sorted(names_of(todo.pop()) - wanted - rows):
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
                todo += sorted(names_of(entry.value))
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

    def _reads(self, values: Iterable[ast.expr]) -> set[str]:
        return {n for n in self.tile_lines(values)[1] if not n.endswith("_ptr")}


def names_of(node: ast.expr) -> set[str]:
    """The variables of an expression."""
    modules = {"tl", "dl", "float"}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - modules


def is_pivot_mask(node: ast.expr) -> bool:
    """cols != pivot, which holds for every class that counts."""
    match node:
        case ast.Compare(left=ast.Name(id="cols"), ops=[ast.NotEq()], comparators=[at]):
            return names_of(at) <= {"y", "pivot"}
    return False


def _gathered(body: ast.expr) -> ast.expr | None:
    """sum(where(cols == pivot, v, 0)) is v at the pivot."""
    match body:
        case ast.Call(
            func=ast.Attribute(attr="where"),
            args=[
                ast.Compare(left=ast.Name(id="cols"), ops=[ast.Eq()], comparators=[at]),
                ast.Name(id=name),
                ast.Constant(value=0.0),
            ],
        ):
            return ast.Subscript(ast.Name(f"{name}_ptr"), at)
    return None
