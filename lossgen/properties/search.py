"""A search over rows for the largest value of a score, on boxes of growing size.

Each box |x_j| ≤ R starts from patterns (every row of {-R, 0, R}), from normal rows of several
scales, and from what the smaller box found; the best are then moved by shrinking random steps.
The seed is fixed: the same sheet every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossgen.properties.setting import Array, Setting

__all__ = ["BOXES", "Best", "Rows", "climb", "grows", "nearest", "tries"]

BOXES = (1.0, 4.0, 16.0, 64.0, 256.0)
_RANDOM, _PARENTS, _CHILDREN, _ROUNDS = 96, 10, 8, 24
_GROWTH = 0.05  # of the last box over the one before: more is called growth without bound


@dataclass(frozen=True)
class Rows:
    """Rows to try: logits [B, W], labels [B], and which draw of the inputs [B]."""

    x: Array
    y: NDArray[np.int64]
    draw: NDArray[np.int64]

    def take(self, which: Any) -> Rows:
        return Rows(self.x[which], self.y[which], self.draw[which])


@dataclass(frozen=True)
class Best:
    """The best row of a box."""

    score: float
    x: tuple[float, ...]
    y: int
    draw: int


Score = Callable[[Rows], Array]


def tries(boxes: Sequence[float] = BOXES) -> int:
    """How many rows a search of so many boxes tries, about."""
    return len(boxes) * (_RANDOM + _PARENTS * _CHILDREN * _ROUNDS)


def climb(
    setting: Setting, score: Score, boxes: Sequence[float] = BOXES, width: int | None = None
) -> list[Best]:
    """The best row of each box; boxes without a finite score are left out.

    Args:
        width: of a row, where it is more than logits of ``setting.classes``.
    """
    rng = np.random.default_rng(1)
    size = width or setting.classes
    labels = setting.classes if setting.spec.has_target else 1
    found: list[Best] = []
    carried: Rows | None = None
    for box in boxes:
        rows = _started(box, size, labels, setting.draws, rng)
        if carried is not None:
            rows = _joined(rows, carried)
        scores = _scored(score, rows)
        kept = np.argsort(-scores, kind="stable")[:_PARENTS]
        rows, scores, step = rows.take(kept), scores[kept], np.full(len(kept), 0.3 * box)
        for _ in range(_ROUNDS):
            rows, scores, step = _moved(score, rows, scores, step, box, rng)
        carried = rows
        top = int(np.argmax(scores))
        if np.isfinite(scores[top]):
            row = tuple(float(v) for v in rows.x[top])
            found.append(Best(float(scores[top]), row, int(rows.y[top]), int(rows.draw[top])))
    return found


def grows(found: Sequence[Best]) -> bool:
    """Does the best still grow with the box, after it has left the region of the ordinary?"""
    if len(found) < 3:
        return False
    last = [b.score for b in found[-3:]]
    first, second = last[1] - last[0], last[2] - last[1]
    return second > _GROWTH * max(1e-9, abs(last[1])) and second > 0.2 * first


def nearest(found: Sequence[Best]) -> Best:
    """The best, from the smallest box that has it to eight digits."""
    top = max(b.score for b in found)
    return next(b for b in found if b.score >= top - 1e-8 * max(1.0, abs(top)))


def _started(box: float, size: int, labels: int, draws: int, rng: np.random.Generator) -> Rows:
    corners = list(product((0.0, box, -box), repeat=min(size, 3)))
    pattern = np.zeros((len(corners), size))
    pattern[:, : min(size, 3)] = corners
    if size > 3:
        pattern[:, 3:] = rng.choice([0.0, box, -box], (len(corners), size - 3))
    scale = box * 10.0 ** rng.uniform(-2, 0, (_RANDOM, 1))
    x = np.concatenate([pattern, np.clip(scale * rng.normal(0, 0.6, (_RANDOM, size)), -box, box)])
    return Rows(x, rng.integers(0, labels, len(x)), np.arange(len(x)) % draws)


def _joined(a: Rows, b: Rows) -> Rows:
    return Rows(
        np.concatenate([a.x, b.x]), np.concatenate([a.y, b.y]), np.concatenate([a.draw, b.draw])
    )


def _scored(score: Score, rows: Rows) -> Array:
    values = np.asarray(score(rows), dtype=np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _moved(
    score: Score, rows: Rows, scores: Array, step: Array, box: float, rng: np.random.Generator
) -> tuple[Rows, Array, Array]:
    """Each parent's best child where it is better; a smaller step where it is not."""
    count, size = rows.x.shape
    # some coordinates at a time: a flat optimum at a corner is found coordinate by coordinate
    kept = rng.random((count, _CHILDREN, size)) < 0.6
    moves = step[:, None, None] * rng.normal(0, 1, (count, _CHILDREN, size)) * kept
    x = np.clip(rows.x[:, None, :] + moves, -box, box).reshape(-1, size)
    children = Rows(x, np.repeat(rows.y, _CHILDREN), np.repeat(rows.draw, _CHILDREN))
    values = _scored(score, children).reshape(count, _CHILDREN)
    best = values.argmax(1)
    at = np.arange(count)
    better = values[at, best] > scores
    x = np.where(better[:, None], children.x.reshape(count, _CHILDREN, size)[at, best], rows.x)
    scores = np.where(better, values[at, best], scores)
    return Rows(x, rows.y, rows.draw), scores, np.where(better, step * 1.2, step * 0.7)
