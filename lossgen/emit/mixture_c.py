"""Two logarithms of one mixture in a loop of C: each follows from the other.

    u = log1p(c·expm1(d)),  v = log1p((1 - c)·expm1(-d))        u - v = d
    →  s, k = (d, c) or (-d, 1 - c);  w = log1p(k·expm1(s));  the other one is w - s

u and v have opposite signs, so the difference loses nothing if w is the smaller of the two, and
that is u where d <= 2·log((1 - c)/c): one logarithm and one exponential instead of two of each.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from dataclasses import dataclass

from lossgen.emit.kept_c import Keys
from lossgen.emit.program_c import Statement, names_of
from lossgen.emit.sweep_c import Loop

__all__ = ["pair_logarithms"]


@dataclass(frozen=True)
class _Logarithm:
    """log1p(weight·expm1(clip(distance, …)))"""

    node: ast.expr
    key: str
    weight: ast.expr
    distance: ast.expr
    clipped: ast.Call

    @property
    def bounds(self) -> list[str]:
        return [ast.unparse(bound) for bound in self.clipped.args[1:]]


def pair_logarithms(loop: Loop, key: Keys) -> None:
    """Rewrite the pairs of the loop."""
    count = 0
    while (pair := _pair(loop, key)) is not None:
        _rewrite(loop, key, *pair, count)
        count += 1


def _pair(loop: Loop, key: Keys) -> tuple[_Logarithm, _Logarithm] | None:
    found: dict[str, _Logarithm] = {}
    for whole in [*(s.value for s in loop.body), *loop.roots]:
        for node in ast.walk(whole):
            entry = _logarithm(node, loop, key)
            if entry is not None:
                found.setdefault(entry.key, entry)
    for one in found.values():
        for other in found.values():
            if one is not other and _are_opposite(one, other, key):
                return one, other
    return None


def _logarithm(node: ast.AST, loop: Loop, key: Keys) -> _Logarithm | None:
    match node:
        case ast.Call(func=ast.Attribute(attr="log1p"), args=[ast.BinOp(left, ast.Mult(), right)]):
            for weight, other in ((left, right), (right, left)):
                match other:
                    case ast.Call(
                        func=ast.Attribute(attr="expm1"),
                        args=[ast.Call(func=ast.Attribute(attr="clip"), args=[inner, *_]) as clip],
                    ) if not names_of(weight) & loop.program.tiles:
                        return _Logarithm(node, key(node), weight, inner, clip)
    return None


def _are_opposite(one: _Logarithm, other: _Logarithm, key: Keys) -> bool:
    """Are the distances opposite and the weights complements?"""
    ours, theirs = _terms(one.distance, key), _terms(other.distance, key)
    if {k: -n for k, n in ours.items()} != dict(theirs) or not ours:
        return False
    return one.bounds == other.bounds and _are_complements(one.weight, other.weight, key)


def _terms(node: ast.expr, key: Keys, sign: int = 1) -> Counter[str]:
    """A sum as how often each term stands in it."""
    node = key.value(node)
    match node:
        case ast.UnaryOp(ast.USub(), operand):
            return _terms(operand, key, -sign)
        case ast.BinOp(left, (ast.Add() | ast.Sub()) as op, right):
            total = _terms(left, key, sign)
            total.update(_terms(right, key, sign if isinstance(op, ast.Add) else -sign))
            return Counter({k: n for k, n in total.items() if n})
    return Counter({key(node): sign})


def _are_complements(a: ast.expr, b: ast.expr, key: Keys) -> bool:
    """a + b = 1?"""
    for one, other in ((a, b), (b, a)):
        match key.value(one), key.value(other):
            case ast.Constant(value=float() as x), ast.Constant(value=float() as y):
                return x + y == 1.0
            case ast.BinOp(ast.Constant(value=unit), ast.Sub(), rest), _ if unit == 1:
                if key(rest) == key(other):
                    return True
    return False


def _rewrite(loop: Loop, key: Keys, one: _Logarithm, other: _Logarithm, count: int) -> None:
    near, s, w, even = (f"{n}{count}" for n in ("near", "turned", "smaller", "even"))
    weight, rest = ast.unparse(one.weight), ast.unparse(other.weight)
    # In double, before the loop: (1 - c)/c.
    loop.before.append(f"{even} = 2.0 * dl.log_accurate({rest} / {weight})")
    d = ast.unparse(one.clipped)
    lines = [
        (f"apart{count}", d),
        (near, f"apart{count} <= {even}"),
        (s, f"tl.where({near}, apart{count}, -apart{count})"),
        (w, f"dl.log1p(tl.where({near}, {weight}, {rest}) * dl.expm1_within({s}))"),
    ]
    loop.program.conditions.add(near)
    new = [Statement(n, ast.parse(text, mode="eval").body, True) for n, text in lines]
    replaced = _Values(
        key,
        {
            one.key: f"tl.where({near}, {w}, {w} - {s})",
            other.key: f"tl.where({near}, {w} - {s}, {w})",
        },
    )
    body: list[Statement] = []
    for entry in loop.body:
        value = replaced.visit(copy.deepcopy(entry.value))
        body += new if replaced.fired and new else []
        new = [] if replaced.fired else new
        body.append(Statement(entry.name, value, entry.tile))
    roots = [replaced.visit(copy.deepcopy(root)) for root in loop.roots]
    loop.rewrite([*body, *new], roots)


class _Values(ast.NodeTransformer):
    def __init__(self, key: Keys, values: dict[str, str]) -> None:
        self.key, self.values, self.fired = key, values, False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        text = self.values.get(self.key(node))
        if text is None:
            return self.generic_visit(node)
        self.fired = True
        return ast.parse(text, mode="eval").body
