"""Numbers with their partial derivatives, in mpmath, and what the language does with them.

Each word is written from its meaning in numpy, torch or scipy, and shares nothing with lossgen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath as mp

__all__ = ["FUNCTIONS", "OPERATIONS", "Dual", "Kink", "NotReal", "holds", "larger"]

_CLOSE = mp.mpf(10) ** -15  # relative distance from a kink at which its side is anybody's guess
_NOTHING = mp.mpf(10) ** -300
_FAR = mp.mpf(10) ** 33  # beyond what stands for -inf: no exponential of it


class NotReal(Exception):
    """The formula has no real value there."""


class Kink(Exception):
    """The row lies on a kink or a jump: nothing can be said."""


@dataclass(frozen=True)
class Dual:
    """A number and its partial derivatives."""

    value: Any
    slopes: tuple[Any, ...]

    def map(self, value: Any, slope: Any) -> Dual:
        if slope == 0:
            return Dual(value, (mp.mpf(0),) * len(self.slopes))
        return Dual(value, tuple(slope * s for s in self.slopes))

    def constant(self, number: Any) -> Dual:
        return self.map(mp.mpf(number), mp.mpf(0))


# ------------------------------------------------------------------------------- arithmetic
def _add(a: Dual, b: Dual) -> Dual:
    return Dual(a.value + b.value, tuple(p + q for p, q in zip(a.slopes, b.slopes, strict=True)))


def _sub(a: Dual, b: Dual) -> Dual:
    return Dual(a.value - b.value, tuple(p - q for p, q in zip(a.slopes, b.slopes, strict=True)))


def _mul(a: Dual, b: Dual) -> Dual:
    slopes = tuple(p * b.value + a.value * q for p, q in zip(a.slopes, b.slopes, strict=True))
    return Dual(a.value * b.value, slopes)


def _div(a: Dual, b: Dual) -> Dual:
    if b.value == 0:
        raise NotReal
    inverse = 1 / b.value
    return _mul(a, b.map(inverse, -inverse * inverse))


def _pow(a: Dual, b: Dual) -> Dual:
    if any(b.slopes):
        return _exp(_mul(_log(a), b))
    exponent = b.value
    if exponent == 0:
        return a.map(mp.mpf(1), mp.mpf(0))
    if a.value < 0 and exponent != mp.floor(exponent):
        raise NotReal
    if a.value == 0:
        if exponent < 1 and (exponent < 0 or any(a.slopes)):
            raise Kink if exponent > 0 else NotReal
        return a.map(mp.mpf(0), mp.mpf(1 if exponent == 1 else 0))
    return a.map(a.value**exponent, exponent * a.value ** (exponent - 1))


# ------------------------------------------------------------------------------- smooth words
def _sigmoid_of(v: Any) -> Any:
    up = mp.exp(-abs(v))
    return 1 / (1 + up) if v >= 0 else up / (1 + up)


def _softplus_of(v: Any) -> Any:
    return mp.log1p(mp.exp(-abs(v))) + max(v, 0)


def _flat(function: Callable[[Any], Any], left: Any, right: Any) -> Callable[[Any], Any]:
    """The function where it is not yet flat: mpmath gives up on large arguments."""
    return lambda v: function(v) if abs(v) < 10**6 else mp.mpf(right if v > 0 else left)


_tanh_of = _flat(mp.tanh, -1, 1)
_sech_of = _flat(mp.sech, 0, 0)
_erf_of = _flat(mp.erf, -1, 1)
_erfc_of = _flat(mp.erfc, 2, 0)
_ncdf_of = _flat(mp.ncdf, 0, 1)
_npdf_of = _flat(mp.npdf, 0, 0)
_gauss_of = _flat(lambda v: 2 / mp.sqrt(mp.pi) * mp.exp(-v * v), 0, 0)

_Rule = tuple[Callable[[Any], Any], Callable[[Any], Any]]  # value, derivative
_REAL: dict[str, _Rule] = {
    "exp": (mp.exp, mp.exp),
    "expm1": (mp.expm1, mp.exp),
    "exp2": (lambda v: mp.exp(v * mp.log(2)), lambda v: mp.log(2) * mp.exp(v * mp.log(2))),
    "sin": (mp.sin, mp.cos),
    "cos": (mp.cos, lambda v: -mp.sin(v)),
    "tan": (mp.tan, lambda v: 1 + mp.tan(v) ** 2),
    "atan": (mp.atan, lambda v: 1 / (1 + v * v)),
    "sinh": (mp.sinh, mp.cosh),
    "cosh": (mp.cosh, mp.sinh),
    "asinh": (mp.asinh, lambda v: 1 / mp.sqrt(1 + v * v)),
    "tanh": (_tanh_of, lambda v: _sech_of(v) ** 2),
    "sech": (_sech_of, lambda v: -_sech_of(v) * _tanh_of(v)),
    "logcosh": (lambda v: abs(v) + mp.log1p(mp.exp(-2 * abs(v))) - mp.log(2), _tanh_of),
    "erf": (_erf_of, _gauss_of),
    "erfc": (_erfc_of, lambda v: -_gauss_of(v)),
    "ndtr": (_ncdf_of, _npdf_of),
    "sigmoid": (_sigmoid_of, lambda v: _sigmoid_of(v) * _sigmoid_of(-v)),
    "log_sigmoid": (lambda v: -_softplus_of(-v), lambda v: _sigmoid_of(-v)),
    "softplus": (_softplus_of, _sigmoid_of),
    "silu": (
        lambda v: v * _sigmoid_of(v),
        lambda v: _sigmoid_of(v) * (1 + v * _sigmoid_of(-v)),
    ),
    "gelu": (lambda v: v * _ncdf_of(v), lambda v: _ncdf_of(v) + v * _npdf_of(v)),
    "mish": (
        lambda v: v * _tanh_of(_softplus_of(v)),
        lambda v: _tanh_of(_softplus_of(v)) + v * _sech_of(_softplus_of(v)) ** 2 * _sigmoid_of(v),
    ),
    "softsign": (lambda v: v / (1 + abs(v)), lambda v: 1 / (1 + abs(v)) ** 2),
    "square": (lambda v: v * v, lambda v: 2 * v),
    "neg": (lambda v: -v, lambda v: mp.mpf(-1)),
}
#: With the open interval on which they are real and differentiable.
_INSIDE: dict[str, tuple[Any, Any, _Rule]] = {
    "log": (0, mp.inf, (mp.log, lambda v: 1 / v)),
    "log2": (0, mp.inf, (lambda v: mp.log(v) / mp.log(2), lambda v: 1 / (v * mp.log(2)))),
    "log10": (0, mp.inf, (lambda v: mp.log(v) / mp.log(10), lambda v: 1 / (v * mp.log(10)))),
    "log1p": (-1, mp.inf, (mp.log1p, lambda v: 1 / (1 + v))),
    "sqrt": (0, mp.inf, (mp.sqrt, lambda v: 1 / (2 * mp.sqrt(v)))),
    "rsqrt": (0, mp.inf, (lambda v: 1 / mp.sqrt(v), lambda v: -1 / (2 * v * mp.sqrt(v)))),
    "entr": (0, mp.inf, (lambda v: -v * mp.log(v), lambda v: -mp.log(v) - 1)),
    "logit": (0, 1, (lambda v: mp.log(v) - mp.log1p(-v), lambda v: 1 / (v * (1 - v)))),
    "asin": (-1, 1, (mp.asin, lambda v: 1 / mp.sqrt((1 - v) * (1 + v)))),
    "acos": (-1, 1, (mp.acos, lambda v: -1 / mp.sqrt((1 - v) * (1 + v)))),
    "atanh": (-1, 1, (mp.atanh, lambda v: 1 / ((1 - v) * (1 + v)))),
    "lgamma": (0, mp.inf, (mp.loggamma, mp.digamma)),
    "digamma": (0, mp.inf, (mp.digamma, lambda v: mp.psi(1, v))),
    "trigamma": (0, mp.inf, (lambda v: mp.psi(1, v), lambda v: mp.psi(2, v))),
    "acosh": (1, mp.inf, (mp.acosh, lambda v: 1 / mp.sqrt((v - 1) * (v + 1)))),
}


def _real(rule: _Rule) -> Callable[[Dual], Dual]:
    value, slope = rule

    def apply(a: Dual) -> Dual:
        if abs(a.value) > _FAR:
            raise NotReal
        return a.map(value(a.value), slope(a.value))

    return apply


def _inside(low: Any, high: Any, rule: _Rule) -> Callable[[Dual], Dual]:
    value, slope = rule

    def apply(a: Dual) -> Dual:
        if not low < a.value < high:
            raise Kink if a.value in (low, high) else NotReal
        return a.map(value(a.value), slope(a.value))

    return apply


FUNCTIONS: dict[str, Callable[..., Dual]] = {
    **{name: _real(rule) for name, rule in _REAL.items()},
    **{name: _inside(*entry) for name, entry in _INSIDE.items()},
}
_exp, _log = FUNCTIONS["exp"], FUNCTIONS["log"]


# ------------------------------------------------------------------------------- kinks
def _split(a: Dual, b: Dual) -> None:
    """Refuse to say which of two is larger where they are nearly equal."""
    if abs(a.value - b.value) <= _CLOSE * (abs(a.value) + abs(b.value) + _NOTHING):
        raise Kink


def larger(a: Dual, b: Dual) -> Dual:
    if a == b:
        return a
    _split(a, b)
    return a if a.value > b.value else b


def _smaller(a: Dual, b: Dual) -> Dual:
    return b if larger(a, b) is a else a


def holds(op: str, a: Dual, b: Dual) -> bool:
    if op in ("==", "!=") and not any((*a.slopes, *b.slopes)):  # whole numbers
        return bool(a.value == b.value) == (op == "==")
    _split(a, b)
    if op in ("==", "!="):
        return op == "!="
    return (a.value < b.value) == (op in ("<", "<="))


def _relu(a: Dual) -> Dual:
    zero = a.constant(0)
    return zero if a.value == 0 and not any(a.slopes) else larger(a, zero)


def _abs(a: Dual) -> Dual:
    if a.value == 0:
        if any(a.slopes):
            raise Kink
        return a
    return a.map(abs(a.value), mp.sign(a.value))


def _sign(a: Dual) -> Dual:
    if abs(a.value) <= _NOTHING and any(a.slopes):  # a masked class's p is 0, or a little more
        raise Kink
    return a.constant(mp.sign(a.value))


def _clip(a: Dual, low: Dual, high: Dual) -> Dual:
    return _smaller(larger(a, low), high)


def _leaky(a: Dual, slope: Dual) -> Dual:
    return a if _side(a) else _mul(slope, a)


def _elu(a: Dual, alpha: Dual) -> Dual:
    return a if _side(a) else _mul(alpha, FUNCTIONS["expm1"](a))


def _selu(a: Dual) -> Dual:
    """Klambauer et al. 2017: the constants of torch."""
    return _mul(a.constant("1.0507009873554805"), _elu(a, a.constant("1.6732632423543772")))


def _celu(a: Dual, alpha: Dual) -> Dual:
    return a if _side(a) else _mul(alpha, FUNCTIONS["expm1"](_div(a, alpha)))


def _side(a: Dual) -> bool:
    """Whether it is positive; a constant zero is on either side of a kink without a slope."""
    if a.value == 0 and any(a.slopes):
        raise Kink
    return a.value > 0


def _hardsigmoid(a: Dual) -> Dual:
    six = a.constant(6)
    return _div(_clip(_add(a, a.constant(3)), a.constant(0), six), six)


# ------------------------------------------------------------------------------- two arguments
def _times_log(a: Dual, b: Dual) -> Dual:
    """scipy's xlogy: 0 at a = 0."""
    return a.constant(0) if a.value == 0 and not any(a.slopes) else _mul(a, _log(b))


