"""``LossHead`` and ``DivergenceHead`` against the same results of logits, by torch in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossgen.integrations.errors import UnfitHead, UnfitLoss
from lossgen.integrations.loss_head import DivergenceHead, LossHead

ROWS, WIDTH, CLASSES = (3, 5), 6, 11
SCORES = [{}, {"temperature": 0.7}, {"scale": 0.3, "softcap": 2.0, "temperature": 1.5}]


def draw(seed, width=WIDTH, bias=True):
    torch.manual_seed(seed)
    head = nn.Linear(width, CLASSES, bias=bias)
    nn.init.normal_(head.weight)
    return torch.randn(*ROWS, width, requires_grad=True), head


def scored(hidden, head, temperature=1.0, scale=1.0, softcap=math.inf):
    bias = None if head.bias is None else head.bias.double()
    z = F.linear(hidden.double(), head.weight.double(), bias) * scale
    return (z if softcap == math.inf else softcap * (z / softcap).tanh()) / temperature


def checked(found, expected, hidden, head):
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    wanted = [*head.parameters(), hidden]
    got = torch.autograd.grad((found * weight).sum(), wanted, retain_graph=True)
    true = torch.autograd.grad((expected * weight).sum(), wanted, retain_graph=True)
    for gradient, other in zip(got, true, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", SCORES, ids=str)
def test_results_of_a_token(scores):
    hidden, head = draw(0)
    target = torch.randint(0, CLASSES, ROWS)
    mask = torch.rand(ROWS) < 0.7
    target[mask][0] = -100
    found = LossHead(**scores)(hidden, head, target, mask)
    z = scored(hidden, head, **scores)
    logp = z.log_softmax(-1)
    expected = {
        "logp": logp.gather(-1, target.unsqueeze(-1)).squeeze(-1),
        "entropy": -(logp.exp() * logp).sum(-1),
        "lse": z.logsumexp(-1),
        "mean_logit": z.mean(-1),
        "sum_p2": (2 * logp).exp().sum(-1),
    }
    for name, value in expected.items():
        checked(getattr(found, name), value * mask, hidden, head)
    assert torch.equal(found.hit, ((z.argmax(-1) == target) & mask).float())


def test_ties_hit_at_the_first():
    head = nn.Linear(1, 3, bias=False)
    nn.init.ones_(head.weight)
    target = torch.tensor([0, 1, 2])
    found = LossHead()(torch.ones(3, 1), head, target)
    assert found.hit.tolist() == [1.0, 0.0, 0.0]


def mixed(t, p, beta):
    m = beta * t.exp() + (1 - beta) * p.exp()
    ends = {0.0: t.exp() * (t - p), 1.0: p.exp() * (p - t)}
    inside = beta * t.exp() * (t - m.log()) + (1 - beta) * p.exp() * (p - m.log())
    return ends.get(beta, inside).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("scores", SCORES, ids=str)
@pytest.mark.parametrize("cap", [None, 1.7])
def test_divergence(beta, scores, cap):
    hidden, head = draw(0)
    taught, teacher = draw(1, width=4, bias=cap is None)
    mask = torch.rand(ROWS, generator=torch.Generator().manual_seed(3)) < 0.6
    divergence = DivergenceHead(
        beta, **scores, teacher_scale=0.8, teacher_softcap=cap, teacher_temperature=1.3
    )
    found = divergence(hidden, head, taught, teacher, mask)
    t = scored(taught, teacher, 1.3, 0.8, math.inf if cap is None else cap).detach()
    p = scored(hidden, head, **scores)
    checked(found, mixed(t.log_softmax(-1), p.log_softmax(-1), beta) * mask, hidden, head)
    loss = divergence(hidden, head, taught, teacher).sum()
    assert torch.autograd.grad(loss, taught, allow_unused=True) == (None,)


def test_no_row_counts():
    hidden, head = draw(0)
    nothing = torch.zeros(ROWS, dtype=torch.bool)
    tokens = LossHead()(hidden, head, torch.zeros(ROWS, dtype=torch.long), nothing)
    divergence = DivergenceHead(0.5)(hidden, head, *draw(1), nothing)
    (tokens.logp.sum() + divergence.sum()).backward()
    assert not hidden.grad.any()
    assert not head.weight.grad.any()


def test_refused_by_name():
    hidden, _ = draw(0)
    with pytest.raises(UnfitHead, match="the head torch's Conv1d cannot be fused"):
        LossHead()(hidden, nn.Conv1d(3, 4, 1), torch.zeros(ROWS, dtype=torch.long))
    with pytest.raises(UnfitLoss, match=r"the divergence has no beta = 1.5: \[0, 1\]"):
        DivergenceHead(1.5)
