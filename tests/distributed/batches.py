"""Losses of a batch whose rows are on several ranks, as those of one process: run by ``launch``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import lossgen
from lossgen.runtime import BatchLoss

N, V, D = 12, 5, 4
NAMES = ("soft_dice", "information_maximization", "switch_balance", "repri", "any_f", "tversky")


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _own(world: int) -> slice:
    """The last rank has no rows."""
    step = N // (world - 1)
    start = step * dist.get_rank()
    return slice(start, start + step)


def _arguments(loss: BatchLoss, rows: slice) -> tuple[list[Tensor], dict[str, Any]]:
    target = torch.arange(N) % V
    target[3] = -100
    given = [target[rows]] if loss.rows.has_target else []
    given += [_drawn(10 + k, N, V).softmax(-1)[rows] for k, _ in enumerate(loss.streams)]
    beside: dict[str, Any] = {
        i.name: torch.full((V,), 1 / V) if i.kind == "vocab" else _drawn(7, N).abs()[rows]
        for i in loss.others
    }
    return given, {**beside, "row_weight": _drawn(8, N).abs()[rows]}


def _found(name: str, rows: slice, **group: Any) -> list[Tensor]:
    """Loss and gradients, of logits and of a linear layer."""
    module = lossgen.load(name)
    given, beside = _arguments(module.BATCH, rows)
    logits = _drawn(0, N, V)[rows].requires_grad_()
    loss = getattr(module, f"{name}_loss")(logits, *given, **beside, **group)
    found = [loss, *torch.autograd.grad(loss, logits)]
    hidden, weight = (t.requires_grad_() for t in (_drawn(1, N, D)[rows], _drawn(2, V, D)))
    function = getattr(module, f"linear_{name}_loss")
    loss = function(hidden, weight, *given, **beside, **group)
    return [*found, loss, *torch.autograd.grad(loss, (hidden, weight))]


def equal(world: int) -> None:
    own, group = _own(world), dist.group.WORLD
    for name in NAMES:
        whole, part = _found(name, slice(0, N)), _found(name, own, batch_group=group)
        weight = part[-1].clone()
        dist.all_reduce(weight)
        pairs = [(part[k], whole[k]) for k in (0, 2)]
        pairs += [(part[k] / world, whole[k][own]) for k in (1, 3)]  # as DDP averages
        for ours, true in (*pairs, (weight / world, whole[4])):
            torch.testing.assert_close(ours, true, rtol=2e-5, atol=1e-7, msg=name)


def refused() -> None:
    loss = lossgen.load("soft_dice").soft_dice_loss
    logits, target = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="pass by or batch_group"):
        loss(logits, target, by=target, batch_group=dist.group.WORLD)
    with pytest.raises(TypeError, match=r"batch_group must be a torch\.distributed\.ProcessGroup"):
        loss(logits, target, batch_group=lossgen.ClassShards(None, (3, 0, 0)))


def every(world: int) -> None:
    equal(world)
    refused()