def _hypot(a: Dual, b: Dual) -> Dual:
    return FUNCTIONS["sqrt"](_add(_mul(a, a), _mul(b, b)))


def _logaddexp(a: Dual, b: Dual) -> Dual:
    return _add(a, FUNCTIONS["softplus"](_sub(b, a)))


def _softcap(a: Dual, cap: Dual) -> Dual:
    return _mul(cap, FUNCTIONS["tanh"](_div(a, cap)))


def _mercator(q: Dual, t: Dual) -> Dual:
    total = power = q
    for k in range(2, int(t.value) + 1):
        power = _mul(power, q)
        total = _add(total, _div(power, q.constant(k)))
    return total


def _polygamma(n: Dual, a: Dual) -> Dual:
    order = int(n.value)
    return _inside(0, mp.inf, (lambda v: mp.psi(order, v), lambda v: mp.psi(order + 1, v)))(a)


OPERATIONS = {"+": _add, "-": _sub, "*": _mul, "/": _div, "**": _pow}
FUNCTIONS |= {
    "relu": _relu,
    "abs": _abs,
    "sign": _sign,
    "reciprocal": lambda a: _div(a.constant(1), a),
    "minimum": _smaller,
    "maximum": larger,
    "stop_gradient": lambda a: a.constant(a.value),
    "leaky_relu": lambda a, slope=None: _leaky(a, slope or a.constant("0.01")),
    "elu": lambda a, alpha=None: _elu(a, alpha or a.constant(1)),
    "celu": lambda a, alpha=None: _celu(a, alpha or a.constant(1)),
    "selu": _selu,
    "relu6": lambda a: _clip(a, a.constant(0), a.constant(6)),
    "hardtanh": lambda a, low=None, high=None: _clip(
        a, low or a.constant(-1), high or a.constant(1)
    ),
    "hardsigmoid": _hardsigmoid,
    "clip": _clip,
    "pow": _pow,
    "hypot": _hypot,
    "xlogy": _times_log,
    "xlog1py": lambda a, b: _times_log(a, _add(b, b.constant(1))),
    "logaddexp": _logaddexp,
    "softcap": _softcap,
    "mercator": _mercator,
    "polygamma": _polygamma,
}
FUNCTIONS |= {
    name: FUNCTIONS[meant]
    for name, meant in {
        "power": "pow",
        "ln": "log",
        "arctan": "atan",
        "arcsin": "asin",
        "arccos": "acos",
        "arcsinh": "asinh",
        "arccosh": "acosh",
        "gammaln": "lgamma",
        "loggamma": "lgamma",
        "psi": "digamma",
        "arctanh": "atanh",
        "log_cosh": "logcosh",
        "absolute": "abs",
        "fabs": "abs",
        "negative": "neg",
        "sgn": "sign",
        "expit": "sigmoid",
        "logsigmoid": "log_sigmoid",
        "clamp": "clip",
        "swish": "silu",
    }.items()
}
