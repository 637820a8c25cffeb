"""Class values that one loop over a row computes and a later one needs again.

    sums:      e = exp(x - m)                 e = exp(x - m), kept[j] = e
    gradient:  g = c·exp(x - m)·rinv     →    g = c·kept[j]·rinv

A kept value is written to and read from a row that stays in cache, which costs about ``PRICE``
vector operations; so a value is kept where computing it again takes more.  Two values are the same
if they are the same expression of the logits, the row's statistics and the parameters, wherever
they are not masked: every sum leaves the pivot out, and its gradients are written afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lossgen.emit.c_text import function
from lossgen.emit.program_c import Program, Statement
from lossgen.emit.sweep_c import Loop
from lossgen.ir.program import (
    COMPARISONS,
    EMPTY,
    Call,
    Name,
    Node,
    Number,
    call,
    is_pivot_mask,
    rewritten,
    walk,
)

__all__ = ["FUSED", "PRICE", "Keys", "keep"]

PRICE = 6
FUSED = Name("fused")  # does the gradient follow the sweeps in one call?
#: Vector operations of a function in float32, counted in the compiled programs; a function that is
#: not listed makes a chain of several of these.
_COSTS = {"exp": 15, "expm1": 18, "log": 28, "log1p": 30, "sqrt": 10}
_CHEAP = {
    *("where", "maximum", "minimum", "clip", "relu", "absf", "sgn", "step", "above"),
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

    def __call__(self, node: Node) -> str:
        if isinstance(node, Name):
            return self._name(node.name)
        if isinstance(node, Number):
            return repr(node.value)
        assert isinstance(node, Call)
        if node.op == "select":
            condition, value, other = node.args
            if self._always(condition):
                return self(value)
            if self._is_guard(condition, value) and self(other) == self(self._left(condition)):
                return self(other)
        text = f"{function(node) or node.op}({', '.join(map(self, node.args))})"
        return self.table.setdefault(text, f"#{len(self.table)}")

    def value(self, node: Node) -> Node:
        """What a name stands for, itself where that is shared or given."""
        while isinstance(node, Name) and (entry := self._entry(node.name)) is not None:
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

    def _always(self, condition: Node) -> bool:
        """True for every class but the pivot?"""
        if isinstance(condition, Name):
            entry = self.program.of.get(condition.name)
            return entry is not None and self._always(entry.value)
        return is_pivot_mask(condition)

    @staticmethod
    def _left(condition: Node) -> Node:
        compares = isinstance(condition, Call) and condition.op in COMPARISONS
        return condition.args[0] if compares and isinstance(condition, Call) else condition

    @staticmethod
    def _is_guard(condition: Node, value: Node) -> bool:
        """select(m == -inf, 0, m): what m is from the end of its sweep on."""
        match condition, value:
            case Call(op="==", args=[_, at]), Number(value=0.0):
                return at == EMPTY
        return False


def _cost(node: Node) -> int:
    """Of the function that it calls, without its arguments; 0 where it calls none."""
    name = function(node)
    return 0 if name is None or name in _CHEAP else _COSTS.get(name, _OTHER)


def _replaced(
    node: Node, key: Callable[[Node], str], names: dict[str, str], last: bool = False
) -> Node:
    """The expression with the values that are kept, by the names they are kept under; the ``last``
    loop runs by itself too, and then computes them."""

    def change(entry: Node) -> Node | None:
        name = names.get(key(entry)) if _cost(entry) else None
        if name is None:
            return None
        return _either(name, entry) if last else Name(name)

    return rewritten(node, change)


def _either(name: str, value: Node) -> Node:
    return call("select", FUSED, call("at", f"{name}_ptr", "cols"), value)


def keep(loops: Sequence[Loop], keys: Sequence[Keys]) -> dict[str, int]:
    """Let the loops, in the order they run in, hand values on; the last is the gradient's, which
    the backward runs alone.

    Returns the buffer of each value, a row.
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
        last = k == len(loops) - 1
        loop.loads = {names[v]: buffers[names[v]] for v in readers if k in readers[v] and not last}
        loop.stores = {names[v]: buffers[names[v]] for v in readers if k == made[v]}
        loop.late = {names[v] for v in readers if readers[v] == [len(loops) - 1]}
        loop.late &= set(loop.stores)
        _rewrite(loop, key, {v: names[v] for v in readers if k in (made[v], *readers[v])}, last)
    return buffers


def _functions(node: Node) -> list[Call]:
    """The calls that are worth keeping, what stands inside another first."""
    calls = [n for n in walk(node) if isinstance(n, Call) and _cost(n) > PRICE]
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
        if isinstance(node, Name):
            if node.name in known and node.name not in seen:
                seen.add(node.name)
                todo.append(known[node.name])
        elif _cost(node) > PRICE and key(node) in made:
            found[key(node)] = None
        elif isinstance(node, Call):
            todo += node.args
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


def _rewrite(loop: Loop, key: Keys, values: dict[str, str], last: bool) -> None:
    if not values:
        return
    pending = {v: n for v, n in values.items() if n in loop.stores}
    body: list[Statement] = []

    def without_kept(value: Node) -> Node:
        for node in _functions(value):
            name = pending.pop(key(node), None)
            if name is not None:
                first = Call(node.op, tuple(_replaced(a, key, values) for a in node.args))
                body.append(Statement(name, first, True))
        return _replaced(value, key, values, last)

    for entry in loop.body:
        value = without_kept(entry.value)
        body.append(Statement(entry.name, value, entry.tile))
    loop.rewrite(body, [without_kept(root) for root in loop.roots])
