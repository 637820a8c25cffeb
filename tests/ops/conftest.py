"""Sample points for every operation of the vocabulary, with mpmath values and condition numbers.

Points are float32 numbers, so that one reference serves the float32 and the float64 twins.  The
value is kept as a pair of doubles (``high + low``), good to about 32 digits.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import pytest
from numpy.typing import NDArray

from lossgen.ir.ops import BUILTINS, OPS, Op

ALL = {**OPS, **BUILTINS}
INTEGERS = {("mercator", 1), ("geometric", 1), ("polygamma", 0)}  # arguments without a derivative
Array = NDArray[np.float64]
_POSITIVE = (
    0.0,
    1e-6,
    0.3,
    0.99,
    1.0,
    1.4616321,
    2.0,
    3.7,
    4.0,
    7.9,
    8.0,
    9.5,
    40.0,
    1e4,
    math.inf,
)
SPECIAL = {
    "where": [(0.0, 1.0), (-1.5, 2.0, math.inf), (3.0, -2.0, -math.inf)],
    "softcap": [(0.0, 0.3, -5.0, 40.0, 1e4, math.inf, -math.inf), (0.5, 30.0, math.inf)],
    "mercator": [(0.0, 1e-6, 0.3, 0.97, 1.0), tuple(range(1, 17))],
    "geometric": [(0.0, 1e-6, 0.3, 0.97, 1.0), tuple(range(1, 17))],
    "polygamma": [tuple(range(1, 9)), _POSITIVE],
    "xlogy": [(0.0, 1e-6, 0.5, -3.0, 100.0), (0.0, 1e-6, 0.4, 2.0, 1e4)],
    "power": [(0.0, 1e-6, 0.3, 0.99, 1.0, 1.5, 1e3), (-4.0, -0.5, 0.0, 1e-3, 0.5, 2.0, 5.0)],
    "expm1div": [(0.0, 1e-6, -0.3, 2.0, 13.0, -15.5, -80.0), (0.0, 1e-9, -6.0, -0.5, 1.0, 7.0)],
}


@dataclass(frozen=True)
class Points:
    """``args[i]`` are the values of argument i; ``kappa`` is Σ |x_i f_i' / f| (0 where f is 0)."""

    args: tuple[Array, ...]
    high: Array
    low: Array
    kappa: Array

    def errors(self, got: Array, eps: float, tiny: float, largest: float) -> Array:
        """Errors in units of eps (1 + kappa), relative; inf where a special value is wrong."""
        got = np.asarray(got, dtype=np.float64)
        with np.errstate(all="ignore"):
            gap = np.maximum(np.abs((got - self.high) - self.low) - tiny, 0.0)
            error = np.where(gap == 0, 0.0, gap / (np.abs(self.high) * eps * (1 + self.kappa)))
        infinite = np.abs(self.high) > largest
        same = np.isinf(got) & (np.sign(got) == np.sign(self.high))
        error = np.where(infinite, np.where(same, 0.0, np.inf), error)
        return np.where(np.isnan(got), np.inf, error)


def _line(lo: float, hi: float) -> list[float]:
    ladder = np.geomspace(1e-8, 1e4, 49)
    dense = np.linspace(-4.9, 4.9, 61)
    wide = np.array(
        [
            -150,
            -104,
            -95,
            -90,
            -88.5,
            -87.2,
            -60,
            -40,
            -30,
            -17.5,
            -12,
            12,
            17.5,
            30,
            40,
            60,
            87.2,
            88.5,
            88.9,
            92,
            93.5,
            95,
            104,
            150,
        ]
    )
    ends = [-math.inf, 0.0, 1.0, -1.0, math.inf, -0.99999]
    values = np.concatenate([ladder, -ladder, dense, wide, ends]).astype(np.float32)
    return sorted({float(v) for v in values if lo <= v <= hi})


def _tuples(op: Op) -> list[tuple[float, ...]]:
    if op.name in SPECIAL:
        return list(itertools.product(*SPECIAL[op.name]))
    if op.arity == 1:
        return [(v,) for v in _line(*op.domain[0])]
    few = (-math.inf, -1e4, -2.0, -0.25, 0.0, 0.1, 1.0, 1.0000001, 30.0, math.inf)
    return list(itertools.product(few, repeat=op.arity))[:: 1 if op.arity == 2 else 5]


@functools.cache
def _points(name: str) -> Points:
    op = ALL[name]
    args = np.array(_tuples(op), dtype=np.float32).astype(np.float64)
    rows = []
    for row in args:
        with mp.workdps(40):
            x = [mp.mpf(float(v)) for v in row]
            value = mp.mpf(op.mp(*x))
            high = float(value)
            low = float(value - high) if math.isfinite(high) else 0.0
            rows.append((high, low, float(_kappa(op, x, value))))
    high, low, kappa = np.array(rows).T
    return Points(tuple(args.T), high, low, kappa)


def _kappa(op: Op, x: list[mp.mpf], value: mp.mpf) -> mp.mpf:
    """Condition number by central differences; 0 at infinities, zeros and where undefined."""
    total = mp.mpf(0)
    if value == 0 or mp.isinf(value):
        return total
    for i, v in enumerate(x):
        lo, hi = op.domain[i]
        if v == 0 or mp.isinf(v) or v in (lo, hi) or (op.name, i) in INTEGERS:
            continue
        step = mp.mpf(10) ** -15
        below, over = (op.mp(*x[:i], v * (1 + s), *x[i + 1 :]) for s in (-step, step))
        total += abs((over - below) / (2 * step * value))
    return min(total, mp.mpf(10) ** 6)  # a jump is not a condition number


@pytest.fixture(scope="session")
def points() -> Callable[[str], Points]:
    """The sample points of an operation, by name."""
    return _points
