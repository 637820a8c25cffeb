"""The row program: what a kernel computes, as single assignments that no language owns.

    z0 = (m0 - ly0) + la0
    →  Line("z0", Call("+", (Call("-", (Name("m0"), Name("ly0"))), Name("la0"))))

A value belongs to the row (one number) or to the classes of a tile (one number each); reductions
take a class value to a row value.  Expressions are built with Python's operators and the functions
below; ``lossgen.emit`` prints them in Triton, C and torch.

Operations: ``+ - * / neg``, ``COMPARISONS`` and ``LOGIC``; ``REDUCTIONS`` over the classes of a
tile; the vocabulary of :mod:`lossgen.ir.ops` by name; and

    select       a where a condition holds, else b
    exp_tile     e^a of an exponent of a tile, as fast as the target has it; ``exp_below`` of one
                 that is not above 0 where it counts
    exp2         2^a;  ``expm1_half`` e^a - 1 where |a| <= 1/2;  ``reciprocal`` 1 / a
    log_complement    log(1 - e^a), a <= 0
    fmax, fmin   of two values, dropping NaN
    number       a class index as a number;  ``index`` a number as a class index
    take         (v, k): the class value v at the class k
    put          (v, k, w): the class value v, but w at the class k; of whole rows only
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = [
    "COMPARISONS",
    "EMPTY",
    "INFINITE",
    "LOGIC",
    "NO_CLASS",
    "REDUCTIONS",
    "Call",
    "Function",
    "Line",
    "Name",
    "Node",
    "Number",
    "as_node",
    "both",
    "call",
    "eq",
    "is_condition",
    "is_pivot_mask",
    "ne",
    "product",
    "renamed",
    "rewritten",
    "total",
    "variables",
    "walk",
    "where",
    "without_padding",
]

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
LOGIC = ("&", "|", "~")
REDUCTIONS = ("row_sum", "row_max", "row_max_or_nan", "row_min")


class Node:
    """An expression.  ``==`` compares expressions; the condition a = b is ``eq(a, b)``."""

    __slots__ = ()

    def __add__(self, other: Node | float) -> Call:
        return call("+", self, other)

    def __sub__(self, other: Node | float) -> Call:
        return call("-", self, other)

    def __mul__(self, other: Node | float) -> Call:
        return call("*", self, other)

    def __truediv__(self, other: Node | float) -> Call:
        return call("/", self, other)

    def __radd__(self, other: float) -> Call:
        return call("+", other, self)

    def __rsub__(self, other: float) -> Call:
        return call("-", other, self)

    def __rmul__(self, other: float) -> Call:
        return call("*", other, self)

    def __rtruediv__(self, other: float) -> Call:
        return call("/", other, self)

    def __neg__(self) -> Call:
        return call("neg", self)

    def __lt__(self, other: Node | float) -> Call:
        return call("<", self, other)

    def __le__(self, other: Node | float) -> Call:
        return call("<=", self, other)

    def __gt__(self, other: Node | float) -> Call:
        return call(">", self, other)

    def __ge__(self, other: Node | float) -> Call:
        return call(">=", self, other)

    def __and__(self, other: Node) -> Call:
        return call("&", self, other)

    def __or__(self, other: Node) -> Call:
        return call("|", self, other)

    def __invert__(self) -> Call:
        return call("~", self)


@dataclass(frozen=True, slots=True)
class Name(Node):
    """An argument, or what a line has named."""

    name: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A float, or a whole class index."""

    value: float


@dataclass(frozen=True, slots=True)
class Call(Node):
    """An operation and its arguments."""

    op: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """``name = value``.  A name may be assigned again, from itself."""

    name: str
    value: Node


@dataclass(frozen=True, slots=True)
class Function:
    """Lines from its arguments to its results, all of them by name."""

    arguments: tuple[str, ...]
    lines: tuple[Line, ...]
    results: tuple[str, ...]


EMPTY = Number(float("-inf"))
INFINITE = Number(float("inf"))
NO_CLASS = Number(2**31 - 1)  # an index above all


# ------------------------------------------------------------------------------- building
def as_node(value: Node | float | str) -> Node:
    """A name, a number, or an expression as it is."""
    if isinstance(value, Node):
        return value
    return Name(value) if isinstance(value, str) else Number(value)


def call(op: str, *args: Node | float | str) -> Call:
    """The operation; strings are names."""
    return Call(op, tuple(map(as_node, args)))


def where(condition: Node, value: Node | float | str, other: Node | float | str) -> Call:
    """``value`` where the condition holds, else ``other``."""
    return call("select", condition, value, other)


def eq(a: Node | str, b: Node | float | str) -> Call:
    """The condition a = b."""
    return call("==", a, b)


def ne(a: Node | str, b: Node | float | str) -> Call:
    """The condition a ≠ b, which NaN fulfils."""
    return call("!=", a, b)


def both(conditions: Iterable[Node], op: str = "&") -> Node:
    """All of them; with ``op`` "|" any."""
    return _folded(op, conditions, None)


def product(factors: Iterable[Node]) -> Node:
    """From left to right; 1 of none."""
    return _folded("*", factors, Number(1.0))


def total(terms: Iterable[tuple[int, Node]]) -> Node:
    """The sum of the terms with their signs, from left to right."""
    found: Node | None = None
    for sign, term in terms:
        if found is None:
            found = term if sign > 0 else -term
        else:
            found = found + term if sign > 0 else found - term
    assert found is not None
    return found


def _folded(op: str, parts: Iterable[Node], empty: Node | None) -> Node:
    found: Node | None = None
    for part in parts:
        found = part if found is None else call(op, found, part)
    found = empty if found is None else found
    assert found is not None
    return found


# ------------------------------------------------------------------------------- reading
def walk(node: Node) -> Iterator[Node]:
    """The expression and all that it is made of, level by level."""
    pending = deque([node])
    while pending:
        entry = pending.popleft()
        yield entry
        if isinstance(entry, Call):
            pending.extend(entry.args)


def variables(node: Node) -> set[str]:
    """The names in an expression."""
    return {n.name for n in walk(node) if isinstance(n, Name)}


def is_condition(node: Node, conditions: Iterable[str] = ()) -> bool:
    """Is it true or false? ``conditions`` are the names that are."""
    if isinstance(node, Name):
        return node.name in conditions
    return isinstance(node, Call) and node.op in (*COMPARISONS, *LOGIC)


def rewritten(node: Node, change: Callable[[Node], Node | None]) -> Node:
    """``change`` of the largest parts that it does not answer None to; the rest stays."""
    found = change(node)
    if found is not None:
        return found
    if isinstance(node, Call):
        return Call(node.op, tuple(rewritten(a, change) for a in node.args))
    return node


def without_padding(node: Node) -> Node:
    """Of a whole row: ``inside`` is true."""

    def change(entry: Node) -> Node | None:
        match entry:
            case Call(op="&", args=[Name(name="inside"), second]):
                return without_padding(second)
            case Call(op="select", args=[Name(name="inside"), value, _]):
                return without_padding(value)
        return None

    return rewritten(node, change)


def is_pivot_mask(node: Node) -> bool:
    """cols != pivot, which holds for every class that counts."""
    match node:
        case Call(op="!=", args=[Name(name="cols"), at]):
            return variables(at) <= {"y", "pivot"}
    return False


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The expression with other names."""

    def change(entry: Node) -> Node | None:
        return Name(names.get(entry.name, entry.name)) if isinstance(entry, Name) else None

    return rewritten(node, change)
