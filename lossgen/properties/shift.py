"""Is the loss unchanged by a constant added to every logit?

The degree of the formula decides, where it has one (a proof either way); else a search does.
"""

from __future__ import annotations

import numpy as np

from lossgen.properties.degree import DegreeOf
from lossgen.properties.enclosure import enclosed
from lossgen.properties.model import NO, NOT_FOUND, YES, Statement, number
from lossgen.properties.search import Rows, climb, tries
from lossgen.properties.setting import Array, Setting
from lossgen.properties.witness import shortened

__all__ = ["shift"]

_BOXES = (1.0, 4.0)
_MOVED = 1e-6


def shift(setting: Setting) -> Statement:
    """Invariant under a constant added to every logit."""
    degree = enclosed(setting, DegreeOf(setting)).degree
    if degree is not None:
        verdict = YES if degree == 0 else NO
        because = f"loss(x + c) = loss(x){f' + {number(degree)}·c' if degree else ''}, term by term"
        return Statement("shift invariant", verdict, "proof", because, data={"degree": degree})

    def moved(rows: Rows) -> Array:
        here = setting.evaluated(rows.x, rows.y, rows.draw)[0]
        there = setting.evaluated(rows.x + 1.0, rows.y, rows.draw)[0]
        return np.abs(there - here)

    best = max(climb(setting, moved, _BOXES), key=lambda b: b.score)

    def change(x: list[float]) -> float:
        ends = [[v + c for v in x] for c in (1, 0)]
        one, zero = (setting.precise(e, best.y, best.draw)[0] for e in ends)
        return float(one - zero)

    if best.score > _MOVED:
        x = shortened(best.x, lambda x: abs(change(x)) > 0.5 * best.score) or list(best.x)
        line = f"adding 1 adds {number(change(x))} at {setting.said(x, best.y, best.draw)}"
        return Statement("shift invariant", NO, "witness", "", (line,))
    because = f"no change in {tries(_BOXES)} tries"
    return Statement("shift invariant", NOT_FOUND, "search", because)
