"""Class values that one loop over a row computes and a later one needs again.

    sums:      e = exp(x - m)                 e = exp(x - m), kept[j] = e
    gradient:  g = c·exp(x - m)·rinv     →    g = c·kept[j]·rinv

A kept value is written to and read from a row that stays in cache, which costs about ``PRICE``
vector operations; so a value is kept where computing it again takes more.  Two values are the same
if they are the same expression of the logits, the row's statistics and the parameters, wherever
they are not masked: every sum leaves the pivot out, and its gradients are written afterwards.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Sequence

from lossgen.emit.program_c import Program, Statement, is_pivot_mask
from lossgen.emit.sweep_c import Loop

__all__ = ["PRICE", "Keys", "keep"]

PRICE = 6
#: Vector operations of a function in float32, counted in the compiled programs; a function that is
#: not listed makes a chain of several of these.
_COSTS = {"exp": 15, "expm1": 18, "log": 28, "log1p": 30, "sqrt": 10}
_CHEAP = {
    *("where", "to", "maximum", "minimum", "clip", "relu", "absf", "sgn", "step", "above"),
    *("lt", "le", "eq", "ne", "inrange", "stop_gradient"),
}
_OTHER = 40


class Keys:
    """Names the values of one program by what they are: equal values have equal keys.

    ``table`` numbers the expressions of all programs; ``shared`` are the row values that mean the
    same in all of them.
    """

    def __init__(self, program: Program, shared: set[str], table: dict[str, str]) -> None:
        self.program, self.shared, self.table = program, shared, table
        self._known: dict[str, str] = {}

    def __call__(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Constant):
            return repr(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".where"):
            condition, value, other = node.args
            if self._always(condition):
                return self(value)
            if self(other) == self(self._left(condition)) and self._is_guard(condition, value):
                return self(other)
        parts = [self(p) if isinstance(p, ast.expr) else p for p in _parts(node)]
        text = f"{_head(node)}({', '.join(map(str, parts))})"
        return self.table.setdefault(text, f"#{len(self.table)}")

    def value(self, node: ast.expr) -> ast.expr:
        """What a name stands for, itself where that is shared or given."""
        while isinstance(node, ast.Name) and (entry := self._entry(node.id)) is not None:
            node = entry.value
        return node

    def _entry(self, name: str) -> Statement | None:
        """The line that defines a name, unless its value is shared."""
        entry = self.program.of.get(name)
        own = self.program.names.get(name, name) == name
        return None if entry and not entry.tile and own and name in self.shared else entry

    def _name(self, name: str) -> str:
        if name not in self._known:
            entry = self._entry(name)
            if entry is None:
                # A reduction that no row value is named after belongs to its program.
                local = name in self.program.reductions
                self._known[name] = f"{id(self.program)}.{name}" if local else name
            else:
                self._known[name] = self(entry.value)
        return self._known[name]

    def _always(self, condition: ast.expr) -> bool:
        """True for every class but the pivot?"""
        if isinstance(condition, ast.Name):
            entry = self.program.of.get(condition.id)
            return entry is not None and self._always(entry.value)
        return is_pivot_mask(condition)

    @staticmethod
    def _left(condition: ast.expr) -> ast.expr:
        return condition.left if isinstance(condition, ast.Compare) else condition

    @staticmethod
    def _is_guard(condition: ast.expr, value: ast.expr) -> bool:
        """where(m == -inf, 0, m): what m is from the end of its sweep on."""
        if not isinstance(condition, ast.Compare) or not isinstance(value, ast.Constant):
            return False
        at = ast.unparse(condition.comparators[0])
        return isinstance(condition.ops[0], ast.Eq) and value.value == 0.0 and "-inf" in at


def _head(node: ast.expr) -> str:
    """What an expression does with its parts."""
    if isinstance(node, ast.Call):
        return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return type(node.op).__name__
    if isinstance(node, ast.Compare):
        return type(node.ops[0]).__name__
    return type(node).__name__


def _parts(node: ast.expr) -> list[object]:
    if isinstance(node, ast.Call):
        own = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        return [*own, *node.args]
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    return [v for _, v in ast.iter_fields(node) if isinstance(v, (ast.expr, str))]


def _cost(node: ast.expr) -> int:
    """Of the function that it calls, without its arguments; 0 where it calls none."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return 0
    name = node.func.attr.removesuffix("_accurate")
    return 0 if name in _CHEAP else _COSTS.get(name, _OTHER)


