"""T(β) of losses, as numbers and as one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lossgen.errors import BuildError
from lossgen.extras import require
from lossgen.properties.conditional import conditional
from lossgen.properties.consistency import transform
from lossgen.properties.model import number
from lossgen.properties.setting import setting
from lossgen.properties.sheet import spec_at
from lossgen.properties.table import without_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Transforms", "drawn", "transforms"]

BETAS = tuple(k / 20 for k in range(1, 20))


class NoTransform(BuildError):
    id = "LG323"
    template = "{loss} has no transform T: {reason}"


@dataclass(frozen=True, repr=False)
class Transforms:
    """T of each loss at the same β; as text a table."""

    at: tuple[float, ...]
    classes: int
    curves: Mapping[str, tuple[float, ...]]

    def __str__(self) -> str:
        wide = [max(12, len(label) + 2) for label in self.curves]
        head = "".join(f"{label:>{w}}" for label, w in zip(self.curves, wide, strict=True))
        lines = [f"{'β':>8}{head}"]
        for k, beta in enumerate(self.at):
            cells = zip(self.curves.values(), wide, strict=True)
            lines.append(f"{beta:>8g}" + "".join(f"{number(c[k]):>{w}}" for c, w in cells))
        return "\n".join([*lines, f"least regret found, of {self.classes} classes"])

    __repr__ = __str__


def transforms(
    losses: Sequence[tuple[str | Path, Mapping[str, float]]],
    classes: int,
    betas: Sequence[float] = (),
) -> Transforms:
    """T of losses with these parameters.

    Raises:
        NoTransform: it needs a single label.
        LossgenError: no such loss, a value outside its domain.
    """
    betas = betas or BETAS
    curves = {}
    for loss, values in losses:
        spec = spec_at(loss, values)
        reason = without_label(spec) if not spec.outputs else "does not apply: several outputs"
        if reason:
            raise NoTransform(loss=spec.name, reason=reason.removeprefix("does not apply: "))
        risk = conditional(setting(spec, values, max(classes, spec.min_classes), neutral=True))
        label = " ".join([spec.name, *(f"{k}={v:g}" for k, v in values.items())])
        curves[label] = tuple(point.regret for point in transform(risk, betas))
    return Transforms(tuple(betas), classes, curves)


def drawn(found: Transforms) -> Figure:
    """One figure of the curves."""
    require("plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, values in found.curves.items():
        axes.plot((0.0, *found.at), (0.0, *values), label=label, linewidth=1.6)
    axes.set_xlabel("zero-one regret β")
    axes.set_ylabel("T(β), surrogate regret")
    axes.set_title(f"{found.classes} classes", fontsize="medium")
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
