"""From a bad row to worse ones: coordinate moves, counted and seeded, never timed.

x, y, inputs, parameters   →   the same but for one or two numbers
x   →   -size·sgn(dloss/dx)                    where a loss is small: sure rows, whatever its labels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mpmath as mp
import numpy as np

from lossgen.ir.rows import MASKED, Row
from lossgen.passes.points import parameter_points
from lossgen.passes.samples import drawn, drawn_number, is_free
from lossgen.passes.shapes import Shape
from lossgen.spec.model import LossSpec

__all__ = ["liked", "neighbours"]

_STEPS = (1e-2, 0.3, 2.0, 8.0)
#: How far mild rows are moved along their slopes.
_SURE = (-9.0, -15.0, 6.0)
_GOLDEN = 0.618
Generator = np.random.Generator
Move = Callable[[LossSpec, Row, Generator], Row]


def neighbours(spec: LossSpec, row: Row, count: int, rng: Generator) -> list[Row]:
    """``count`` rows that differ from ``row`` by one move each."""
    moves = [_logit, _logit, _gap]
    moves += [_tie, _relabel] if len(row.x) > 2 else []
    moves += [_closer, _stream_logit] if _free(spec, row) else []
    moves += [_inputs] if row.rows or row.vocab or len(_free(spec, row)) < len(row.streams) else []
    moves += [_parameter] if row.parameters else []
    return [moves[int(rng.integers(len(moves)))](spec, row, rng) for _ in range(count)]


def liked(row: Row, slopes: Sequence[Any]) -> list[Row]:
    """A mild row moved to where the loss is small, and to where it is large: to be sure of every
    label is to have followed the slope, whichever of the inputs holds it."""
    signs = np.array([float(mp.sign(s)) for s in slopes])
    apart = 1.0 + 0.2 * (np.arange(len(row.x)) * _GOLDEN % 1.0)  # no ties, where slopes vanish
    return [replace(row, x=_rounded(size * signs * apart)) for size in _SURE]


def _free(spec: LossSpec, row: Row) -> list[str]:
    return [n for n in row.streams if is_free(spec.inputs[n])]


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values.astype(np.float32))


def _stepped(values: tuple[float, ...], rng: Generator) -> tuple[float, ...]:
    """One number moved; what says no, by any convention of masking, keeps saying it."""
    moved, place = np.array(values), int(rng.integers(len(values)))
    step = rng.normal() * float(rng.choice(_STEPS))
    moved[place] += step if moved[place] > MASKED else 0.0
    return _rounded(moved)


def _logit(spec: LossSpec, row: Row, rng: Generator) -> Row:
    return replace(row, x=_stepped(row.x, rng))


def _gap(spec: LossSpec, row: Row, rng: Generator) -> Row:
    """All distances from the largest grow or shrink."""
    x = np.array(row.x)
    top, factor = x.max(), float(rng.choice([0.5, 0.8, 1.25, 2.0]))
    if not np.isfinite(top):
        return row
    near = x > MASKED
    x[near] = top + (x[near] - top) * factor
    return replace(row, x=_rounded(x))


def _tie(spec: LossSpec, row: Row, rng: Generator) -> Row:
    """One logit becomes another's equal."""
    x = list(row.x)
    one, other = rng.choice(len(x), 2, replace=False)
    x[int(one)] = x[int(other)]
    return replace(row, x=tuple(x))


def _relabel(spec: LossSpec, row: Row, rng: Generator) -> Row:
    return replace(row, y=int(rng.integers(len(row.x))))


def _closer(spec: LossSpec, row: Row, rng: Generator) -> Row:
    """A free class input comes nearer to the logits, or goes away from them."""
    name = str(rng.choice(_free(spec, row)))
    x, other = np.array(row.x), np.array(row.streams[name])
    both = (x > MASKED) & (other > MASKED)
    factor = float(rng.choice([0.1, 0.3, 3.0]))
    other[both] = x[both] + (other[both] - x[both]) * factor
    return replace(row, streams={**row.streams, name: _rounded(other)})


def _stream_logit(spec: LossSpec, row: Row, rng: Generator) -> Row:
    name = str(rng.choice(_free(spec, row)))
    return replace(row, streams={**row.streams, name: _stepped(row.streams[name], rng)})


def _inputs(spec: LossSpec, row: Row, rng: Generator) -> Row:
    """One input is drawn again."""
    free = _free(spec, row)
    names = [*row.rows, *row.vocab, *(n for n in row.streams if n not in free)]
    name = str(rng.choice(names))
    entry, holds = spec.inputs[name], int(rng.integers(6))
    if entry.kind == "row":
        return replace(row, rows={**row.rows, name: drawn_number(entry, row, rng, holds)})
    values = _rounded(drawn(entry, row, rng, Shape(holds=holds)))
    if entry.kind == "vocab":
        return replace(row, vocab={**row.vocab, name: values})
    return replace(row, streams={**row.streams, name: values})


def _parameter(spec: LossSpec, row: Row, rng: Generator) -> Row:
    """Another of the points at which parameters are tried."""
    points = parameter_points(spec, row.parameters)
    if min(row.x) <= MASKED:  # 0·∞ beside a parameter that is off, which has its own variant
        points = [p for p in points if all(spec.parameters[n].off != v for n, v in p.items())] or [
            dict(row.parameters)
        ]
    return replace(row, parameters=points[int(rng.integers(len(points)))])
