"""Real numbers of many digits, for the literal formula: MPFR's, at the precision of mpmath.

A certificate evaluates a formula some hundred times; mpmath's numbers would take most of the time
of a build.  MPFR rounds every result correctly; what is not a real number is NaN, and NaN has no
order: what would compare it raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gmpy2
import mpmath as mp
from gmpy2 import mpfr

__all__ = [
    "HALF",
    "INF",
    "NAN",
    "ONE",
    "ZERO",
    "Rule",
    "as_mpf",
    "bounded",
    "ordered",
    "quotient",
    "real",
    "reals",
]

ZERO, ONE, HALF, INF, NAN = mpfr(0), mpfr(1), mpfr("0.5"), mpfr("inf"), mpfr("nan")
#: a function, and its derivatives from the arguments and the value
Rule = tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]
_TOO_LARGE = mpfr("inf")


def reals() -> Any:
    """A context in which numbers have as many bits as mpmath's have now."""
    return gmpy2.context(precision=mp.mp.prec, trap_divzero=True)


def exponential(value: Any) -> Any:
    """e^value; beyond e^7e8 an infinity that ``bounded`` knows from others."""
    found = gmpy2.exp(value)
    return _TOO_LARGE if gmpy2.is_infinite(found) and gmpy2.is_finite(value) else found


def real(value: Any) -> Any:
    """A number of Python or mpmath, rounded to the context."""
    if not isinstance(value, mp.mpf):
        return mpfr(value)
    sign, digits, exponent, _ = value._mpf_
    if not digits:
        return mpfr(float(value))  # 0, an infinity or NaN
    scale = gmpy2.mul_2exp if exponent >= 0 else gmpy2.div_2exp
    return scale(mpfr(-digits if sign else digits), abs(exponent))


def as_mpf(value: Any) -> Any:
    """The number of mpmath."""
    if not value or not gmpy2.is_finite(value):
        return mp.mpf(float(value))
    digits, exponent = value.as_mantissa_exp()
    return mp.mpf((digits, int(exponent)))


def bounded(value: Any, bits: int = 4096) -> Any:
    """``value``, unless it is beyond 2**bits: its exponential would not be a number."""
    if value is _TOO_LARGE or (gmpy2.is_finite(value) and gmpy2.get_exp(value) > bits):
        raise OverflowError("an intermediate value is too large")
    return value


def ordered(*values: Any) -> None:
    """Raises ValueError where one of them is NaN."""
    if any(map(gmpy2.is_nan, values)):
        raise ValueError("no real number")


def quotient(a: Any, b: Any) -> Any:
    """a / b. Raises ZeroDivisionError, of 0/0 too."""
    if b == 0:
        raise ZeroDivisionError("division by zero")
    return a / b
