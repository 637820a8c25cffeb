"""The H-consistency transform T: the surrogate's regret that a zero-one regret of β costs at least.

    T(β) = inf  [ min_{x predicts j} Σ_k q_k·loss(x, k) − min_x Σ_k q_k·loss(x, k) ]
           over q with max_k q_k − q_j = β

for the hypothesis set that reaches every row of logits.  Then, for every distribution,
T(zero-one regret) ≤ surrogate regret wherever T is convex: T(β) > 0 says that the loss is
calibrated there.

The distributions tried have at most four values: the largest, i; the predicted class's, j = i − β;
and two for the others, c for some of them and d for the rest.  A grid over these, then zooms
around the best.  The logits have the same four levels; those predicting j are minimised with j
tied to the likeliest of the others, so many, since a minimum under x_j ≥ x_k has ties where that
binds.
What is computed is the smallest found: T is at most so large.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossgen.properties.conditional import Conditional
from lossgen.properties.setting import Array

__all__ = ["BETAS", "Point", "transform"]

BETAS = (0.1, 0.3, 0.5, 0.7, 0.9)
_KINDS = 3  # numbers of classes that share c
_COARSE, _FINE, _ZOOMS = (7, 4), (5, 3), 5
_FAR = 30.0  # logits of a start near a vertex


@dataclass(frozen=True)
class Point:
    """T at β, and where the least was found."""

    beta: float
    regret: float
    q: tuple[float, ...]  # class 0 is the most likely, class 1 the predicted one
    x: tuple[float, ...]  # the best logits that predict class 1
    free: tuple[float, ...]  # the best logits


def transform(risk: Conditional, betas: Sequence[float] = BETAS) -> list[Point]:
    """The smallest regret found at each β, in order."""
    rest = risk.setting.classes - 2
    shared = sorted({round(k) for k in np.linspace(1, rest, min(rest, _KINDS))}) or [0]
    tried: list[_Found] = []
    for beta in betas:
        for k in shared:
            tried += [
                _Found(inf, beta, k, u, v) for u, v in _grid((0.5, 0.5), 0.5, k, rest, _COARSE)
            ]
    ranked = _evaluated(risk, tried)
    kept = [f for beta in betas for f in _two_kinds(f for f in ranked if f.beta == beta)]
    width = 0.2
    for _ in range(_ZOOMS if rest else 0):
        tried = []
        for at in kept:
            near = _grid((at.u, at.v), width, at.k, rest, _FINE)
            tried += [_Found(inf, at.beta, at.k, u, v) for u, v in near]
        ranked = _evaluated(risk, [*kept, *tried])
        kept = [f for beta in betas for f in _two_kinds(f for f in ranked if f.beta == beta)]
        width *= 0.4
    best = [next(f for f in kept if f.beta == beta) for beta in betas]
    return [_point(risk, found) for found in best]


@dataclass(frozen=True, order=True)
class _Found:
    """A regret, and the distribution: k classes share c, and (u, v) say where q_i and c lie."""

    regret: float
    beta: float
    k: int
    u: float
    v: float


def _grid(
    middle: tuple[float, float], width: float, k: int, rest: int, size: tuple[int, int]
) -> list[tuple[float, float]]:
    """Around a point; what is not free at this k stays."""
    free = (rest > 0, 0 < k < rest)
    axes = [
        np.unique(np.clip(m + width * np.linspace(-1, 1, n), 0, 1)) if f else np.zeros(1)
        for m, n, f in zip(middle, size, free, strict=True)
    ]
    return [(float(u), float(v)) for u in axes[0] for v in axes[1]]


def _two_kinds(ranked: Iterable[_Found]) -> list[_Found]:
    """The best, and the best of another k."""
    found: dict[int, _Found] = {}
    for at in ranked:
        found.setdefault(at.k, at)
    return list(found.values())[:2]


def _evaluated(risk: Conditional, tried: Sequence[_Found]) -> list[_Found]:
    """With their regrets, the least first."""
    found = []
    for k in sorted({f.k for f in tried}):
        own = [f for f in tried if f.k == k]
        q = _distributions(own, risk.setting.classes)
        regrets = _regrets(risk, q, _counts(k, risk.setting.classes))[0]
        found += [replace(f, regret=float(r)) for f, r in zip(own, regrets, strict=True)]
    return sorted(found)


def _counts(k: int, classes: int) -> tuple[int, ...]:
    return tuple(c for c in (1, 1, k, classes - 2 - k) if c)


def _distributions(tried: Sequence[_Found], classes: int) -> Array:
    """One entry per level: (u, v) in [0, 1]² onto what q_i and c may be, at one k."""
    betas, u, v = (np.array([getattr(f, n) for f in tried]) for n in ("beta", "u", "v"))
    rest, k = classes - 2, tried[0].k
    high = (1 + betas) / 2
    low = np.maximum(betas, (1 + betas) / classes)
    i = low + u * (high - low) if rest else high
    left = np.maximum(0.0, 1 - 2 * i + betas)
    columns = [i, i - betas]
    if k:
        even = left / rest
        c = even + v * (np.maximum(even, np.minimum(i, left / k)) - even) if k < rest else even
        columns.append(c)
        if k < rest:
            columns.append(np.maximum(0.0, left - k * c) / (rest - k))
    return np.stack(columns, 1)


def _regrets(risk: Conditional, q: Array, counts: Sequence[int]) -> tuple[Array, Array, Array]:
    """Regrets of these distributions, and the levels that predict j and those that are free."""
    size = len(counts)
    weights = q * np.asarray(counts)
    wrong_value = np.full(len(q), np.inf)
    wrong = np.zeros(q.shape)
    for tied in _ties(size):
        merged, groups = _merged(size, tied)
        held = np.stack([weights[:, g].sum(1) for g in groups], 1)
        sizes = [sum(counts[g] for g in group) for group in groups]
        mean = np.stack([held[:, a] / sizes[a] for a in range(len(sizes))], 1)
        levels, value = risk.best(held, sizes, _starts(mean, 0), _predict_first)
        better = value < wrong_value
        wrong_value = np.where(better, value, wrong_value)
        wrong = np.where(better[:, None], levels[:, merged], wrong)
    free, value = risk.best(weights, counts, [*_starts(q, 0), wrong])
    return np.maximum(wrong_value - value, 0.0), wrong, free


def _predict_first(levels: Array) -> NDArray[np.bool_]:
    """Is j's level, the first, a largest?  A local minimum that is not the least may be the one."""
    return np.asarray((levels <= levels[:, :1] + 1e-9).all(1))


