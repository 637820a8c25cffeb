"""Where a loss is measured: parameter points at the ends of their domains, and adversarial rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Symbol

from lossgen.ir.rows import Row
from lossgen.ir.stages import GradedLoss, Pivot
from lossgen.spec.model import Input, LossSpec

__all__ = ["parameter_points", "sample_rows", "used_symbols"]


def parameter_points(spec: LossSpec, names: Iterable[str]) -> list[dict[str, float]]:
    """The defaults, and each parameter at and near the ends of its range (or else of its domain),
    one at a time."""
    chosen = list(names)
    defaults = {n: float(np.float32(spec.parameters[n].default)) for n in chosen}
    points = [defaults]
    for name in chosen:
        entry = spec.parameters[name]
        domain, default = entry.tested, float(entry.default)
        low = domain.lo if np.isfinite(domain.lo) else -4.0 * max(1.0, abs(default))
        high = domain.hi if np.isfinite(domain.hi) else 4.0 * max(1.0, abs(default))
        step = (high - low) * 2.0**-10
        ends = [low + step if domain.lo_open else low, high - step if domain.hi_open else high]
        ends += [low + 0.37 * (high - low), low + 0.8 * (high - low)]
        for end in ends:
            value = float(round(end)) if entry.integer else float(np.float32(end))
            if domain.contains(value) and value != defaults[name]:
                points.append(defaults | {name: value})
    return points


def sample_rows(stable: GradedLoss) -> list[Row]:
    """Deterministic rows: confident, flat, wrong, masked, offset; the target masked, and far below
    the others in one row; every parameter point."""
    rng = np.random.default_rng(20230711)
    spec, names, size = stable.spec, stable.vocabulary, 7
    used = used_symbols(stable)
    points = parameter_points(spec, [n for n, s in names.parameters.items() if s in used])
    vocab, rows = {}, {}
    for name, entry in spec.inputs.items():
        if entry.kind == "class":
            continue
        low, high = entry.range or (0.2, 2.0)
        if entry.kind == "vocab":
            values = rng.uniform(low, high, size).astype(np.float32)
            vocab[name] = tuple(float(v) for v in values)
        else:
            rows[name] = float(np.float32(rng.uniform(low, high)))
    result = []
    for k, point in enumerate(points):
        # A parameter that is off has a variant of its own without it, and 0·∞ beside it.
        masks = all(spec.parameters[n].off != v for n, v in point.items())
        shapes = list(range(len(_ABOVE))) if k == 0 else [(1, 2, 4)[k % 3]]
        if stable.pivot is not Pivot.TARGET:
            shapes = [s for s in shapes if s != _CLOSE]
        for shape in shapes:
            x = rng.normal(0, 1.5, size)
            y = int(rng.integers(size))
            x[y] += _ABOVE[shape]
            if shape == 5:
                x *= 1e-3
            if shape == 3:
                x += 3000.0
            x = x.astype(np.float32)
            if shape == 6 and masks:
                x[(y + 1) % size] = -np.inf
            streams = {
                name: _stream(entry, x, shape, rng)
                for name, entry in spec.inputs.items()
                if entry.kind == "class"
            }
            result.append(Row(tuple(float(v) for v in x), y, vocab, rows, point, streams))
            logits = [n for n, e in spec.inputs.items() if e.kind == "class" and _is_free(e)]
            if k == 0 and shape == 0 and masks and logits:
                result += _with_targets_apart(result[-1], logits)
    return result


#: How far the target's logit is above the others, by shape of row.
_ABOVE = (0.0, 12.0, 40.0, 4.0, -12.0, 0.0, 20.0, 90.0, 8.0)
#: A second row that nearly agrees: for losses of a target, which are accurate when confident.
_CLOSE = 8


def _with_targets_apart(row: Row, logits: list[str]) -> list[Row]:
    """The row with a target that is masked, everywhere or in one place, or as good as masked."""
    found = []
    for value in (-np.inf, -1e4, -80.0):
        for names in [["x", *logits], *([n] for n in ["x", *logits] if logits)]:
            changed = {n: _with(row.along()[n], row.y, value) for n in names}
            x = changed.pop("x", row.x)
            found.append(replace(row, x=x, streams={**row.streams, **changed}))
    return found


def _with(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _is_free(entry: Input) -> bool:
    """Any number may stand in it: a second row of logits."""
    return not entry.range and not entry.domain


def _stream(
    entry: Input, x: NDArray[Any], shape: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """A second row beside the logits: near them, far from them, or within its range."""
    if not _is_free(entry):
        low, high = entry.range or (0.01, 1.0)
        values = rng.uniform(low, high, len(x))
        if entry.range is None:
            values /= values.sum()
    else:
        apart = (1.0, 1.0, 0.1, 1.0, 3.0, 1.0, 0.3, 1.0, 1e-3)[shape]
        values = np.where(np.isfinite(x), x, 0.0) + rng.normal(0, apart, len(x))
        values[~np.isfinite(x)] = -np.inf
    return tuple(float(v) for v in values.astype(np.float32))


def used_symbols(stable: GradedLoss) -> set[Symbol]:
    found = stable.loss.free_symbols.union(*(e.free_symbols for e in stable.results))
    found = found.union(*(e.free_symbols for e in (*stable.coefficients, *stable.bases)))
    for form in stable.forms:
        found |= form.ell.free_symbols | form.ell_y.free_symbols
    for entry in stable.sums:
        found |= entry.body.free_symbols
    return found
