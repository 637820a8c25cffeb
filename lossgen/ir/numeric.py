"""Numerical twins of the elementwise vocabulary: numpy in float64 and mpmath at any precision.

``NUMPY[name]`` takes and returns float64 arrays (or scalars), broadcasts, is total over the
operation's domain (±inf included, NaN in gives NaN out) and is accurate to a few units of
2**-52, relative, except where the function itself is ill-conditioned.  ``MPMATH[name]`` takes
and returns mpmath numbers at the current working precision (results are good to within a few
units of that precision) and is the reference for everything else.

Principles: the two tables share no code, so that each checks the other; arguments outside the
domain give NaN (numpy) or raise (mpmath).  A comparison is 1 or 0, and false for NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray

__all__ = ["MPMATH", "NUMPY", "bounded", "register_mpmath", "register_numpy"]

Array = NDArray[np.float64]
NUMPY: dict[str, Callable[..., Any]] = {}
MPMATH: dict[str, Callable[..., Any]] = {}
LN2 = math.log(2.0)


def _numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a float64 twin: arguments become float64, floating point warnings are silenced."""

    @functools.wraps(function)
    def twin(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*(np.asarray(a, dtype=np.float64) for a in args))

    NUMPY[function.__name__.rstrip("_")] = twin
    return twin


@_numpy
def softplus(a: Array) -> Array:
    return np.maximum(a, 0.0) + np.log1p(np.exp(-np.abs(a)))


@_numpy
def sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


@_numpy
def log1mexp(a: Array) -> Array:
    return np.where(a > LN2, np.log1p(-np.exp(-a)), np.log(-np.expm1(-a)))


@_numpy
def exprel(a: Array) -> Array:
    b = np.where((a == 0) | (a == np.inf), 1.0, a)
    h = np.exp(0.5 * b)  # exp(a) overflows before exp(a)/a does
    r = np.where(b > 700, h * (h / b), np.expm1(b) / b)
    return np.where(a == 0, 1.0, np.where(a == np.inf, np.inf, r))


@_numpy
def expm1div(v: Array, c: Array) -> Array:
    a, d = c * v, np.where(c == 0, 1.0, c)
    h = np.exp(0.5 * a)  # exp(a) overflows before exp(a)/c does
    y = np.where(a > 700, h * (h / d), np.expm1(a) / d)
    return np.where((v == 0) | (c == 0) | (np.abs(a) < 1e-17), v, y)


@_numpy
def recipexpm1x(a: Array) -> Array:
    b = np.where((a == 0) | (a == np.inf), 1.0, a)
    h = np.exp(-0.5 * np.maximum(b, 0.0))  # exp(-a) underflows before a*exp(-a) does
    r = np.where(b > 40, (b * h) * h, b / np.expm1(b))
    return np.where(a == 0, 1.0, np.where(a == np.inf, 0.0, r))


@_numpy
def cloglog(a: Array) -> Array:
    w = np.exp(np.clip(a, -40.0, 10.0))
    return np.where(a < -40, a, log1mexp(w))


@_numpy
def logsoftplus(a: Array) -> Array:
    # Around softplus = 1 the logarithm is taken of 1 + ((a - 1) + log1p(exp(-a))).
    near = np.log1p((a - 1.0) + np.log1p(np.exp(-np.abs(a))))
    r = np.where((a > 0.25) & (a < 2.0), near, np.log(softplus(np.maximum(a, -40.0))))
    return np.where(a < -40, a, r)


@_numpy
def sprel(a: Array) -> Array:
    w = np.exp(np.clip(a, -40.0, 0.0))
    h = np.exp(-0.5 * np.maximum(a, 0.0))
    high = np.where(a == np.inf, 0.0, softplus(a) * h * h)
    return np.where(a <= 0, np.log1p(w) / w, high)


@_numpy
def sigrel(a: Array) -> Array:
    w = np.exp(np.clip(a, -40.0, 0.0))
    low = w / ((1.0 + w) * np.log1p(w))
    high = sigmoid(a) / softplus(np.maximum(a, 0.0))
    return np.where(a <= 0, low, high)


@_numpy
def sech2(a: Array) -> Array:
    e = np.exp(-2.0 * np.abs(a))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


def _horner(x: Array, coefficients: list[float]) -> Array:
    """Polynomial with the constant coefficient first."""
    total = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


@_numpy
def expm1x(a: Array) -> Array:
    small = np.clip(a, -1.0, 1.0)
    series = small * small * _horner(small, [1.0 / math.factorial(k) for k in range(2, 21)])
    return np.where(np.abs(a) <= 1, series, np.where(a == np.inf, np.inf, np.expm1(a) - a))


