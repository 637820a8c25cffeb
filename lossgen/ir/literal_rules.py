"""The functions of the formula language in many digits, each with its derivatives, written for the
certificate alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gmpy2

from lossgen.ir import special
from lossgen.ir.reals import HALF, INF, ONE, ZERO, Rule, exponential, ordered, quotient

__all__ = [
    "COMPARE",
    "GENTLE",
    "ONE",
    "REDUCTIONS",
    "RULES",
    "ZERO",
    "Vector",
    "flag",
    "times",
    "total_exponential",
]

Vector = list[Any]  # one number, or one for each class
_MANY = 1000  # factors of a power


def times(a: Any, b: Any) -> Any:
    return ZERO if a == 0 or b == 0 else a * b


def _inverse(a: Any) -> Any:
    return INF if a == 0 else 1 / a


def _sigmoid(a: Any) -> Any:
    ordered(a)
    return 1 / (1 + gmpy2.exp(-a)) if a >= 0 else gmpy2.exp(a) / (1 + gmpy2.exp(a))


def _softplus(a: Any) -> Any:
    ordered(a)
    return a + gmpy2.log1p(gmpy2.exp(-a)) if a > 0 else gmpy2.log1p(gmpy2.exp(a))


def _log(a: Any) -> Any:
    return -INF if a == 0 else gmpy2.log(a)


def _power(a: Any, b: Any) -> Any:
    if a == 0:
        return ONE if b == 0 else ZERO if b > 0 else INF
    if abs(b) < _MANY and gmpy2.is_integer(b + b):  # at 5000 digits a power takes 65 ms, a root 0.1
        whole = a ** int(gmpy2.floor(b))
        return whole if gmpy2.is_integer(b) else whole * gmpy2.sqrt(a)
    return a**b


def _power_slopes(a: Any, b: Any, value: Any) -> tuple[Any, Any]:
    return times(b, _power(a, b - 1)), times(value, _log(a)) if a >= 0 else ZERO


def _maximum(a: Any, b: Any) -> Any:
    ordered(a, b)
    return max(a, b)


def _minimum(a: Any, b: Any) -> Any:
    ordered(a, b)
    return min(a, b)


def _sign(a: Any) -> Any:
    ordered(a)
    return ONE if a > 0 else -ONE if a < 0 else ZERO


def _tie(a: Any, b: Any) -> Any:
    """1 where a is the one, 0 where b is, and half of it where they are equal."""
    return ONE if a > b else HALF if a == b else ZERO


def _clip_slopes(a: Any, low: Any, high: Any, value: Any) -> tuple[Any, Any, Any]:
    within = low <= a <= high
    return (ONE, ZERO, ZERO) if within else (ZERO, flag(a < low), flag(a > high))


def flag(condition: bool) -> Any:
    return ONE if condition else ZERO


def _softcap(a: Any, c: Any) -> Any:
    return a if gmpy2.is_infinite(c) else c * gmpy2.tanh(a / c)


def _softcap_slopes(a: Any, c: Any, value: Any) -> tuple[Any, Any]:
    if gmpy2.is_infinite(c):
        return ONE, ZERO
    bend = 1 / gmpy2.cosh(a / c) ** 2
    return bend, value / c - bend * a / c


def _logaddexp(a: Any, b: Any) -> Any:
    top = _maximum(a, b)
    return top if gmpy2.is_infinite(top) else top + gmpy2.log1p(gmpy2.exp(min(a, b) - top))


def _logaddexp_slopes(a: Any, b: Any, value: Any) -> tuple[Any, Any]:
    return (
        (ZERO, ZERO) if gmpy2.is_infinite(value) else (gmpy2.exp(a - value), gmpy2.exp(b - value))
    )


def _mercator(q: Any, t: Any) -> Any:
    return gmpy2.fsum([q**k / k for k in range(1, int(t) + 1)])


#: Each elementwise function, and its derivatives from the arguments and the value.
RULES: dict[str, Rule] = {
    "+": (lambda a, b: a + b, lambda a, b, v: (ONE, ONE)),
    "-": (lambda a, b: a - b, lambda a, b, v: (ONE, -ONE)),
    "*": (times, lambda a, b, v: (b, a)),
    "/": (quotient, lambda a, b, v: (1 / b, -v / b)),
    "**": (_power, _power_slopes),
    "negate": (lambda a: -a, lambda a, v: (-ONE,)),
    "exp": (exponential, lambda a, v: (v,)),
    "log": (_log, lambda a, v: (_inverse(a),)),
    "log1p": (lambda a: -INF if a == -1 else gmpy2.log1p(a), lambda a, v: (_inverse(1 + a),)),
    "expm1": (gmpy2.expm1, lambda a, v: (v + 1,)),
    "sqrt": (gmpy2.sqrt, lambda a, v: (1 / (2 * v) if v else ZERO,)),
    "tanh": (gmpy2.tanh, lambda a, v: (1 / gmpy2.cosh(a) ** 2,)),
    "abs": (abs, lambda a, v: (_sign(a),)),
    "sign": (_sign, lambda a, v: (ZERO,)),
    "relu": (lambda a: _maximum(a, ZERO), lambda a, v: (flag(a > 0),)),
    "sigmoid": (_sigmoid, lambda a, v: (v * _sigmoid(-a),)),
    "softplus": (_softplus, lambda a, v: (_sigmoid(a),)),
    "log_sigmoid": (lambda a: -_softplus(-a), lambda a, v: (_sigmoid(-a),)),
    "erf": (gmpy2.erf, lambda a, v: (2 / gmpy2.sqrt(gmpy2.const_pi()) * gmpy2.exp(-a * a),)),
    "logaddexp": (_logaddexp, _logaddexp_slopes),
    "minimum": (_minimum, lambda a, b, v: (_tie(b, a), _tie(a, b))),
    "maximum": (_maximum, lambda a, b, v: (_tie(a, b), _tie(b, a))),
    "clip": (lambda a, low, high: _minimum(_maximum(a, low), high), _clip_slopes),
    "where": (lambda c, a, b: a if c else b, lambda c, a, b, v: (ZERO, c, 1 - c)),
    **special.RULES,
    "softcap": (_softcap, _softcap_slopes),
    "mercator": (
        _mercator,
        lambda q, t, v: (gmpy2.fsum([q**k for k in range(int(t))]), ZERO),
    ),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _picked(place: int, size: int) -> Vector:
    return [flag(j == place) for j in range(size)]


def _largest(values: Vector) -> tuple[Any, Vector]:
    if not values:
        return -INF, []
    ordered(*values)
    value = max(values)
    return value, _picked(values.index(value), len(values))


def _second(values: Vector) -> tuple[Any, Vector]:
    if len(values) < 2:
        return -INF, [ZERO] * len(values)
    ordered(*values)
    order = sorted(range(len(values)), key=lambda j: (-values[j], j))
    return values[order[1]], _picked(order[1], len(values))


def total_exponential(values: Vector) -> tuple[Any, Vector]:
    """log Σ exp, and its derivatives, the softmax."""
    ordered(*values)
    top = max(values, default=-INF)
    if gmpy2.is_infinite(top):
        return top, [ZERO] * len(values)
    exponentials = [gmpy2.exp(v - top) for v in values]
    total = gmpy2.fsum(exponentials)
    return top + gmpy2.log(total), [e / total for e in exponentials]


def _norm(values: Vector) -> tuple[Any, Vector]:
    value = gmpy2.sqrt(gmpy2.fsum([v * v for v in values]))
    return value, [v / value if value else ZERO for v in values]


#: Each reduction: the value, and its derivatives.
REDUCTIONS: dict[str, Callable[[Vector], tuple[Any, Vector]]] = {
    "sum": lambda v: (gmpy2.fsum(v), [ONE] * len(v)),
    "mean": lambda v: (gmpy2.fsum(v) / len(v), [ONE / len(v)] * len(v)),
    "max": _largest,
    "second_max": _second,
    "logsumexp": total_exponential,
    "norm": _norm,
}
#: What may be given any number: an exponential of a number beyond 2**4096 would not fit the
#: machine's memory, that of -x at a masked class does, and beside a 0 it counts.
GENTLE = {
    *("+", "-", "*", "/", "negate", "log", "log1p", "sqrt", "abs", "sign", "relu"),
    *("minimum", "maximum", "clip", "where", "sum", "mean", "max", "second_max", "argmax"),
}
