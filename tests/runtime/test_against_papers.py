"""Losses against float64 torch written after the official code of their papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen.losses import (
    alpha_divergence_loss,
    dice_loss,
    dist_row_loss,
    dkd_loss,
    elr_loss,
    renyi_loss,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def draw(scale: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(21)
    x, u = (scale * torch.randn(6, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, u, torch.randint(0, 11, (6,), generator=generator)


def dkd(x: Tensor, u: Tensor, y: Tensor, alpha: float, beta: float, tau: float) -> Tensor:
    """mdistiller: the target against the rest, and the rest with the target masked by -1000."""
    own = F.one_hot(y, x.shape[1]).to(x)

    def halves(logits: Tensor) -> Tensor:
        p = F.softmax(logits / tau, dim=1)
        return torch.cat([(p * own).sum(1, True), (p * (1 - own)).sum(1, True)], dim=1)

    binary = F.kl_div(halves(x).log(), halves(u), reduction="sum")
    rest = F.softmax(u / tau - 1000 * own, dim=1)
    among = F.kl_div(F.log_softmax(x / tau - 1000 * own, dim=1), rest, reduction="sum")
    return (alpha * binary + beta * among) * tau**2 / len(x)


def alpha_divergence(x: Tensor, u: Tensor, alpha: float) -> Tensor:
    """AlphaNet's f-divergence, f(w) = w^alpha / (alpha (alpha - 1)) of w = t/p, before its clipping
    and detaching; it drops the constant."""
    logs = F.log_softmax(u, 1) - F.log_softmax(x, 1)
    whole = (F.softmax(x, 1) * (alpha * logs).exp()).sum(1) / (alpha * (alpha - 1))
    return (whole - 1 / (alpha * (alpha - 1))).mean()


def elr(x: Tensor, target: Tensor, y: Tensor, weight: float) -> Tensor:
    """ELR's loss.py after its running average, without the clamp of p to [1e-4, 1 - 1e-4]."""
    p = F.softmax(x, dim=1)
    return F.cross_entropy(x, y) + weight * (1 - (target * p).sum(dim=1)).log().mean()


def renyi(x: Tensor, u: Tensor, alpha: float) -> Tensor:
    logs = alpha * F.log_softmax(u, 1) + (1 - alpha) * F.log_softmax(x, 1)
    return (logs.logsumexp(1) / (alpha - 1)).mean()


def dice(x: Tensor, y: Tensor, alpha: float, smooth: float) -> Tensor:
    """The definition for one row: every class an example, squares in the denominator."""
    p, e = F.softmax(x, 1), F.one_hot(y, x.shape[1]).to(x)
    weighed = (1 - p) ** alpha * p
    overlap = (2 * weighed * e + smooth) / (weighed**2 + e + smooth)
    return (1 - overlap).sum(1).mean()


def dist_row(x: Tensor, u: Tensor, tau: float) -> Tensor:
    """tau² times one minus Pearson's correlation, without the 1e-8 beside the norms."""
    p, t = (F.softmax(v / tau, 1) for v in (x, u))
    p, t = (v - v.mean(1, keepdim=True) for v in (p, t))
    return tau**2 * (1 - F.cosine_similarity(p, t, dim=1, eps=0.0)).mean()


CASES: dict[str, tuple[Loss, Loss]] = {
    "dkd": (
        lambda x, u, y, **k: dkd_loss(x, y, u, **k),
        lambda x, u, y: dkd(x, u, y, 1.0, 8.0, 4.0),
    ),
    "dkd, sharper": (
        lambda x, u, y, **k: dkd_loss(x, y, u, T=1.5, alpha=0.5, beta=2.0, **k),
        lambda x, u, y: dkd(x, u, y, 0.5, 2.0, 1.5),
    ),
    "alpha_divergence": (
        lambda x, u, y, **k: alpha_divergence_loss(x, u, alpha=0.3, **k),
        lambda x, u, y: alpha_divergence(x, u, 0.3),
    ),
    "elr": (
        lambda x, u, y, **k: elr_loss(x, y, u.softmax(1), strength=2.0, **k),
        lambda x, u, y: elr(x, u.softmax(1), y, 2.0),
    ),
    "renyi": (
        lambda x, u, y, **k: renyi_loss(x, u, alpha=0.7, **k),
        lambda x, u, y: renyi(x, u, 0.7),
    ),
    "dice": (
        lambda x, u, y, **k: dice_loss(x, y, **k),
        lambda x, u, y: dice(x, y, 0.01, 1.0),
    ),
    "dice, adjusted": (
        lambda x, u, y, **k: dice_loss(x, y, alpha=0.7, gamma=0.01, **k),
        lambda x, u, y: dice(x, y, 0.7, 0.01),
    ),
    "dist_row": (
        lambda x, u, y, **k: dist_row_loss(x, u, **k),
        lambda x, u, y: dist_row(x, u, 1.0),
    ),
    "dist_row, softened": (
        lambda x, u, y, **k: dist_row_loss(x, u, T=4.0, **k),
        lambda x, u, y: dist_row(x, u, 4.0),
    ),
}


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_theirs(name: str, scale: float, backend: str) -> None:
    ours, theirs = CASES[name]
    x, u, y = draw(scale)
    found = []
    for function in (
        lambda leaf: ours(leaf, u, y, backend=backend),
        lambda leaf: theirs(leaf, u, y),
    ):
        leaf = x.clone().requires_grad_()
        loss = function(leaf)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)
