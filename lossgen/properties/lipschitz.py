"""The Lipschitz constant of the loss in the logits: the supremum of the gradient's Euclidean norm.

The largest found is a lower bound of it; where the norm grows without end along a ray there is
none.
"""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np

from lossgen.properties.model import Statement, number
from lossgen.properties.range import said_ray
from lossgen.properties.search import Best, Rows, climb, grows, nearest, tries
from lossgen.properties.setting import Array, Setting

__all__ = ["lipschitz"]


def lipschitz(setting: Setting) -> Statement:
    """Supremum of the gradient's norm, over logits and labels."""

    def norm(rows: Rows) -> Array:
        gradient = setting.evaluated(rows.x, rows.y, rows.draw, order=1)[1]
        with np.errstate(over="ignore"):
            return np.asarray(np.linalg.norm(gradient, axis=1))

    def precise(x: list[float], best: Best) -> Any:
        slopes = setting.precise(x, best.y, best.draw)[1]
        return mp.sqrt(mp.fsum(s * s for s in slopes))

    found = climb(setting, norm)
    if grows(found):
        lines = tuple(said_ray(setting, found, precise, "|gradient|"))
        data = {"lipschitz": float("inf")}
        return Statement("Lipschitz", "no", "witness", "the gradient is unbounded", lines, data)
    best = nearest(found)
    at = setting.said(best.x, best.y, best.draw)
    because = f"largest |gradient| found, in {tries()} tries"
    line = f"{number(best.score)} at {at}"
    data = {"lipschitz": best.score}
    return Statement("Lipschitz", number(best.score), "search", because, (line,), data)