def _ties(size: int) -> list[tuple[int, ...]]:
    """What j may be tied with: the likeliest others, so many."""
    others = [g for g in range(size) if g != 1]
    return [tuple(others[:n]) for n in range(len(others) + 1)]


def _merged(size: int, tied: tuple[int, ...]) -> tuple[NDArray[Any], list[list[int]]]:
    """The level of each group, and the groups of each level, with ``tied`` at group 1's level."""
    groups = [[1, *tied], *([g] for g in range(size) if g != 1 and g not in tied)]
    level = [next(a for a, group in enumerate(groups) if g in group) for g in range(size)]
    return np.asarray(level), groups


def _starts(q: Array, favoured: int) -> list[Array]:
    """The logarithm of q, and near the vertex of one level."""
    logs = np.log(np.maximum(q, 1e-14))
    vertex = np.zeros(q.shape)
    vertex[:, favoured] = _FAR
    return [logs - logs.max(1, keepdims=True), vertex]


def _point(risk: Conditional, found: _Found) -> Point:
    q = _distributions([found], risk.setting.classes)
    counts = _counts(found.k, risk.setting.classes)
    _, wrong, free = _regrets(risk, q, counts)

    def spread(values: Array) -> tuple[float, ...]:
        return tuple(float(e) for e in np.repeat(values[0], counts))

    return Point(found.beta, found.regret, spread(q), spread(wrong), spread(free))
