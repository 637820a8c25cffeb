"""How much the results of a row change if its numbers do: the kappa of a row's certificate, times
what an error is relative to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mpmath as mp
import numpy as np
from sympy import Dummy, Expr, Float, Symbol

from lossgen.ir.literal import Truth
from lossgen.ir.rows import Row
from lossgen.ir.stages import Pivot, StableLoss
from lossgen.ir.statistics import Form
from lossgen.passes.truth import digits, true_row
from lossgen.spec.domain import Interval
from lossgen.spec.model import LossSpec

__all__ = [
    "of_gradient",
    "of_loss",
    "of_roundings",
    "only_apart",
    "scales",
    "sensitivity",
    "shaken",
    "spread",
    "stretch",
]

_ULP = 2.0**-23
_STEP = 2.0**-40


def spread(row: Row, stable: StableLoss) -> float:
    """The largest distance of two logits: how much an exponential amplifies."""
    names = stable.vocabulary.streams
    rows = [[v for v in row.along()[n] if np.isfinite(v)] for n in names]
    return max((max(r) - min(r) for r in rows if r), default=0.0)


def sensitivity(stable: StableLoss, row: Row, truth: Truth) -> Any:
    """Σ |v·dL/dv| over the logits, measured from their value at y, or from the largest."""
    total = mp.mpf(0)
    for stream in stable.gradients:
        values = row.along()[stream.stream]
        centre = values[row.y] if np.isfinite(values[row.y]) else max(values)
        centre = 0.0 if stable.pivot is Pivot.NONE else centre
        slopes = truth.gradients[stream.stream]
        total += mp.fsum(
            abs((v - centre) * g) for v, g in zip(values, slopes, strict=True) if np.isfinite(v)
        )
    return total


def scales(row: Row) -> float:
    """How far parameters stretch the exponents: x/T and q·x round T or q times as often."""
    return max(
        (max(abs(v), 1 / abs(v)) if v else 0.0 for v in row.parameters.values()), default=0.0
    )


def stretch(stable: StableLoss, row: Row) -> float:
    """The largest number that a softmax multiplies the logits by, at the row's parameters."""
    named = stable.vocabulary.parameters
    values = {named[n]: Float(v) for n, v in row.parameters.items() if n in named}
    rows = tuple(pair[0] for pair in stable.vocabulary.streams.values())
    found = (slope.xreplace(values) for slope in _slopes(stable.forms, rows))
    return max((abs(float(s)) for s in found if s.is_Number), default=1.0)


@lru_cache(maxsize=64)
def _slopes(forms: tuple[Form, ...], rows: tuple[Symbol, ...]) -> list[Expr]:
    return [f.scale * f.base.diff(symbol) for f in forms for symbol in rows]


def _moved(spec: LossSpec, row: Row) -> list[Truth]:
    """The truth where one parameter or row input is a little larger, for each of them."""
    found = []
    for name, value in (*row.parameters.items(), *row.rows.items()):
        if not value or not np.isfinite(value) or _fixed(spec, name):
            continue
        changed = {name: value * (1 + _STEP)}
        if name in row.rows:
            moved = replace(row, rows={**row.rows, **changed})
        else:
            moved = replace(row, parameters={**row.parameters, **changed})
        truth = true_row(spec, moved)
        if truth is not None:
            found.append(truth)
    return found


def _fixed(spec: LossSpec, name: str) -> bool:
    """Does an input hold a few exact numbers only?"""
    entry = spec.inputs.get(name)
    return entry is not None and (entry.integer or bool(entry.values))


def of_loss(spec: LossSpec, row: Row, truth: Truth, k: int) -> Any:
    """How much a result moves per relative change of the parameters and row inputs."""
    if not spec.outputs:
        given = {**row.parameters, **row.rows}
        moves = [abs(v * truth.slopes[n]) for n, v in given.items() if v and not _fixed(spec, n)]
        return mp.fsum(moves) if all(map(mp.isfinite, moves)) else mp.mpf(0)
    with mp.workdps(digits(row)):
        moved = _moved(spec, row)
        return mp.fsum(abs(t.results[k] - truth.results[k]) for t in moved) / _STEP


def of_gradient(spec: LossSpec, row: Row, truth: Truth, stream: str) -> Any:
    """The same for a gradient, the largest of its numbers, and how much it moves, per ulp, if the
    numbers of all rows do by one: what nearly equal softmaxes have apart."""
    with mp.workdps(digits(row)):
        own = truth.gradients[stream]
        moves = mp.fsum(_change(t.gradients[stream], own) for t in _moved(spec, row)) / _STEP
        rounded = of_roundings(spec, row)
        return moves + (_change(rounded.gradients[stream], own) / _ULP if rounded else 0)


def _change(one: list[Any], other: list[Any]) -> Any:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def of_roundings(spec: LossSpec, row: Row, apart: Collection[str] = frozenset()) -> Truth | None:
    """The truth of the row with every number moved by an ulp: what nearly equal rows have apart,
    and what is left of a loss that vanishes.  Of the rows ``apart`` nothing but differences is
    computed, which are exact: their numbers are as large as they are far from the largest."""
    return true_row(spec, shaken(spec, row, apart=apart))


def shaken(
    spec: LossSpec,
    row: Row,
    step: float = _ULP,
    least: float = 1.0,
    apart: Collection[str] = frozenset(),
) -> Row:
    """The row with every number moved by so much, up and down in turn.

    Logits count as ``least`` at least: whatever they are, their softmax is rounded to an ulp of
    itself.
    """
    streams = {
        n: v if _fixed(spec, n) else _shaken(v, -step, least, spec.inputs[n].domain, n in apart)
        for n, v in row.streams.items()
    }
    return replace(row, x=_shaken(row.x, step, least, None, "x" in apart), streams=streams)


def only_apart(stable: StableLoss) -> frozenset[str]:
    """The rows of logits that the program takes differences of, and nothing else: a common offset
    is in no number that it computes."""
    found, offset = set(), Dummy("d", real=True)
    for name, pair in stable.vocabulary.streams.items():
        moved = {symbol: symbol + offset for symbol in pair}
        bodies = [f.ell for f in stable.forms] + [m.body for m in stable.maxes]
        sums = [s.body for s in stable.sums if s.form is None]
        whole = (b.xreplace(moved) - b in (0, offset) for b in bodies)
        if all(whole) and all(b.xreplace(moved) == b for b in sums):
            found.add(name)
    return frozenset(found)


def _shaken(
    values: tuple[float, ...],
    size: float,
    least: float,
    domain: Interval | None,
    apart: bool,
) -> tuple[float, ...]:
    steps = [(-1) ** j * size for j in range(len(values))]
    centre = max((v for v in values if np.isfinite(v)), default=0.0) if apart else 0.0
    if domain is None or (np.isinf(domain.lo) and np.isinf(domain.hi)):
        return tuple(
            v + step * (max(abs(v - centre), least) or 1.0) if np.isfinite(v) else v
            for v, step in zip(values, steps, strict=True)
        )
    # What a domain begins with is exact: a weight of 0 beside an infinite logarithm is no 1e-7.
    moved = [v * (1 + step) for v, step in zip(values, steps, strict=True)]
    return tuple(m if domain.contains(m) else v for v, m in zip(values, moved, strict=True))
