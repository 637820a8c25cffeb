"""What the tiled schedule leaves out, how much memory it takes, and when it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.memory import Peak
from lossgen.losses import linear_cross_entropy_loss, linear_gce_loss, linear_logit_l2_loss
from lossgen.runtime import tiled, tiled_gradients
from lossgen.verify import interpreter
from tests.runtime.tiled_calls import ASIDE, SMALL, TILED, draw, launched


@pytest.fixture(autouse=True)
def _mended() -> None:
    interpreter.install()


# -------------------------------------------------------------------------- left out
def confident(scale: float, classes: int = 320) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose softmax has its mass on the target and, at a small ``scale``, a few others."""
    g = torch.Generator().manual_seed(3)
    weight = F.normalize(torch.randn(classes, 16, generator=g), dim=1).to(torch.bfloat16)
    target = torch.randint(0, classes, (32,), generator=g)
    hidden = scale * weight[target].float() + torch.randn(32, 16, generator=g)
    return hidden.to(torch.bfloat16).requires_grad_(), weight.requires_grad_(), target


def listed_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles of gradients each product takes, where some are left out."""
    found: list[int] = []
    real = tiled_gradients._listed

    def watched(*given: Any) -> tuple[Tensor, Tensor]:
        slots, n_slots = real(*given)
        found.append(int(n_slots.sum()))
        return slots, n_slots

    monkeypatch.setattr(tiled_gradients, "_listed", watched)
    return found


@pytest.mark.parametrize("launch", [SMALL, ASIDE])
def test_tiny_tiles_are_left_out(monkeypatch: pytest.MonkeyPatch, launch: tiled.Launch) -> None:
    hidden, weight, target = confident(40.0)
    counts = listed_tiles(monkeypatch)
    for wanted in ([hidden], [weight], [hidden, weight]):
        found = []
        for everything in (True, False):
            with launched(launch, panel=20):
                loss = linear_gce_loss(
                    hidden, weight, target, reduction="sum", filter=not everything, **TILED
                )
                found.append(torch.autograd.grad(loss, wanted))
        assert len(counts) == 2  # to hidden and to weight, of the filtered call
        assert max(counts) < 32  # of 40
        counts.clear()
        most = 320 * torch.finfo(torch.bfloat16).eps / 32  # of a row's derivatives, each below
        for exact, ours in zip(*found, strict=True):
            assert float((exact.float() - ours.float()).abs().max()) < most


@pytest.mark.parametrize(("tile", "rows"), [(16, 16), (16, 32), (32, 16), (8, 32)])
def test_tiles_are_listed_for_products_of_another_height(tile: int, rows: int) -> None:
    """A product takes a tile of gradients if any of its rows needs it."""
    alive = (torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) > 0.6).int()
    slots, n_slots = tiled_gradients._listed(alive, tile, rows)
    of_rows = alive.repeat_interleave(tile, 0)
    assert len(slots) == -(-len(of_rows) // rows)
    for k, (order, n) in enumerate(zip(slots.tolist(), n_slots.tolist(), strict=True)):
        needed = of_rows[k * rows : (k + 1) * rows].amax(0)
        assert order[:n] == needed.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (linear_cross_entropy_loss, {"label_smoothing": 0.01}),  # dense: 3e-5 for each class
        (linear_cross_entropy_loss, {"z_loss": 1e-7}),  # 8e-5 at the target, else nothing
        (linear_logit_l2_loss, {"weight": 1e-4}),
    ],
)
def test_small_derivatives_that_matter_are_not_left_out(
    call: Any, options: dict[str, float]
) -> None:
    """All are below eps/32 = 1.2e-4, on rows so sure that cross-entropy has no gradient."""
    hidden, weight, target = confident(400.0)
    exact = [t.detach().float().requires_grad_() for t in (hidden, weight)]
    wanted = torch.autograd.grad(call(*exact, target, reduction="sum", **options), exact)
    with launched():
        loss = call(hidden, weight, target, reduction="sum", **options, **TILED)
        found = torch.autograd.grad(loss, [hidden, weight])
    for ours, theirs in zip(found, wanted, strict=True):
        atol = 0.01 * float(theirs.abs().max())
        torch.testing.assert_close(ours.float(), theirs, rtol=0.02, atol=atol)


# -------------------------------------------------------------------------- memory
def test_memory_is_statistics_gradients_and_a_panel() -> None:
    """No tensor is as large as a chunk of logits; N·V is more than 50 times all of them."""
    rows, features, classes = 2048, 4, 16384
    hidden = torch.randn(rows, features, requires_grad=True)
    weight = torch.randn(classes, features, requires_grad=True)
    target = torch.randint(0, classes, (rows,))
    launch = tiled.Launch(128, 128, 16, 1, 1)
    splits, sums = 2, 1
    with launched(launch, splits, panel=1, sums=sums), Peak() as peak:
        linear_gce_loss(hidden, weight, target, **TILED).backward()
    gradients = (rows + classes) * features * 4
    panel = rows * launch.classes * 4 + sums * rows * features * 4
    by_row = 60 * rows * 4 + 2 * splits * rows * 4  # statistics, and the state of each split
    assert peak.peak <= 2 * gradients + panel + by_row
    assert rows * classes * 4 >= 50 * peak.peak


# -------------------------------------------------------------------------- what is chosen
def test_auto_is_tiled_where_a_chunk_would_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, target = draw()
    chosen: list[str] = []
    for name in ("chunked", "tiled"):
        module = import_module(f"lossgen.runtime.{name}")
        real = module.statistics

        def statistics(*args: Any, _real: Any = real, _name: str = name) -> Any:
            chosen.append(_name)
            return _real(*args)

        monkeypatch.setattr(module, "statistics", statistics)
    row = 75 * 4
    with launched(), torch.no_grad():
        for backend in ("triton", "torch"):
            for budget in (None, 256 * row, 255 * row):
                linear_gce_loss(hidden, weight, target, memory_budget=budget, backend=backend)
    assert chosen == ["chunked", "chunked", "tiled", "chunked", "chunked", "chunked"]
