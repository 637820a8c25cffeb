"""Where a loss as a library function goes wrong: labels' types, memory, scaling, devices."""

from __future__ import annotations

import gc
import math
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lossgen
from lossgen.losses import (
    balanced_softmax_loss,
    gce,
    gce_loss,
)
from lossgen.runtime import launch, torch_backend
from lossgen.runtime.batch import Batch

both = pytest.mark.parametrize("backend", ["torch", "c", "triton"])


def draw(n: int = 6, classes: int = 11) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return 3 * torch.randn(n, classes, generator=g), torch.randint(classes, (n,), generator=g)


# ------------------------------------------------------------------------------- labels
@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16])
@pytest.mark.parametrize("classes", [256, 300])
def test_labels_narrower_than_the_classes(backend: str, dtype: torch.dtype, classes: int) -> None:
    """V and ignore_index do not fit the type of the labels."""
    x, _ = draw(3, classes)
    y = torch.tensor([3, 100, 0])
    exact = gce_loss(x, y, reduction="none", backend=backend)
    assert torch.equal(gce_loss(x, y.to(dtype), reduction="none", backend=backend), exact)


def test_unsigned_label_is_not_ignore_index() -> None:
    x, _ = draw(2, 300)
    y = torch.tensor([156, 7])  # 156 is -100 modulo 256
    assert gce_loss(x, y.to(torch.uint8), reduction="none").count_nonzero() == 2


def test_out_of_range_is_loud_without_a_check() -> None:
    """On a GPU nobody looks at the labels before the launch; float64 uses torch there."""
    x, _ = draw(3)
    y = torch.tensor([1, 11, -1])
    variant = gce.LOSS.variants[0]
    rows = batch(x, y)
    loss, saved = torch_backend.forward(variant, rows)
    assert loss[0].isnan().tolist() == [False, True, True]
    (grad,) = torch_backend.backward(variant, rows, saved, torch.ones(1, 3), [True])
    assert grad is not None
    assert grad.isnan().all(1).tolist() == [False, True, True]
    out = torch.empty_like(x)
    loss = torch_backend.fused(variant, rows, torch.ones(1, 3), [out])
    assert loss[0].isnan().tolist() == [False, True, True]
    assert out.isnan().all(1).tolist() == [False, True, True]


def batch(x: Tensor, y: Tensor) -> Batch:
    """A call of gce with q = 0.7."""
    return Batch(x, y, (), (), (), (), (0.7,), -100, ())


# ------------------------------------------------------------------------------ scaling
@both
def test_float16_gradient_survives_loss_scaling(backend: str) -> None:
    """p / N underflows in float16; 65536 p / N, what a GradScaler asks for, does not."""
    x, y = draw(64, 500)
    half = x.half().requires_grad_()
    exact = half.detach().double().requires_grad_()
    (65536 * gce_loss(half, y, backend=backend)).backward()
    (65536 * gce_loss(exact, y)).backward()
    assert half.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=2e-3, atol=1e-6)


# ------------------------------------------------------------------------------- memory
@both
def test_inplace_grad_spares_expanded_logits(backend: str) -> None:
    """Rows that share memory cannot each hold a gradient."""
    _, y = draw()
    grads = []
    for inplace in (False, True):
        leaf = torch.linspace(-1, 1, 11).reshape(1, 11).requires_grad_()
        gce_loss((leaf * 2).expand(6, 11), y, backend=backend, inplace_grad=inplace).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1])


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_saved_logits_can_be_offloaded(backend: str, reduction: str) -> None:
    """Nothing but autograd's saved tensors may hold the logits."""
    x, y = draw()
    leaf = x.clone().requires_grad_()
    logits = leaf * 1.0
    alive = weakref.ref(logits.untyped_storage())
    store: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        store.append(tensor.detach().clone())
        return len(store) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda i: store[i]):
        loss = gce_loss(logits, y, reduction=reduction, backend=backend)
    del logits
    gc.collect()  # the interpreter's frames
    assert alive() is None
    loss.sum().backward()
    exact = x.clone().requires_grad_()
    gce_loss(exact, y, reduction=reduction, backend=backend).sum().backward()
    torch.testing.assert_close(leaf.grad, exact.grad)


def test_operators_take_any_strides() -> None:
    x, y = draw(11, 6)
    wide = x.t()  # [6, 11], class stride 6
    target = y[:6]
    call = (target, [], [], [0.7], -100, 0, "triton")
    loss, saved = gce.LOSS.operators.forward(wide, *call)
    torch.testing.assert_close(loss[0], gce_loss(wide, target, reduction="none", backend="triton"))
    (grad,) = gce.LOSS.operators.backward(torch.ones(1, 6), saved, [True], wide, *call)
    leaf = wide.clone().requires_grad_()
    gce_loss(leaf, target, reduction="sum", backend="triton").backward()
    torch.testing.assert_close(grad, leaf.grad)