class _Replaced(ast.NodeTransformer):
    """``values`` by the names they are kept under."""

    def __init__(self, key: Callable[[ast.expr], str], values: dict[str, str]) -> None:
        self.key, self.values = key, values

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = self.values.get(self.key(node)) if _cost(node) else None
        if name is not None:
            return ast.Name(name)
        return self.generic_visit(node)


def keep(loops: Sequence[Loop], keys: Sequence[Keys]) -> int:
    """Let the loops, in the order they run in, hand values on; the last is the gradient's.

    Returns how many rows of values that takes.
    """
    made: dict[str, int] = {}  # the first loop that computes a value
    readers: dict[str, list[int]] = {}
    for k, (loop, key) in enumerate(zip(loops, keys, strict=True)):
        for value in _repeated(loop, key, made):
            readers.setdefault(value, []).append(k)
        for value in _values(loop, key):
            made.setdefault(value, k)
    names = {value: f"kept{n}" for n, value in enumerate(readers)}
    buffers = _assigned(loops, [(made[v], max(readers[v]), names[v]) for v in readers])
    for k, (loop, key) in enumerate(zip(loops, keys, strict=True)):
        loop.loads = {names[v]: buffers[names[v]] for v in readers if k in readers[v]}
        loop.stores = {names[v]: buffers[names[v]] for v in readers if k == made[v]}
        loop.late = {names[v] for v in readers if readers[v] == [len(loops) - 1]}
        loop.late &= set(loop.stores)
        _rewrite(loop, key, {v: names[v] for v in readers if k in (made[v], *readers[v])})
    return 1 + max(buffers.values(), default=-1)


def _functions(node: ast.expr) -> list[ast.Call]:
    """The calls that are worth keeping, what stands inside another first."""
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _cost(n) > PRICE]
    return calls[::-1]


def _values(loop: Loop, key: Keys) -> set[str]:
    """What it computes that is worth keeping."""
    return {key(n) for e in [*(s.value for s in loop.body), *loop.roots] for n in _functions(e)}


def _repeated(loop: Loop, key: Keys, made: dict[str, int]) -> list[str]:
    """The largest values that an earlier loop has computed, in the order of the lines."""
    known, found = {s.name: s.value for s in loop.body}, dict[str, None]()
    seen, todo = set[str](), list(loop.roots)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            if node.id in known and node.id not in seen:
                seen.add(node.id)
                todo.append(known[node.id])
        elif _cost(node) > PRICE and key(node) in made:
            found[key(node)] = None
        else:
            todo += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
    return sorted(found, key=lambda value: int(value[1:]))


def _assigned(loops: Sequence[Loop], lives: list[tuple[int, int, str]]) -> dict[str, int]:
    """A buffer for each life (first loop, last loop, name): one is free for what a loop stores if
    that loop is the last to load from it, as each class is loaded before it is stored."""
    busy: dict[int, int] = {}  # buffer → the last loop that needs it
    found = {}
    for begin, end, name in sorted(lives):
        number = next(n for n in range(len(lives)) if busy.get(n, -1) <= begin)
        busy[number] = end
        found[name] = number
    return found


def _rewrite(loop: Loop, key: Keys, values: dict[str, str]) -> None:
    if not values:
        return
    replaced = _Replaced(key, values)
    pending = {v: n for v, n in values.items() if n in loop.stores}
    body: list[Statement] = []

    def without_kept(value: ast.expr) -> ast.expr:
        for node in _functions(value):
            name = pending.pop(key(node), None)
            if name is not None:
                first = replaced.generic_visit(copy.deepcopy(node))
                assert isinstance(first, ast.Call)
                body.append(Statement(name, first, True))
        found: ast.expr = replaced.visit(copy.deepcopy(value))
        return found

    for entry in loop.body:
        value = without_kept(entry.value)
        body.append(Statement(entry.name, value, entry.tile))
    loop.rewrite(body, [without_kept(root) for root in loop.roots])
