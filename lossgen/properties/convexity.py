"""Is the loss convex in the logits?

Yes by the rules of disciplined convex programming, which are a proof; no by a point and a direction
along which the second derivative is negative, or, for a formula with corners, by a chord that runs
below the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath as mp
import numpy as np

from lossgen.properties.curvature import Curvature, CurvatureOf
from lossgen.properties.enclosure import enclosed
from lossgen.properties.model import NO, NOT_FOUND, YES, Statement, number, vector
from lossgen.properties.search import Best, Rows, climb, tries
from lossgen.properties.setting import Array, Setting
from lossgen.properties.witness import shortened

__all__ = ["convexity"]

_BOXES = (1.0, 4.0, 16.0)
_NEGATIVE = 1e-9  # of an eigenvalue: less is rounding
_STEP = mp.mpf(10) ** -20
_CONVEX = (Curvature.CONSTANT, Curvature.AFFINE, Curvature.CONVEX)


def convexity(setting: Setting) -> Statement:
    """Convex in the logits: the Hessian's smallest eigenvalue, over logits and labels."""
    if enclosed(setting, CurvatureOf(setting)).curvature in _CONVEX:
        because = "built of convex and affine parts by rules that keep convexity"
        return Statement("convex", YES, "proof", because)
    found = climb(setting, lambda rows: _steepest(setting, rows), _BOXES)
    best = max(found, key=lambda b: b.score)
    if best.score > _NEGATIVE and (shown := _bent(setting, best)):
        return shown
    chords = climb(setting, lambda rows: _gap(setting, rows), _BOXES, 2 * setting.classes)
    chord = max(chords, key=lambda b: b.score)
    if chord.score > 1e-7 and (shown := _below(setting, chord)):
        return shown
    because = (
        f"smallest eigenvalue {number(-best.score)}, no chord below the loss, "
        f"in {2 * tries(_BOXES)} tries"
    )
    return Statement("convex", NOT_FOUND, "search", because, data={"eigenvalue": -best.score})


def _steepest(setting: Setting, rows: Rows) -> Array:
    """Minus the smallest eigenvalue of each row's Hessian."""
    hessian = setting.evaluated(rows.x, rows.y, rows.draw, order=2)[2]
    real = np.isfinite(hessian).all((1, 2))
    symmetric = np.where(real[:, None, None], hessian + hessian.transpose(0, 2, 1), 0.0) / 2
    return np.where(real, -np.linalg.eigvalsh(symmetric)[:, 0], -np.inf)


def _bent(setting: Setting, best: Best) -> Statement | None:
    direction = _direction(setting, best)

    def second(x: Sequence[float]) -> Any:
        """The second derivative along the direction, of the gradients in mpmath."""
        with mp.workdps(60):
            return difference(x)

    def difference(x: Sequence[float]) -> Any:
        sides = []
        for sign in (1, -1):
            moved = [
                mp.mpf(v) + sign * _STEP * mp.mpf(d) for v, d in zip(x, direction, strict=True)
            ]
            slopes = setting.precise(moved, best.y, best.draw)[1]
            sides.append(mp.fsum(s * d for s, d in zip(slopes, direction, strict=True)))
        return (sides[0] - sides[1]) / (2 * _STEP)

    def holds(x: list[float]) -> bool:
        return bool(second(x) < -0.7 * best.score * sum(d * d for d in direction))

    x = shortened(best.x, holds)
    if x is None:
        return None
    value = float(second(x)) / sum(d * d for d in direction)
    because = f"smallest eigenvalue of the Hessian {number(-best.score)}"
    line = f"second derivative {number(value)} at {setting.said(x, best.y, best.draw)}"
    line += f" along {vector(direction)}"
    data = {"eigenvalue": -best.score, "point": x, "label": best.y, "direction": list(direction)}
    return Statement("convex", NO, "witness", because, (line,), data)


def _direction(setting: Setting, best: Best) -> list[float]:
    """The eigenvector of the smallest eigenvalue, of two digits."""
    at = (np.array([best.x]), np.array([best.y]), np.array([best.draw]))
    hessian = setting.evaluated(*at, order=2)[2][0]
    vector_ = np.linalg.eigh((hessian + hessian.T) / 2)[1][:, 0]
    vector_ = vector_ / vector_[np.abs(vector_).argmax()]
    return [float(round(v, 2)) + 0.0 for v in vector_]


def _gap(setting: Setting, rows: Rows) -> Array:
    """How far the middle of a chord is below the loss."""
    size = setting.classes
    first, second = rows.x[:, :size], rows.x[:, size:]
    ends = [first, second, (first + second) / 2]
    a, b, middle = (setting.evaluated(x, rows.y, rows.draw)[0] for x in ends)
    return np.asarray(middle - (a + b) / 2)


def _below(setting: Setting, chord: Best) -> Statement | None:
    size = setting.classes

    def gap(both: list[float]) -> Any:
        a, b = both[:size], both[size:]
        middle = [(v + w) / 2 for v, w in zip(a, b, strict=True)]
        ends = [setting.precise(x, chord.y, chord.draw)[0] for x in (middle, a, b)]
        return ends[0] - (ends[1] + ends[2]) / 2

    both = shortened(chord.x, lambda x: bool(gap(x) > 0.3 * chord.score))
    if both is None:
        return None
    because = f"the loss is {number(float(gap(both)))} above the middle of a chord"
    at = setting.said(both[:size], chord.y, chord.draw).removeprefix("x = ")
    line = f"from x = {vector(both[size:])} to {at}"
    return Statement(
        "convex", NO, "witness", because, (line,), {"ends": [both[:size], both[size:]]}
    )
