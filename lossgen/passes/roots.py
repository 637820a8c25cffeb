"""Roots of differences that rounding makes negative:  √(1 - Σ √(p·t))  →  √max(1 - Σ √(p·t), 0).

What an author takes the root of is not negative, but of equal rows it is 0, and what is computed
may be -1e-16.  Not of what the logits alone make up: there a NaN is the author's.
"""

from __future__ import annotations

from sympy import Add, Expr, Integer, Pow, Symbol

from lossgen.ir.ops import expm1, maximum
from lossgen.ir.stages import StableLoss, mapped

__all__ = ["real_roots"]


def real_roots(stable: StableLoss) -> StableLoss:
    """The same functions, with no root of a negative number where statistics are subtracted."""
    statistics = {s.symbol for s in stable.sums}.union(*(f.row_symbols for f in stable.forms))

    def real(expr: Expr) -> Expr:
        if not expr.args or not expr.has(Pow):
            return expr
        expr = expr.func(*(real(a) for a in expr.args))
        if isinstance(expr, Pow) and _is_difference(expr, statistics):
            return Pow(maximum(expr.base, Integer(0)), expr.exp)
        return expr

    return mapped(stable, real)


def _is_difference(root: Pow, statistics: set[Symbol]) -> bool:
    """Is it a root of what may come out negative?"""
    base = root.base
    halves = root.exp.is_Rational and root.exp.q == 2
    apart = isinstance(base, Add) or base.has(expm1)  # 1 - e^a
    uncertain = apart and base.is_nonnegative is None
    return bool(halves and uncertain and base.free_symbols & statistics)
