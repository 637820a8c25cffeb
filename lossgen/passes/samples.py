"""The rows a loss is measured on, adversarial ones.

They are confident in y and in another class, flat, tied, masked, offset, of one class and of many;
class inputs agree with the logits to five digits, contradict them, or are masks; inputs of few
values hold each of them, and integer inputs the target's number, another's, or each other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Symbol

from lossgen.ir.rows import MASKED, Row
from lossgen.ir.stages import GradedLoss
from lossgen.passes.points import parameter_points
from lossgen.passes.shapes import (
    ALONE,
    ALWAYS,
    CONFIDENT,
    LAST,
    PAIRS,
    PER_POINT,
    SOMETIMES,
    SPARED,
    Shape,
    counted,
)
from lossgen.spec.domain import Interval
from lossgen.spec.expr import Compare, Name, Number
from lossgen.spec.model import Input, LossSpec
from lossgen.spec.trees import nodes

__all__ = [
    "drawn",
    "drawn_number",
    "is_free",
    "plain_rows",
    "rows_masked_alone",
    "sample_rows",
    "used_symbols",
]

Array = NDArray[Any]


def sample_rows(stable: GradedLoss, seed: int = 20230711) -> list[Row]:
    """Deterministic rows: every shape at the default parameters, a few at every other point."""
    rng = np.random.default_rng(seed)
    spec, names = stable.spec, stable.vocabulary
    used = used_symbols(stable)
    points = parameter_points(spec, [n for n, s in names.parameters.items() if s in used])
    inputs = [n for n, e in spec.inputs.items() if e.off is None or n in stable.uses]
    specials = max((_specials(spec.inputs[n]) for n in inputs), default=0)
    shapes = [*ALWAYS, *(Shape(other=3.0, near=1.0, holds=k + 1) for k in range(specials))]
    shapes += [Shape(target=9.0, near=1e-2, holds=k + 1) for k in range(specials)]
    shapes += [Shape(masked=-np.inf, near=0.3, holds=k + 1) for k in range(min(2, specials))]
    shapes += counted(spec)
    taken, rows = 0, []
    for k, point in enumerate(points):
        # A parameter that is off has a variant of its own without it, and 0·∞ beside it.
        masks = all(spec.parameters[n].off != v for n, v in point.items())
        # Where one is 0, a term is left out that hides what the others lose.
        often = k and 0.0 in point.values() and 0.0 not in points[0].values()
        count = len(SOMETIMES) if often else PER_POINT
        some = [SOMETIMES[(taken + i) % len(SOMETIMES)] for i in range(count)]
        taken += count if k else 0
        some += [CONFIDENT, *([ALONE] if specials == 6 else [])]
        for shape in some if k else shapes:
            if shape.classes < spec.min_classes or (shape.masked and not masks):
                continue
            row = _drawn({n: spec.inputs[n] for n in inputs}, point, shape, rng)
            rows.append(row)
            logits = [n for n in row.streams if is_free(spec.inputs[n])]
            if k == 0 and shape is shapes[0] and masks and logits:
                rows += _with_targets_apart(row, logits)
    return [
        *rows,
        *_with_ends_apart(spec, {n: spec.inputs[n] for n in inputs}, points[0]),
        *_apart(spec, {n: spec.inputs[n] for n in inputs}, points),
    ]


def _apart(
    spec: LossSpec, inputs: Mapping[str, Input], points: Sequence[dict[str, float]]
) -> list[Row]:
    """Rows at the end of what float32 holds, where a parameter is 0: 0·∞; two classes; and masks
    at parameters that may leave a term out which hides the others, as sum(p**q) at q = 1."""
    rng = np.random.default_rng(29)
    zeros = [p for p in points[1:] if 0.0 in p.values() and 0.0 not in points[0].values()]
    found = [(point, shape) for point in zeros for shape in LAST]
    found += [(points[0], shape) for shape in PAIRS if shape.classes >= spec.min_classes]
    if any(_specials(entry) == 6 for entry in inputs.values()):
        found += [(point, SPARED) for point in points[1:]]
    return [_drawn(inputs, point, shape, rng) for point, shape in found]


def _with_ends_apart(
    spec: LossSpec, inputs: Mapping[str, Input], point: dict[str, float]
) -> list[Row]:
    """Rows that are sure of the one class, not y, that a mask holds; and rows whose numbers stand
    at other ends than their class inputs: what a mask leaves out may be all that 1/w or log(w)
    would spoil."""
    if all(_specials(e) == 0 for e in inputs.values() if e.kind != "row"):
        return []
    rng = np.random.default_rng(17)
    sure = [Shape(other=17.0, near=1.0, holds=6), Shape(other=40.0, near=1.0, holds=6)]
    sure += [Shape(other=22.0, near=1.0, holds=6, classes=2)] * (spec.min_classes <= 2)
    sure += [Shape(other=9.0, near=1.0, holds=6), Shape(other=6.0, near=1.0, holds=6)]
    sure += [Shape(target=17.0, near=1.0, holds=k + 1) for k in range(6)]
    sure += [Shape(other=17.0, near=1.0, holds=k) for k in (3, 5)]
    found = [_drawn(inputs, point, shape, rng) for shape in sure]
    numbers = [n for n, e in inputs.items() if e.kind == "row"]
    for holds in (1, 2, 4, 6) if numbers else ():
        row = _drawn(inputs, point, Shape(other=3.0, near=1.0, holds=holds), rng)
        for k in range(3):
            ends = {n: drawn_number(inputs[n], row, rng, k) for n in numbers}
            found.append(replace(row, rows=ends))
    return found


def rows_masked_alone(stable: GradedLoss) -> list[Row]:
    """Rows that mask a class which the class inputs do not, at the default parameters."""
    spec, rng = stable.spec, np.random.default_rng(3)
    names = [n for n, s in stable.vocabulary.parameters.items() if s in used_symbols(stable)]
    point = parameter_points(spec, names)[0]
    inputs = {n: e for n, e in spec.inputs.items() if e.off is None or n in stable.uses}
    if not any(e.kind == "class" and is_free(e) for e in inputs.values()):
        return []
    shape = Shape(masked=-np.inf, near=1.0, alone=True)
    return [_drawn(inputs, point, replace(shape, holds=k), rng) for k in range(4)]


def plain_rows(specs: Sequence[LossSpec], seed: int = 5) -> list[Row]:
    """Three ordinary rows with the inputs that these losses require, by name; no parameters.  A
    class input whose formulas tell its least number from others, as a list does, holds some."""
    rng = np.random.default_rng(seed)
    required = {n: e for spec in specs for n, e in spec.inputs.items() if e.off is None}
    least = max(spec.min_classes for spec in specs)
    shapes = (
        Shape(near=1.0, classes=max(5, least)),
        Shape(target=2.0, near=1.0, classes=max(4, least)),
        Shape(classes=max(3, least), near=1.0, other=1.0),
    )
    rows = [_drawn(required, {}, shape, rng) for shape in shapes]
    lists = {name: required[name] for spec in specs for name in _lists(spec) & {*required}}
    for name, entry in lists.items():
        for k, row in enumerate(rows):
            shortened = _with(row.streams[name], (row.y + 1) % len(row.x), _ends(entry)[0])
            rows[k] = replace(row, streams={**row.streams, name: shortened})
    return rows


def _lists(spec: LossSpec) -> set[str]:
    """The class inputs that a formula compares with their least number."""
    found = set()
    for node in (n for tree in spec.trees for n in nodes(tree)):
        if isinstance(node, Compare) and isinstance(node.left, Name):
            entry = spec.inputs.get(node.left.name)
            if entry is not None and entry.kind == "class" and isinstance(node.right, Number):
                found |= {node.left.name} if node.right.value == _ends(entry)[0] else set()
    return found


def _drawn(
    inputs: Mapping[str, Input],
    point: dict[str, float],
    shape: Shape,
    rng: np.random.Generator,
) -> Row:
    y = int(rng.integers(shape.classes))
    x = _logits(shape, y, rng)
    row = Row(tuple(float(v) for v in x), y, {}, {}, point)
    wide: dict[str, dict[str, tuple[float, ...]]] = {"class": {}, "vocab": {}}
    rows = {}
    for name, entry in inputs.items():
        if entry.kind == "row":
            rows[name] = drawn_number(entry, row, rng, shape.holds)
            continue
        values = drawn(entry, row, rng, shape)
        wide[entry.kind][name] = tuple(float(v) for v in values.astype(np.float32))
    return replace(row, vocab=wide["vocab"], rows=rows, streams=wide["class"])


def _logits(shape: Shape, y: int, rng: np.random.Generator) -> Array:
    size = shape.classes
    x = rng.normal(0, shape.scale, size)
    near, beside = (y + 1) % size, (y + 2) % size
    if shape.tied == "all":
        x[:] = x[0]
    x[y] += shape.target
    if size > 1:
        x[beside if beside != y else near] += shape.other
    if shape.tied == "top" and size > 2:
        x[near] = x[beside] = x.max() + 1.0
    elif shape.tied == "y":
        x[y] = x.max()
    x = (x + shape.offset).astype(np.float32)
    if shape.masked and size > 1:
        hidden = {
            "one": [near],
            "most": [j for j in range(size) if j not in (y, beside)],
            "y": [y],
        }[shape.mask]
        x[hidden] = shape.masked
    return x


# ---------------------------------------------------------------------------- inputs
def is_free(entry: Input) -> bool:
    """Any number may stand in it: a second row of logits."""
    return not (entry.range or entry.domain or entry.values or entry.integer)


def _specials(entry: Input) -> int:
    """How many special settings an input has."""
    if is_free(entry) and entry.kind == "class":
        return 0
    if entry.kind == "row":
        return len(entry.values) or (4 if entry.integer else 3)
    return 6


def _ends(entry: Input) -> tuple[float, float]:
    """The least and the greatest number that is drawn."""
    if entry.values:
        return entry.values[0], entry.values[-1]
    domain = entry.domain or Interval(0.2, 2.0, False, False)
    low, high = entry.range or (domain.lo, domain.hi)
    low = (high - 4.0 if np.isfinite(high) else -2.0) if not np.isfinite(low) else low
    high = low + 4.0 if not np.isfinite(high) else high
    step = (high - low) * 2.0**-10
    low += step if not domain.contains(low) else 0.0
    return low, high - (step if not domain.contains(high) else 0.0)


def drawn_number(entry: Input, row: Row, rng: np.random.Generator, holds: int = 0) -> float:
    """A row input: special setting number ``holds``, or (0) any."""
    low, high = _ends(entry)
    size = len(row.x)
    specials: list[float] = [low, high]
    if entry.values:
        specials = list(entry.values)
        value = float(rng.choice(specials))
    elif entry.integer:
        specials = [row.y, (row.y + 1) % size, 0, size - 1]
        value = float(rng.integers(size))
        if entry.range or entry.domain:
            specials, value = [low, high], float(rng.integers(int(low), int(high) + 1))
    else:
        zero = is_free(entry) or (entry.domain or Interval(low, high, False, False)).contains(0.0)
        specials += [0.0] if zero else []
        value = rng.uniform(low, high)
    chosen = specials[(holds - 1) % len(specials)] if holds else value
    return float(np.float32(chosen))


def drawn(entry: Input, row: Row, rng: np.random.Generator, shape: Shape) -> Array:
    """A class or vocab input of a row."""
    x, y = np.array(row.x), row.y
    if entry.kind == "class" and is_free(entry):
        return _second_row(x, rng, shape.near, shape.alone)
    low, high = _ends(entry)
    size = len(x)
    at = int(np.argmax(x))
    if entry.integer and not (entry.values or entry.range or entry.domain):
        low, high = 0.0, 2.0
        if shape.holds == 2:
            return np.arange(size, dtype=np.float64)
    if shape.holds:
        fill, own, place = (
            (low, low, y),
            (high, high, y),
            (high, low, y),
            (low, high, y),
            (high, low, at),
            (low, high, at),
        )[(shape.holds - 1) % 6]
        values = np.full(size, fill)
        values[place] = own
    elif entry.values:
        values = rng.choice(entry.values, size)
    elif entry.integer:
        values = rng.integers(int(low), int(high) + 1, size).astype(np.float64)
    elif entry.kind == "class" and entry.range is None:  # probabilities, or their logarithms
        values = rng.uniform(0.01, 1.0, size)
        values /= values.sum()
        values = np.log(values) if high <= 0 else values
        values = (
            values if low < values.min() and values.max() < high else rng.uniform(low, high, size)
        )
    else:
        values = rng.uniform(low, high, size)
    return values


def _second_row(x: Array, rng: np.random.Generator, near: float | None, alone: bool) -> Array:
    """A row of logits beside the first, which masks the same classes, unless it is ``alone``."""
    if near is None:
        values = rng.normal(0, 2.0, len(x))
        values[int(rng.integers(len(x)))] += 8.0
    else:
        values = np.where(np.isfinite(x), x, 0.0) + rng.normal(0, near, len(x)) * (near > 0)
    return values if alone else np.where(x > MASKED, values, x)


def _with_targets_apart(row: Row, logits: list[str]) -> list[Row]:
    """The row with a target that is masked, everywhere or in one place, or as good as masked."""
    found = []
    for value in (-np.inf, -1e4, -80.0):
        for names in [["x", *logits], *([n] for n in ["x", *logits])]:
            changed = {n: _with(row.along()[n], row.y, value) for n in names}
            x = changed.pop("x", row.x)
            found.append(replace(row, x=x, streams={**row.streams, **changed}))
    return found


def _with(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], value, *values[place + 1 :])


def used_symbols(stable: GradedLoss) -> set[Symbol]:
    found = stable.loss.free_symbols.union(*(e.free_symbols for e in stable.results))
    found = found.union(*(e.free_symbols for e in (*stable.coefficients, *stable.bases)))
    for form in stable.forms:
        found |= form.ell.free_symbols | form.ell_y.free_symbols
    bodies = [*(s.body for s in stable.sums), *(m.body for m in stable.maxes)]
    return found.union(*(body.free_symbols for body in bodies))
