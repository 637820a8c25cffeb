"""Functions that kernels call, with fewer instructions per class: the same but for roundings.

    a - (-e), (-a)·e, Σ -a         →  a + e, -(a·e), -Σ a       a sign is an instruction
    log1mexp(-a)                   →  log_complement(a)         its expm1(a) may be there already
    Σ c·a                          →  c·Σ a
    a / r                          →  a·reciprocal(r)           once per row, not per class
    c·a·d                          →  (c·d)·a                   likewise
    e^(s·a)                        →  2^((s·log2 e)·a)
    where(e > 0, e·a, 0)           →  e·where(e > 0, a, 0)      a sum of products is fused
    where(e ≠ 0, e·a, 0)           →  likewise
    where(|a| < 1, e·expm1(a), …)  →  where(|a| < 1/2, e·expm1_half(a), …)
    two logarithms of one mixture  →  one                       see ``lower.mixtures``

a and e are values of classes; c, d, r and s of the row.  Masks and infinities stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import e, log2

from lossgen.ir.program import (
    REDUCTIONS,
    Call,
    Function,
    Line,
    Name,
    Node,
    Number,
    call,
    product,
    variables,
    where,
)
from lossgen.lower.fuse import needed
from lossgen.lower.mixtures import one_logarithm

__all__ = ["fewer"]

_LOG2E = Number(log2(e))


def fewer(function: Function, tiles: Iterable[str], finite: Iterable[str] = ()) -> Function:
    """The function, in which the arguments ``tiles``, and what follows from them, are a number for
    each class; ``finite`` of them are no infinity."""
    wide, exponents = set(tiles), dict[str, Node]()
    lines: list[Line] = []
    for line in one_logarithm(function.lines, wide):
        value = _rewritten(line.value, wide, exponents, {*finite})
        lines.append(Line(line.name, value))
        is_wide = _is_wide(value, wide)
        wide = wide | {line.name} if is_wide else wide - {line.name}
        for name in [n for n, v in exponents.items() if line.name in {n, *variables(v)}]:
            del exponents[name]
        if is_wide and line.name not in variables(value):
            exponents[line.name] = value
    return replace(function, lines=tuple(needed(lines, function.results)))


def _is_wide(node: Node, wide: set[str]) -> bool:
    """One number per class?"""
    if isinstance(node, Name):
        return node.name in wide
    if isinstance(node, Call) and node.op not in (*REDUCTIONS, "take"):
        return any(_is_wide(a, wide) for a in node.args)
    return False


def _rewritten(node: Node, wide: set[str], named: dict[str, Node], finite: set[str]) -> Node:
    """``named``: what names of class values stand for."""
    if not isinstance(node, Call):
        return node
    node = Call(node.op, tuple(_rewritten(a, wide, named, finite) for a in node.args))
    if _is_wide(node, wide) and (unsigned := _unsigned(node)) is not None:
        return unsigned
    match node:
        case Call(op="select", args=[condition, value, other]):
            return _gap(condition, value, other) or _masked(condition, value, other, finite) or node
        case Call(op="row_sum", args=[term]):
            return _sum(node, term, wide, named)
        case Call(op="exp_tile" | "exp_below", args=[exponent]):
            return _exponential(node, exponent, wide, named)
        case Call(op="*" | "/") if _is_wide(node, wide):
            return _scaled(node, wide, named)
    return node


# ------------------------------------------------------------------------------- signs
def _unsigned(node: Call) -> Node | None:
    """With its minuses further out, or none of them; None where there is nothing to do."""
    match node:
        case Call(op="neg", args=[Call(op="neg", args=[a])]):
            return a
        case Call(op="neg", args=[Call(op="-", args=[a, b])]):
            return b - a
        case Call(op="log1mexp", args=[Call(op="neg", args=[a])]):
            return call("log_complement", a)
        case Call(op="+", args=[a, Call(op="neg", args=[b])]):
            return a - b
        case Call(op="+", args=[Call(op="neg", args=[a]), b]):
            return b - a
        case Call(op="-", args=[a, Call(op="neg", args=[b])]):
            return a + b
        case Call(op="-", args=[Call(op="neg", args=[a]), b]):
            return -(a + b)
        case Call(op="*" | "/" as op, args=[Call(op="neg", args=[a]), b]):
            return -call(op, a, b)
        case Call(op="*", args=[a, Call(op="neg", args=[b])]):
            return -(a * b)
        case Call(op="select", args=[c, Call(op="neg", args=[a]), Number(value=0.0) as b]):
            return -where(c, a, b)
    return None


def _sum(node: Call, term: Node, wide: set[str], named: dict[str, Node]) -> Node:
    """Σ -a and Σ c·a, also of a term that has a name, or that a mask selects."""

    def opened(a: Node) -> Node:
        return named.get(a.name, a) if isinstance(a, Name) else a

    def again(a: Node) -> Node:
        return _sum(call("row_sum", a), a, wide, named)

    match opened(term):
        case Call(op="neg", args=[a]):
            return -again(a)
        case Call(op="*", args=[c, a]) if not _is_wide(c, wide):
            return c * again(a)
        case Call(op="*", args=[e, Call(op="select", args=[condition, value, zero])]):
            match opened(value):
                case Call(op="*", args=[c, a]) if not _is_wide(c, wide):
                    return c * again(e * where(condition, a, zero))
        case Call(op="select", args=[condition, value, Number(value=0.0) as zero]):
            match opened(value):
                case Call(op="neg", args=[a]):
                    return -again(where(condition, a, zero))
                case Call(op="*", args=[c, a]) if not _is_wide(c, wide):
                    return c * again(where(condition, a, zero))
    return node


# ------------------------------------------------------------------------------- row factors
def _scaled(node: Call, wide: set[str], named: dict[str, Node]) -> Node:
    """Products and quotients, with the factors of the row first, as one."""
    above, below = _factors(node, wide)
    above = [g for f in above for g in _opened(f, wide, named)]
    inverse = [call("reciprocal", d) for d in below if not _is_wide(d, wide)]
    rows = [f for f in above if not _is_wide(f, wide)] + inverse
    if not inverse and (len(rows) < 2 or node.args[0] == product(rows)):
        return node
    found = product([product(rows), *(f for f in above if _is_wide(f, wide))])
    for divisor in (d for d in below if _is_wide(d, wide)):
        found = found / divisor
    return found


def _opened(factor: Node, wide: set[str], named: dict[str, Node]) -> list[Node]:
    """A name of a row factor times a class value as both: the one joins those of the product."""
    match named.get(factor.name) if isinstance(factor, Name) else None:
        case Call(op="*", args=[left, right]) if _is_wide(left, wide) != _is_wide(right, wide):
            return [left, right]
    return [factor]


def _factors(node: Node, wide: set[str]) -> tuple[list[Node], list[Node]]:
    """Those above and below the line; a number of the row is one."""
    if isinstance(node, Call) and node.op in ("*", "/") and _is_wide(node, wide):
        (above, below), (more, less) = (_factors(a, wide) for a in node.args)
        if node.op == "/":
            more, less = less, more
        return [*above, *more], [*below, *less]
    return [node], []


def _exponential(node: Call, exponent: Node, wide: set[str], named: dict[str, Node]) -> Node:
    """e^(s·a) as a power of two, if a number of the row is there to take the logarithm's base."""
    value = named.get(exponent.name, exponent) if isinstance(exponent, Name) else exponent
    above, below = _factors(value, wide)
    rows = [f for f in above if not _is_wide(f, wide)]
    rest = [f for f in above if _is_wide(f, wide)]
    if below or not rows or not rest:
        return node
    return call("exp2", product(rows) * _LOG2E * product(rest))


