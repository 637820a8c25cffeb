"""What a constant added to all the logits does to a value: adds a multiple of it, or who knows.

    logsumexp(x) - x[y]   →   1 − 1 = 0: the loss is shift invariant

A degree d means value(x + c) = value(x) + d·c.  None: no such rule applies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from lossgen.properties.enclosure import Enclosed, Enclosure
from lossgen.properties.setting import Setting
from lossgen.spec.expr import Call, NameKind, walk
from lossgen.spec.vocabulary import ROOT

__all__ = ["Degree", "DegreeOf"]

_CARRIED = ("max", "mean", "second_max", "logsumexp", "minimum", "maximum", "logaddexp", "clip")
_INVARIANT = ("softmax", "log_softmax", "argmax")  # of what is shifted alike in every class


@dataclass(frozen=True, eq=False)
class Degree:
    """A value's degree, and where it lies."""

    degree: float | None
    range: Enclosed


@dataclass
class DegreeOf:
    """The algebra of degrees at one setting."""

    setting: Setting

    def __post_init__(self) -> None:
        self.ranges = Enclosure(self.setting)
        self.lets: dict[str, Degree] = {}

    def number(self, value: Fraction) -> Degree:
        return Degree(0.0, self.ranges.number(value))

    def name(self, name: str, kind: NameKind) -> Degree:
        if kind is NameKind.LET:
            if name not in self.lets:
                self.lets[name] = walk(self.setting.spec.let[name], self)
            return self.lets[name]
        moves = kind is NameKind.LOGITS or self.setting.inputs.get(name, 0) is None
        return Degree(1.0 if moves else 0.0, self.ranges.name(name, kind))

    def negate(self, operand: Degree) -> Degree:
        d = operand.degree
        return Degree(None if d is None else -d, self.ranges.negate(operand.range))

    def binary(self, op: str, left: Degree, right: Degree) -> Degree:
        value = self.ranges.binary(op, left.range, right.range)
        a, b = left.degree, right.degree
        if a is None or b is None:
            return Degree(None, value)
        if op in "+-":
            d = a + b if op == "+" else a - b
            return Degree(0.0 if math.isclose(a, -b if op == "+" else b) else d, value)
        if a == 0 and b == 0:
            return Degree(0.0, value)
        if op == "*":
            for degree, factor in ((a, right), (b, left)):
                if factor.degree == 0 and factor.range.point:
                    return Degree(degree * factor.range.lo, value)
        if op == "/" and b == 0 and right.range.point and right.range.lo:
            return Degree(a / right.range.lo, value)
        return Degree(None, value)

    def compare(self, op: str, left: Degree, right: Degree) -> Degree:
        same = left.degree is not None and left.degree == right.degree
        return Degree(0.0 if same else None, self.ranges.compare(op, left.range, right.range))

    def gather(self, vector: Degree) -> Degree:
        return Degree(vector.degree, self.ranges.gather(vector.range))

    def call(self, node: Call, args: tuple[Degree, ...]) -> Degree:
        value = self.ranges.call(node, tuple(a.range for a in args))
        return Degree(self._called(node, [a.degree for a in args], args), value)

    def _called(self, node: Call, of: list[float | None], args: tuple[Degree, ...]) -> float | None:
        first = of[0]
        if any(d is None for d in of) or node.func in ROOT:
            return None
        if node.func in _INVARIANT or all(d == 0 for d in of):
            return 0.0
        if node.func in _CARRIED:
            return first if all(d == first for d in of) else None
        if node.func == "sum" and first is not None:
            return first * (self.setting.classes - (1 if node.others else 0))
        if node.func == "where" and first == 0:
            return of[1] if of[1] == of[2] else None
        if node.func == "softcap" and args[1].range.lo == math.inf:
            return first
        return None
