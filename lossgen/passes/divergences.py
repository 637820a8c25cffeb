"""The divergence of two softmaxes over the other classes, as one statistic.

    Σ_{j≠y} R_j·δ_j - z + z'   →   D = Σ_{j≠y} R_j·log(R_j/R'_j)

with δ_j = (l_j - l'_j) - (l_y - l'_y).
z and z' hold the target's exponent, on which the divergence does not depend, and which may be far
above all others; D is reduced relative to the two running maxima instead, as

    D = Σ R·(t - t') + log1p((A' - A)/A)       A' - A = Σ exp(t)·expm1(t' - t)

so that it has the relative accuracy of what the two rows do not share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sympy import Expr, Integer, Symbol, expand, log

from lossgen.ir.stages import Form, GradedLoss, Gradient, Sum

__all__ = ["with_divergences"]


def with_divergences(graded: GradedLoss) -> GradedLoss:
    """Put the statistic where its sum stands with z and z', everywhere or not at all."""
    for entry in graded.sums:
        for one in graded.forms:
            for other in graded.forms:
                if one is not other and _compares(graded, entry, one, other):
                    graded = _replaced(graded, entry, one, other)
    return graded


def _compares(graded: GradedLoss, entry: Sum, one: Form, other: Form) -> bool:
    """Is the sum Σ R·δ with the difference of these two exponents?"""
    plain = entry.others and entry.kappa == 1 and entry.power == 0 and entry.weight == 1
    if not plain or entry.form != one.index or entry.centre is None:
        return False
    (centre,) = (c for c in graded.centres if c.symbol == entry.centre)
    apart, apart_y = one.ell - other.ell, one.ell_y - other.ell_y
    return bool(
        expand(apart - centre.factor * centre.expr) == 0
        and expand(apart_y - centre.factor * centre.expr_y) == 0
    )


def _replaced(graded: GradedLoss, entry: Sum, one: Form, other: Form) -> GradedLoss:
    symbol = Symbol(f"T{len(graded.sums)}", nonnegative=True)
    value = symbol + one.z - other.z
    shorter = True

    def row(expr: Expr) -> Expr:
        nonlocal shorter
        if entry.symbol not in expr.free_symbols:
            return expr
        found = expr.xreplace({entry.symbol: value})
        shorter = shorter and found.count_ops() < expr.count_ops()
        return found

    body = one.R * log(one.R / other.R)
    kept = Sum(
        symbol, body, one.index, Integer(1), others=True, level=entry.level, against=other.index
    )
    changed = _mapped(graded, row)
    return replace(changed, sums=(*graded.sums, kept)) if shorter else graded


def _mapped(graded: GradedLoss, row: Callable[[Expr], Expr]) -> GradedLoss:
    return replace(
        graded,
        loss=row(graded.loss),
        outputs=tuple((name, row(value)) for name, value in graded.outputs),
        gradients=tuple(
            Gradient(g.stream, tuple((row(c), b) for c, b in g.terms), row(g.at_y))
            for g in graded.gradients
        ),
    )
