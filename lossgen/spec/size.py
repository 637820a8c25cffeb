"""How large a formula and its derivative are once lets are opened and products multiplied out.

    (a + b)**3   →   4 terms of 3 factors      a let squared sixty times   →   2**60 factors

The compiler multiplies out what it has to cancel, and SymPy walks trees, not graphs: this number,
not the length of the text, is what a compilation costs.  Nothing large is formed to find it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lossgen.spec.expr import (
    Binary,
    Call,
    Compare,
    Expr,
    Gather,
    Name,
    NameKind,
    Number,
    Unary,
    children,
)
from lossgen.spec.vocabulary import BATCH_WORDS, ROOT

__all__ = ["Size", "Sizes"]


@dataclass(frozen=True)
class Count:
    """Of a sum of products: how many terms, and how many nodes they have together."""

    terms: float
    nodes: float


@dataclass(frozen=True)
class Size:
    """Of a formula: itself, its derivative, and how deep its operations nest."""

    value: Count
    slope: Count
    depth: int = 1
    summed: float = 0  # nodes of the largest part that is formed alone: a batch's sum, an equation

    @property
    def nodes(self) -> float:
        """Of the formula and its derivative together."""
        return max(self.value.nodes + self.slope.nodes, self.summed)


_HUGE = 1e15  # large enough to be refused, and far from overflow
_MANY = 1e4
_NONE = Count(0, 0)
_ONE = Count(1, 1)
_MOVING = (NameKind.LOGITS, NameKind.STREAM)
_STILL = ("stop_gradient", "sign", "argmax")


class Sizes:
    """The sizes of the formulas of one spec; every let is measured once."""

    def __init__(self, lets: Mapping[str, Expr]) -> None:
        self._lets = lets
        self._known: dict[str, Size] = {}

    def of(self, expr: Expr) -> Size:
        """The size of a formula; the lets above it are open."""
        for name, let in self._lets.items():  # in the order of the file: each uses those above
            if name not in self._known:
                self._known[name] = self._size(let)
        return self._size(expr)

    def _size(self, expr: Expr) -> Size:
        if isinstance(expr, Name) and expr.kind is NameKind.LET:
            return self._known[expr.name]
        parts = [self._size(part) for part in children(expr)]
        if not parts:
            moves = isinstance(expr, Name) and expr.kind in _MOVING
            return Size(_ONE, _ONE if moves else _NONE)
        depth, summed = 1 + max(p.depth for p in parts), max(p.summed for p in parts)
        if isinstance(expr, Call) and expr.func in BATCH_WORDS:
            return Size(_ONE, _NONE, depth, parts[0].nodes)
        if isinstance(expr, Call) and expr.func in ROOT:  # a symbol, whatever its equation is
            return Size(_ONE, _ONE, depth, max(summed, *(p.nodes for p in parts)))
        value = _value(expr, [part.value for part in parts])
        slope = _slope(expr, parts, value)
        return Size(_capped(value), _capped(slope), depth, summed)


def _value(expr: Expr, parts: Sequence[Count]) -> Count:
    a, b = parts[0], parts[-1]
    match expr:
        case Unary() | Gather():
            return Count(a.terms, a.nodes + 1)
        case Binary(op="+" | "-"):
            return Count(a.terms + b.terms, a.nodes + b.nodes)
        case Binary(op="*"):
            return _product(a, b)
        case Binary(op="/"):
            return Count(a.terms, a.nodes + b.nodes * a.terms)
        case Binary(op="**", right=Number(value=power)) if power.denominator == 1 and power > 1:
            terms = _multinomial(a.terms, int(power))
            return Count(terms, terms * int(power) * a.nodes / a.terms)
    return Count(1, 1 + sum(part.nodes for part in parts))  # a function is one factor


def _slope(expr: Expr, parts: Sequence[Size], value: Count) -> Count:
    slopes = [part.slope for part in parts]
    match expr:
        case Compare():
            return _NONE
        case Call(func=func) if func in _STILL:
            return _NONE
        case Unary() | Gather() | Binary(op="+" | "-"):
            return Count(sum(s.terms for s in slopes), sum(s.nodes for s in slopes))
        case Call(func="where"):  # a choice between the derivatives
            return Count(1, parts[0].value.nodes + sum(s.nodes for s in slopes))
        case Binary(op="*"):
            left, right = parts
            one, other = _product(left.slope, right.value), _product(left.value, right.slope)
            return Count(one.terms + other.terms, one.nodes + other.nodes)
    # the chain rule: every term of a derivative inside, times one that repeats the whole
    terms = sum(s.terms for s in slopes)
    return Count(terms, sum(s.nodes for s in slopes) + terms * value.nodes)


def _product(a: Count, b: Count) -> Count:
    return Count(a.terms * b.terms, a.nodes * b.terms + b.nodes * a.terms)


def _multinomial(terms: float, power: int) -> float:
    """How many terms a power of a sum has."""
    if terms > _MANY:
        return _HUGE
    return float(min(math.comb(int(terms) + power - 1, power), int(_HUGE)))


def _capped(count: Count) -> Count:
    return Count(min(count.terms, _HUGE), min(count.nodes, _HUGE))
