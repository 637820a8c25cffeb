"""Quotients of what underflows together: P and -log Q = softplus(-z), or Q and -log P.

P/softplus(-z)        →   sigrel(-z)            beside a power of softplus(-z) too
softplus(-z)/P        →   1/sigrel(-z)
P·r/(P + r)           →   r/(1 + r/P)           r = softplus(-z)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Mul, Symbol

from lossgen.ir.ops import OPS

if TYPE_CHECKING:
    from lossgen.passes.rules import Rewriter

__all__ = ["bounded_quotient"]

_f = {name: op.symbol for name, op in OPS.items()}


def bounded_quotient(expr: Expr, rw: Rewriter) -> Expr | None:
    if not isinstance(expr, Mul):
        return None
    powers = expr.as_powers_dict()
    for form in rw.forms:
        for half, logarithm, argument in (
            (form.P, form.r, -form.z),
            (form.Q, form.s, form.z),
        ):
            if powers.get(half, 0) == -1 and powers.get(logarithm, 0) == 1:
                return rw.rewrite(expr * half / logarithm) / _f["sigrel"](argument)
            found = _over_common(expr, half, logarithm)
            if found is not None:
                return rw.rewrite(found)
            divides = powers.get(logarithm, 0) == -1 or 1 / logarithm in expr.args  # s^k / s
            if powers.get(half, 0) == 1 and divides:
                rest = expr / half * logarithm
                return rw.rewrite(rest) * _f["sigrel"](argument)
            for factor in expr.args if powers.get(half, 0) == 1 else ():  # Q·(a + b/s)
                parts = Add.make_args(factor)
                over = [t for t in parts if 1 / logarithm in Mul.make_args(t)]
                if len(parts) > 1 and over:
                    rest, left = expr / factor, [t for t in parts if t not in over]
                    return Add(*(rw.rewrite(rest * t) for t in (Add(*left), *over)))
    return None


def _over_common(expr: Expr, half: Symbol, logarithm: Symbol) -> Expr | None:
    """Q·s/(Q + s)  →  s/(1 + s/Q): numerator and denominator underflow together."""

    def order(term: Expr) -> Expr:
        powers = term.as_powers_dict()
        return powers.get(half, Integer(0)) + powers.get(logarithm, Integer(0))

    for factor in expr.args:
        base, power = factor.as_base_exp()
        if not (isinstance(base, Add) and power.is_Integer and power < 0):
            continue
        small = all((order(t) - 1).is_nonnegative for t in base.args)
        if small and (order(expr / factor) + power).is_nonnegative:
            return expr / factor * half**power * Add(*(t / half for t in base.args)) ** power
    return None