# ------------------------------------------------------------------------------- device
def test_kernels_are_launched_on_the_device_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current device may be another GPU: every launch must happen under the guard."""
    depth = 0
    launches: list[int] = []

    @contextmanager
    def guard(_: Tensor):
        nonlocal depth
        depth += 1
        yield
        depth -= 1

    class Spy:
        def __getitem__(self, grid: tuple[int, ...]):
            return lambda *_, **__: launches.append(depth)

    monkeypatch.setattr(launch, "running_on", guard)
    monkeypatch.setattr(launch, "processors", lambda _: 64)
    variant = gce.LOSS.variants[0]
    from dataclasses import replace

    roles = ("forward", "merge", "backward", "fused")
    spied = replace(variant, **{f"{role}_kernel": Spy() for role in roles})
    x, y = draw(2, 50000)
    rows = batch(x, y)
    _, saved = launch.forward(spied, rows)
    launch.backward(spied, rows, saved, torch.ones(1, 2), [True])
    launch.fused(spied, rows, torch.ones(1, 2), [x])
    assert launches == [1, 1, 1, 1]
    # So few rows leave processors idle: split, unless the gradient takes the place of the logits.
    launch.fused(spied, rows, torch.ones(1, 2), [torch.empty_like(x)])
    assert launches == [1] * 7


# ------------------------------------------------------------------------------ compile
def test_triton_backend_compiles_under_the_interpreter() -> None:
    torch.compiler.reset()
    compiled = torch.compile(gce_loss, fullgraph=True, backend="aot_eager")
    x, y = draw()
    torch.testing.assert_close(compiled(x, y, backend="triton"), gce_loss(x, y, backend="triton"))


@pytest.mark.slow
def test_inductor() -> None:
    torch.compiler.reset()

    def step(x: Tensor, y: Tensor) -> Tensor:
        return gce_loss((2 * x).transpose(0, 1), y, ignore_index=0).square()

    compiled = torch.compile(step, fullgraph=True)
    x, y = draw(11, 6)
    y = y[:6]
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    one, two = step(a, y), compiled(b, y)
    torch.testing.assert_close(one, two)
    one.backward()
    two.backward()
    torch.testing.assert_close(a.grad, b.grad)


# ------------------------------------------------------------------------------- masks
@both
@pytest.mark.parametrize("name", ["brier", "focal", "entropy_min", "hard_bootstrap", "gce"])
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0])
def test_one_class_alone(backend: str, name: str, logit: float) -> None:
    """The others masked: 1/exp(L - m) of no class was infinite for a logit far below 0."""
    loss = lossgen.load(name).LOSS
    x = torch.tensor([[-math.inf, logit, -math.inf]], requires_grad=True)
    target = {"target": torch.tensor([1])} if loss.has_target else {}
    value = getattr(lossgen.load(name), f"{name}_loss")(x, *target.values(), backend=backend)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert x.grad is not None
    assert x.grad.abs().max().item() <= 1e-6


PRIOR = """
name: prior_mae
title: Mean absolute error under a prior
reference: none
inputs:
  prior: {kind: vocab, doc: log prior}
transform: 1 - softmax(x + prior)[y]
"""


@both
def test_masked_target_under_a_prior(tmp_path: Path, backend: str) -> None:
    """Exponents measured from a masked logit were all infinite: NaN in place of the limit."""
    path = tmp_path / "prior_mae.yaml"
    path.write_text(PRIOR)
    x = torch.tensor([[-math.inf, 1.0, 2.0]], requires_grad=True)
    prior = torch.tensor([0.1, 0.2, 0.3])
    bounded = lossgen.load(path).prior_mae_loss(x, torch.tensor([0]), prior=prior, backend=backend)
    bounded.backward()
    assert bounded.item() == 1.0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(1, 3))
    balanced = balanced_softmax_loss(x, torch.tensor([0]), counts=prior, backend=backend)
    assert balanced.item() == math.inf


@both
@pytest.mark.parametrize("masked", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_any_convention_of_masking_under_a_prior(backend: str, masked: float) -> None:
    """Exponents measured from a logit of -1e9 had no digit left: a uniform gradient."""
    x = torch.tensor([[masked, 1.0, 0.0, 2.0]], requires_grad=True)
    counts = torch.tensor([40.0, 30.0, 20.0, 10.0])
    balanced_softmax_loss(x, torch.tensor([0]), counts=counts, backend=backend).backward()
    gold = torch.softmax(x.detach().double() + counts.double().log(), 1)
    gold[0, 0] -= 1
    torch.testing.assert_close(x.grad, gold.float(), rtol=1e-5, atol=1e-7)
