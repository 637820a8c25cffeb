"""The functions of the formula language in mpmath, each with its derivatives, written for the
certificate alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp

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
ZERO, ONE, HALF = mp.mpf(0), mp.mpf(1), mp.mpf("0.5")


def times(a: Any, b: Any) -> Any:
    return ZERO if a == 0 or b == 0 else a * b


def _inverse(a: Any) -> Any:
    return mp.inf if a == 0 else 1 / a


def _sigmoid(a: Any) -> Any:
    return 1 / (1 + mp.exp(-a)) if a >= 0 else mp.exp(a) / (1 + mp.exp(a))


def _softplus(a: Any) -> Any:
    return a + mp.log1p(mp.exp(-a)) if a > 0 else mp.log1p(mp.exp(a))


def _log(a: Any) -> Any:
    return -mp.inf if a == 0 else mp.log(a)


def _power(a: Any, b: Any) -> Any:
    if a == 0:
        return ONE if b == 0 else ZERO if b > 0 else mp.inf
    return mp.power(a, b)


def _power_slopes(a: Any, b: Any, value: Any) -> tuple[Any, Any]:
    return times(b, _power(a, b - 1)), times(value, _log(a)) if a >= 0 else ZERO


def _tie(a: Any, b: Any) -> Any:
    """1 where a is the one, 0 where b is, and half of it where they are equal."""
    return ONE if a > b else HALF if a == b else ZERO


def _clip_slopes(a: Any, low: Any, high: Any, value: Any) -> tuple[Any, Any, Any]:
    within = low <= a <= high
    return (ONE, ZERO, ZERO) if within else (ZERO, flag(a < low), flag(a > high))


def flag(condition: bool) -> Any:
    return ONE if condition else ZERO


def _softcap(a: Any, c: Any) -> Any:
    return a if mp.isinf(c) else c * mp.tanh(a / c)


def _softcap_slopes(a: Any, c: Any, value: Any) -> tuple[Any, Any]:
    if mp.isinf(c):
        return ONE, ZERO
    bend = 1 / mp.cosh(a / c) ** 2
    return bend, value / c - bend * a / c


def _logaddexp(a: Any, b: Any) -> Any:
    top = max(a, b)
    return top if mp.isinf(top) else top + mp.log1p(mp.exp(min(a, b) - top))


def _logaddexp_slopes(a: Any, b: Any, value: Any) -> tuple[Any, Any]:
    return (ZERO, ZERO) if mp.isinf(value) else (mp.exp(a - value), mp.exp(b - value))


def _mercator(q: Any, t: Any) -> Any:
    return mp.fsum(q**k / k for k in range(1, int(t) + 1))


Rule = tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]
#: Each elementwise function, and its derivatives from the arguments and the value.
RULES: dict[str, Rule] = {
    "+": (lambda a, b: a + b, lambda a, b, v: (ONE, ONE)),
    "-": (lambda a, b: a - b, lambda a, b, v: (ONE, -ONE)),
    "*": (times, lambda a, b, v: (b, a)),
    "/": (lambda a, b: a / b, lambda a, b, v: (1 / b, -v / b)),
    "**": (_power, _power_slopes),
    "negate": (lambda a: -a, lambda a, v: (-ONE,)),
    "exp": (mp.exp, lambda a, v: (v,)),
    "log": (_log, lambda a, v: (_inverse(a),)),
    "log1p": (lambda a: -mp.inf if a == -1 else mp.log1p(a), lambda a, v: (_inverse(1 + a),)),
    "expm1": (mp.expm1, lambda a, v: (v + 1,)),
    "sqrt": (mp.sqrt, lambda a, v: (1 / (2 * v) if v else ZERO,)),
    "tanh": (mp.tanh, lambda a, v: (1 / mp.cosh(a) ** 2,)),
    "abs": (abs, lambda a, v: (mp.sign(a),)),
    "sign": (mp.sign, lambda a, v: (ZERO,)),
    "relu": (lambda a: a if a > 0 else ZERO, lambda a, v: (flag(a > 0),)),
    "sigmoid": (_sigmoid, lambda a, v: (v * _sigmoid(-a),)),
    "softplus": (_softplus, lambda a, v: (_sigmoid(a),)),
    "log_sigmoid": (lambda a: -_softplus(-a), lambda a, v: (_sigmoid(-a),)),
    "erf": (mp.erf, lambda a, v: (2 / mp.sqrt(mp.pi) * mp.exp(-a * a),)),
    "erfc": (mp.erfc, lambda a, v: (-2 / mp.sqrt(mp.pi) * mp.exp(-a * a),)),
    "cosh": (mp.cosh, lambda a, v: (mp.sinh(a),)),
    "sinh": (mp.sinh, lambda a, v: (mp.cosh(a),)),
    "logcosh": (lambda a: mp.log1p(2 * mp.sinh(a / 2) ** 2), lambda a, v: (mp.tanh(a),)),
    "asinh": (mp.asinh, lambda a, v: (1 / mp.hypot(1, a),)),
    "acosh": (mp.acosh, lambda a, v: (1 / mp.sqrt(a * a - 1) if a != 1 else ZERO,)),
    "atan": (mp.atan, lambda a, v: (1 / (1 + a * a),)),
    "sin": (mp.sin, lambda a, v: (mp.cos(a),)),
    "cos": (mp.cos, lambda a, v: (-mp.sin(a),)),
    "logaddexp": (_logaddexp, _logaddexp_slopes),
    "minimum": (min, lambda a, b, v: (_tie(b, a), _tie(a, b))),
    "maximum": (max, lambda a, b, v: (_tie(a, b), _tie(b, a))),
    "clip": (lambda a, low, high: min(max(a, low), high), _clip_slopes),
    "where": (lambda c, a, b: a if c else b, lambda c, a, b, v: (ZERO, c, 1 - c)),
    "softcap": (_softcap, _softcap_slopes),
    "mercator": (
        _mercator,
        lambda q, t, v: (mp.fsum(q**k for k in range(int(t))), ZERO),
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
        return -mp.inf, []
    value = max(values)
    return value, _picked(values.index(value), len(values))


def _second(values: Vector) -> tuple[Any, Vector]:
    if len(values) < 2:
        return -mp.inf, [ZERO] * len(values)
    order = sorted(range(len(values)), key=lambda j: (-values[j], j))
    return values[order[1]], _picked(order[1], len(values))


def total_exponential(values: Vector) -> tuple[Any, Vector]:
    """log Σ exp, and its derivatives, the softmax."""
    top = max(values, default=-mp.inf)
    if mp.isinf(top):
        return top, [ZERO] * len(values)
    exponentials = [mp.exp(v - top) for v in values]
    total = mp.fsum(exponentials)
    return top + mp.log(total), [e / total for e in exponentials]


def _norm(values: Vector) -> tuple[Any, Vector]:
    value = mp.sqrt(mp.fsum(v * v for v in values))
    return value, [v / value if value else ZERO for v in values]


#: Each reduction: the value, and its derivatives.
REDUCTIONS: dict[str, Callable[[Vector], tuple[Any, Vector]]] = {
    "sum": lambda v: (mp.fsum(v), [ONE] * len(v)),
    "mean": lambda v: (mp.fsum(v) / len(v), [ONE / len(v)] * len(v)),
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
