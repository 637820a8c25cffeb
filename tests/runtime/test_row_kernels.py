"""The row kernels, launched in every shape and alignment, against the torch backend in float64.

A launch takes the shape that fits its rows; here each shape is given rows of every length, and each
alignment rows that would allow a better one.  All tensors lie inside of larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import lossgen
from lossgen.bench.traffic import Traffic
from lossgen.runtime import launch, torch_backend
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch

CLASSES = (1, 2, 7, 8, 9, 63, 64, 65, 100, 129, 1000, 4097)
SHORTEST = 129  # class by class, the interpreter takes too long for more
SHAPES = ("long", "one tile", "short")
LEVELS = (0, 1, 2)
PAD = 8  # before and after each row; 16 bytes or 32, so that rows begin where they would without
ROWS = 6
GUARD = 777.0

#: Target apart, a vector of weights, the largest class apart and a stream, two sweeps that find a
#: largest class, several results, nothing but a largest class: with the parameters of a call.
LOSSES: dict[str, tuple[float, ...]] = {
    "gce": (0.7,),
    "cross_entropy": (0.1, 0.01),
    "kd_forward_kl": (2.0,),
    "dice": (0.5, 1.0),
    "token_stats": (),
    "crammer_singer": (1.0,),
}
Shaped = Callable[..., None]


# ------------------------------------------------------------------------------- calls
def guarded(like: Tensor, fill: float = GUARD) -> Tensor:
    """Memory for ``like`` in a larger tensor that holds ``fill``."""
    rows, classes = like.shape
    whole = torch.full((rows + 1, classes + PAD), fill, dtype=like.dtype)
    return whole.view(-1)[PAD:].as_strided(like.shape, (classes + PAD, 1), PAD)


def outside(view: Tensor) -> Tensor:
    """What of the larger tensor is not in ``view``."""
    size = view.untyped_storage().nbytes() // view.element_size()
    whole = view.as_strided((size,), (1,), 0)
    own = torch.zeros(size, dtype=torch.bool)
    own.as_strided(view.shape, view.stride(), view.storage_offset())[:] = True
    return whole[~own]


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` among NaN."""
    held = guarded(values.to(dtype), float("nan"))
    return held.copy_(values)