@_numpy
def log1pmx(a: Array) -> Array:
    b = np.clip(a, -0.5, 1.0)
    s = b / (2.0 + b)  # log1p(b) = 2 atanh(s) and 2 s - b = -s b
    s2 = s * s
    series = -s * b + 2.0 * s * s2 * _horner(s2, [1.0 / (2 * k + 3) for k in range(17)])
    direct = np.where(a == np.inf, -np.inf, np.log1p(a) - a)
    return np.where((a >= -0.5) & (a <= 1), series, direct)


@_numpy
def safe_rsqrt(a: Array) -> Array:
    return np.where(a == 0, 0.0, 1.0 / np.sqrt(a))


@_numpy
def step(a: Array) -> Array:
    return np.heaviside(a, 0.5)


@_numpy
def above(a: Array, b: Array) -> Array:
    r = np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))
    return np.where(np.isnan(a) | np.isnan(b), np.nan, r)


@_numpy
def clip(x: Array, lo: Array, hi: Array) -> Array:
    return np.minimum(np.maximum(x, lo), hi)


@_numpy
def inrange(x: Array, lo: Array, hi: Array) -> Array:
    nan = np.isnan(x) | np.isnan(lo) | np.isnan(hi)
    return np.where(nan, np.nan, np.where((x >= lo) & (x <= hi), 1.0, 0.0))


@_numpy
def where(c: Array, a: Array, b: Array) -> Array:
    return np.where(c != 0, a, b)


@_numpy
def softcap(x: Array, c: Array) -> Array:
    return np.where(c == np.inf, x, c * np.tanh(x / c))


@_numpy
def xlogy(a: Array, b: Array) -> Array:
    return np.where((a == 0) & ~np.isnan(b), 0.0, a * np.log(b))


@_numpy
def mercator(q: Array, t: Array) -> Array:
    total = np.zeros(np.broadcast_shapes(q.shape, t.shape))
    for k in range(16, 0, -1):
        total = (total + np.where(t >= k, 1.0 / k, 0.0)) * q
    return np.where(np.isnan(t), np.nan, total)


@_numpy
def geometric(q: Array, t: Array) -> Array:
    total = np.zeros(np.broadcast_shapes(q.shape, t.shape))
    for k in range(15, -1, -1):
        total = total * q + np.where(t > k, 1.0, 0.0)
    return np.where(np.isnan(q) | np.isnan(t), np.nan, total)


_erf = np.vectorize(math.erf, otypes=[np.float64])
_SIMPLE: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "power": np.power,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": lambda a: _erf(a)[()],
    "absf": np.abs,
    "sgn": np.sign,
    "relu": lambda a: np.maximum(a, 0.0),
    "minimum": np.minimum,
    "maximum": np.maximum,
    "stop_gradient": lambda a: a,
    "logaddexp": np.logaddexp,
    "lt": lambda a, b: np.where(a < b, 1.0, 0.0),
    "le": lambda a, b: np.where(a <= b, 1.0, 0.0),
    "eq": lambda a, b: np.where(a == b, 1.0, 0.0),
    "ne": lambda a, b: np.where(a != b, 1.0, 0.0),
}
for _name, _function in _SIMPLE.items():

    def _plain(*args: Any, _inner: Callable[..., Any] = _function) -> Any:
        return _inner(*args)

    _plain.__name__ = _name
    _numpy(_plain)


# ---------------------------------------------------------------- mpmath


def bounded(a: Any, bits: int = 4096) -> Any:
    """``a``, unless it is beyond 2**bits: exp of it might not fit the machine's memory."""
    if hasattr(a, "_mpf_") and a._mpf_[2] + a._mpf_[3] > bits:
        raise OverflowError("an intermediate value is too large")
    return a


