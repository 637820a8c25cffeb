"""Losses of several streams against torch's own functions, which nobody here wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen.losses import (
    kd_forward_kl_loss,
    reverse_kl_loss,
    sigmoid_bce_loss,
    soft_target_ce_loss,
    token_stats,
    trades_loss,
    vat_loss,
)


def draw() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, u = (3 * torch.randn(6, 13, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, u, torch.randint(0, 13, (6,), generator=generator)


def kl(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(softmax(wanted) || softmax(found)) per row."""
    log_q, log_p = F.log_softmax(found, -1), F.log_softmax(wanted, -1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


Pair = Callable[[Tensor, Tensor, Tensor], Tensor]
CASES: dict[str, tuple[Pair, Pair]] = {
    "kd_forward_kl": (
        lambda x, u, y: kd_forward_kl_loss(x, u.detach(), T=2.0),
        lambda x, u, y: 4 * kl(u.detach() / 2, x / 2).mean(),
    ),
    "reverse_kl": (
        lambda x, u, y: reverse_kl_loss(x, u.detach()),
        lambda x, u, y: kl(x, u.detach()).mean(),
    ),
    "trades": (
        lambda x, u, y: trades_loss(x, y, u, beta=3.0),
        lambda x, u, y: F.cross_entropy(x, y) + 3 * kl(x, u).mean(),
    ),
    "vat": (
        lambda x, u, y: vat_loss(x, u),
        lambda x, u, y: kl(x.detach(), u).mean(),
    ),
    "soft_target_ce": (
        lambda x, u, y: soft_target_ce_loss(x, u.detach().softmax(-1)),
        lambda x, u, y: F.cross_entropy(x, u.detach().softmax(-1)),
    ),
    "sigmoid_bce": (
        lambda x, u, y: sigmoid_bce_loss(x, u.detach().sigmoid(), reduction="sum"),
        lambda x, u, y: F.binary_cross_entropy_with_logits(
            x, u.detach().sigmoid(), reduction="sum"
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_torch_s(name: str) -> None:
    ours, theirs = CASES[name]
    x, u, y = draw()
    found = []
    for function in (ours, theirs):
        leaves = x.clone().requires_grad_(), u.clone().requires_grad_()
        loss = function(*leaves, y)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append((loss, *(torch.zeros_like(x) if g is None else g for g in grads)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_token_stats_are_torch_s() -> None:
    x, _, y = draw()
    logits = x.clone().requires_grad_()
    stats = token_stats(logits, y)
    p = torch.distributions.Categorical(logits=x)
    torch.testing.assert_close(stats.logp, p.log_prob(y))
    torch.testing.assert_close(stats.entropy, p.entropy())
    torch.testing.assert_close(stats.lse, x.logsumexp(-1))
    torch.testing.assert_close(stats.sum_p2, p.probs.square().sum(-1))
    # a token-level policy loss in plain torch above the [N] vectors
    ((stats.logp - 1.0).exp() * 0.5 - 0.01 * stats.entropy).sum().backward()
    again = x.clone().requires_grad_()
    q = torch.distributions.Categorical(logits=again)
    ((q.log_prob(y) - 1.0).exp() * 0.5 - 0.01 * q.entropy()).sum().backward()
    torch.testing.assert_close(logits.grad, again.grad)
