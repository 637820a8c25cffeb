"""T(β) of the comp-sum losses Φ_τ(1/p_y − 1), as far as it has a formula."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np


def paper(tau: float, classes: int, beta: float) -> float:
    """Mao, Mohri, Zhong 2023, theorem 3.1: a lower bound of T, and T itself for τ in [0, 1]."""
    if tau >= 2:
        return beta / ((tau - 1) * classes ** (tau - 1))
    if tau > 1:
        return (mean(tau, beta) - 1) / ((tau - 1) * classes ** (tau - 1))
    return two_point(tau, beta)


def two_point(tau: float, beta: float) -> float:
    """Of q = ((1 + β)/2, (1 − β)/2), predicting the second at a tie: the paper's for τ ≤ 1.

    min_p Σ q·Φ(p) has p_k ∝ q_k^a with a = 1/(2 − τ), so that the regret at p = (1/2, 1/2) is
    2^(1−τ)/(1−τ)·[1 − mean], for 1 < τ < 2 too.
    """
    if tau == 1:
        return sum((1 + s * beta) / 2 * math.log1p(s * beta) for s in (1, -1))
    return 2 ** (1 - tau) / (1 - tau) * (1 - mean(tau, beta))


def mean(tau: float, beta: float) -> float:
    a = 1 / (2 - tau)
    return (((1 + beta) ** a + (1 - beta) ** a) / 2) ** (2 - tau)


def concave(tau: float, classes: int, beta: float, steps: int = 60) -> float:
    """For τ ≥ 2 and three classes, by a grid over q.

    (1 − p^(τ−1))/(τ − 1) is concave in p: the best p is a vertex, and the best that predicts j is
    uniform on a set of classes with j in it.
    """
    assert classes == 3
    low, high = max(beta, (1 + beta) / 3), (1 + beta) / 2
    least = math.inf
    for i in np.linspace(low, high, steps):
        q = np.array([i, i - beta, 1 - 2 * i + beta])
        gains = [
            q[[1, *others]].sum() / (1 + len(others)) ** (tau - 1)
            for n in range(3)
            for others in combinations((0, 2), n)
        ]
        least = min(least, (i - max(gains)) / (tau - 1))
    return float(least)


def adversarial(tau: float, beta: float) -> float:
    """Of the smooth adversarial comp-sum losses, ibid. section 5: Φ_τ(1)·β."""
    return phi(tau, 1.0) * beta


def phi(tau: float, u: float) -> float:
    return math.log1p(u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
