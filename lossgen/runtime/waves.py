"""How the work of the tiled kernels is cut, so that the last programs leave few processors idle.

A GPU runs programs in rounds of one to a processor, and a round takes as long as its longest
program: what counts is rounds times the length of a program.  Everything here is integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from lossgen.runtime.tile_shapes import GROUP, Launch

__all__ = ["PANEL_BYTES", "Panel", "Work", "n_splits", "panel_of", "sweep_share"]

#: Of the gradients of a panel, unless memory_budget says otherwise.
PANEL_BYTES = 1 << 28
_MAX_SPLITS = 64
_MAX_SUMS = 8  # parts of the sums for hidden
_TILE, _BEGUN = 10, 1  # what a tile costs, and a program before its first: only their ratio counts
#: Multiplications in the time of a byte to or from memory, roughly the same on all GPUs that have
#: fast products: weighs the sums for hidden, which every panel reads and writes.
_PER_BYTE = 128


@dataclass(frozen=True)
class Work:
    """The gradient of one product: N rows, V classes, D features, and what makes it."""

    rows: int  # whole tiles
    classes: int
    features: int
    itemsize: int  # of the factors
    gradient: Launch
    product: Launch
    products: int = 1  # that the logits of one tile take


@dataclass(frozen=True)
class Panel:
    """The classes whose gradients exist at a time, in tiles; and parts of the sums for hidden."""

    tiles: int
    sums: int


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _sweep_length(row_tiles: int, class_tiles: int, splits: int, processors: int) -> int:
    """Tiles that one processor does after the other."""
    return _up(row_tiles * splits, processors) * _up(class_tiles, splits)


def n_splits(row_tiles: int, class_tiles: int, processors: int) -> int:
    """Programs to a tile of rows in a sweep.

    Enough for GROUP tiles of rows to fill the processors: programs side by side then share what
    they read of hidden, too.
    """
    fewest = min(class_tiles, _up(processors, GROUP))
    most = min(class_tiles, max(_MAX_SPLITS, processors))

    def cost(splits: int) -> tuple[int, int]:
        rounds = _up(row_tiles * splits, processors)
        length = _sweep_length(row_tiles, class_tiles, splits, processors)
        return length * _TILE + rounds * _BEGUN, splits

    return min(range(fewest, most + 1), key=cost)


def sweep_share(rows: int, classes: int, launch: Launch, processors: int) -> float:
    """Of the processors' time in a sweep, how much is spent on classes that there are."""
    row_tiles, class_tiles = _up(rows, launch.rows), _up(classes, launch.classes)
    splits = n_splits(row_tiles, class_tiles, processors)
    spent = _sweep_length(row_tiles, class_tiles, splits, processors)
    return rows * classes / (spent * processors * launch.rows * launch.classes)


def lengths(work: Work, panel: Panel, processors: int) -> dict[str, int]:
    """Multiplications that one processor does after the other, of each kernel in all panels."""
    all_tiles, found = _up(work.classes, work.gradient.classes), dict.fromkeys(_PARTS, 0)
    for first in range(0, all_tiles, panel.tiles):
        tiles = min(panel.tiles, all_tiles - first)
        for part, length in _lengths(work, tiles, panel.sums, processors).items():
            found[part] += length
    return found


_PARTS = ("gradient", "hidden", "weight")


def _lengths(work: Work, tiles: int, sums: int, processors: int) -> dict[str, int]:
    """The same, of a panel of ``tiles``."""
    gradient, product = work.gradient, work.product
    width, wide = tiles * gradient.classes, _up(work.features, product.classes)
    made = _up(work.rows // gradient.rows * tiles, processors)
    to_hidden = _up(_up(work.rows, product.rows) * wide * sums, processors)
    to_weight = _up(_up(width, product.rows) * wide, processors)
    tile, out = gradient.rows * gradient.classes, product.rows * product.classes
    share = _up(width // product.features, sums) * product.features
    return {
        "gradient": made * tile * work.features * work.products,
        "hidden": to_hidden * out * share,
        "weight": to_weight * out * work.rows,
    }


def panel_of(work: Work, budget: int | None, processors: int) -> Panel:
    """The panel that takes the least time of those that ``budget`` bytes hold, with the float32
    sums for hidden; where it holds none, the least. None: ``PANEL_BYTES`` and those sums."""
    return _best_panel(work, budget, processors)


@lru_cache
def _best_panel(work: Work, budget: int | None, processors: int) -> Panel:
    column = work.rows * work.gradient.classes * work.itemsize  # of one tile of classes
    sums_bytes = work.rows * work.features * 4
    budget = PANEL_BYTES + sums_bytes if budget is None else budget
    every = _up(work.classes, work.gradient.classes)

    def candidates() -> Iterable[Panel]:
        for sums in range(1, _MAX_SUMS + 1):
            most = min(every, (budget - sums * sums_bytes) // column)
            if most < 1:
                break
            for tiles in range(max(1, most // 2), most + 1):
                yield Panel(tiles, sums)

    def cost(panel: Panel) -> tuple[int, int, int]:
        whole, rest = divmod(every, panel.tiles)
        moved = 2 * panel.sums * sums_bytes * _PER_BYTE // processors
        full = sum(_lengths(work, panel.tiles, panel.sums, processors).values()) + moved
        last = sum(_lengths(work, rest, panel.sums, processors).values()) + moved if rest else 0
        return whole * full + last, panel.sums, panel.tiles

    return min(candidates(), key=cost, default=Panel(1, 1))


def gradient_shares(work: Work, panel: Panel, processors: int) -> dict[str, float]:
    """Of the processors' time in each kernel, how much is spent on what there is."""
    needed = work.rows * work.classes * work.features
    times = {"gradient": work.products, "hidden": 1, "weight": 1}
    spent = lengths(work, panel, processors)
    return {part: needed * times[part] / (spent[part] * processors) for part in _PARTS}
