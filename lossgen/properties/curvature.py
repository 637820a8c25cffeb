"""Is a formula convex in the logits by the rules of disciplined convex programming?

    -log_softmax(x)[y]   →   CONVEX: a log-softmax of affine logits is concave, entry by entry

A rule asks for the curvature of the arguments, and at times for their sign, which intervals give.
UNKNOWN says nothing: the rules are sufficient, not necessary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from lossgen.properties.enclosure import Enclosed, Enclosure
from lossgen.properties.setting import Setting
from lossgen.spec.expr import Call, NameKind, walk
from lossgen.spec.vocabulary import ROOT

__all__ = ["Curvature", "Curved", "CurvatureOf"]


class Curvature(Enum):
    """Of a value as a function of the logits."""

    CONSTANT = "constant"
    AFFINE = "affine"
    CONVEX = "convex"
    CONCAVE = "concave"
    UNKNOWN = "unknown"


_C, _A, _V, _N, _U = Curvature
_FLIPPED = {_C: _C, _A: _A, _V: _N, _N: _V, _U: _U}
_INCREASING_CONVEX = (
    "exp",
    "expm1",
    "softplus",
    "relu",
    "maximum",
    "logaddexp",
    "max",
    "logsumexp",
)
_INCREASING_CONCAVE = ("log", "log1p", "log_sigmoid", "sqrt", "minimum")
_EVEN_CONVEX = ("abs", "cosh", "logcosh", "norm")  # of what is affine, or convex and not negative
_LINEAR = ("sum", "mean")


@dataclass(frozen=True, eq=False)
class Curved:
    """A value's curvature, and where it lies."""

    curvature: Curvature
    range: Enclosed


@dataclass
class CurvatureOf:
    """The algebra of curvatures at one setting."""

    setting: Setting

    def __post_init__(self) -> None:
        self.ranges = Enclosure(self.setting)
        self.lets: dict[str, Curved] = {}

    def number(self, value: Fraction) -> Curved:
        return Curved(_C, self.ranges.number(value))

    def name(self, name: str, kind: NameKind) -> Curved:
        if kind is NameKind.LET:
            if name not in self.lets:
                self.lets[name] = walk(self.setting.spec.let[name], self)
            return self.lets[name]
        moves = kind is NameKind.LOGITS or self.setting.inputs.get(name, 0) is None
        return Curved(_A if moves else _C, self.ranges.name(name, kind))

    def negate(self, operand: Curved) -> Curved:
        return Curved(_FLIPPED[operand.curvature], self.ranges.negate(operand.range))

    def binary(self, op: str, left: Curved, right: Curved) -> Curved:
        a, b = left.curvature, right.curvature
        found = {
            "+": lambda: _sum(a, b),
            "-": lambda: _sum(a, _FLIPPED[b]),
            "*": lambda: _scaled(a, right) if b is _C else _scaled(b, left) if a is _C else _U,
            "/": lambda: _scaled(a, right) if b is _C else _U,
            "**": lambda: _power(left, right),
        }[op]()
        return Curved(found, self.ranges.binary(op, left.range, right.range))

    def compare(self, op: str, left: Curved, right: Curved) -> Curved:
        known = left.curvature is _C and right.curvature is _C
        return Curved(_C if known else _U, self.ranges.compare(op, left.range, right.range))

    def gather(self, vector: Curved) -> Curved:
        return Curved(vector.curvature, self.ranges.gather(vector.range))

    def call(self, node: Call, args: tuple[Curved, ...]) -> Curved:
        value = self.ranges.call(node, tuple(a.range for a in args))
        return Curved(_called(node.func, args), value)


def _sum(a: Curvature, b: Curvature) -> Curvature:
    for one, other in ((a, b), (b, a)):
        if one is _C or (one is _A and other is not _C):
            return other
    return a if a is b else _U


def _scaled(a: Curvature, factor: Curved) -> Curvature:
    if a in (_C, _A):
        return a
    if factor.range.lo >= 0:
        return a
    return _FLIPPED[a] if factor.range.hi <= 0 else _U


def _power(base: Curved, exponent: Curved) -> Curvature:
    a, e = base.curvature, exponent.range.lo
    if exponent.curvature is not _C or a is _C:
        return _C if a is exponent.curvature is _C else _U
    if not exponent.range.point:
        return _U
    if e == 1 or e == 0:
        return a if e else _C
    signed = base.range.lo >= 0
    if a is _A and e == int(e) and e > 0 and int(e) % 2 == 0:
        return _V
    if e > 1 and signed and a in (_V, _A):
        return _V
    if 0 < e < 1 and signed and a in (_N, _A):
        return _N
    return _V if e < 0 and signed and a in (_N, _A) else _U


def _called(func: str, args: tuple[Curved, ...]) -> Curvature:
    of = [a.curvature for a in args]
    if func in ROOT:
        return _U
    if all(c is _C for c in of):
        return _C
    convex = all(c in (_C, _A, _V) for c in of)
    concave = all(c in (_C, _A, _N) for c in of)
    if func in _LINEAR:
        return of[0]
    if func in _INCREASING_CONVEX:
        return _V if convex else _U
    if func in _INCREASING_CONCAVE:
        return _N if concave else _U
    if func in _EVEN_CONVEX:
        return _V if of[0] is _A or (of[0] is _V and args[0].range.lo >= 0) else _U
    if func == "log_softmax":
        return _N if of[0] is _A else _U
    if func == "softcap" and args[1].range.lo == float("inf"):
        return of[0]
    if func == "where" and of[0] is _C:
        return of[1] if of[1] is of[2] else _V if convex else _N if concave else _U
    return _U
