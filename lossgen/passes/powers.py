"""The derivative of a power whose exponent is a parameter, at base 0.

    B^k / B   →   where(B == 0, k == 1, minimum(B^(k-1), 3e38))   of a B that is never negative
    B^k / B   →   where(k == 0, 0, B^(k-1))                       of any other
    B^k · (a + c/B)   →   a·B^k + c·B^k/B            first: the quotient may be inside of a sum

SymPy writes the derivative of B^k as k·B^k·B'/B, which is 0/0 at 0.  What is never negative is flat
where it is 0 (a relu and its kin by convention): nothing goes through, not even where the slope of
the power is infinite; nor is it infinite near 0, as it is multiplied by k, which may be 0.  Of a
raw value, or a difference, the slope at 0 is k·0^(k-1), as torch has it, and 0 for k = 0.  A fixed
exponent between 0 and 1 is treated as one that is a parameter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sympy import Add, Dummy, Expr, Integer, Mul, Pow, Rational, Symbol, exp

from lossgen.ir.piecewise import eq, minimum, where
from lossgen.ir.stages import GradedLoss, Gradient
from lossgen.passes.zeros import MOST

__all__ = ["whole_at_zero"]


def whole_at_zero(graded: GradedLoss, own: Collection[Symbol]) -> GradedLoss:
    """The gradients with every slope of a power defined at base 0; ``own`` are the sums of the
    loss itself, which has none."""
    names = graded.vocabulary
    raw = {s for pair in names.streams.values() for s in pair}
    flat = {
        m.symbol: Dummy(m.symbol.name, nonnegative=True)
        for m in graded.maxes
        if m.body.is_nonnegative
    }
    halves = {s for f in graded.forms for s in (f.P, f.Q, f.s, f.r)}

    def whole(expr: Expr) -> Expr:
        return _slopes(expr, _Kinds(raw, flat, halves, names.constants))

    return replace(
        graded,
        sums=tuple(
            s if s.symbol in own else replace(s, body=whole(s.body), weight=whole(s.weight))
            for s in graded.sums
        ),
        gradients=tuple(
            Gradient(g.stream, tuple((whole(c), whole(b)) for c, b in g.terms), whole(g.at_y))
            for g in graded.gradients
        ),
    )


@dataclass(frozen=True)
class _Kinds:
    raw: set[Symbol]  # may be 0 where they are not flat
    flat: dict[Symbol, Dummy]  # never negative, though the symbol does not say so
    halves: set[Symbol]  # probabilities and their logarithms: `stabilize` has rules for them
    constants: frozenset[Symbol]

    def is_flat(self, base: Expr) -> bool:
        never = bool(base.xreplace(self.flat).is_nonnegative) or _is_complement(base)
        return never and base not in self.raw

    def may_vanish(self, base: Expr) -> bool:
        """Is 0 a value of it that a quotient has to be whole at?"""
        return base not in self.halves and not self.is_apart(base)

    def is_apart(self, base: Expr) -> bool:
        """Never 0, also when rounded: a positive constant and more."""
        constant = any(t.free_symbols <= self.constants for t in Add.make_args(base))
        return bool(base.is_positive) and constant


def _slopes(expr: Expr, kinds: _Kinds) -> Expr:
    """A part of a gradient, whole at base 0."""
    if not expr.args:
        return expr
    expr = expr.func(*(_slopes(a, kinds) for a in expr.args))
    if isinstance(expr, Pow) and _is_slope(expr.exp) and kinds.is_flat(expr.base):
        return where(eq(expr.base, 0), 0, expr)
    if not isinstance(expr, Mul):
        return expr
    for base, found in _powers(expr).items():
        if all(exponent.is_Rational for exponent in found):
            continue
        quotients = [f for f in expr.args if isinstance(f, Add) and _divides(f, base)]
        if quotients and kinds.may_vanish(base):
            rest = Mul(*(f for f in expr.args if f is not quotients[0]))
            return Add(*(_slopes(rest * term, kinds) for term in quotients[0].args))
    for base, found in _powers(expr).items():
        if Integer(-1) not in found or len(found) < 2 or not kinds.may_vanish(base):
            continue
        rest = Mul(*(f for f in expr.args if f.as_base_exp()[0] != base))
        exponent = sum(found, Integer(0))
        slope = base**exponent
        if kinds.is_flat(base):
            slope = where(eq(base, 0), eq(exponent, 0), minimum(slope, MOST))
        elif not (exponent + 1).is_nonzero:
            slope = where(eq(exponent + 1, 0), 0, slope)
        expr = rest * slope
    return expr


def _powers(expr: Mul) -> dict[Expr, list[Expr]]:
    """The exponents of each base among the factors."""
    exponents: dict[Expr, list[Expr]] = {}
    for base, exponent in (f.as_base_exp() for f in expr.args):
        exponents.setdefault(base, []).append(exponent)
    return exponents


def _divides(expr: Add, base: Expr) -> bool:
    """Is ``base`` what a term of the sum is divided by?"""
    return any(1 / base in Mul.make_args(term) for term in expr.args)


def _is_complement(base: Expr) -> bool:
    """1 - p of a class: 0 where it dominates, and p itself is flat there."""
    rest = base - 1
    power = -rest
    return isinstance(power, exp) and bool(power.args[0].is_nonpositive)


def _is_slope(exponent: Expr) -> bool:
    """Of the derivative of a fixed power below 1; a square root has its own function."""
    return bool(exponent.is_Rational and -1 < exponent < 0 and exponent != Rational(-1, 2))
