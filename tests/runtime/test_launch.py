"""What a launch decides before a kernel runs."""

from __future__ import annotations

import torch

from lossgen.losses import gce_loss
from lossgen.runtime import launch


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