# ------------------------------------------------------------------------------- selections
def _masked(condition: Node, value: Node, other: Node, finite: set[str]) -> Node | None:
    """where(e > 0, e·a, 0), and where(… & (w != 0), w·a, 0) of a w that is nowhere infinite."""
    if other != Number(0.0):
        return None
    match condition:
        case Call(op=">", args=[own, Number(value=0.0)]):
            pass
        case Call(op="&", args=[_, Call(op="!=", args=[Name(name=name) as own, _])]) if (
            name in finite
        ):
            pass
        case _:
            return None
    factors = _product(value)
    if own not in factors or len(factors) == 1:
        return None
    factors.remove(own)
    return own * where(condition, product(factors), 0.0)


def _gap_of(a: Node, own: Node, other: Node) -> Node:
    return where(call("absf", a) < 0.5, own * call("expm1_half", a), other)


def _product(node: Node) -> list[Node]:
    if isinstance(node, Call) and node.op == "*":
        return [*_product(node.args[0]), *_product(node.args[1])]
    return [node]


def _gap(condition: Node, value: Node, other: Node) -> Node | None:
    """The difference of two exponentials that are a apart, by a polynomial where that is small:
    from one half on, their rounded difference has lost a bit more than from 1 on."""
    match condition, value:
        case (
            Call(op="&", args=[Call(op=">", args=[a, _]), Call(op="<", args=[b, _])]),
            Call(op="*", args=[own, Call(op="expm1", args=[Call(op="clip", args=[c, *ends])])]),
        ) if a == b == c and ends == [Number(-1.0), Number(1.0)]:
            match a, other:
                case Call(op="neg", args=[a]), Call(op="-", args=[farther, first]) if first == own:
                    # e·expm1(-a) = -e'·expm1(a)
                    return -_gap_of(a, farther, own - farther)
            return _gap_of(a, own, other)
    return None
