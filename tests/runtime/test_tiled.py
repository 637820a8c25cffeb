"""Losses of a linear layer whose logits stay on chip: the tiled schedule, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.losses import (
    cross_entropy_loss,
    gce_loss,
    linear_cross_entropy_loss,
    linear_focal_loss,
    linear_gce_loss,
    linear_jsd_beta_loss,
    linear_kd_forward_kl_loss,
    linear_token_stats,
    linear_trades_loss,
    trades_loss,
)
from lossgen.runtime import tiled
from lossgen.verify import interpreter
from tests.runtime.tiled_calls import ASIDE, SMALL, TILED, draw, launched


@pytest.fixture(autouse=True)
def _mended() -> None:
    interpreter.install()


def same(
    ours: Tensor, theirs: Tensor, leaves: list[Tensor], rtol: float = 2e-5, atol: float = 2e-6
) -> None:
    """Value and gradients, with a grad_output of its own for each row."""
    torch.testing.assert_close(ours.detach(), theirs.detach().to(ours), rtol=rtol, atol=atol)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(ours, leaves, weight.to(ours), retain_graph=True)
    wanted = torch.autograd.grad(theirs, leaves, weight.to(theirs))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.to(a), rtol=rtol, atol=rtol * float(b.abs().max()))


# -------------------------------------------------------------------------- equal to the rows
@pytest.mark.parametrize("launch", [SMALL, ASIDE])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_tiles_give_the_loss_of_logits_that_exist(
    softcap: float | None, reduction: str, launch: tiled.Launch
) -> None:
    hidden, weight, bias, target = draw()
    target[[0, 5, 36]] = -100
    logits = F.linear(hidden, weight, bias)
    capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    theirs = gce_loss(capped / 0.7, target, reduction=reduction)
    with launched(launch):
        ours = linear_gce_loss(
            hidden,
            weight,
            target,
            linear_bias=bias,
            softcap=softcap,
            temperature=0.7,
            reduction=reduction,
            **TILED,
        )
        same(ours, theirs, [hidden, weight, bias])


@pytest.mark.parametrize("splits", [1, 3, 64])
@pytest.mark.parametrize(("panel", "sums"), [(1, 1), (3, 4), (100, 3)])
def test_results_do_not_depend_on_how_the_work_is_shared(
    splits: int, panel: int, sums: int
) -> None:
    hidden, weight, bias, target = draw()
    theirs = linear_focal_loss(hidden, weight, target, linear_bias=bias, reduction="none")
    with launched(splits=splits, panel=panel, sums=sums):
        ours = linear_focal_loss(
            hidden, weight, target, linear_bias=bias, reduction="none", **TILED
        )
        same(ours, theirs, [hidden, weight, bias])


def test_the_same_bits_every_time() -> None:
    hidden, weight, _, target = draw(rows=100)
    found = []
    for _ in range(2):
        with launched(splits=3, panel=4):
            loss = linear_gce_loss(hidden, weight, target, **TILED)
            found.append((loss.detach(), *torch.autograd.grad(loss, [hidden, weight])))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize("rows", [1, 16, 17])
def test_sizes_around_a_tile(rows: int, classes: int) -> None:
    hidden, weight, bias, target = draw(rows, 7, classes)
    theirs = F.cross_entropy(F.linear(hidden, weight, bias), target)
    with launched():
        ours = linear_cross_entropy_loss(hidden, weight, target, linear_bias=bias, **TILED)
        same(ours, theirs, [hidden, weight, bias])


def test_many_panels_are_summed() -> None:
    """The sums for hidden go on from panel to panel."""
    hidden, weight, _, target = draw(rows=150, features=33, classes=200)
    theirs = linear_gce_loss(hidden, weight, target)
    with launched(splits=1, panel=1, sums=1):
        same(linear_gce_loss(hidden, weight, target, **TILED), theirs, [hidden, weight])


# -------------------------------------------------------------------------- several rows
@pytest.mark.parametrize("launch", [SMALL, ASIDE])
@pytest.mark.parametrize("given", ["rows", "factors"])
def test_a_second_row_of_logits(given: str, launch: tiled.Launch) -> None:
    hidden, weight, bias, target = draw()
    moved = (hidden + 0.1).detach().requires_grad_()
    other = F.linear(moved, weight, bias).detach().requires_grad_()
    source = other if given == "rows" else F.linear(moved, weight, bias)
    theirs = trades_loss(F.linear(hidden, weight, bias), target, source, reduction="none")
    with launched(launch):
        ours = linear_trades_loss(
            hidden,
            weight,
            target,
            other if given == "rows" else (moved, weight, bias),
            linear_bias=bias,
            reduction="none",
            **TILED,
        )
        leaves = [hidden, weight, bias, other if given == "rows" else moved]
        same(ours, theirs, leaves, rtol=1e-4)


def test_a_teacher_of_another_width() -> None:
    hidden, weight, _, _ = draw()
    states, head = torch.randn(37, 9), torch.randn(75, 9)
    theirs = linear_kd_forward_kl_loss(hidden, weight, states @ head.t())
    with launched():
        ours = linear_kd_forward_kl_loss(hidden, weight, (states, head), **TILED)
        same(ours, theirs, [hidden, weight], rtol=1e-4)


def test_two_sweeps_make_the_logits_twice() -> None:
    hidden, weight, _, _ = draw()
    teacher = torch.randn(37, 75)
    theirs = linear_jsd_beta_loss(hidden, weight, teacher, reduction="none")
    with launched(ASIDE):
        ours = linear_jsd_beta_loss(hidden, weight, teacher, reduction="none", **TILED)
        same(ours, theirs, [hidden, weight], rtol=1e-4)


def test_outputs() -> None:
    hidden, weight, bias, target = draw()
    theirs = linear_token_stats(hidden, weight, target, linear_bias=bias)
    with launched():
        ours = linear_token_stats(hidden, weight, target, linear_bias=bias, **TILED)
        same(torch.stack(ours), torch.stack(theirs), [hidden, weight, bias], rtol=1e-4)


def test_shift_and_options() -> None:
    hidden, weight, bias, target = draw(rows=36)
    wide, labels = hidden.reshape(3, 12, 20), target.reshape(3, 12)
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 5.0, "weight": torch.rand(75)}
    theirs = cross_entropy_loss(F.linear(wide, weight, bias)[:, :-1], labels[:, 1:], **options)
    with launched():
        ours = linear_cross_entropy_loss(
            wide, weight, labels, linear_bias=bias, shift=1, **options, **TILED
        )
        same(ours, theirs, [hidden, weight, bias])


# -------------------------------------------------------------------------- edges
def test_a_first_tile_of_masked_classes() -> None:
    """-inf from the bias: the whole first tile of each split."""
    hidden, weight, bias, target = draw()
    masked = bias.detach().clone()
    masked[:40] = -torch.inf
    target = 40 + target % 35
    theirs = F.cross_entropy(F.linear(hidden, weight, masked), target)
    with launched(splits=3):
        ours = linear_cross_entropy_loss(hidden, weight, target, linear_bias=masked, **TILED)
        same(ours, theirs, [hidden, weight])


@pytest.mark.parametrize("classes", [31, 32, 33])
@pytest.mark.parametrize("softcap", [1.0, 5.0])
def test_padding_is_masked_after_the_softcap(classes: int, softcap: float) -> None:
    """A phantom class at softcap(0) = 0 shows where real logits are below."""
    hidden, weight, _, target = draw(classes=classes)
    bias = torch.full((classes,), -20.0)
    bias[-1] = -3.0
    logits = softcap * torch.tanh(F.linear(hidden, weight, bias) / softcap)
    theirs = F.cross_entropy(logits, target)
    with launched():
        ours = linear_cross_entropy_loss(
            hidden, weight, target, linear_bias=bias, softcap=softcap, **TILED
        )
        same(ours, theirs, [hidden, weight])


def test_strides_and_frozen_factors() -> None:
    hidden, weight, bias, target = draw()
    theirs = gce_loss(F.linear(hidden, weight, bias), target)
    column_major = weight.detach().t().contiguous().t().requires_grad_()
    sliced = torch.randn(37, 40)
    sliced[:, ::2] = hidden.detach()
    with launched():
        for leaf, name in ((hidden, "hidden"), (column_major, "linear_weight"), (bias, None)):
            given = {"hidden": sliced[:, ::2], "linear_weight": weight.detach()}
            if name is not None:
                given[name] = leaf
            extra = bias if name is None else bias.detach()
            loss = linear_gce_loss(target=target, **given, linear_bias=extra, **TILED)
            found = torch.autograd.grad(loss, leaf)[0]
            like = {"hidden": hidden, "linear_weight": weight}.get(name, bias)
            exact = torch.autograd.grad(theirs, like, retain_graph=True)[0]
            torch.testing.assert_close(found, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_nothing_counts(rows: int) -> None:
    hidden, weight, _, _ = draw(rows=rows)
    ignored = torch.full((rows,), -100)
    with launched():
        assert bool(linear_gce_loss(hidden, weight, ignored, **TILED).isnan())
        total = linear_gce_loss(hidden, weight, ignored, reduction="sum", **TILED)
        total.backward()
    assert float(total.detach()) == 0.0
    assert not hidden.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_factors(dtype: torch.dtype) -> None:
    hidden, weight, _, target = draw(dtype=dtype)
    exact = [t.detach().float().requires_grad_() for t in (hidden, weight)]
    theirs = gce_loss(F.linear(*exact), target)
    with launched():
        loss = linear_gce_loss(hidden, weight, target, **TILED)
        assert loss.dtype is torch.float32
        found = torch.autograd.grad(loss, [hidden, weight])
    torch.testing.assert_close(loss.detach(), theirs.detach(), rtol=1e-5, atol=1e-6)
    eps = torch.finfo(dtype).eps
    for a, b in zip(found, torch.autograd.grad(theirs, exact), strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a.float(), b, rtol=2 * eps, atol=2 * eps * float(b.abs().max()))


def test_a_weight_of_many_rows_is_summed_in_float32() -> None:
    """In bfloat16 the sum of 4096 equal rows would stand still at 256 of them."""
    hidden = torch.ones(4096, 16, dtype=torch.bfloat16)
    weight = torch.zeros(16, 16, dtype=torch.bfloat16, requires_grad=True)
    target = torch.zeros(4096, dtype=torch.long)
    with launched(tiled.Launch(256, 16, 16, 1, 1)):
        linear_cross_entropy_loss(hidden, weight, target, reduction="sum", **TILED).backward()
    assert weight.grad[1, 0].item() == 4096 / 16
    assert weight.grad[0, 0].item() == -4096 * 15 / 16


def test_no_second_derivative_and_a_second_backward() -> None:
    hidden, weight, _, target = draw()
    with launched():
        loss = linear_gce_loss(hidden, weight, target, **TILED)
        first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
        (again,) = torch.autograd.grad(loss, hidden, create_graph=True)
        assert torch.equal(first, again)
        message = "linear_gce_loss: the gradient cannot be differentiated a second time"
        with pytest.raises(RuntimeError, match=message):
            again.sum().backward()
