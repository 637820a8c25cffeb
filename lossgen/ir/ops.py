"""The elementwise vocabulary as a table: each SymPy function with its numerical twins.

``OPS`` has one :class:`Op` per function: the SymPy class, its numpy and mpmath twins
(:mod:`lossgen.ir.numeric`) and the names of its torch and Triton twins, which are the same in
``lossgen.runtime.elementwise`` and ``lossgen.runtime.device``.  ``BUILTINS`` has the same for
what SymPy brings itself (exp, log, sqrt, powers).  Every function is importable from here.

Principles: one row per function and no special cases for readers of the table; derivatives stay
inside the vocabulary, so no Heaviside, Piecewise or Derivative ever appears.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr

from lossgen.ir import special
from lossgen.ir.function import Elementwise
from lossgen.ir.numeric import MPMATH, NUMPY
from lossgen.ir.piecewise import (
    above,
    absf,
    clip,
    eq,
    inrange,
    le,
    lt,
    maximum,
    minimum,
    ne,
    relu,
    sgn,
    step,
    stop_gradient,
    where,
)
from lossgen.ir.smooth import (
    cloglog,
    erf,
    expm1,
    expm1div,
    expm1x,
    exprel,
    geometric,
    log1mexp,
    log1p,
    log1pmx,
    logaddexp,
    logsoftplus,
    mercator,
    recipexpm1x,
    safe_rsqrt,
    sech2,
    sigmoid,
    sigrel,
    softcap,
    softplus,
    sprel,
    tanh,
    xlogy,
)
from lossgen.ir.special import *  # noqa: F403

__all__ = [
    "BUILTINS",
    "OPS",
    "Op",
    "above",
    "absf",
    "clip",
    "cloglog",
    "compare",
    "eq",
    "erf",
    "expm1",
    "expm1div",
    "expm1x",
    "exprel",
    "geometric",
    "inrange",
    "le",
    "log1mexp",
    "log1p",
    "log1pmx",
    "log_sigmoid",
    "logaddexp",
    "logsoftplus",
    "lt",
    "maximum",
    "mercator",
    "minimum",
    "ne",
    "recipexpm1x",
    "relu",
    "safe_rsqrt",
    "sech2",
    "sgn",
    "sigmoid",
    "sigrel",
    "softcap",
    "softplus",
    "sprel",
    "step",
    "stop_gradient",
    "tanh",
    "where",
    "xlogy",
    *special.__all__,
]


def log_sigmoid(a: Expr) -> Expr:
    """log(sigmoid(a)), written -softplus(-a)."""
    return -softplus(-a)


def compare(op: str, a: Expr, b: Expr) -> Expr:
    """The condition ``a op b`` for op in ``< <= > >= == !=``, valued 1 or 0."""
    kind: type[Elementwise] = {"<": lt, ">": lt, "<=": le, ">=": le, "==": eq, "!=": ne}[op]
    return kind(b, a) if op[0] == ">" else kind(a, b)


Range = tuple[float, float]


@dataclass(frozen=True)
class Op:
    """One elementwise function and its twins.

    ``symbol`` builds the SymPy expression; ``domain`` has the closed range of each argument;
    ``numpy`` is float64, ``mp`` any precision; ``torch`` and ``triton`` name the functions in
    ``lossgen.runtime.elementwise`` and ``lossgen.runtime.device``.
    """

    name: str
    symbol: Callable[..., Expr]
    domain: tuple[Range, ...]
    doc: str
    numpy: Callable[..., Any]
    mp: Callable[..., Any]
    torch: str
    triton: str

    @property
    def arity(self) -> int:
        return len(self.domain)


_REAL: Range = (-math.inf, math.inf)
_NONNEGATIVE: Range = (0.0, math.inf)
_ABOVE_MINUS_ONE: Range = (-1.0, math.inf)
_SERIES: tuple[Range, ...] = ((0.0, 1.0), (1.0, 16.0))


def _op(name: str, symbol: Callable[..., Expr], *domain: Range) -> Op:
    doc = (getattr(symbol, "__doc__", None) or name).strip().splitlines()[0]
    return Op(name, symbol, domain, doc, NUMPY[name], MPMATH[name], name, name)


_DOMAINS: dict[type[Elementwise], tuple[Range, ...]] = {
    log1mexp: (_NONNEGATIVE,),
    log1p: (_ABOVE_MINUS_ONE,),
    log1pmx: (_ABOVE_MINUS_ONE,),
    safe_rsqrt: (_NONNEGATIVE,),
    above: (_REAL, _REAL),
    minimum: (_REAL, _REAL),
    maximum: (_REAL, _REAL),
    clip: (_REAL, _REAL, _REAL),
    inrange: (_REAL, _REAL, _REAL),
    lt: (_REAL, _REAL),
    le: (_REAL, _REAL),
    eq: (_REAL, _REAL),
    ne: (_REAL, _REAL),
    where: ((0.0, 1.0), _REAL, _REAL),
    softcap: (_REAL, _NONNEGATIVE),
    mercator: _SERIES,
    geometric: _SERIES,
    xlogy: (_REAL, _NONNEGATIVE),
    logaddexp: (_REAL, _REAL),
    expm1div: (_REAL, (-8.0, 8.0)),
}
_UNARY: tuple[type[Elementwise], ...] = (
    softplus,
    sigmoid,
    exprel,
    recipexpm1x,
    cloglog,
    logsoftplus,
    sigrel,
    sprel,
    sech2,
    expm1,
    tanh,
    erf,
    expm1x,
    relu,
    absf,
    sgn,
    step,
    stop_gradient,
)
OPS: dict[str, Op] = {
    kind.__name__: _op(kind.__name__, kind, *ranges)
    for kind, ranges in (dict.fromkeys(_UNARY, (_REAL,)) | _DOMAINS | special.DOMAINS).items()
}
BUILTINS: dict[str, Op] = {
    "exp": _op("exp", sympy.exp, _REAL),
    "log": _op("log", sympy.log, _NONNEGATIVE),
    "sqrt": _op("sqrt", sympy.sqrt, _NONNEGATIVE),
    "power": _op("power", sympy.Pow, _NONNEGATIVE, _REAL),
}
