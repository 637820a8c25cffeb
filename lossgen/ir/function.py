"""Base classes of the elementwise vocabulary.

Principles: arguments are real and so are values; a class states its sign once, as a SymPy class
assumption or handler; ``partial`` is the only place a derivative is written; nothing is rewritten
on construction except exact values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import mpmath
import sympy
from sympy import Expr, Float, Function, S
from sympy.core.function import ArgumentIndexError

from lossgen.ir.numeric import MPMATH

__all__ = ["Binary", "Elementwise", "PiecewiseConstant", "SignOfArgument", "Ternary", "Unary"]


class Elementwise(Function):
    """Base of the vocabulary: real-valued; evaluates numerically through its mpmath twin."""

    is_real = True

    def partial(self, i: int) -> Expr:
        """The derivative with respect to argument ``i`` (from 0)."""
        raise NotImplementedError

    def fdiff(self, argindex: int = 1) -> Expr:
        if not 1 <= argindex <= len(self.args):
            raise ArgumentIndexError(self, argindex)
        return self.partial(argindex - 1)

    def _eval_evalf(self, prec: int) -> Expr | None:
        values = [a._eval_evalf(prec + 10) for a in self.args]
        if not all(isinstance(v, sympy.Number) for v in values):
            return None
        with mpmath.workprec(prec + 10):
            value = MPMATH[self.func.__name__](*(v._to_mpmath(prec + 10) for v in values))
        return Float._new(mpmath.mpf(value)._mpf_, prec)  # a clip of 0 is an int


class Unary(Elementwise):
    """One argument; ``exact`` has the values that are known exactly."""

    exact: ClassVar[Mapping[Expr, Expr]] = {}

    @classmethod
    def eval(cls, a: Expr) -> Expr | None:
        return cls.exact.get(a)


class Binary(Elementwise):
    """Two arguments."""

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        return None


class Ternary(Elementwise):
    """Three arguments."""

    @classmethod
    def eval(cls, a: Expr, b: Expr, c: Expr) -> Expr | None:
        return None


class SignOfArgument(Elementwise):
    """Has the sign of its first argument."""

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_positive

    def _eval_is_negative(self) -> bool | None:
        return self.args[0].is_negative

    def _eval_is_nonnegative(self) -> bool | None:
        return self.args[0].is_nonnegative

    def _eval_is_nonpositive(self) -> bool | None:
        return self.args[0].is_nonpositive

    def _eval_is_zero(self) -> bool | None:
        return self.args[0].is_zero


class PiecewiseConstant(Elementwise):
    """Nonnegative, and every derivative is zero."""

    is_nonnegative = True

    def partial(self, i: int) -> Expr:
        return S.Zero
