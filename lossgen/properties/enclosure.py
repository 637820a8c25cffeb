"""Where the values of a formula lie, whatever the logits: interval arithmetic, which is a proof.

    (1 - p[y]**q) / q,  q = 0.7   →   [0, 1.429]

Beside intervals it knows that a softmax is an average: Σ p_j·v_j lies where the v_j do; that
norm(p) lies in [1/√V, 1]; and that a[y] / sum(a) lies in [0, 1] where all a_j have one sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lossgen.properties.setting import Setting
from lossgen.spec.expr import Call, Expr, NameKind, walk

__all__ = ["Enclosed", "Enclosure", "enclosed"]

_INF = math.inf
Ends = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Enclosed:
    """An interval of every entry; ``weighted`` (w_j·v_j, Σ w = 1) is the interval of the v_j."""

    lo: float
    hi: float
    weighted: Ends | None = None
    of: Enclosed | None = None  # this is an entry of that vector
    total: Enclosed | None = None  # this is the sum of that vector

    @property
    def point(self) -> bool:
        return self.lo == self.hi and math.isfinite(self.lo)

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.lo) and math.isfinite(self.hi)


ANYTHING = Enclosed(-_INF, _INF)


def _safe(function: Callable[[float], float]) -> Callable[[float], float]:
    def at(a: float) -> float:
        try:
            return function(a)
        except OverflowError:
            return _INF

    return at


def _log(a: float) -> float:
    return -_INF if a <= 0 else math.log(a)


def _softplus(a: float) -> float:
    return max(a, 0.0) + math.log1p(math.exp(-abs(a)))


#: Increasing functions: the ends go to the ends.
INCREASING: dict[str, Callable[[float], float]] = {
    "exp": _safe(math.exp),
    "expm1": _safe(math.expm1),
    "log": _log,
    "log1p": lambda a: -_INF if a <= -1 else math.log1p(a),
    "sqrt": lambda a: math.sqrt(max(a, 0.0)),
    "tanh": math.tanh,
    "relu": lambda a: max(a, 0.0),
    "sigmoid": lambda a: math.exp(-_softplus(-a)),
    "softplus": _softplus,
    "log_sigmoid": lambda a: -_softplus(-a),
    "erf": math.erf,
    "sinh": lambda a: a if math.isinf(a) else _safe(math.sinh)(a),
    "asinh": math.asinh,
    "atan": math.atan,
    "sign": lambda a: math.copysign(1.0, a) if a else 0.0,
}
#: Even functions that increase with |a|.
EVEN: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "cosh": lambda a: _INF if math.isinf(a) else _safe(math.cosh)(a),
    "logcosh": lambda a: abs(a) - math.log(2) + math.log1p(math.exp(-2 * abs(a))),
}


_AT_LEAST, _LEAST = 1.4616321449683623, -0.12148629053584962  # of lgamma


def _lgamma(a: float) -> float:
    return _INF if a == 0 else math.lgamma(a)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _hull(*values: float) -> Enclosed:
    return ANYTHING if any(math.isnan(v) for v in values) else Enclosed(min(values), max(values))


@dataclass
class Enclosure:
    """The algebra of intervals at one setting."""

    setting: Setting

    def __post_init__(self) -> None:
        self.lets: dict[str, Enclosed] = {}

    def number(self, value: Fraction) -> Enclosed:
        return Enclosed(float(value), float(value))

    def name(self, name: str, kind: NameKind) -> Enclosed:
        spec, size = self.setting.spec, self.setting.classes
        match kind:
            case NameKind.PARAMETER:
                value = self.setting.parameters[name]
                return Enclosed(value, value)
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(spec.let[name], self)
                return self.lets[name]
            case NameKind.CLASSES:
                return Enclosed(size, size)
            case NameKind.CONSTANT:
                return Enclosed(math.pi, math.pi)
            case NameKind.ONEHOT:
                return Enclosed(0.0, 1.0, weighted=(1.0, 1.0))
            case NameKind.INDEX:
                return Enclosed(0.0, size - 1)
            case NameKind.LOGITS:
                return ANYTHING
        entry = spec.inputs[name]
        if entry.off is not None:  # it is not given
            return Enclosed(float(entry.off), float(entry.off))
        return Enclosed(entry.domain.lo, entry.domain.hi) if entry.domain else ANYTHING

    # ------------------------------------------------------------------ elementwise
    def negate(self, operand: Enclosed) -> Enclosed:
        of = operand.weighted
        return Enclosed(-operand.hi, -operand.lo, weighted=(-of[1], -of[0]) if of else None)

    def binary(self, op: str, left: Enclosed, right: Enclosed) -> Enclosed:
        return getattr(self, _BINARY[op])(left, right)

    def _plus(self, a: Enclosed, b: Enclosed) -> Enclosed:
        return _hull(a.lo + b.lo, a.hi + b.hi)

    def _minus(self, a: Enclosed, b: Enclosed) -> Enclosed:
        return self._plus(a, self.negate(b))

    def _product(self, a: Enclosed, b: Enclosed) -> Enclosed:
        found = _hull(*(_times(v, w) for v in (a.lo, a.hi) for w in (b.lo, b.hi)))
        for one, other in ((a, b), (b, a)):
            if one.weighted is not None:
                ends = [_times(v, w) for v in one.weighted for w in (other.lo, other.hi)]
                return Enclosed(found.lo, found.hi, weighted=(min(ends), max(ends)))
        return found

    def _quotient(self, a: Enclosed, b: Enclosed) -> Enclosed:
        vector = a.of
        if vector is not None and vector is b.total and (vector.hi <= 0 or vector.lo >= 0):
            return Enclosed(0.0, 1.0)
        if b.lo <= 0 <= b.hi:
            if b.lo == b.hi or b.lo < 0 < b.hi:
                return ANYTHING
            inverse = Enclosed(1 / b.hi, _INF) if b.lo == 0 else Enclosed(-_INF, 1 / b.lo)
            return self._product(a, inverse)
        return self._product(a, Enclosed(1 / b.hi, 1 / b.lo))

    def _power(self, a: Enclosed, b: Enclosed) -> Enclosed:
        if a.lo >= 0:
            return _hull(*(_raised(v, w) for v in (a.lo, a.hi) for w in (b.lo, b.hi)))
        if b.point and b.lo >= 0 and b.lo == int(b.lo):
            ends = [_raised(a.lo, b.lo), _raised(a.hi, b.lo)]
            odd = int(b.lo) % 2 == 1
            return _hull(*ends, *([] if odd or a.hi < 0 else [0.0]))
        return ANYTHING

    def compare(self, op: str, left: Enclosed, right: Enclosed) -> Enclosed:
        return Enclosed(0.0, 1.0)

    def gather(self, vector: Enclosed) -> Enclosed:
        return Enclosed(vector.lo, vector.hi, of=vector)

    # ------------------------------------------------------------------ functions
    def call(self, node: Call, args: tuple[Enclosed, ...]) -> Enclosed:
        func, first = node.func, args[0]
        if func in INCREASING:
            return _hull(INCREASING[func](first.lo), INCREASING[func](first.hi))
        if func in EVEN:
            ends = [EVEN[func](first.lo), EVEN[func](first.hi)]
            return _hull(*ends, *([EVEN[func](0.0)] if first.lo < 0 < first.hi else []))
        count = self.setting.classes - (1 if node.others else 0)
        other = args[1] if len(args) > 1 else first
        match func:
            case "softmax":
                return Enclosed(0.0, 1.0, weighted=(1.0, 1.0))
            case "log_softmax":
                return Enclosed(-_INF, 0.0)
            case "max" | "mean" | "second_max":
                return Enclosed(first.lo, first.hi)
            case "sum" if first.weighted is not None:
                low_, high_ = first.weighted
                if node.others:
                    return Enclosed(min(low_, 0.0), max(high_, 0.0))
                return Enclosed(low_, high_, total=first)
            case "sum":
                total = None if node.others else first
                return Enclosed(_times(count, first.lo), _times(count, first.hi), total=total)
            case "logsumexp":
                return Enclosed(first.lo + _log(count), first.hi + _log(count))
            case "norm" if first.weighted == (1.0, 1.0) and not node.others:
                return Enclosed(1 / math.sqrt(count), 1.0)
            case "norm":
                largest = max(abs(first.lo), abs(first.hi))
                least = 0.0 if first.lo <= 0 <= first.hi else min(abs(first.lo), abs(first.hi))
                return Enclosed(least * math.sqrt(count), largest * math.sqrt(count))
            case "root":
                return _hull(first.lo, other.hi)
            case "argmax":
                return Enclosed(0.0, self.setting.classes - 1)
            case "minimum":
                return Enclosed(min(first.lo, other.lo), min(first.hi, other.hi))
            case "maximum":
                return Enclosed(max(first.lo, other.lo), max(first.hi, other.hi))
            case "clip":
                low, high = args[1], args[2]
                return _hull(
                    min(max(first.lo, low.lo), high.hi), max(min(first.hi, high.hi), low.lo)
                )
            case "where":
                return _hull(args[1].lo, args[1].hi, args[2].lo, args[2].hi)
            case "sin" | "cos":
                return Enclosed(-1.0, 1.0)
            case "lgamma" if first.lo >= 0:
                ends = [_lgamma(first.lo), _lgamma(first.hi)]
                return _hull(*ends, *([_LEAST] if first.lo < _AT_LEAST < first.hi else []))
            case "erfc":
                return Enclosed(1 - math.erf(first.hi), 1 - math.erf(first.lo))
            case "mercator" if first.lo >= 0 and other.point:
                terms = range(1, int(other.lo) + 1)
                return _hull(*(math.fsum(v**k / k for k in terms) for v in (first.lo, first.hi)))
        return ANYTHING


_BINARY: Mapping[str, str] = {
    "+": "_plus",
    "-": "_minus",
    "*": "_product",
    "/": "_quotient",
    "**": "_power",
}


def _raised(a: float, b: float) -> float:
    if a == 0 and b < 0:
        return _INF
    try:
        return float(a**b)
    except OverflowError:
        return _INF


def enclosed(setting: Setting, algebra: Any = None) -> Any:
    """The whole loss in an algebra, by default of intervals: Σ weight·term."""
    algebra = algebra or Enclosure(setting)
    total = algebra.number(Fraction(0))
    for term in setting.spec.terms:
        if term.weight and setting.parameters[term.weight] == 0:
            continue
        expr: Expr = term.expr
        value = walk(expr, algebra)
        if term.weight:
            value = algebra.binary("*", algebra.name(term.weight, NameKind.PARAMETER), value)
        total = algebra.binary("+", total, value)
    return total
