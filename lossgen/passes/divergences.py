"""Divergences of two softmaxes.  Over the other classes, as one statistic:

    Σ_{j≠y} R_j·δ_j - z + z'   →   D = Σ_{j≠y} R_j·log(R_j/R'_j)

with δ_j = (l_j - l'_j) - (l_y - l'_y).
z and z' hold the target's exponent, on which the divergence does not depend, and which may be far
above all others; D is reduced relative to the two running maxima instead, as

    D = Σ R·(t - t') + log1p((A' - A)/A)       A' - A = Σ exp(t)·expm1(t' - t)

so that it has the relative accuracy of what the two rows do not share.  A product of powers has

    s - Σ κ·s'   →   log Σ_{j≠y} Π p'^κ + r     where z > 0

for the logarithm of Σ_j Π p'^κ: a part may mask the pivot, and then every s is infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sympy import Add, Expr, Integer, Symbol, expand, log

from lossgen.ir.ops import OPS
from lossgen.ir.stages import Form, GradedLoss, Gradient, Sum

__all__ = ["joint_logarithms", "with_divergences"]

_f = {name: op.symbol for name, op in OPS.items()}


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


def joint_logarithms(expr: Expr, forms: Sequence[Form]) -> Expr:
    """c·(s - Σ κ·s') of a product of softmaxes, by what the pivot holds of it."""
    if not expr.args or not any(f.parts for f in forms):
        return expr
    expr = expr.func(*(joint_logarithms(a, forms) for a in expr.args))
    if not isinstance(expr, Add):
        return expr
    for form in (f for f in forms if f.parts):
        scale = expand(expr, power_base=False, log=False).coeff(form.s)
        if scale == 0:
            continue
        parts = {k: forms[k] for k, _ in form.parts}
        whole = form.s - Add(*(rate * parts[k].s for k, rate in form.parts))
        rest = expand(expr - scale * whole)
        if rest.free_symbols & {form.s, *(f.s for f in parts.values())}:
            continue
        low = form.joint + form.r
        high = form.s - form.mixed({k: f.s for k, f in parts.items()})
        expr = scale * _f["where"](_f["lt"](0, form.z), low, high) + rest
    return expr
