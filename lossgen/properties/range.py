"""Where the loss's values lie, and whether they are bounded.

Bounded is a proof where interval arithmetic on the formula gives finite ends; unbounded is shown by
a ray of logits along which the loss grows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lossgen.properties.enclosure import enclosed
from lossgen.properties.model import NOT_FOUND, Statement, number
from lossgen.properties.search import Best, Rows, climb, grows, nearest, tries
from lossgen.properties.setting import Setting
from lossgen.properties.witness import RAY, ray

__all__ = ["said_ray", "value_range"]


def value_range(setting: Setting) -> Statement:
    """Smallest and largest value, over logits and labels."""
    whole = enclosed(setting)
    ends, lines, open_ends = [], [], []
    for sign, proven, side in ((-1.0, whole.lo, "below"), (1.0, whole.hi, "above")):
        found = climb(setting, partial(_values, setting, sign))
        unbounded = abs(proven) == float("inf") and grows(found)
        ends.append(sign * float("inf") if unbounded else sign * found[-1].score)
        if unbounded:
            open_ends.append(side)
            lines += _along(setting, found, sign)
        else:
            best = nearest(found)
            row = setting.said(best.x, best.y, best.draw)
            lines.append(f"{number(ends[-1])} at {row}")
    data = {
        "infimum": ends[0],
        "supremum": ends[1],
        "enclosure": [whole.lo, whole.hi],
        "bounded": not open_ends,
    }
    if open_ends:
        verdict = f"unbounded {' and '.join(open_ends)}"
        because = f"from {number(ends[0])} to {number(ends[1])}"
        return Statement("bounded", "no", "witness", f"{verdict}, {because}", tuple(lines), data)
    because = f"from {number(ends[0])} to {number(ends[1])} found"
    if whole.bounded:
        proof = f"intervals put every value in [{number(whole.lo)}, {number(whole.hi)}]"
        return Statement("bounded", "yes", "proof", f"{proof}; {because}", tuple(lines), data)
    because += f"; no growth in {2 * tries()} tries"
    return Statement("bounded", NOT_FOUND, "search", because, tuple(lines), data)


def _values(setting: Setting, sign: float, rows: Rows) -> Any:
    return sign * setting.evaluated(rows.x, rows.y, rows.draw)[0]


def _along(setting: Setting, found: list[Best], sign: float) -> list[str]:
    def value(x: list[float], best: Best) -> Any:
        return sign * setting.precise(x, best.y, best.draw)[0]

    return said_ray(setting, found, value, "loss", sign)


def said_ray(
    setting: Setting,
    found: list[Best],
    value: Callable[[list[float], Best], Any],
    what: str,
    sign: float = 1.0,
) -> list[str]:
    """Lines that show the growth: along a ray, or box by box."""
    along = ray(found, value)
    if along is None:
        shown = [
            f"{what} {number(sign * b.score)} at {setting.said(b.x, b.y, b.draw)}" for b in found
        ]
        return shown[-3:]
    direction, values = along
    row = setting.said(direction, found[-1].y, found[-1].draw).replace("x = ", "x = t·", 1)
    times = ", ".join(number(t) for t in RAY)
    return [f"{what} {', '.join(number(sign * v) for v in values)} at {row}, t = {times}"]
