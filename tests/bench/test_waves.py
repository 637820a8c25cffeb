"""How busy the tiled kernels keep a GPU, from the sizes of their grids; and what they take."""

from __future__ import annotations

import pytest

from lossgen.runtime.tile_shapes import launch_of
from lossgen.runtime.waves import (
    PANEL_BYTES,
    Panel,
    Work,
    gradient_shares,
    n_splits,
    panel_of,
    sweep_share,
)

ROWS = (2048, 4096, 8192, 16384)
PROCESSORS = 132  # H100, H200
#: Features and classes of the last layers of Llama 3 and Gemma 2.
HEADS = ((4096, 128256), (2304, 256000))
KINDS = {"light": (1, 1, 7), "heavy": (1, 1, 40), "pair": (2, 2, 40)}


def work_of(kind: str, rows: int, features: int, classes: int) -> Work:
    gradient, product = (
        launch_of(role, 2, *KINDS[kind], "sm_90") for role in ("gradient", "product")
    )
    return Work(rows, classes, features, 2, gradient, product, products=KINDS[kind][1])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("features", "classes"), HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_keeps_the_processors_busy(
    kind: str, features: int, classes: int, rows: int
) -> None:
    launch = launch_of("sweep", 2, *KINDS[kind], "sm_90")
    assert sweep_share(rows, classes, launch, PROCESSORS) >= 0.93


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("features", "classes"), HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_keep_the_processors_busy(
    kind: str, features: int, classes: int, rows: int
) -> None:
    """Each of the three kernels; what is left of a wave weighs less than another pass over the sums
    for hidden, of which there are few where there are few features."""
    work = work_of(kind, rows, features, classes)
    shares = gradient_shares(work, panel_of(work, None, PROCESSORS), PROCESSORS)
    assert min(shares.values()) >= (0.95 if features == 4096 else 0.87), shares
    assert len(shares) / sum(1 / share for share in shares.values()) >= 0.94, shares


def test_products_of_gradients_are_two_for_each_product_of_the_sweep() -> None:
    """8·N·V·D operations where the whole tiles fit: 2 forward, 2 for the logits again, 2 and 2."""
    work = work_of("light", 128 * 132, 4096, 128 * 132)
    found = gradient_shares(work, Panel(132, 1), PROCESSORS)
    assert found == {"gradient": 1.0, "hidden": 1.0, "weight": 1.0}


@pytest.mark.parametrize("budget", [None, 1 << 26, 1 << 28, 1 << 30, 1 << 34])
@pytest.mark.parametrize("rows", [128, 2048, 16384])
def test_a_panel_fits_its_budget(rows: int, budget: int | None) -> None:
    """Its gradients and the sums for hidden; where that is too little, the least there can be."""
    work = work_of("light", rows, 4096, 128256)
    sums, column = 4 * rows * 4096, 2 * rows * work.gradient.classes
    panel = panel_of(work, budget, PROCESSORS)
    allowed = PANEL_BYTES + sums if budget is None else budget
    if allowed < sums + column:
        assert panel == Panel(1, 1)
    else:
        assert panel.sums * sums + panel.tiles * column <= allowed


@pytest.mark.parametrize("row_tiles", [1, 3, 16, 128, 1000])
@pytest.mark.parametrize("class_tiles", [1, 2, 125, 501])
def test_a_sweep_is_split_into_parts_that_there_are(row_tiles: int, class_tiles: int) -> None:
    assert 1 <= n_splits(row_tiles, class_tiles, PROCESSORS) <= class_tiles
    assert n_splits(row_tiles, class_tiles, 1) == 1
