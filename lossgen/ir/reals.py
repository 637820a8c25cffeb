"""Real numbers of many digits, for the literal formula: MPFR's, at the precision of mpmath.

A certificate evaluates a formula some hundred times; mpmath's numbers would take most of the time
of a build.  MPFR rounds every result correctly; what is not a real number is NaN, and NaN has no
order: what would compare it raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gmpy2
import mpmath as mp
from gmpy2 import mpfr

__all__ = [
    "HALF",
    "INF",
    "ONE",
    "ZERO",
    "as_mpf",
    "bounded",
    "ordered",
    "quotient",
    "real",
    "reals",
]

ZERO, ONE, HALF, INF = mpfr(0), mpfr(1), mpfr("0.5"), mpfr("inf")
_LEAST, _MOST = gmpy2.get_emin_min(), gmpy2.get_emax_max()


@contextmanager
def reals() -> Iterator[None]:
    """Where numbers have as many bits as mpmath's have now. Raises ZeroDivisionError and
    OverflowError, where mpmath would go on with an exponent of any size."""
    traps = {"trap_divzero": True, "trap_overflow": True}
    with gmpy2.context(precision=mp.mp.prec, emin=_LEAST, emax=_MOST, **traps):
        try:
            yield
        except gmpy2.OverflowResultError as error:
            raise OverflowError("an intermediate value is too large") from error


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
    if gmpy2.is_finite(value) and gmpy2.get_exp(value) > bits:
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
