"""Losses to look at: each loss and its slope, over p_y and over z, as one figure.

A loss alone is drawn as a family: several values of its first parameter, or of the one that is
named.  What is drawn is what ``lossgen.compare`` computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lossgen.curves import Comparison, Entry, compare, declared, function_of
from lossgen.errors import BuildError
from lossgen.extras import require
from lossgen.runtime.arguments import Parameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["family", "plot", "saved"]

_POINTS = 201
_PROBABILITIES = tuple((k + 0.5) / _POINTS for k in range(_POINTS))
_DISTANCES = tuple(16 * k / (_POINTS - 1) - 8 for k in range(_POINTS))
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of a default, where a domain has no two ends
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a domain that has
_MOST_ON_TOP = 8.0  # a loss that grows without bound is cut where the others can be seen
#: By format, what keeps the day out of the file.
_UNDATED: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


class UnknownFormat(BuildError):
    id = "LG320"
    template = "cannot draw {name}"
    advice = f"the name ends in {', '.join(_UNDATED)}"


class NoFamily(BuildError):
    id = "LG321"
    template = "{loss} has no parameter {name!r}"


def plot(
    *losses: Entry,
    vary: str | None = None,
    values: Sequence[float] = (),
    classes: int = 10,
    file: str | Path | None = None,
) -> Figure:
    """Draw losses and their slopes by the target's logit.

    Args:
        losses: as :func:`lossgen.compare` takes them.
        vary: the parameter that makes a family of each loss; by default the first, of one loss
            that is given alone.
        values: of that parameter; by default a few over its domain.
        classes: of a row.
        file: where to write the figure: .png, .svg or .pdf.

    Raises:
        MissingExtra: matplotlib is not installed.
        NoFamily, UnknownFormat, LossgenError: what cannot be drawn.
    """
    require("plot")
    if file is not None and Path(file).suffix not in _UNDATED:
        raise UnknownFormat(name=file)  # before the work
    entries = [e for loss in losses for e in family(loss, vary, values, alone=len(losses) == 1)]
    found = (
        compare(*entries, over="p", at=_PROBABILITIES, classes=classes),
        compare(*entries, over="z", at=_DISTANCES, classes=classes),
    )
    figure = _drawn(found, graded=len(losses) == 1 < len(entries))
    if file is not None:
        saved(figure, file)
    return figure


def saved(figure: Figure, file: str | Path) -> str | Path:
    """The figure in a file, without the day in it.

    Raises:
        UnknownFormat: by its name it is none of .png, .svg and .pdf.
    """
    if Path(file).suffix not in _UNDATED:
        raise UnknownFormat(name=file)
    figure.savefig(file, dpi=150, metadata=_UNDATED[Path(file).suffix])
    return file


def family(
    entry: Entry, vary: str | None = None, values: Sequence[float] = (), alone: bool = True
) -> list[Entry]:
    """The loss with several values of a parameter; as it is where it has none."""
    source, options = entry if isinstance(entry, tuple) else (entry, {})
    loss = declared(function_of(source))
    free = {p.name: p for p in (loss.parameters if loss else ()) if p.name not in options}
    if vary is None:
        first = next(iter(free.values()), None) if alone and not options else None
        if first is None:
            return [entry]
        return [(source, {first.name: value}) for value in values or _values(first)]
    if vary not in free:
        known = ", ".join(free) or "none"
        name = loss.name if loss else getattr(source, "__name__", str(source))
        raise NoFamily(loss=name, name=vary, hint=f"its parameters: {known}")
    return [(source, {**options, vary: value}) for value in values or _values(free[vary])]


def _values(parameter: Parameter) -> list[float]:
    """Over the domain, or around the default."""
    lo, hi, default = parameter.lo, parameter.hi, parameter.default
    if parameter.integer:
        around = [default + k for k in (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)]
    elif math.isfinite(hi - lo):
        around = [lo + (hi - lo) * k for k in _QUARTERS]
    else:
        around = [(default if math.isfinite(default) and default else 1.0) * k for k in _FACTORS]
    near = 0.1 * (hi - lo) if math.isfinite(hi - lo) else 0.0  # the default takes their place
    apart = [v for v in around if abs(v - default) > near or not math.isfinite(default)]
    wanted = {value for value in (*apart, default) if math.isfinite(value)}
    return sorted(value for value in wanted if parameter.domain.contains(value))


def _drawn(found: Sequence[Comparison], graded: bool) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    count = len(found[0].curves)
    colours = (
        [colormaps["viridis"](0.9 * k / max(1, count - 1)) for k in range(count)]
        if graded
        else [colormaps["tab10"](k % 10) for k in range(count)]
    )
    for column, comparison in enumerate(found):
        for curve, colour in zip(comparison.curves, colours, strict=True):
            style = {"color": colour, "label": curve.label, "linewidth": 1.6}
            axes[0][column].plot(comparison.at, curve.loss, **style)
            axes[1][column].plot(comparison.at, curve.gradient, **style)
        _finish(axes[0][column], "loss" if column == 0 else "")
        _finish(axes[1][column], r"$\partial\,$loss$\,/\,\partial x_y$" if column == 0 else "")
        axes[1][column].set_xlabel("$p_y$" if comparison.over == "p" else "$z$ (others − target)")
    axes[0][0].set_xlim(0, 1)
    axes[0][1].set_xlim(-8, 8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    below = "\n".join(found[0].assumed)
    if below:
        figure.supxlabel(below, fontsize="small", color="0.4")
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, count), frameon=False)
    return figure


def _finish(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -_MOST_ON_TOP), min(high, _MOST_ON_TOP))
