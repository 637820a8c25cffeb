"""Divergences of two softmaxes, from the sum T = Σ_{j≠y} p_j·δ_j and what stands beside it.

    T - Q·λ + P·(s' - s)   →   Q·D + B         Σ_j p_j·log(p_j/p'_j)
    T + P·λ + P·(s' - s)   →   T + P·δ_y       Σ_j p_j·δ_j, of which its gradient is made
    λ + s' - s             →   δ_y             where nothing else of s and s' is left
    Σ_{j≠y} R_j·δ_j - λ + r - r'   →   D

with δ_j = (l_j - l'_j) - (l_c - l'_c) and λ = (L - L') - (l_c - l'_c) for a class c.  Every
combination of T and λ is one of the first two.  D = Σ_{j≠y} R_j·log(R_j/R'_j) is the divergence of
the other classes and B that of (P, Q) from (P', Q'), the target from all others.  Neither holds a
first order of what the two rows have apart, which cancels in T - Q·λ + P·(s' - s):

    D = Σ R·δ + log1p((A' - A)/A)           A' - A = Σ exp(t)·expm1(-δ)
    B = log1p(u) - u + Q·(expm1(a) - a)     u = Q·expm1(a), a = z' - z; where P < Q, of P and -a

A product of powers has

    s - Σ κ·s'   →   log Σ_{j≠y} Π p'^κ + r     where z > 0

for the logarithm of Σ_j Π p'^κ: a part may mask the pivot, and then every s is infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sympy import Add, Expr, Integer, Symbol, collect, expand, log

from lossgen.ir.ops import OPS
from lossgen.ir.stages import GradedLoss, Gradient, Pivot
from lossgen.ir.statistics import Form, Sum
from lossgen.passes.algebra import cost, expand_products, tidy

__all__ = ["joint_logarithms", "with_divergences"]

_f = {name: op.symbol for name, op in OPS.items()}


def with_divergences(graded: GradedLoss, exact: bool) -> GradedLoss:
    """The divergences in place of the sums they are made of.

    ``exact``: those over all classes as Q·D + B, which costs a function per class.
    """
    for entry in graded.sums:
        plain = entry.kappa == 1 and entry.power == 0 and entry.weight == 1
        if plain and entry.form is not None and entry.centre is not None:
            graded = _Divergence(graded, entry, exact).replaced()
    return graded


class _Divergence:
    def __init__(self, graded: GradedLoss, entry: Sum, exact: bool) -> None:
        (self.centre,) = (c for c in graded.centres if c.symbol == entry.centre)
        self.own = next(f for f in graded.forms if f.index == entry.form)
        self.graded, self.entry = graded, entry
        self.constants = graded.vocabulary.constants
        self.logs = [(graded.forms[k].s, sign) for k, sign in self.centre.softmaxes]
        ends = [graded.forms[k] for k, _ in self.centre.softmaxes]
        self.other = ends[-1] if len(ends) == 2 and ends[0] is self.own else None
        # Without a target the maxima are those of all classes: A' may underflow, and D with it.
        self.exact = exact and self.other is not None and graded.pivot is Pivot.TARGET

    def replaced(self) -> GradedLoss:
        kept = self._statistic()
        changed = _mapped(self.graded, lambda expr: self._row(expr, kept))
        rows = (changed.loss, *(v for _, v in changed.outputs), *changed.coefficients)
        used = kept is not None and any(kept.symbol in e.free_symbols for e in rows)
        return replace(changed, sums=(*changed.sums, kept)) if kept and used else changed

    def _statistic(self) -> Sum | None:
        """D, if the difference is that of the weight's own softmax from another."""
        if self.other is None or not self.graded.measures(self.centre):
            return None
        return Sum(
            Symbol(f"T{len(self.graded.sums)}", nonnegative=True),
            self.own.R * log(self.own.R / self.other.R),
            self.own.index,
            Integer(1),
            centre=self.centre.symbol,
            others=True,
            level=self.entry.level,
            against=self.other.index,
        )

    def _row(self, expr: Expr, kept: Sum | None) -> Expr:
        if not {self.entry.symbol, self.centre.lse} <= expr.free_symbols:
            return expr
        if not self.entry.others:
            return self._of_all(expr, kept)
        return expr if kept is None else self._of_others(expr, kept)

    def _of_others(self, expr: Expr, kept: Sum) -> Expr:
        """Over the classes j ≠ y, normalised among themselves."""
        assert self.other is not None
        value = kept.symbol + self.centre.lse - self.own.r + self.other.r
        found = self._tidy(expr.xreplace({self.entry.symbol: value}))
        return expr if self.centre.lse in found.free_symbols else found

    def _of_all(self, expr: Expr, kept: Sum | None) -> Expr:
        """c·T + d·λ  =  (P·c - d)·(T - Q·λ) + (Q·c + d)·(T + P·λ)"""
        own, total, apart = self.own, self.entry.symbol, self.centre.lse
        flat = expand_products(expr)
        c, d = flat.coeff(total), flat.coeff(apart)
        rest = flat - expand_products(c * total) - expand_products(d * apart)
        if (c + d + rest).free_symbols & {total, apart}:
            return expr
        at_y = Add(*(-sign * s for s, sign in self.logs))
        # 0·∞ is 0, where a row masks the target, or thinks of nothing else
        delta = _f["where"](_f["ne"](own.P, 0), self.centre.symbol_y, 0)
        direct = self._tidy(flat.xreplace({apart: delta - at_y}))
        if not direct.free_symbols & {s for s, _ in self.logs}:
            return direct
        if self.other is None:
            return expr
        whole = total - own.Q * apart + own.P * at_y
        if self.exact and kept is not None:
            others = _f["where"](_f["ne"](own.Q, 0), kept.symbol, 0)
            whole = own.Q * others + self.centre.bernoulli
        divergence, mean = self._tidy(own.P * c - d), self._tidy(own.Q * c + d)
        rest = self._tidy(rest - c * own.P * at_y)
        whole_logs = collect(rest, [f.s for f in self.graded.forms])  # (1 - α)·s, which may be 0·∞
        rest = whole_logs if cost(whole_logs)[0] <= cost(rest)[0] else rest
        return divergence * whole + mean * (total + own.P * delta) + rest

    def _tidy(self, expr: Expr) -> Expr:
        return tidy(expr, self.graded.forms, self.constants)


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
    """c·(s - Σ κ·s') or c·(z - Σ κ·s') of a product of softmaxes, by what the pivot holds of it.

    Where a part masks the pivot, both are ∞ - ∞.
    """
    if not expr.args or not any(f.parts for f in forms):
        return expr
    expr = expr.func(*(joint_logarithms(a, forms) for a in expr.args))
    if not isinstance(expr, Add):
        return expr
    for form in (f for f in forms if f.parts):
        joint = form.joint, form.joint + form.r
        for own, low in zip((form.z, form.s), joint, strict=True):  # of the others, or of all
            expr = _by_the_pivot(expr, own, low, form, forms)
    return expr


def _by_the_pivot(expr: Expr, own: Expr, low: Expr, form: Form, forms: Sequence[Form]) -> Expr:
    """c·(own - Σ κ·s') + rest, where the pivot is not the largest by ``low``."""
    scale = expand(expr, power_base=False, log=False).coeff(own)
    if scale == 0:
        return expr
    parts = {k: forms[k] for k, _ in form.parts}
    whole = own - Add(*(rate * parts[k].s for k, rate in form.parts))
    rest = expand(expr - scale * whole)
    if rest.free_symbols & {own, *(f.s for f in parts.values())}:
        return expr
    high = own - form.mixed({k: f.s for k, f in parts.items()})
    return scale * _f["where"](_f["lt"](0, form.z), low, high) + rest
