"""Is Σ_k loss(x, k) the same for every x?  Then uniform label noise leaves the minimiser alone.

The sum over the labels in symbols is a proof; two rows with different sums are a witness.
"""

from __future__ import annotations

import mpmath as mp
import numpy as np
import sympy
from numpy.typing import NDArray

from lossgen.properties.labels import NotSymbolic, labelled
from lossgen.properties.model import NO, NOT_FOUND, YES, Statement, number, vector
from lossgen.properties.search import Rows, climb, tries
from lossgen.properties.setting import Array, Setting
from lossgen.properties.witness import shortened

__all__ = ["symmetry"]

_BOXES = (1.0, 4.0, 16.0)
_APART = 1e-7


def symmetry(setting: Setting) -> Statement:
    """Σ over the labels constant: robust to uniform label noise."""
    try:
        total = labelled(setting).total()
    except NotSymbolic:
        total = None
    if total is not None and total.is_number and total.is_finite:
        because = f"Σ over the labels is {sympy.nsimplify(total)}, in symbols"
        return Statement("symmetric", YES, "proof", because, data={"sum": float(total)})
    size = setting.classes
    zero = [0.0] * size

    def apart(rows: Rows) -> Array:
        sums = [_sum(setting, x, rows.draw) for x in (rows.x, np.zeros_like(rows.x))]
        return np.abs(sums[0] - sums[1])

    best = max(climb(setting, apart, _BOXES), key=lambda b: b.score)

    def precise(x: list[float]) -> float:
        return float(mp.fsum(setting.precise(x, k)[0] for k in range(size)))

    if best.score > _APART:
        at_zero = precise(zero)
        short = shortened(best.x, lambda x: abs(precise(x) - at_zero) > 0.5 * best.score)
        x = short or list(best.x)
        lines = tuple(f"Σ = {number(precise(row))} at x = {vector(row)}" for row in (zero, x))
        data = {"rows": [zero, x]}
        return Statement("symmetric", NO, "witness", "Σ over the labels differs", lines, data)
    because = f"the same sum in {tries(_BOXES)} tries"
    return Statement("symmetric", NOT_FOUND, "search", because)


def _sum(setting: Setting, x: Array, draw: NDArray[np.int64]) -> Array:
    labels = [np.full(len(x), k) for k in range(setting.classes)]
    return np.asarray(sum(setting.evaluated(x, y, draw)[0] for y in labels))
