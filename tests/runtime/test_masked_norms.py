"""A logit of -inf that a norm counts gives the same on every backend, as docs/language.md says."""

from __future__ import annotations

import math

import pytest
import torch

from lossgen.losses import linear_logit_norm_loss, logit_norm_loss

T, INF = 0.04, math.inf
BACKENDS = ("torch", "c", "triton")
ROWS = [
    [1.0, -INF, 2.0, 0.5],
    [1.0, -INF, -INF, 0.5],
    [-INF, -INF, -INF, 0.5],
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS)
def test_the_logits_are_equal_beside_an_infinite_norm(row: list[float], backend: str) -> None:
    x = torch.tensor([row], requires_grad=True)
    loss = logit_norm_loss(x, torch.tensor([3]), T=T, backend=backend)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert bool(slope.isnan().all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_masked_target_is_far_below_the_others(backend: str) -> None:
    x = torch.tensor([ROWS[0]], requires_grad=True)
    loss = logit_norm_loss(x, torch.tensor([1]), T=T, backend=backend)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(math.log(3 + math.exp(-1 / T)) + 1 / T, rel=1e-6)
    assert slope.tolist() == [[0.0] * 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_so_are_they_without_their_logits(backend: str) -> None:
    """A bias of -inf masks the class in every row."""
    hidden, weight = torch.eye(3), torch.ones(4, 3)
    bias = torch.tensor([0.0, -INF, 1.0, 0.5])
    y = torch.tensor([0, 2, 3])
    loss = linear_logit_norm_loss(
        hidden, weight, y, linear_bias=bias, T=T, backend=backend, reduction="none"
    )
    torch.testing.assert_close(loss, torch.full((3,), math.log(4)))