def rows_of(name: str, classes: int, dtype: torch.dtype) -> tuple[Variant, Batch]:
    """A plain row, one whose first tiles are masked, an ignored one, one with ties of the maximum
    in several tiles, one of masked classes only, and one whose target is the last class."""
    loss = lossgen.load(name).LOSS
    uses = {"weight"} if name == "cross_entropy" else set()
    variant = next(v for v in loss.variants if v.uses >= uses)
    g = torch.Generator().manual_seed(classes)
    x = 2 * torch.randn(ROWS, classes, generator=g)
    noise = torch.randn(ROWS, classes, generator=g)
    y = torch.randint(classes, (ROWS,), generator=g)
    y[1] = y[5] = classes - 1
    x[3, [0, classes // 2, classes - 1]] = x[3].max() + 1.0
    noise[3, [0, classes // 2, classes - 1]] = 0.0
    x[1, : 2 * classes // 3] = -torch.inf
    x[4] = -torch.inf
    logits = stored(x, dtype)
    streams = tuple(stored(logits + noise.to(dtype), dtype) for _ in variant.streams)
    if loss.has_target:
        y[2] = -100
        logits[2] = torch.nan
    inputs = tuple(torch.rand(classes, generator=g) for _ in variant.inputs)
    assert len(LOSSES[name]) == len(variant.parameters)
    return variant, Batch(
        logits,
        y if loss.has_target else None,
        streams,
        (False,) * len(streams),
        inputs,
        ("vocab",) * len(inputs),
        LOSSES[name],
        -100,
        tuple(loss.outputs),
    )


def slopes_of(batch: Batch) -> Tensor:
    shape = (batch.n_out, ROWS)
    return torch.linspace(-1.5, 2.0, batch.n_out * ROWS).reshape(shape)


def exact(variant: Variant, batch: Batch) -> tuple[Tensor, Tensor]:
    """Results and the gradient of the logits."""
    wide = replace(
        batch,
        logits=batch.logits.double(),
        streams=tuple(s.double() for s in batch.streams),
        inputs=tuple(i.double() for i in batch.inputs),
    )
    loss, saved = torch_backend.forward(variant, wide)
    (grad,) = torch_backend.backward(variant, wide, saved, slopes_of(batch).double(), [True])
    assert grad is not None
    return loss, grad


def close(what: str, found: Tensor, expected: Tensor, digits: float = 2.0**-23) -> None:
    """Relative to the largest of each row."""
    size = expected.abs().nan_to_num(0.0, 0.0, 0.0).amax(-1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(
        found.double() / size,
        expected / size,
        rtol=64 * 2.0**-23 + digits,
        atol=64 * 2.0**-23,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def check(name: str, classes: int, dtype: torch.dtype) -> None:
    """Forward, backward and fused against the torch backend; nothing beside them is written."""
    variant, batch = rows_of(name, classes, dtype)
    expected, slopes = exact(variant, batch)
    digits = torch.finfo(dtype).eps
    loss, saved = launch.forward(variant, batch)
    close(f"{name}, {classes} classes, forward", loss, expected)
    (grad,) = launch.backward(variant, batch, saved, slopes_of(batch), [True])
    assert grad is not None
    close(f"{name}, {classes} classes, backward", grad, slopes, digits)
    assert (outside(grad) == GUARD).all()
    if variant.fused_kernel is not None:
        out = guarded(batch.logits)
        loss = launch.fused(variant, batch, slopes_of(batch), [out])
        close(f"{name}, {classes} classes, fused", loss, expected)
        close(f"{name}, {classes} classes, fused gradient", out, slopes, digits)
        assert (outside(out) == GUARD).all()


@pytest.fixture
def shaped(monkeypatch: pytest.MonkeyPatch) -> Shaped:
    """Chooses the shape of all launches, the best alignment that they may take, and splits."""

    def choose(shape: str, level: int, splits: int = 1) -> None:
        def config(role: str, n_classes: int, *_: Any) -> launch.Config:
            if shape == "short":
                return launch.Config(16, 1, rows=4)
            if shape == "one tile":
                width = max(16, 1 << (n_classes + PAD - 1).bit_length())
                return launch.Config(width, 1, one_tile=role == "fused")
            return launch.Config(16 if n_classes <= SHORTEST else 2048, 1)

        def constants(*given: Any) -> dict[str, int]:
            found = stock(*given)
            return {**found, "ALIGNED": min(level, found["ALIGNED"])}

        monkeypatch.setattr(launch, "config", config)
        monkeypatch.setattr(launch, "shape", constants)
        monkeypatch.setattr(launch, "n_splits", lambda *_: splits)

    stock = launch.shape
    monkeypatch.setattr(launch, "empty_like", guarded)
    return choose


# ------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_shape(shaped: Shaped, name: str, shape: str, level: int, dtype: torch.dtype) -> None:
    shaped(shape, level)
    for classes in CLASSES:
        if level == 2 and classes % (16 // dtype.itemsize):
            continue  # not aligned
        if shape == "short" and (classes > SHORTEST or level > 0):
            continue
        check(name, classes, dtype)


@pytest.mark.parametrize("splits", [1, 2, 8])
@pytest.mark.parametrize("name", sorted({*LOSSES} - {"dice"}))
def test_split_rows(shaped: Shaped, name: str, splits: int) -> None:
    """Some programs have no tile at all, others only masked classes, or a tie of the maximum."""
    for level, classes in ((0, 9), (1, 100), (1, 129), (2, 64), (1, 4097)):
        shaped("long", level, splits)
        check(name, classes, torch.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("splits", [1, 2, 8])
def test_the_first_of_equal_maxima(shaped: Shaped, shape: str, level: int, splits: int) -> None:
    """Wherever the tiles, threads and programs meet: all of the gradient is on that class."""
    shaped(shape, level, splits)
    variant, batch = rows_of("crammer_singer", 64, torch.float32)
    assert batch.target is not None
    first = [3, 17, 30, 5, 47, 62]
    for row, at in enumerate(first):
        batch.logits[row] = 0.0
        batch.logits[row, [at, at + 1, 63]] = 1.0
        batch.target[row] = 0
    loss, saved = launch.forward(variant, batch)
    (grad,) = launch.backward(variant, batch, saved, torch.ones(1, ROWS), [True])
    assert grad is not None
    assert (loss == 2.0).all()
    assert grad.argmax(1).tolist() == first
    assert (grad > 0).sum(1).tolist() == [1] * ROWS


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["gce", "kd_forward_kl", "dice"])
def test_nothing_outside_of_a_row_is_read(
    shaped: Shaped, name: str, shape: str, level: int
) -> None:
    shaped(shape, level)
    for classes in (7, 64, 100):
        variant, batch = rows_of(name, classes, torch.bfloat16)
        read = {"logits": batch.logits, **{f"stream {k}": s for k, s in enumerate(batch.streams)}}
        size = batch.logits.untyped_storage().nbytes() // 2
        whole = {n: t.as_strided((size,), (1,), 0) for n, t in read.items()}
        with Traffic(whole) as traffic:
            _, saved = launch.forward(variant, batch)
            launch.backward(variant, batch, saved, slopes_of(batch), [True])
            launch.fused(variant, batch, slopes_of(batch), [guarded(batch.logits)])
        for key, tensor in read.items():
            like = traffic.loads[key].as_strided(tensor.shape, tensor.stride(), PAD)
            assert like.sum() == traffic.loads[key].sum() > 0
            assert traffic.written[key] == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["gce", "cross_entropy", "kd_forward_kl", "dice"])
def test_the_gradient_may_overwrite_the_logits(
    shaped: Shaped, name: str, shape: str, level: int
) -> None:
    shaped(shape, level)
    for classes in (1, 8, 65, 129):
        for dtype in (torch.bfloat16, torch.float32):
            variant, batch = rows_of(name, classes, dtype)
            out = guarded(batch.logits)
            loss = launch.fused(variant, batch, slopes_of(batch), [out])
            again = launch.fused(variant, batch, slopes_of(batch), [batch.logits])
            torch.testing.assert_close(again, loss, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(batch.logits, out, rtol=0, atol=0, equal_nan=True)
            assert outside(batch.logits).isnan().all()
