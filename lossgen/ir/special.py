"""The circular and hyperbolic functions of the vocabulary, erfc, log cosh and those of the gamma
function, with their numpy and mpmath twins and their rules for the certificate.

They are operations because no formula in the rest is accurate: e^a - e^-a cancels, e^a overflows
before cosh a does, 1 - erf a has no digits left, |a| has a kink where asinh has none, and the gamma
function is no formula of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import gmpy2
import mpmath as mp
import numpy as np
import sympy
from sympy import Expr, S, exp
from sympy.core.function import ArgumentIndexError

from lossgen.ir.function import Binary, Elementwise, SignOfArgument, Unary
from lossgen.ir.numeric import register_mpmath, register_numpy
from lossgen.ir.reals import INF, NAN, ZERO, Rule, as_mpf, ordered, real
from lossgen.ir.smooth import tanh

__all__ = [
    "acosh",
    "asinh",
    "atan",
    "cos",
    "cosh",
    "digamma",
    "erfc",
    "lgamma",
    "logcosh",
    "polygamma",
    "sin",
    "sinh",
]

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


class lgamma(Unary):
    """log(gamma(a)) for a >= 0; 0 at 1 and at 2, with all digits beside them."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.One: S.Zero, sympy.Integer(2): S.Zero}

    def partial(self, i: int) -> Expr:
        return digamma(self.args[0])


class digamma(Unary):
    """The derivative of log(gamma(a)) for a >= 0."""

    def partial(self, i: int) -> Expr:
        return polygamma(S.One, self.args[0])


class polygamma(Binary):
    """The n-th derivative of digamma(a) for a >= 0 and a whole n, 1 <= n <= 8."""

    def fdiff(self, argindex: int = 1) -> Expr:
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        return self.partial(1)

    def partial(self, i: int) -> Expr:
        n, a = self.args
        return polygamma(n + 1, a)

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_odd

    def _eval_is_negative(self) -> bool | None:
        return self.args[0].is_even


_REAL = ((-math.inf, math.inf),)
_NONNEGATIVE = (0.0, math.inf)
#: every function of this file, and the closed range of each argument
DOMAINS: dict[type[Elementwise], tuple[tuple[float, float], ...]] = {
    **dict.fromkeys((cosh, sinh, logcosh, asinh, atan, erfc), _REAL),
    **dict.fromkeys((sin, cos), ((-1e13, 1e13),)),
    acosh: ((1.0, math.inf),),
    **dict.fromkeys((lgamma, digamma), (_NONNEGATIVE,)),
    polygamma: ((1.0, 8.0), _NONNEGATIVE),
}


# ---------------------------------------------------------------- numpy
@register_numpy
def logcosh_(a: Any) -> Any:
    size = np.abs(a)
    near = np.minimum(size, 1.0)
    grown = np.expm1(near)
    small = np.log1p(grown * grown / (2.0 * (1.0 + grown)))  # cosh a - 1 inside
    return np.where(size < 1.0, small, size - math.log(2.0) + np.log1p(np.exp(-2.0 * size)))


#: log(gamma(z)) / ((z - 1)(z - 2)) for 0.75 <= z <= 2.5, largest power first; 3e-19 off
_ABOVE = (
    *(0.0082910910155624019539, 3.8495085697831294594, 107.56958751281713365),
    *(812.46532377687737168, 2218.8489436030804994, 2396.5426905938071047),
    *(1005.3508803679938633, 141.64052795062936037, 4.2797153958206716541),
)
_BELOW = (
    *(1.0, 47.159760757129220152, 561.37523216946365458, 2425.673566790524758),
    *(4309.7597143780294025, 3215.0254333858831265, 940.08792608204683558),
    *(89.385213388628392825, 1.617518375014591241),
)
#: B_2k / (2k), of Stirling's series; B_2k / (2k)!, of Euler and Maclaurin's
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_STIRLING = [b / (2 * k) for k, b in enumerate(_BERNOULLI, 1)]
_MACLAURIN = [b / math.factorial(2 * k) for k, b in enumerate(_BERNOULLI, 1)]


@register_numpy
def lgamma_(a: Any) -> Any:
    low, far = a < 0.75, a >= 8.0
    z, product = np.where(low, a + 1.0, np.where(far, 2.0, a)), np.ones_like(a)
    for _ in range(6):  # gamma(z) = (z - 1)·gamma(z - 1)
        high = z >= 2.5
        z = np.where(high, z - 1.0, z)
        product = np.where(high, product * z, product)
    above_one = np.where(low, a, z - 1.0)
    near = above_one * (above_one - 1.0) * (np.polyval(_ABOVE, z) / np.polyval(_BELOW, z))
    w = np.maximum(a, 8.0)
    series = np.polyval([c / (2 * k + 1) for k, c in enumerate(_STIRLING)][::-1], 1.0 / (w * w)) / w
    stirling = (w - 0.5) * (np.log(w) - 1.0) + (0.5 * math.log(2.0 * math.pi) - 0.5) + series
    small = near + np.where(low, -np.log(a), np.log(product))
    return np.where(far, stirling, small)


