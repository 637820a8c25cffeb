"""The functions of the elementwise vocabulary that have kinks, jumps or no derivative.

Derivatives at kinks follow torch: relu'(0) = abs'(0) = 0, clip' = 1 on the closed interval,
minimum and maximum give one half to each side of a tie.  Conditions (``lt le eq ne``) are 1 or 0
with zero derivative, and ``where`` differentiates its branches only.
"""

from __future__ import annotations

import sympy
from sympy import Expr, Integer, S

from lossgen.ir.function import Binary, PiecewiseConstant, SignOfArgument, Ternary, Unary
from lossgen.ir.numeric import MPMATH

__all__ = [
    "above",
    "absf",
    "clip",
    "eq",
    "inrange",
    "le",
    "lt",
    "maximum",
    "minimum",
    "ne",
    "relu",
    "sgn",
    "step",
    "stop_gradient",
    "where",
]


class relu(Unary):
    """max(a, 0); derivative 0 at 0, and, as in torch, 1 at NaN."""

    is_nonnegative = True

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return max(a, S.Zero) if a.is_Rational else None

    def partial(self, i: int) -> Expr:
        return ne(self, S.Zero)


class absf(Unary):
    """Absolute value; derivative 0 at 0."""

    is_nonnegative = True

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return abs(a) if a.is_Rational else None

    def partial(self, i: int) -> Expr:
        return sgn(self.args[0])


class sgn(SignOfArgument, Unary):
    """-1, 0 or 1, the sign of a."""

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return sympy.sign(a) if a.is_Rational else None

    def partial(self, i: int) -> Expr:
        return S.Zero


class step(PiecewiseConstant, Unary):
    """1 for a > 0, 1/2 at 0, 0 for a < 0."""

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return (1 + sympy.sign(a)) / 2 if a.is_Rational else None


class above(PiecewiseConstant, Binary):
    """step(a - b), also for infinite arguments: 1 for a > b, 1/2 at a = b, else 0."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        return step(a - b) if a.is_Rational and b.is_Rational else None


class minimum(Binary):
    """The smaller of a and b; a tie gives half the derivative to each."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        return a if a == b else min(a, b) if a.is_Rational and b.is_Rational else None

    def partial(self, i: int) -> Expr:
        return above(self.args[1 - i], self.args[i])

    def _eval_is_nonnegative(self) -> bool | None:
        return all(a.is_nonnegative for a in self.args) or None

    def _eval_is_positive(self) -> bool | None:
        return all(a.is_positive for a in self.args) or None

    def _eval_is_nonpositive(self) -> bool | None:
        return any(a.is_nonpositive for a in self.args) or None

    def _eval_is_negative(self) -> bool | None:
        return any(a.is_negative for a in self.args) or None


class maximum(Binary):
    """The larger of a and b; a tie gives half the derivative to each."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        return a if a == b else max(a, b) if a.is_Rational and b.is_Rational else None

    def partial(self, i: int) -> Expr:
        return above(self.args[i], self.args[1 - i])

    def _eval_is_nonnegative(self) -> bool | None:
        return any(a.is_nonnegative for a in self.args) or None

    def _eval_is_positive(self) -> bool | None:
        return any(a.is_positive for a in self.args) or None

    def _eval_is_nonpositive(self) -> bool | None:
        return all(a.is_nonpositive for a in self.args) or None

    def _eval_is_negative(self) -> bool | None:
        return all(a.is_negative for a in self.args) or None


class clip(Ternary):
    """min(max(x, lo), hi), lo <= hi; derivative in x is 1 on the closed interval."""

    def partial(self, i: int) -> Expr:
        x, lo, hi = self.args
        return (inrange(x, lo, hi), lt(x, lo), lt(hi, x))[i]

    def _eval_is_nonnegative(self) -> bool | None:
        _, lo, hi = self.args
        return True if lo.is_nonnegative and hi.is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        _, lo, hi = self.args
        return True if lo.is_positive and hi.is_positive else None

    def _eval_is_nonpositive(self) -> bool | None:
        return True if self.args[2].is_nonpositive else None


class inrange(PiecewiseConstant, Ternary):
    """1 for lo <= x <= hi, else 0."""


class _Comparison(PiecewiseConstant, Binary):
    """A condition valued 1 or 0; false when an argument is NaN."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        if a.is_Rational and b.is_Rational:
            return Integer(int(MPMATH[cls.__name__](a, b)))
        return None


class lt(_Comparison):
    """1 if a < b else 0."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        return S.Zero if b == 0 and a.is_nonnegative else super().eval(a, b)


class le(_Comparison):
    """1 if a <= b else 0."""


class eq(_Comparison):
    """1 if a == b else 0."""


class ne(_Comparison):
    """1 if a != b else 0."""


class where(Ternary):
    """a where the condition c is not 0, else b; the derivative is where(c, a', b')."""

    @classmethod
    def eval(cls, a: Expr, b: Expr, c: Expr) -> Expr | None:  # a is the condition
        if b == c or a == 0:
            return c
        return b if a.is_Rational else None

    def partial(self, i: int) -> Expr:
        return (S.Zero, where(self.args[0], 1, 0), where(self.args[0], 0, 1))[i]

    def _eval_derivative(self, s: Expr) -> Expr:
        c, a, b = self.args
        return where(c, a.diff(s), b.diff(s))

    def _branches(self, fact: str) -> bool | None:
        return True if all(getattr(a, fact) for a in self.args[1:]) else None

    def _eval_is_positive(self) -> bool | None:
        return self._branches("is_positive")

    def _eval_is_negative(self) -> bool | None:
        return self._branches("is_negative")

    def _eval_is_nonnegative(self) -> bool | None:
        return self._branches("is_nonnegative")

    def _eval_is_nonpositive(self) -> bool | None:
        return self._branches("is_nonpositive")


class stop_gradient(SignOfArgument, Unary):
    """a, with derivative 0."""

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return a if a.is_number or isinstance(a, stop_gradient) else None

    def partial(self, i: int) -> Expr:
        return S.Zero
