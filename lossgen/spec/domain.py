"""Intervals: where a parameter may lie.

"(0, 1]"  →  Interval(lo=0.0, hi=1.0, lo_open=True, hi_open=False)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["Interval"]

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.?inf"
_INTERVAL = re.compile(rf"([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])", re.ASCII)


@dataclass(frozen=True)
class Interval:
    """The reals between ``lo`` and ``hi``; an end that is not open belongs to it, ±inf too."""

    lo: float
    hi: float
    lo_open: bool
    hi_open: bool

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``"(0, 1]"``; raises ValueError saying what is wrong."""
        found = _INTERVAL.fullmatch(text.strip()) if len(text) <= 100 else None
        if found is None:
            raise ValueError("expected two numbers between brackets")
        left, low, high, right = found.groups()
        interval = cls(_float(low), _float(high), left == "(", right == ")")
        if interval.lo > interval.hi:
            raise ValueError("its ends are in the wrong order")
        if interval.lo == interval.hi and (left == "(" or right == ")"):
            raise ValueError("it is empty")
        if interval.lo == math.inf or interval.hi == -math.inf:
            raise ValueError("it holds no finite number")
        return interval

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies in the interval; NaN never does."""
        above = value > self.lo or (value == self.lo and not self.lo_open)
        below = value < self.hi or (value == self.hi and not self.hi_open)
        return above and below

    def __str__(self) -> str:
        left, right = "[("[self.lo_open], "])"[self.hi_open]
        return f"{left}{_spell(self.lo)}, {_spell(self.hi)}{right}"


def _spell(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _float(text: str) -> float:
    if text.strip("+-.") == "inf":
        return -math.inf if text[0] == "-" else math.inf
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value