@register_numpy
def digamma_(a: Any) -> Any:
    w = a + 12.0
    series = np.polyval([*_STIRLING[::-1], 0.0], 1.0 / (w * w))
    below = sum(1.0 / (a + k) for k in range(12))
    return np.where(a < 0.0, np.nan, np.log(w) - (0.5 / w + series + below))


@register_numpy
def polygamma_(n: Any, a: Any) -> Any:
    w = a + 12.0
    power = w**-n
    step = power / w
    total = sum((a + k) ** -(n + 1.0) for k in range(12)) + power / n + 0.5 * step
    step = step * (n + 1.0) / w
    for k, b in enumerate(_MACLAURIN, 1):
        total = total + b * step
        step = step * (n + 2.0 * k) * (n + 2.0 * k + 1.0) / (w * w)
    sign = np.where(np.remainder(n, 2.0) == 1.0, 1.0, -1.0)
    factorial = np.prod([np.where(k <= n, float(k), 1.0) for k in range(2, 9)], axis=0)
    return np.where(a < 0.0, np.nan, sign * factorial * total)


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


def _gamma(function: Callable[[Any], Any], below: Any) -> Callable[[Any], Any]:
    """Of a positive number; ``below`` is the value at 0."""

    def twin(a: Any) -> Any:
        return below if a == 0 else mp.nan if a < 0 else function(a)

    return twin


@register_mpmath
def mp_lgamma(a: Any) -> Any:
    return _gamma(mp.loggamma, mp.inf)(a)


@register_mpmath
def mp_digamma(a: Any) -> Any:
    return _gamma(mp.digamma, -mp.inf)(a)


@register_mpmath
def mp_polygamma(n: Any, a: Any) -> Any:
    return _gamma(lambda v: mp.psi(int(n), v), mp.inf if n % 2 else -mp.inf)(a)


# ---------------------------------------------------------------- for the certificate alone
_ENOUGH = 1024  # bits of functions of the gamma function


@lru_cache(maxsize=4096)
def _measured(order: int, a: Any, bits: int) -> Any:
    """log(gamma(a)) for order -1, digamma for 0, its derivatives above, which MPFR has not."""
    with gmpy2.context(precision=bits), mp.workprec(bits):
        if order > 0:
            return real(mp.psi(order, as_mpf(+a)))
        return (gmpy2.digamma if order == 0 else gmpy2.lngamma)(a)


def _of_gamma(order: int, a: Any) -> Any:
    """The same of any number, with at most ``_ENOUGH`` bits, which take a millisecond where 15000
    take seconds; half of them of what is left beside a whole number."""
    ordered(a)
    if a <= 0 or gmpy2.is_infinite(a):
        end = INF if order < 1 else ZERO
        at_zero = -INF if order % 2 == 0 else INF
        return end if a > 0 else at_zero if a == 0 else NAN
    bits = gmpy2.get_context().precision
    if bits <= _ENOUGH:
        return _measured(order, a, bits)
    if a < gmpy2.exp2(-_ENOUGH):  # MPFR takes seconds for what its leading term is
        if order == -1:
            return -gmpy2.log(a)
        return (-1) ** (order + 1) * gmpy2.fac(order) / a ** (order + 1)
    whole = gmpy2.rint(a)
    beside = a - whole
    if whole > 0 and abs(beside) < gmpy2.exp2(-_ENOUGH // 2):
        return _measured(order, whole, _ENOUGH) + beside * _measured(order + 1, whole, _ENOUGH)
    return _measured(order, a, _ENOUGH)


#: each function with its derivatives, from the arguments and the value
RULES: dict[str, Rule] = {
    "erfc": (gmpy2.erfc, lambda a, v: (-2 / gmpy2.sqrt(gmpy2.const_pi()) * gmpy2.exp(-a * a),)),
    "cosh": (gmpy2.cosh, lambda a, v: (gmpy2.sinh(a),)),
    "sinh": (gmpy2.sinh, lambda a, v: (gmpy2.cosh(a),)),
    "logcosh": (lambda a: gmpy2.log1p(2 * gmpy2.sinh(a / 2) ** 2), lambda a, v: (gmpy2.tanh(a),)),
    "asinh": (gmpy2.asinh, lambda a, v: (1 / gmpy2.hypot(1, a),)),
    "acosh": (gmpy2.acosh, lambda a, v: (1 / gmpy2.sqrt(a * a - 1) if a != 1 else ZERO,)),
    "atan": (gmpy2.atan, lambda a, v: (1 / (1 + a * a),)),
    "sin": (gmpy2.sin, lambda a, v: (gmpy2.cos(a),)),
    "cos": (gmpy2.cos, lambda a, v: (-gmpy2.sin(a),)),
    "lgamma": (lambda a: _of_gamma(-1, a), lambda a, v: (_of_gamma(0, a),)),
    "digamma": (lambda a: _of_gamma(0, a), lambda a, v: (_of_gamma(1, a),)),
    "polygamma": (
        lambda n, a: _of_gamma(int(n), a),
        lambda n, a, v: (ZERO, _of_gamma(int(n) + 1, a)),
    ),
}
