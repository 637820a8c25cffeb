"""Rows made short enough to be read, and rays: what a witness shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import mpmath as mp

from lossgen.properties.search import Best

__all__ = ["RAY", "ray", "shortened"]

RAY = (4.0, 16.0, 64.0, 256.0)
_SNAP = 0.15  # of the largest: nearer than so to -1, 0 or 1 is that
_DIGITS = (0, 1, 2, 3, 6)


def ray(
    found: Sequence[Best], value: Callable[[list[float], Best], Any]
) -> tuple[list[float], list[float]] | None:
    """A direction, and the values of points t·direction, where they grow as the boxes' best do.

    Args:
        value: of a row, with the label and inputs of ``found``'s last.
    """
    last = found[-1]
    largest = max(abs(v) for v in last.x) or 1.0
    scaled = [v / largest for v in last.x]
    snapped = [
        next((k for k in (0.0, 1.0, -1.0) if abs(v - k) < _SNAP), round(v, 2)) for v in scaled
    ]
    coarse = [float(round(v)) for v in scaled]
    for direction in (coarse, snapped, scaled):
        values = [_number(value, [t * d for d in direction], last) for t in RAY]
        if all(mp.isfinite(v) for v in values) and values[-1] > 0.5 * last.score:
            return direction, [float(v) for v in values]
    return None


def _number(value: Callable[[list[float], Best], Any], x: list[float], best: Best) -> Any:
    try:
        return value(x, best)
    except (ArithmeticError, ValueError, TypeError):
        return mp.nan


def shortened(x: Sequence[float], holds: Callable[[list[float]], bool]) -> list[float] | None:
    """The row with as few digits as it may have; None where it does not hold as it is."""
    for digits, shift in product(_DIGITS, (True, False)):
        base = min(x, key=abs) if shift else 0.0
        short = [float(round(v - base, digits)) + 0.0 for v in x]
        if holds(short):
            return short
    return list(x) if holds(list(x)) else None
