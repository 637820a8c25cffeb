"""Tensors overwritten between forward and backward: an error as in torch, no other gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen.losses import cross_entropy_loss, gce_loss, grpo_loss, reverse_kl_loss

G = torch.Generator().manual_seed(0)


def draw() -> dict[str, Tensor]:
    return {
        "logits": torch.randn(6, 7, generator=G),
        "target": torch.randint(7, (6,), generator=G),
        "weight": torch.rand(7, generator=G),
        "t": torch.randn(6, 7, generator=G),
        "row": torch.randn(6, generator=G),
    }


def ce(given: dict[str, Tensor], **options: object) -> Tensor:
    return cross_entropy_loss(given["logits"], given["target"], weight=given["weight"], **options)


def kl(given: dict[str, Tensor], **options: object) -> Tensor:
    return reverse_kl_loss(given["logits"], given["t"], **options)


def policy(given: dict[str, Tensor], **options: object) -> Tensor:
    rows = {"advantage": given["row"], "old_logp": given["row"] - 2, "ref_logp": given["row"] - 1}
    return grpo_loss(given["logits"], given["target"], **rows, **options)


CALLS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "logits": (ce, "c"),
    "target": (ce, "c"),
    "weight": (ce, "c"),
    "t": (kl, "torch"),
    "row": (policy, "torch"),
}


def overwrite(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(tensor.roll(1, -1))


def run(which: str, held: dict[str, Tensor], **options: object) -> Tensor:
    call, backend = CALLS[which]
    given = held | {"logits": held["logits"] * 1.0}  # not a leaf, so that inplace_grad may
    loss = call(given, **{"backend": backend, **options}).sum()
    held["logits"] = given["logits"].detach()
    return loss


@pytest.mark.parametrize("which", CALLS)
@pytest.mark.parametrize("path", ["fused", "rows", "retained", "inplace", "triton"])
@pytest.mark.parametrize("alias", [False, True])
def test_change_is_an_error(which: str, path: str, alias: bool) -> None:
    """Only logits and class inputs were saved through autograd."""
    held = draw()
    held["logits"].requires_grad_()
    original = held[which]
    if alias and which != "logits":  # a view shares the version counter
        held[which] = original.detach().view(original.shape)
    options = {
        "rows": {"reduction": "none"},
        "inplace": {"inplace_grad": True},
        "triton": {"backend": "triton"},
    }
    loss = run(which, held, **options.get(path, {}))
    if path == "retained":
        loss.backward(retain_graph=True)
    overwrite(held["logits"] if which == "logits" else original)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_torch_raises_too() -> None:
    held = draw()
    loss = F.cross_entropy(held["logits"].requires_grad_(), held["target"], held["weight"])
    overwrite(held["target"])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_copies_are_safe(reduction: str) -> None:
    """Labels of 32 bits are converted: the copy is the call's, whatever becomes of the labels."""
    held = draw()
    grads = []
    for change in (False, True):
        leaf, labels = held["logits"].clone().requires_grad_(), held["target"].int()
        loss = gce_loss(leaf, labels, reduction=reduction).sum()
        if change:
            overwrite(labels)
        loss.backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_lazy_tensors_keep_their_counter(backend: str) -> None:
    """The sign is carried out in a copy, but what autograd holds is the caller's."""
    values = -draw()["weight"]
    held = draw()
    leaf = held["logits"].requires_grad_()
    weight = torch._neg_view(values)
    loss = cross_entropy_loss(leaf, held["target"], weight=weight, backend=backend)
    overwrite(values)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_change_before_a_checkpoint_recomputes() -> None:
    """Non-reentrant checkpointing unpacks what was saved by running the call again."""
    from torch.utils.checkpoint import checkpoint

    held = draw()
    grads = []
    for inside in (False, True):
        leaf = held["logits"].detach().clone().requires_grad_()
        call = lambda v: ce(held | {"logits": v}, backend="c")  # noqa: E731
        loss = checkpoint(call, leaf, use_reentrant=False) if inside else call(leaf)
        loss.backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)
