"""How the examples show what they find: options, the progress bar, a table, and a plot."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file, not a window

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

__all__ = ["curves", "figure", "parser", "progress", "session", "spread", "table"]

_COLOURS = ("#777777", "#0072b2", "#d55e00", "#009e73")


def parser(documentation: str | None, plot: str) -> argparse.ArgumentParser:
    """With ``--seeds`` and ``--plot``; the first line of the documentation describes it."""
    found = argparse.ArgumentParser(description=(documentation or "").splitlines()[0])
    found.add_argument("--seeds", type=int, default=5)
    found.add_argument("--plot", type=Path, default=Path(plot))
    return found


@contextmanager
def session(plot: Path) -> Iterator[Console]:
    """A console; says at the end that ``plot`` is written, and how long all took."""
    began = time.perf_counter()
    torch.set_num_threads(1)  # threads only get in the way of matrices this small
    console = Console()
    yield console
    console.print(f"{plot} written, {time.perf_counter() - began:.0f} s")


def progress(console: Console, unit: str) -> Progress:
    """A bar per task, counted in ``unit``."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def spread(values: Tensor, digits: int = 1) -> str:
    """``mean ± standard deviation`` of values [seeds]."""
    return f"{values.mean():.{digits}f} ± {_deviation(values):.{digits}f}"


def table(title: str, seeds: int, *columns: str) -> Table:
    """Without rows yet; the first column is text, the others are numbers."""
    count = f"{seeds} seeds" if seeds > 1 else "one seed"
    view = Table(title=title, caption=f"mean ± standard deviation of {count}")
    for k, column in enumerate(columns):
        view.add_column(column, justify="right" if k else "left")
    return view


@contextmanager
def figure(path: Path, title: str, x: str, y: str) -> Iterator[Axes]:
    """Labelled axes, written to ``path`` in the end."""
    canvas, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    canvas.savefig(path, dpi=150)
    plt.close(canvas)


def curves(axes: Axes, at: Sequence[float], results: dict[str, Tensor], style: str = "-") -> None:
    """Mean over the seeds of values [seeds, points], with a band of one standard deviation."""
    for (name, values), colour in zip(results.items(), _COLOURS, strict=False):
        mean, band = values.mean(0), _deviation(values)
        axes.plot(at, mean, style, color=colour, label=name, linewidth=1.8, markersize=4)
        axes.fill_between(at, mean - band, mean + band, color=colour, alpha=0.18, lw=0)


def _deviation(values: Tensor) -> Tensor:
    """Over the seeds, the first axis; 0 of a single one."""
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
