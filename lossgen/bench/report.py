"""Timing by interleaved rounds, and tables of what came out.

Machines drift: a candidate measured after another one sees other clocks, caches and neighbours.
So every round runs each candidate once, in an order that rotates, and two candidates are
compared by the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Timing", "markdown", "paired", "ratio", "rich_table"]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, in the order of the rounds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


def paired(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    seconds: float = math.inf,
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, Timing]:
    """Time every candidate ``rounds`` times, interleaved, each round in another order.

    Args:
        candidates: what to run, by name; each call does the whole work.
        rounds: samples per candidate.
        warmup: rounds that are thrown away (compilation, first touches of memory).
        seconds: no round after the third begins later than this; on a busy machine there are
            fewer rounds.
        measure: seconds of one call; default the wall clock.  A device is measured with events.
    """
    clock = measure or _wall
    names = list(candidates)
    samples: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for turn in range(warmup + rounds):
        if turn >= warmup + 3 and time.perf_counter() - began > seconds:
            break
        # In no fixed order: what one leaves of caches and free memory, another gets.
        for name in random.Random(turn).sample(names, len(names)):
            taken = clock(candidates[name])
            if turn >= warmup:
                samples[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times longer ``slow`` takes: the median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(slow.samples, fast.samples, strict=True))


def _wall(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal: the first column is text, the others are numbers."""
    from rich.table import Table  # a machine with a GPU may not have it

    table = Table(title=title)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as Markdown."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
