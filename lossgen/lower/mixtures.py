"""Two logarithms of one mixture, of which each follows from the other.

    u = log1p(c·expm1(d)),  v = log1p((1 - c)·expm1(-d))        u - v = d
    →  s, k = (d, c) or (-d, 1 - c);  w = log1p(k·expm1(s));  the other one is w - s

u and v have opposite signs, so the difference loses nothing if w is the smaller of the two, and
that is u where d <= 2·log((1 - c)/c): one logarithm and one exponential instead of two of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from lossgen.ir.program import (
    Call,
    Line,
    Name,
    Node,
    Number,
    call,
    rewritten,
    variables,
    walk,
    where,
)

__all__ = ["one_logarithm"]


@dataclass(frozen=True)
class _Logarithm:
    """log1p(weight·expm1(clip(distance, …)))"""

    node: Call
    weight: Node
    distance: Node
    clipped: Call


def one_logarithm(lines: Sequence[Line], wide: Iterable[str]) -> list[Line]:
    """The lines, with one logarithm for each pair; the weights are no class values (``wide``)."""
    found, count = list(lines), 0
    while (pair := next(_pairs(found, wide), None)) is not None:
        found = _without(found, *pair, count)
        count += 1
    return found


def _pairs(lines: Sequence[Line], wide: Iterable[str]) -> Iterator[tuple[_Logarithm, _Logarithm]]:
    assigned = Counter(line.name for line in lines)
    several = {name for name, times in assigned.items() if times > 1}
    moving = {*wide, *assigned}
    known = {
        node: entry
        for line in lines
        for node in walk(line.value)
        if (entry := _logarithm(node, moving)) is not None and not variables(node) & several
    }
    pairs = [pair for pair in permutations(known.values(), 2) if _are_opposite(*pair)]
    return iter(sorted(pairs, key=lambda pair: _is_turned(pair[0])))


def _is_turned(entry: _Logarithm) -> bool:
    return isinstance(entry.distance, Call) and entry.distance.op == "neg"


def _logarithm(node: Node, moving: set[str]) -> _Logarithm | None:
    match node:
        case Call(op="log1p", args=[Call(op="*", args=[left, right])]):
            for weight, other in ((left, right), (right, left)):
                match other:
                    case Call(op="expm1", args=[Call(op="clip", args=[inner, *_]) as clip]):
                        if not variables(weight) & moving:
                            return _Logarithm(node, weight, inner, clip)
    return None


def _are_opposite(one: _Logarithm, other: _Logarithm) -> bool:
    """Are the distances opposite, and the weights 1 - c and c?"""
    ours, theirs = _terms(one.distance), _terms(other.distance)
    if not ours or {term: -n for term, n in ours.items()} != theirs:
        return False
    if one.clipped.args[1:] != other.clipped.args[1:]:
        return False
    return _are_complements(one.weight, other.weight) or _are_complements(other.weight, one.weight)


def _are_complements(a: Node, b: Node) -> bool:
    match a, b:
        case Number(value=x), Number(value=y):
            return x + y == 1.0
        case Call(op="-", args=[Number(value=1.0), rest]), _:
            return rest == b
    return False


def _terms(node: Node, sign: int = 1) -> dict[Node, int]:
    """A sum as how often each term stands in it."""
    match node:
        case Call(op="neg", args=[operand]):
            return _terms(operand, -sign)
        case Call(op="+" | "-" as op, args=[left, right]):
            total = Counter(_terms(left, sign))
            total.update(_terms(right, sign if op == "+" else -sign))
            return {term: n for term, n in total.items() if n}
    return {node: sign}


def _without(lines: list[Line], one: _Logarithm, other: _Logarithm, count: int) -> list[Line]:
    apart, near, s, w = (Name(f"{n}{count}") for n in ("apart_m", "near_m", "turned", "smaller"))
    rate = where(near, one.weight, other.weight)
    new = [
        Line(apart.name, one.clipped),
        Line(near.name, apart <= 2.0 * call("log", other.weight / one.weight)),
        Line(s.name, where(near, apart, -apart)),
        Line(w.name, call("log1p", rate * call("expm1", s))),
    ]
    values: dict[Node, Node] = {one.node: where(near, w, w - s), other.node: where(near, w - s, w)}
    found: list[Line] = []
    for line in lines:
        value = rewritten(line.value, values.get)
        if value != line.value:
            found += new
            new = []
        found.append(Line(line.name, value))
    return found
