"""The typed expression tree of the spec language: what the parser makes and every reader walks.

Values are typed by *rank* (parameter < row < class).  The tree keeps the author's
operations exactly: no algebra happens here, so that the literal formula can be evaluated
independently of the compiler.

Principles: nodes are frozen and hashable; every node knows its rank and its span in the source
text; numbers are exact fractions; ``walk`` is the only traversal, and each domain (SymPy pairs,
torch float64, mpmath) is one :class:`Algebra`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

__all__ = [
    "Algebra",
    "Binary",
    "Call",
    "Compare",
    "Expr",
    "Gather",
    "Name",
    "NameKind",
    "Number",
    "Rank",
    "Span",
    "Unary",
    "children",
    "walk",
]


class Rank(IntEnum):
    """How many axes a value varies along; a larger rank broadcasts a smaller one."""

    PARAMETER = 0  # one number per call: parameters, numbers, V
    ROW = 1  # one number per row: x[y], reductions, row inputs
    CLASS = 2  # one number per row and class: x, p, logp, onehot, class and vocab inputs

    def __str__(self) -> str:
        return self.name.lower()


class NameKind(IntEnum):
    """What a name refers to."""

    LOGITS = 0  # x
    PARAMETER = 1
    ROW_INPUT = 2  # declared input of kind "row", [N]
    VOCAB_INPUT = 3  # declared input of kind "vocab", [V]
    LET = 4
    CLASSES = 5  # V, the number of classes
    ONEHOT = 6  # 1 at the target class, 0 elsewhere
    CONSTANT = 7  # pi
    STREAM = 8  # declared input of kind "class", [N, V]
    INDEX = 9  # 0, 1, …, V - 1
    PART = 10  # a sum over the rows of a batch; "" is their number
    UNKNOWN = 11  # of a root: the number at which its equation holds


@dataclass(frozen=True)
class Span:
    """Half-open character range in the formula's own text (0-based)."""

    start: int
    end: int


@dataclass(frozen=True)
class Expr:
    """Base of all nodes; ``span`` never takes part in equality."""

    rank: Rank
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Number(Expr):
    value: Fraction


@dataclass(frozen=True)
class Name(Expr):
    name: str
    kind: NameKind


@dataclass(frozen=True)
class Unary(Expr):
    op: str  # "-" only; unary plus is dropped by the parser
    operand: Expr


@dataclass(frozen=True)
class Binary(Expr):
    op: str  # one of + - * / **
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Expr):
    """Only as the first argument of ``where``."""

    op: str  # one of < <= > >= == !=
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Call(Expr):
    """A function of the vocabulary.

    Elementwise functions keep the largest rank of their arguments; ``softmax`` and
    ``log_softmax`` map class to class; reductions map class to row.  ``others`` is
    ``over=others``: the target class is left out of the reduction (or of the softmax).
    ``p``, ``logp`` and ``u`` are sugar the parser expands to ``softmax(x)``,
    ``log_softmax(x)`` and ``sum(exp(x - x[y]), over=others)``.

    ``root(t, e, low, high)`` binds a name: its arguments are the unknown, the equation e = 0 in it,
    and two row values between which it lies.
    """

    func: str
    args: tuple[Expr, ...]
    others: bool = False


@dataclass(frozen=True)
class Gather(Expr):
    """``e[y]``: the class vector's value at the target."""

    vector: Expr


def children(expr: Expr) -> tuple[Expr, ...]:
    """The operands of a node, left to right."""
    match expr:
        case Unary(operand=operand):
            return (operand,)
        case Binary(left=left, right=right) | Compare(left=left, right=right):
            return (left, right)
        case Call(args=args):
            return args
        case Gather(vector=vector):
            return (vector,)
    return ()


def evaluated(expr: Expr) -> tuple[Expr, ...]:
    """The operands that have a value of their own: of a root its two ends."""
    if isinstance(expr, Call) and expr.func == "root":
        return expr.args[2:]
    return children(expr)


T = TypeVar("T")


class Algebra(Protocol, Generic[T]):
    """One domain of evaluation. Reductions and elementwise functions both arrive in ``call``; of a
    root its two ends, and whoever solves the equation walks it, with a value of the unknown."""

    def number(self, value: Fraction) -> T: ...
    def name(self, name: str, kind: NameKind) -> T: ...
    def negate(self, operand: T) -> T: ...
    def binary(self, op: str, left: T, right: T) -> T: ...
    def compare(self, op: str, left: T, right: T) -> T: ...
    def gather(self, vector: T) -> T: ...
    def call(self, node: Call, args: tuple[T, ...]) -> T: ...


def walk(expr: Expr, algebra: Algebra[T]) -> T:
    """Evaluate ``expr`` bottom-up in ``algebra``; equal subtrees are evaluated once."""
    values: list[T] = []
    for node, places in _steps(expr):
        args = [values[place] for place in places]
        match node:
            case Number(value=value):
                result = algebra.number(value)
            case Name(name=name, kind=kind):
                result = algebra.name(name, kind)
            case Unary():
                result = algebra.negate(*args)
            case Binary(op=op):
                result = algebra.binary(op, *args)
            case Compare(op=op):
                result = algebra.compare(op, *args)
            case Gather():
                result = algebra.gather(*args)
            case Call():
                result = algebra.call(node, tuple(args))
            case _:
                raise TypeError(f"not an expression node: {node!r}")
        values.append(result)
    return values[-1]


@lru_cache(maxsize=512)
def _steps(expr: Expr) -> tuple[tuple[Expr, tuple[int, ...]], ...]:
    """The different subtrees that have a value, each after its operands, and their places."""
    places: dict[Expr, int] = {}
    steps: list[tuple[Expr, tuple[int, ...]]] = []

    def visit(node: Expr) -> int:
        if node not in places:
            step = node, tuple(visit(child) for child in evaluated(node))
            places[node] = len(steps)
            steps.append(step)
        return places[node]

    visit(expr)
    return tuple(steps)
