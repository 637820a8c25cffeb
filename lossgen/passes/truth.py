"""What a row's numbers truly are, from the literal formula, and how the certificate judges them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any

import mpmath as mp

from lossgen.ir.literal import Truth, literal
from lossgen.ir.rows import COTANGENTS, MASKED, Row
from lossgen.spec.model import LossSpec

__all__ = ["FAR", "agree", "as_written", "digits", "is_dominated", "is_undone", "true_row"]

_MOST = 6000
_SAME = mp.mpf(10) ** -30
_LIKE = mp.mpf(10) ** -12
_LOWEST = -745.0  # its exponential is 0 in float64
_NEVER = -1e8  # -∞, by any convention of masking
FAR = 4.0  # p_y < 2 %
_EXTREME = 500.0  # no logit is as large
_NOTHING = mp.mpf(10) ** -45


def digits(row: Row) -> int:
    """Enough to take 1 - p of the most confident row that float32 has anything to say about."""
    spreads = [0.0]
    for values in (row.x, *row.streams.values()):
        near = [v for v in values if v > MASKED]
        spreads.append(max(near, default=0.0) - min(near, default=0.0))
    stretch = min(8.0, max((abs(v) for v in row.parameters.values()), default=1.0))
    return min(_MOST, 100 + int(0.45 * max(spreads) * max(1.0, stretch)))


def true_row(spec: LossSpec, row: Row, more: int = 0) -> Truth | None:
    """Results and derivatives, where they are real; ``more`` digits than usual.

    A masked class is the limit of one that is far below the others, and below what formulas write
    for -∞, as -1e9; farther in one row than in the other, if that is finite: 0·∞ is 0 where both
    rows mask it, and ∞ - ∞ is nothing.  How far they are from each other says nothing: what that
    decides, as a softmax over masked classes alone, is no number.
    """
    with mp.workdps(digits(row) + more):
        found: list[Truth] = []
        for far, apart in ((-1e12, 0.0), (-2e12, 0.1)):
            streams = {n: _floored(v, 1.5 * far, apart) for n, v in row.streams.items()}
            moved = replace(row, x=_floored(row.x, far, apart), streams=streams)
            truth = _literal(spec, moved)
            if truth is None or not truth.real:
                return None
            found.append(truth)
            if moved == row:
                return truth
        one, other = found
        return one if all(abs(a - b) <= _SAME for a, b in _pairs(one, other)) else None


def as_written(spec: LossSpec, row: Row) -> Truth | None:
    """The literal formula and its derivatives in float64, where they are real: what autograd of it
    gives, masked classes being at -1e6."""
    streams = {n: _floored(v, -1.5e6) for n, v in row.streams.items()}
    return _in_float64(spec, replace(row, x=_floored(row.x, -1e6), streams=streams))


def is_undone(spec: LossSpec, row: Row) -> bool:
    """Is the formula as it is written no number in float64: for classes at -∞, or so far below that
    their exponential is 0; or for an overflow of numbers as large as no logit is?"""
    streams = {n: _sunk(v) for n, v in row.streams.items()}
    sunk = replace(row, x=_sunk(row.x), streams=streams)
    held = [v for values in (sunk.x, *streams.values()) for v in values]
    if -inf in held and _in_float64(spec, sunk, bounded=False) is None:
        return True
    extreme = any(_EXTREME < abs(v) < inf for v in held)
    return extreme and _in_float64(spec, sunk) is None


def _in_float64(spec: LossSpec, row: Row, bounded: bool = True) -> Truth | None:
    """At its precision; ``bounded``: and no larger numbers than it has."""
    with mp.workprec(53):
        found = _literal(spec, row, double=bounded)
        return found if found is not None and found.real else None


def _floored(values: tuple[float, ...], far: float, apart: float = 0.0) -> tuple[float, ...]:
    """The masked at ``far``, each farther than the one before by ``apart`` of that."""
    return tuple(far * (1 + apart * k) if v <= _NEVER else v for k, v in enumerate(values))


def _sunk(values: tuple[float, ...]) -> tuple[float, ...]:
    least = max(values) + _LOWEST
    return tuple(v if v > least else -inf for v in values)


def _literal(spec: LossSpec, row: Row, double: bool = False) -> Truth | None:
    given = {**row.parameters, **row.rows, **row.vocab, **row.streams}
    try:
        weights = COTANGENTS if spec.outputs else (1.0,)
        return literal(spec, row.x, row.y, given, weights, double)
    except (ZeroDivisionError, ValueError, TypeError, OverflowError):
        return None


def _pairs(one: Truth, other: Truth) -> Iterator[tuple[Any, Any]]:
    yield from zip(one.results, other.results, strict=True)
    for name, slopes in one.gradients.items():
        yield from zip(slopes, other.gradients[name], strict=True)


def agree(one: Truth, other: Truth) -> bool:
    """Are they the same to a dozen digits?"""
    return all(abs(a - b) <= _LIKE * max(abs(a), abs(b)) + _NOTHING for a, b in _pairs(one, other))


def is_dominated(row: Row, stretch: float = 1.0) -> bool:
    """Is a class other than the target far above it, in the logits or beside them, or in exponents
    that are ``stretch`` times the logits?"""
    wide = (row.x, *row.streams.values())
    above = (v - values[row.y] for values in wide for v in values if values[row.y] > -inf)
    return max(above, default=inf) * max(1.0, stretch) > FAR
