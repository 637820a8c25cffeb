"""What a launch decides before a kernel runs."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

import lossgen
from lossgen.losses import gce_loss
from lossgen.runtime import launch, tuned
from lossgen.runtime.architectures import architecture_of, family_of
from lossgen.runtime.tile_shapes import Launch, launch_of


def test_the_configuration_of_each_kernel_is_computed_once(monkeypatch) -> None:
    """``fused`` asked for that of the forward three times where it split the rows: 4 of the 17 µs
    that a call takes before Triton."""
    asked, stock = [], launch.config

    def config(role, *rest):
        asked.append(role)
        return stock(role, *rest)

    monkeypatch.setattr(launch, "config", config)
    monkeypatch.setattr(launch, "processors", lambda logits: 132)
    x = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([7, 19_999])
    loss = gce_loss(x, y, backend="triton")
    (slope,) = torch.autograd.grad(loss, x)
    assert asked == ["fused", "forward", "backward"]
    gold = gce_loss(x, y)
    torch.testing.assert_close(loss, gold)
    torch.testing.assert_close(slope, torch.autograd.grad(gold, x)[0])


def test_a_thread_has_sixteen_classes_of_a_tile_that_is_reduced() -> None:
    """What is merged per tile costs as much as several classes; a tile that is written holds half,
    a long row is two tiles at least, and what takes many registers holds half, too."""
    chosen = launch.config("forward", 128_256)
    assert chosen.block == 16 * 32 * chosen.warps == 4096
    assert launch.config("forward", 128_256, hip=True).warps == chosen.warps // 2
    assert launch.config("backward", 128_256).block == 8 * 32 * 8
    assert launch.config("fused", 128_256).warps == 16
    sizes = (1000, 2047, 5000, 8191)
    assert [launch.config("forward", n).block for n in sizes] == [1024, 1024, 2048, 2048]
    narrow = launch.config("forward", 128_256, streams=1, heavy=True, narrow=True)
    assert narrow.block == 8 * 32 * narrow.warps == 1024


def test_what_is_narrow():
    """mart has a state of twelve numbers, unlikelihood 50 operations on a class."""
    variants = {
        name: lossgen.load(name).LOSS.variants[0] for name in ("gce", "mart", "unlikelihood")
    }
    assert [name for name, v in variants.items() if launch.is_narrow(v)] == ["mart", "unlikelihood"]


def test_what_was_measured_goes_before_what_is_counted(monkeypatch):
    """On its architecture alone; a row that is one tile keeps its tile."""
    rows = {("forward", 131072, False, False): (8192, 16), ("fused", 8192, False, False): (64, 4)}
    monkeypatch.setitem(tuned.ROWS, "sm_90", rows)
    monkeypatch.setitem(tuned.TILES, "sm_90", {("sweep", 2, "light"): (128, 128, 32, 4, 2, 0)})
    stock = launch.config("forward", 128_256)
    assert launch.config("forward", 128_256, architecture="sm_80") == stock
    chosen = launch.config("forward", 128_256, architecture="sm_90")
    assert (chosen.block, chosen.warps) == (8192, 16)
    assert launch.config("backward", 128_256, architecture="sm_90").block != 8192
    one_tile = launch.config("fused", 8000, architecture="sm_90")
    assert (one_tile.block, one_tile.warps) == (8192, 4)
    assert launch_of("sweep", 2, 1, 1, 7, "sm_90") == Launch(128, 128, 32, 4, 2)
    assert launch_of("sweep", 2, 2, 2, 7, "sm_90").part == 32
    assert launch_of("sweep", 2, 1, 1, 7, "sm_80").classes == 128


def test_architectures_belong_to_families():
    names = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "")
    families = ("ampere", "ampere", "hopper", "blackwell", "blackwell", "ampere", "hip", "hopper")
    assert tuple(family_of(name) for name in names) == families
    assert architecture_of(torch.device("cpu")) == ""


def test_a_profiler_is_told_which_loss_a_kernel_belongs_to() -> None:
    """All of them were _forward_kernel."""
    script = (
        "from lossgen.losses import gce; from lossgen.runtime.deferred import made; "
        "print(made(gce.LOSS.variants[0].forward_kernel).repr(None))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "gce_forward_kernel"
