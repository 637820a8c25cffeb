"""The value of a reduced loss on the CPU: one rounding, whichever way it is computed."""

from __future__ import annotations

import pytest
import torch

from lossgen.losses import gce_loss, linear_gce_loss

N = 37


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_with_and_without_a_gradient(backend: str, dtype: torch.dtype, reduction: str) -> None:
    """Rows in float16 were added up in float32 where a gradient was wanted, and in double where
    not: ``verify`` of any distillation loss failed by an ulp."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        x, y = torch.randn(N, 5, generator=draw).to(dtype), torch.arange(N) % 5
        options = {"reduction": reduction, "backend": backend}
        rows = gce_loss(x, y, reduction="none", backend=backend).double()
        exact = (rows.sum() / (N if reduction == "mean" else 1)).float()
        plain = gce_loss(x, y, **options)
        found = gce_loss(x.clone().requires_grad_(), y, **options)
        inplace = gce_loss(x.clone().requires_grad_() * 1, y, inplace_grad=True, **options)
        across = gce_loss(x.T.contiguous().T, y, class_dim=1, **options)
        assert [v.item() for v in (plain, found, inplace, across)] == [exact.item()] * 4


def test_of_a_linear_layer() -> None:
    draw = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(N, 3, generator=draw), torch.randn(5, 3, generator=draw)
    y = torch.arange(N) % 5
    rows = linear_gce_loss(hidden, weight, y, reduction="none")
    for wanted in (False, True):
        own = hidden.clone().requires_grad_(wanted)
        found = linear_gce_loss(own, weight, y)
        assert found.item() == rows.double().mean().float().item()