def _mpmath(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register an arbitrary precision twin, computed with 20 guard bits."""
    name = function.__name__.removeprefix("mp_")

    @functools.wraps(function)
    def twin(*args: Any) -> Any:
        with mp.workprec(mp.mp.prec + 20):
            value = function(*(bounded(mp.mpf(a)) for a in args))
        return +value

    MPMATH[name] = twin
    return twin


register_numpy, register_mpmath = _numpy, _mpmath


@_mpmath
def mp_softplus(a: Any) -> Any:
    if mp.isinf(a):
        return a if a > 0 else mp.mpf(0)
    return a + mp.log1p(mp.exp(-a)) if a > 0 else mp.log1p(mp.exp(a))


@_mpmath
def mp_sigmoid(a: Any) -> Any:
    return 1 / (1 + mp.exp(-a)) if a >= 0 else mp.exp(a) / (1 + mp.exp(a))


@_mpmath
def mp_log1mexp(a: Any) -> Any:
    if a == 0:
        return -mp.inf
    return mp.log(-mp.expm1(-a)) if a < 1 else mp.log1p(-mp.exp(-a))


@_mpmath
def mp_expm1div(v: Any, c: Any) -> Any:
    return v if c == 0 else mp.expm1(mp.mpf(0) if v == 0 else c * v) / c


@_mpmath
def mp_exprel(a: Any) -> Any:
    if a == 0 or mp.isinf(a):
        return mp.mpf(1) if a == 0 else mp.mpf(0) if a < 0 else mp.inf
    return mp.expm1(a) / a


@_mpmath
def mp_recipexpm1x(a: Any) -> Any:
    if a == 0 or mp.isinf(a):
        return mp.mpf(1) if a == 0 else mp.inf if a < 0 else mp.mpf(0)
    return a / mp.expm1(a)


@_mpmath
def mp_cloglog(a: Any) -> Any:
    if a > 40:  # below exp(-2e17)
        return mp.mpf(0)
    return -mp.inf if mp.isinf(a) else mp_log1mexp(mp.exp(a))


@_mpmath
def mp_logsoftplus(a: Any) -> Any:
    return a if mp.isinf(a) else mp.log(mp_softplus(a))


@_mpmath
def mp_sprel(a: Any) -> Any:
    if mp.isinf(a):
        return mp.mpf(0) if a > 0 else mp.mpf(1)
    return mp_softplus(a) * mp.exp(-a)


@_mpmath
def mp_sigrel(a: Any) -> Any:
    if mp.isinf(a):
        return mp.mpf(0) if a > 0 else mp.mpf(1)
    return mp_sigmoid(a) / mp_softplus(a)


@_mpmath
def mp_sech2(a: Any) -> Any:
    return mp.mpf(0) if mp.isinf(a) else 1 / mp.cosh(a) ** 2


def _guarded(a: Any, direct: Callable[[Any], Any]) -> Any:
    """``direct(a)`` with enough extra bits for a second-order zero at 0."""
    if a == 0:
        return mp.mpf(0)
    with mp.workprec(mp.mp.prec + 2 * max(0, -mp.mag(a)) + 10):
        return direct(a)


@_mpmath
def mp_expm1x(a: Any) -> Any:
    return mp.inf if mp.isinf(a) else _guarded(a, lambda v: mp.expm1(v) - v)


@_mpmath
def mp_log1pmx(a: Any) -> Any:
    return -mp.inf if a == mp.inf or a == -1 else _guarded(a, lambda v: mp.log1p(v) - v)


@_mpmath
def mp_softcap(x: Any, c: Any) -> Any:
    return x if mp.isinf(c) else c * mp.tanh(x / c)


@_mpmath
def mp_logaddexp(a: Any, b: Any) -> Any:
    top, low = max(a, b), min(a, b)
    return top if mp.isinf(top) or mp.isinf(low) else top + mp.log1p(mp.exp(low - top))


@_mpmath
def mp_power(a: Any, b: Any) -> Any:
    if a == 0:
        return mp.mpf(1) if b == 0 else mp.mpf(0) if b > 0 else mp.inf
    return mp.power(a, b)


def _flag(condition: bool) -> Any:
    return mp.mpf(1 if condition else 0)


MPMATH |= {
    "exp": mp.exp,
    "log": lambda a: -mp.inf if a == 0 else mp.log(a),
    "sqrt": mp.sqrt,
    "expm1": mp.expm1,
    "log1p": lambda a: -mp.inf if a == -1 else mp.log1p(a),
    "tanh": mp.tanh,
    "erf": mp.erf,
    "absf": abs,
    "sgn": mp.sign,
    "relu": lambda a: max(a, mp.mpf(0)),
    "minimum": min,
    "maximum": max,
    "stop_gradient": lambda a: a,
    "step": lambda a: (1 + mp.sign(a)) / 2,
    "above": lambda a, b: mp.mpf(1) if a > b else mp.mpf("0.5") if a == b else mp.mpf(0),
    "clip": lambda x, lo, hi: min(max(x, lo), hi),
    "inrange": lambda x, lo, hi: _flag(lo <= x <= hi),
    "lt": lambda a, b: _flag(a < b),
    "le": lambda a, b: _flag(a <= b),
    "eq": lambda a, b: _flag(a == b),
    "ne": lambda a, b: _flag(a != b),
    "where": lambda c, a, b: a if c else b,
    "xlogy": lambda a, b: mp.mpf(0) if a == 0 else a * (mp.log(b) if b else -mp.inf),
    "safe_rsqrt": lambda a: mp.mpf(0) if a == 0 or mp.isinf(a) else 1 / mp.sqrt(a),
    "mercator": lambda q, t: sum((q**k / k for k in range(1, int(t) + 1)), mp.mpf(0)),
    "geometric": lambda q, t: sum((q**k for k in range(int(t))), mp.mpf(0)),
}
