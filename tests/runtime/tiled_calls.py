"""Calls of the tiled schedule in the interpreter: their launch, and their data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import tiled, tiled_gradients
from lossgen.runtime.waves import Panel

__all__ = ["ASIDE", "SMALL", "TILED", "draw", "launched"]

TILED: dict[str, Any] = {"schedule": "tiled", "backend": "triton"}
#: Products are put aside, and worked on by half of a tile.
ASIDE = tiled.Launch(rows=16, classes=16, features=16, warps=1, stages=1, part=8)
SMALL = tiled.Launch(rows=16, classes=16, features=16, warps=1, stages=1)


@contextmanager
def launched(
    launch: tiled.Launch = SMALL, splits: int = 2, panel: int = 2, sums: int = 2
) -> Iterator[None]:
    """Run with this launch; several programs share the work, as on a GPU."""
    stock = tiled.launch_of, tiled.n_splits, tiled_gradients.panel_of
    tiled.launch_of = lambda *_: launch
    tiled.n_splits = lambda row_tiles, class_tiles, processors: min(splits, class_tiles)
    tiled_gradients.panel_of = lambda work, budget, processors: Panel(panel, sums)
    try:
        yield
    finally:
        tiled.launch_of, tiled.n_splits, tiled_gradients.panel_of = stock


def draw(
    rows: int = 37, features: int = 20, classes: int = 75, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """hidden, weight, bias, target; two row tiles and some, a D and a V that no tile divides."""
    g = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, features, generator=g).to(dtype).requires_grad_()
    weight = (torch.randn(classes, features, generator=g) / 2).to(dtype).requires_grad_()
    bias = torch.randn(classes, generator=g).to(dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(0, classes, (rows,), generator=g)
