"""How much the results of a row change if its numbers do: the kappa of a row's certificate.

``unit`` is what an error of a number is relative to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath as mp
import numpy as np

from lossgen.ir.rows import Row, rows_limit, rows_mpmath
from lossgen.ir.stages import GradedLoss, Pivot, StableLoss

__all__ = ["of_parameters", "of_streams", "scales", "sensitivity", "spread"]

Unit = Callable[[Any], Any]
_ULP = 2.0**-23


def spread(row: Row, stable: StableLoss) -> float:
    """The largest distance of two logits: how much an exponential amplifies."""
    names = stable.vocabulary.streams
    rows = [[v for v in row.along()[n] if np.isfinite(v)] for n in names]
    return max(max(r) - min(r) for r in rows)


def sensitivity(stable: StableLoss, row: Row, gradients: list[list[Any]]) -> Any:
    """Σ |v·dL/dv| over the logits, measured from their value at y, or from the largest."""
    total = mp.mpf(0)
    for gradient, stream in zip(gradients, stable.gradients, strict=True):
        values = row.along()[stream.stream]
        centre = values[row.y] if np.isfinite(values[row.y]) else max(values)
        centre = 0.0 if stable.pivot is Pivot.NONE else centre
        total += mp.fsum(
            abs((v - centre) * g) for v, g in zip(values, gradient, strict=True) if np.isfinite(v)
        )
    return total


def scales(row: Row) -> float:
    """How far parameters stretch the exponents: x/T and q·x round T or q times as often."""
    return max(
        (max(abs(v), 1 / abs(v)) if v else 0.0 for v in row.parameters.values()), default=0.0
    )


def of_parameters(
    before: GradedLoss,
    row: Row,
    results: list[Any],
    gradients: list[list[Any]],
    unit: Unit,
) -> tuple[list[float], float]:
    """Relative change of results and gradient per relative change of a parameter or row input."""
    of_loss, of_gradient = [0.0] * len(results), 0.0
    flat = [g for gradient in gradients for g in gradient]
    largest = max(abs(g) for g in flat)
    for name, value in (*row.parameters.items(), *row.rows.items()):
        if not value:
            continue
        changed = {name: value * (1 + 2.0**-40)}
        if name in row.rows:
            moved = replace(row, rows={**row.rows, **changed})
        else:
            moved = replace(row, parameters={**row.parameters, **changed})
        try:
            shifted, slopes = rows_mpmath(before, moved)
        except (ZeroDivisionError, ValueError):
            continue
        for k, (after, value_) in enumerate(zip(shifted, results, strict=True)):
            if value_:
                of_loss[k] += float(abs(after - value_) / unit(value_) * 2**40)
        if largest:
            after_flat = [g for gradient in slopes for g in gradient]
            change = max(abs(a - b) for a, b in zip(after_flat, flat, strict=True))
            of_gradient += float(change / unit(largest) * 2**40)
    return of_loss, of_gradient


def of_streams(before: GradedLoss, row: Row, gradients: list[list[Any]], unit: Unit) -> list[float]:
    """How many ulp each gradient moves if the numbers of several rows do by one: what nearly equal
    softmaxes have apart."""
    none = [0.0] * len(gradients)
    if not row.streams:
        return none
    streams = {n: _shaken(v, -1) for n, v in row.streams.items()}
    truth = rows_limit(before, replace(row, x=_shaken(row.x, 1), streams=streams))
    if truth is None:
        return none
    return [
        float(
            max(abs(a - b) for a, b in zip(moved, gradient, strict=True))
            / unit(max(abs(g) for g in gradient))
            / _ULP
        )
        for moved, gradient in zip(truth[1], gradients, strict=True)
    ]


def _shaken(values: tuple[float, ...], sign: int) -> tuple[float, ...]:
    return tuple(v * (1 + sign * (-1) ** j * _ULP) for j, v in enumerate(values))
