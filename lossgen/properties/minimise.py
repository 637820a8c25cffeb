"""Many small smooth problems at once: Levenberg and Marquardt's damped Newton steps, in a box.

    x ← x − (H + λ·I)⁻¹·g,   λ smaller where that went down, larger where it did not

A minimum at infinity (a probability of 0) is approached to the end of the box.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossgen.properties.setting import Array

__all__ = ["BOX", "ROUNDS", "Derivatives", "minimised", "polished"]

BOX = 40.0  # e^-40 is a probability of 0
ROUNDS = 60
_FLAT = 1e-13  # a slope that leads nowhere
#: Of the problems of these numbers: value, gradient and Hessian at one point each.
Derivatives = Callable[[Array, NDArray[np.int64]], tuple[Array, Array, Array]]


def minimised(derivatives: Derivatives, start: Array, rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Points [B, G] and values [B] where each problem's value is smallest, near its start."""
    x = np.clip(start, -BOX, BOX)
    count, size = x.shape
    every = np.arange(count)
    value, slope, bend = _finite(*derivatives(x, every))
    damping = np.full(count, 1e-2)
    eye = np.eye(size)
    open_ = np.isfinite(value)
    for _ in range(rounds):
        open_ &= np.abs(slope).sum(1) > _FLAT * (1 + np.abs(value))
        which = every[open_]
        if not len(which):
            break
        # against the slope, in units of its own size: a flat tail has neither slope nor bend
        unit = np.abs(slope[which]).max(1) + 1e-300
        damped = bend[which] + (damping[which] * unit)[:, None, None] * eye
        step = -_solved(damped, slope[which])
        step = np.where(np.isfinite(step), step, 0.0)
        longest = np.abs(step).max(1, initial=0.0)
        step *= np.minimum(1.0, 6.0 / np.maximum(longest, 1e-300))[:, None]
        tried = np.clip(x[which] + step, -BOX, BOX)
        moved = np.abs(tried - x[which]).max(1)
        new, new_slope, new_bend = _finite(*derivatives(tried, which))
        better = new < value[which]
        taken = which[better]
        x[taken], value[taken] = tried[better], new[better]
        slope[taken], bend[taken] = new_slope[better], new_bend[better]
        damping[which] *= np.where(better, 0.2, 8.0)
        done = (moved < 1e-11) | (damping[which] > 1e18)
        open_[which[done]] = False
    return x, value


def polished(
    derivatives: Derivatives, x: Array, value: Array, rounds: int = 26
) -> tuple[Array, Array]:
    """The same, moved along every direction of {-1, 0, 1} by halving steps.

    Where a formula has corners, Newton's steps stop short of a minimum at one; the edges between
    corners of maxima and hinges, x_i − x_j constant, run along these directions.
    """
    count, size = x.shape
    moves = np.array([m for m in product((0.0, 1.0, -1.0), repeat=size) if any(m)])
    step, every = np.full(count, 1.0), np.arange(count)
    for _ in range(rounds):
        tried = np.clip(x[:, None] + step[:, None, None] * moves, -BOX, BOX)
        values = derivatives(tried.reshape(-1, size), np.repeat(every, len(moves)))[0]
        values = np.where(np.isfinite(values), values, np.inf).reshape(count, len(moves))
        top = values.argmin(1)
        better = values[every, top] < value
        x = np.where(better[:, None], tried[every, top], x)
        value = np.where(better, values[every, top], value)
        step *= np.where(better, 1.0, 0.5)
    return x, value


def _solved(matrices: Array, vectors: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrices, vectors[..., None])[..., 0])
    except np.linalg.LinAlgError:  # one of them is singular
        return np.stack([np.linalg.pinv(m) @ v for m, v in zip(matrices, vectors, strict=True)])


def _finite(value: Any, slope: Any, bend: Any) -> tuple[Array, Array, Array]:
    """A row without a number is no minimum, and no step leads out of it."""
    bad = ~np.isfinite(value)
    slope = np.where(np.isfinite(slope), slope, 0.0)
    bend = np.where(np.isfinite(bend), bend, 0.0)
    return np.where(bad, np.inf, value), slope, bend
