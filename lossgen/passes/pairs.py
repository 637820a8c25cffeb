"""Rewrites of row expressions in the probabilities of two softmaxes; see ``passes.rules``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Mul, Symbol, exp, expand

from lossgen.ir.ops import OPS
from lossgen.ir.statistics import Form

if TYPE_CHECKING:
    from lossgen.passes.rules import Rewriter

__all__ = ["half_difference", "halves_apart", "log_difference", "masked_logarithm", "others_alone"]

_f = {name: op.symbol for name, op in OPS.items()}


def half_difference(expr: Expr, rw: Rewriter) -> Expr | None:
    """c·P^k - c·P'^n of two softmaxes: exact where both are near 0 and where both are near 1.

    P^k = P - P·Q·(1 + P + … + P^(k-2))
    """
    if not isinstance(expr, Add) or len(rw.forms) < 2:
        return None
    terms = list(expr.args)
    for first in terms:
        for half, other in rw.halves.items():
            k = _whole_power(first, half)
            if k == 0:
                continue
            scale = first / half**k
            for second in terms:
                for half_b, other_b in rw.halves.items():
                    n = _whole_power(second, half_b)
                    same_kind = (half in rw.lower) == (half_b in rw.lower)
                    if half_b == half or not same_kind or n == 0 or second != -scale * half_b**n:
                        continue
                    rest = [t for t in terms if t not in (first, second)]
                    apart = half * other_b - other * half_b
                    apart -= half * other * Add(*(half**i for i in range(k - 1)))
                    apart += half_b * other_b * Add(*(half_b**i for i in range(n - 1)))
                    return Add(rw.rewrite(scale) * apart, rw.rewrite(Add(*rest)))
    return None


def halves_apart(expr: Expr, rw: Rewriter) -> Expr | None:
    """c·Q - c·P, also as c - 2c·P or 2c·Q - c: tanh(z/2) is exact where both are near 1/2."""
    if not isinstance(expr, Add):
        return None
    for form in rw.forms:
        for half, sign in ((form.P, -1), (form.Q, 1)):
            for term in (t for t in expr.args if half in Mul.make_args(t)):
                scale = sign * term / half
                other = -scale * form.P if half == form.Q else scale * form.Q
                for partner, whole in ((other, scale), (-sign * scale / 2, scale / 2)):
                    if partner not in expr.args:
                        continue
                    rest = Add(*(t for t in expr.args if t not in (term, partner)))
                    return rw.rewrite(whole) * _f["tanh"](form.z / 2) + rw.rewrite(rest)
    return None


def _whole_power(product: Expr, half: Symbol) -> int:
    """The exponent of a half in a product, if it is a positive integer; else 0."""
    power = product.as_powers_dict().get(half, Integer(0))
    return int(power) if power.is_Integer and power > 0 else 0


def log_difference(expr: Expr, rw: Rewriter) -> Expr | None:
    """c·(log P - log P') of two softmaxes, of which close ones leave nothing but what is between
    z and z'; and of Q."""
    if not isinstance(expr, Mul) or len(rw.forms) < 2:
        return None
    for factor in expr.args:
        for one in rw.forms:
            for other in rw.forms:
                for symbol, symbol_b, half, apart in (
                    (one.s, other.s, other.Q, one.z - other.z),
                    (one.r, other.r, other.P, other.z - one.z),
                ):
                    if one is other or factor != symbol - symbol_b:
                        continue
                    near = _f["lt"](_f["absf"](apart), 1)
                    close = _f["log1p"](half * _f["expm1"](_f["clip"](apart, -1, 1)))
                    found = _f["where"](near, close, _unmasked(factor, expr / factor, rw))
                    return rw.rewrite(expr / factor) * found
    return None


def masked_logarithm(expr: Expr, rw: Rewriter) -> Expr | None:
    """P·log P' is 0 where both rows mask the class; δ_y is such a logarithm."""
    if not isinstance(expr, Mul) or len(rw.forms) < 2:
        return None
    logs = rw.apart.union(-value for value in rw.logs.values())
    for factor in expr.args:
        if all(term.as_coeff_Mul()[1] in logs for term in Add.make_args(factor)):
            guarded = _unmasked(factor, expr / factor, rw)
            if guarded != factor:
                return rw.rewrite(expr / factor) * guarded
    return None


def _unmasked(logarithm: Expr, weights: Expr, rw: Rewriter) -> Expr:
    """A logarithm of another softmax's probability, where its weight is not 0."""
    for form in rw.forms:
        for half, own in ((form.P, form.s), (form.Q, form.r)):
            others = {f.s if half == form.P else f.r for f in rw.forms} - {own}
            others |= rw.apart if half == form.P else set()
            held = weights.as_powers_dict().get(half, Integer(0))
            if not held.is_positive or not logarithm.free_symbols & others:
                continue
            # P^q of a small q is a number where P is none
            weight = half if held.is_Integer else exp(-held * own)
            return _f["where"](_f["ne"](weight, 0), logarithm, 0)
    return logarithm


def others_alone(expr: Expr, forms: Sequence[Form]) -> Expr:
    """c·L - c·r of one softmax, which is the log-sum of the other classes: l_y is no part of it."""
    if not expr.args or not any(f.L in expr.free_symbols for f in forms):
        return expr
    expr = expr.func(*(others_alone(a, forms) for a in expr.args))
    if not isinstance(expr, Add):
        return expr
    for form in (f for f in forms if not f.parts and {f.L, f.r} <= expr.free_symbols):
        scale = expr.coeff(form.L)
        rest = expand(expr - scale * (form.L - form.r), power_base=False, log=False)
        if scale != 0 and not rest.free_symbols & {form.L, form.r}:
            expr = scale * form.O + rest
    return expr
