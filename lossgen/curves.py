"""Losses side by side: the loss of a row, and its slope by the target's logit, over p_y or over z.

    lossgen.compare("gce", "focal")        a table, as text
    lossgen.compare(("gce", {"q": 0.3}), "-logp[y]", over="z").curves

A row has the target's logit where it gives the p_y wanted, and 0 at every other class; z is
logsumexp of the others − x_y, so that p_y = 1 / (1 + e^z).  Inputs that a loss requires and nobody
gave are filled in, as ``Comparison.assumed`` says.  Computed in float64, in torch operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossgen import paths
from lossgen.cache import load
from lossgen.errors import BuildError
from lossgen.inline import loss as loss_of
from lossgen.runtime import Input, RowLoss

__all__ = ["Comparison", "Curve", "Entry", "compare", "declared"]

Function = Callable[..., Any]
Entry = str | Path | Function | tuple[str | Path | Function, Mapping[str, Any]]
_AT: dict[str, tuple[float, ...]] = {
    "p": (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999),
    "z": (-8, -6, -4, -2, 0, 2, 4, 6, 8),
}
_MEANING = {"p": "p_y", "z": "z"}
_LIKELY = 0.9  # of the target, in a second row of logits or in soft labels


class NotComparable(BuildError):
    id = "LG318"
    template = "cannot compare {what}: {problem}"


@dataclass(frozen=True)
class Curve:
    """One loss at each point, and its derivative by the target's logit."""

    label: str
    loss: tuple[float, ...]
    gradient: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """What ``compare`` found; as text a table."""

    over: str  # "p" or "z"
    at: tuple[float, ...]  # p_y, or z
    classes: int
    curves: tuple[Curve, ...]
    assumed: tuple[str, ...]  # inputs that were filled in

    def __str__(self) -> str:
        wide = [max(24, len(curve.label) + 2) for curve in self.curves]
        pairs = list(zip(self.curves, wide, strict=True))
        head = "".join(f"{curve.label:>{w}}" for curve, w in pairs)
        under = "".join(f"{'loss':>{w - 12}}{'d/dx_y':>12}" for w in wide)
        lines = [f"{'':8}{head}", f"{_MEANING[self.over]:>8}{under}"]
        for k, at in enumerate(self.at):
            cells = (f"{c.loss[k]:>{w - 12}.4g}{c.gradient[k]:>12.4g}" for c, w in pairs)
            lines.append(f"{at:>8g}{''.join(cells)}")
        lines.append(f"rows of {self.classes} classes, all but the target alike")
        return "\n".join([*lines, *self.assumed])

    __repr__ = __str__


def compare(
    *losses: Entry, over: str = "p", at: Sequence[float] | float | None = None, classes: int = 10
) -> Comparison:
    """The losses and their slopes at the same rows.

    Args:
        losses: each a catalogue name, the path of a spec, a formula, a function of logits and
            target (one number per row with ``reduction="none"``, or one per call), or a pair of
            one of these and its options: ``("gce", {"q": 0.3})``. A number for an input stands
            for a tensor of it.
        over: "p", the target's probability, or "z", the distance to the other classes.
        at: where, one point or several; by default nine.
        classes: of a row.

    Returns:
        The curves; ``print`` shows a table.

    Raises:
        LossgenError: no such loss, or one that is wrong.
        ValueError: points that are no probabilities, fewer than two classes.
    """
    if over not in _AT:
        raise ValueError(f"compare: over is 'p' or 'z', not {over!r}")
    if classes < 2:
        raise ValueError("compare: a row has at least two classes")
    chosen = _AT[over] if at is None else [at] if isinstance(at, (int, float)) else at
    points = tuple(map(float, chosen))
    if over == "p" and not all(0 < p < 1 for p in points):
        raise ValueError("compare: probabilities lie between 0 and 1, without the ends")
    if not losses:
        raise NotComparable(what="nothing", problem="name a loss")
    z = [math.log1p(-p) - math.log(p) for p in points] if over == "p" else points
    assumed: dict[str, None] = {}
    curves = [c for entry in losses for c in _curves(entry, z, classes, assumed)]
    return Comparison(over, points, classes, tuple(curves), tuple(assumed))


def declared(function: Function) -> RowLoss | None:
    """What a generated function declares; None of any other."""
    while isinstance(function, partial):
        function = function.func
    scope = getattr(function, "__globals__", {})
    return next((value for value in scope.values() if isinstance(value, RowLoss)), None)


