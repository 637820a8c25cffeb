"""Two logarithms of one mixture in a loop of C: each follows from the other.

    u = log1p(c·expm1(d)),  v = log1p((1 - c)·expm1(-d))        u - v = d
    →  s, k = (d, c) or (-d, 1 - c);  w = log1p(k·expm1(s));  the other one is w - s

u and v have opposite signs, so the difference loses nothing if w is the smaller of the two, and
that is u where d <= 2·log((1 - c)/c): one logarithm and one exponential instead of two of each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lossgen.emit.kept_c import Keys
from lossgen.emit.program_c import Statement
from lossgen.emit.sweep_c import Loop
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

__all__ = ["pair_logarithms"]


@dataclass(frozen=True)
class _Logarithm:
    """log1p(weight·expm1(clip(distance, …)))"""

    node: Node
    key: str
    weight: Node
    distance: Node
    clipped: Call

    @property
    def bounds(self) -> tuple[Node, ...]:
        return self.clipped.args[1:]


def pair_logarithms(loop: Loop, key: Keys) -> None:
    """Rewrite the pairs of the loop."""
    count = 0
    while (pair := _pair(loop, key)) is not None:
        _rewrite(loop, key, *pair, count)
        count += 1


def _pair(loop: Loop, key: Keys) -> tuple[_Logarithm, _Logarithm] | None:
    found: dict[str, _Logarithm] = {}
    for whole in [*(s.value for s in loop.body), *loop.roots]:
        for node in walk(whole):
            entry = _logarithm(node, loop, key)
            if entry is not None:
                found.setdefault(entry.key, entry)
    for one in found.values():
        for other in found.values():
            if one is not other and _are_opposite(one, other, key):
                return one, other
    return None


def _logarithm(node: Node, loop: Loop, key: Keys) -> _Logarithm | None:
    match node:
        case Call(op="log1p", args=[Call(op="*", args=[left, right])]):
            for weight, other in ((left, right), (right, left)):
                match other:
                    case Call(op="expm1", args=[Call(op="clip", args=[inner, *_]) as clip]) if (
                        not variables(weight) & loop.program.tiles
                    ):
                        return _Logarithm(node, key(node), weight, inner, clip)
    return None


def _are_opposite(one: _Logarithm, other: _Logarithm, key: Keys) -> bool:
    """Are the distances opposite and the weights complements?"""
    ours, theirs = _terms(one.distance, key), _terms(other.distance, key)
    if {k: -n for k, n in ours.items()} != dict(theirs) or not ours:
        return False
    return one.bounds == other.bounds and _are_complements(one.weight, other.weight, key)


def _terms(node: Node, key: Keys, sign: int = 1) -> Counter[str]:
    """A sum as how often each term stands in it."""
    node = key.value(node)
    match node:
        case Call(op="neg", args=[operand]):
            return _terms(operand, key, -sign)
        case Call(op="+" | "-" as op, args=[left, right]):
            total = _terms(left, key, sign)
            total.update(_terms(right, key, sign if op == "+" else -sign))
            return Counter({k: n for k, n in total.items() if n})
    return Counter({key(node): sign})


def _are_complements(a: Node, b: Node, key: Keys) -> bool:
    """a + b = 1?"""
    for one, other in ((a, b), (b, a)):
        match key.value(one), key.value(other):
            case Number(value=x), Number(value=y):
                return x + y == 1.0
            case Call(op="-", args=[Number(value=1.0), rest]), _:
                if key(rest) == key(other):
                    return True
    return False


def _rewrite(loop: Loop, key: Keys, one: _Logarithm, other: _Logarithm, count: int) -> None:
    apart, near, s, w, even = (
        Name(f"{n}{count}") for n in ("apart", "near", "turned", "smaller", "even")
    )
    # In double, before the loop: (1 - c)/c.
    loop.own.append(Line(even.name, 2.0 * call("log", other.weight / one.weight)))
    rate = where(near, one.weight, other.weight)
    new = [
        Statement(apart.name, one.clipped, True),
        Statement(near.name, apart <= even, True),
        Statement(s.name, where(near, apart, -apart), True),
        Statement(w.name, call("log1p", rate * call("expm1_within", s)), True),
    ]
    loop.program.conditions.add(near.name)
    values: dict[str, Node] = {one.key: where(near, w, w - s), other.key: where(near, w - s, w)}
    body: list[Statement] = []
    for entry in loop.body:
        value = _replaced(entry.value, key, values)
        if value != entry.value:
            body += new
            new = []
        body.append(Statement(entry.name, value, entry.tile))
    loop.rewrite([*body, *new], [_replaced(root, key, values) for root in loop.roots])


def _replaced(node: Node, key: Keys, values: dict[str, Node]) -> Node:
    def change(entry: Node) -> Node | None:
        return values.get(key(entry)) if isinstance(entry, Call) else None

    return rewritten(node, change)
