"""The circular and hyperbolic functions of the vocabulary, erfc and log cosh, with their numpy and
mpmath twins.

They are operations because no formula in the rest is accurate: e^a - e^-a cancels, e^a overflows
before cosh a does, 1 - erf a has no digits left, and |a| has a kink where asinh has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import mpmath as mp
import numpy as np
import sympy
from sympy import Expr, S, exp

from lossgen.ir.function import SignOfArgument, Unary
from lossgen.ir.numeric import register_mpmath, register_numpy
from lossgen.ir.smooth import tanh

__all__ = ["acosh", "asinh", "atan", "cos", "cosh", "erfc", "logcosh", "sin", "sinh"]

_AT_ZERO: Mapping[Expr, Expr] = {S.Zero: S.Zero}


class cosh(Unary):
    """(e^a + e^-a) / 2."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        return sinh(self.args[0])


class sinh(SignOfArgument, Unary):
    """(e^a - e^-a) / 2."""

    exact = _AT_ZERO

    def partial(self, i: int) -> Expr:
        return cosh(self.args[0])


class logcosh(Unary):
    """log((e^a + e^-a) / 2)."""

    is_nonnegative = True
    exact = _AT_ZERO

    def partial(self, i: int) -> Expr:
        return tanh(self.args[0])


class asinh(SignOfArgument, Unary):
    """log(a + sqrt(1 + a^2))."""

    exact = _AT_ZERO

    def partial(self, i: int) -> Expr:
        return 1 / sympy.sqrt(1 + self.args[0] ** 2)


class acosh(Unary):
    """log(a + sqrt(a^2 - 1)) for a >= 1; derivative 0 at 1."""

    is_nonnegative = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.One: S.Zero}

    def partial(self, i: int) -> Expr:
        a = self.args[0]
        return 1 / (sympy.sqrt(a - 1) * sympy.sqrt(a + 1))  # printed so that it is 0 at 1


class atan(SignOfArgument, Unary):
    """The angle in (-pi/2, pi/2) whose tangent is a."""

    exact = _AT_ZERO

    def partial(self, i: int) -> Expr:
        return 1 / (1 + self.args[0] ** 2)


class sin(Unary):
    """Sine of an angle up to 1e13."""

    exact = _AT_ZERO

    def partial(self, i: int) -> Expr:
        return cos(self.args[0])


class cos(Unary):
    """Cosine of an angle up to 1e13."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        return -sin(self.args[0])


class erfc(Unary):
    """1 - erf(a), with all digits where that is small."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        return -2 / sympy.sqrt(sympy.pi) * exp(-(self.args[0] ** 2))


_REAL = (-math.inf, math.inf)
#: every function of this file, and the closed range of its argument
DOMAINS: dict[type[Unary], tuple[float, float]] = {
    **dict.fromkeys((cosh, sinh, logcosh, asinh, atan, erfc), _REAL),
    **dict.fromkeys((sin, cos), (-1e13, 1e13)),
    acosh: (1.0, math.inf),
}


# ---------------------------------------------------------------- numpy
@register_numpy
def logcosh_(a: Any) -> Any:
    size = np.abs(a)
    near = np.minimum(size, 1.0)
    grown = np.expm1(near)
    small = np.log1p(grown * grown / (2.0 * (1.0 + grown)))  # cosh a - 1 inside
    return np.where(size < 1.0, small, size - math.log(2.0) + np.log1p(np.exp(-2.0 * size)))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_NUMPY: dict[str, Callable[[Any], Any]] = {
    "cosh": np.cosh,
    "sinh": np.sinh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atan": np.arctan,
    "sin": np.sin,
    "cos": np.cos,
    "erfc": lambda a: _erfc(a)[()],
}
for _name, _function in _NUMPY.items():

    def _twin(a: Any, _inner: Callable[[Any], Any] = _function) -> Any:
        return _inner(a)

    _twin.__name__ = _name
    register_numpy(_twin)


# ---------------------------------------------------------------- mpmath
@register_mpmath
def mp_logcosh(a: Any) -> Any:
    if a == 0 or mp.isinf(a):
        return abs(a)
    with mp.workprec(mp.mp.prec + 2 * max(0, -mp.mag(a)) + 10):
        return abs(a) + mp.log1p(mp.exp(-2 * abs(a))) - mp.log(2)


def _precise(name: str) -> None:
    def twin(a: Any) -> Any:
        return getattr(mp, name)(a)

    twin.__name__ = f"mp_{name}"
    register_mpmath(twin)


for _name in _NUMPY:
    _precise(_name)