def function_of(entry: str | Path | Function) -> Function:
    """A name, path or formula as the function of logits that it stands for."""
    if callable(entry):
        return entry
    if isinstance(entry, str) and paths.find_spec(entry) is None and _is_formula(entry):
        return loss_of(entry)
    module = load(entry)
    found = next(value for value in vars(module).values() if isinstance(value, RowLoss))
    if found.batched:
        problem = "it is a loss of a whole batch, and no curve of one row"
        raise NotComparable(what=module.BATCH.name, problem=problem)
    function: Function = getattr(module, found.function)
    return function


def _is_formula(text: str) -> bool:
    """Neither a name nor a path, which would be looked for."""
    return not text.isidentifier() and not text.endswith((".yaml", ".yml"))


def _curves(
    entry: Entry, z: Sequence[float], classes: int, assumed: dict[str, None]
) -> list[Curve]:
    source, options = entry if isinstance(entry, tuple) else (entry, {})
    function, label = function_of(source), _label(source, options)
    logits = torch.zeros(len(z), classes, dtype=torch.float64)
    logits[:, 0] = math.log(classes - 1) - torch.tensor(z, dtype=torch.float64)
    logits.requires_grad_()
    target = torch.zeros(len(z), dtype=torch.long)
    found = declared(function)
    if found is None:
        rows = partial(function, **options)
        each = zip(logits.split(1), target.split(1), strict=True)
        results = {"": torch.stack([rows(x, y).sum() for x, y in each])}
    else:
        results = _results(function, found, dict(options), logits, target, assumed)
    curves = []
    for name, values in results.items():
        (slope,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        curve = f"{label}.{name}" if name else label
        curves.append(Curve(curve, tuple(values.tolist()), tuple(slope[:, 0].tolist())))
    return curves


def _results(
    function: Function,
    loss: RowLoss,
    options: dict[str, Any],
    logits: Tensor,
    target: Tensor,
    assumed: dict[str, None],
) -> dict[str, Tensor]:
    """One number per row, by the name of the output."""
    preset = function.keywords if isinstance(function, partial) else {}
    given = {**preset, **options}
    streams = []
    for entry in loss.inputs:
        value = given.get(entry.name)
        if value is None and (entry.off is None or entry.kind == "class"):
            value = _filled(entry, logits.shape[1])
            assumed[f"{loss.name}: {entry.name} is {_said(entry, value)}"] = None
        if value is not None:
            given[entry.name] = _spread(value, entry, logits)
        if entry.kind == "class":
            streams.append(given.pop(entry.name))
    while isinstance(function, partial):
        function = function.func
    first = (logits, target) if loss.has_target else (logits,)
    options = {**given, "backend": "torch"}
    if loss.outputs:
        return dict(zip(loss.outputs, function(*first, *streams, **options), strict=True))
    return {"": function(*first, *streams, **options, reduction="none")}


def _filled(entry: Input, classes: int) -> Any:
    """A value for an input that has to be there: a number, or a row over the classes."""
    if entry.kind == "class":
        odds = torch.full((classes,), (1 - _LIKELY) / (classes - 1), dtype=torch.float64)
        odds[0] = _LIKELY
        return odds.log() if entry.domain.everything else odds
    wanted = 1.0 if entry.kind == "row" else 0.0
    choices = (wanted, 1 / classes if entry.hi <= 1 else 1.0, entry.lo, entry.hi)
    return next(v for v in choices if entry.domain.contains(v) and _among(v, entry))


def _among(value: float, entry: Input) -> bool:
    return not entry.values or value in entry.values


def _said(entry: Input, value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{value:g}"
    logits = entry.domain.everything
    return f"a row with p_y = {_LIKELY:g}" if logits else f"{_LIKELY:g} at the target"


def _spread(value: Any, entry: Input, logits: Tensor) -> Any:
    """A number as a tensor of the input's shape; a row over the classes as one for every row."""
    rows, classes = logits.shape
    shape = {"class": (rows, classes), "vocab": (classes,), "row": (rows,)}[entry.kind]
    value = torch.as_tensor(value, dtype=torch.long if entry.integer else torch.float64)
    return value.expand(shape) if value.ndim < len(shape) else value


def _label(source: str | Path | Function, options: Mapping[str, Any]) -> str:
    keywords: Mapping[str, Any] = {}
    while isinstance(source, partial):
        keywords = {**source.keywords, **keywords}
        source = source.func
    if callable(source):
        name = getattr(source, "__name__", type(source).__name__)
    else:
        name = Path(source).stem if isinstance(source, Path) or source.endswith(".yaml") else source
    said = [f"{k}={v:g}" for k, v in {**keywords, **options}.items() if isinstance(v, (int, float))]
    return " ".join([name, *said])
