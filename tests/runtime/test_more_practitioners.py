"""Published losses of margins, several labels, calibration, contrast, policies and drafts, against
their formulas written in torch, in float64, at several parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import lossgen
from lossgen import losses

N, V = 5, 6
TARGET = torch.tensor([0, 3, 5, 1, 2])
Formula = Callable[..., Tensor]


def _matrix(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(N, V, generator=random, dtype=torch.float64) * 2


def _row(seed: int, low: float, high: float, size: int = N) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=random, dtype=torch.float64) * (high - low) + low


def _labels(seed: int) -> Tensor:
    labels = (_matrix(seed) > 0.8).double()
    labels[:, 0], labels[3] = 1.0, 0.0  # and one row without any
    return labels


def _rows(spread: float) -> Tensor:
    """Logits: ordinary rows, one sure of its target, one sure of another class."""
    rows = _matrix(1) * spread
    rows[1, 3] += 12.0 * spread
    rows[2, 0] += 12.0 * spread
    return rows


def _cosines(spread: float) -> Tensor:
    """What a cosine can be; a target near 1 and one past the angle pi - m."""
    rows = torch.tanh(_matrix(1) * spread / 2)
    rows[1, 3], rows[2, 5] = 0.9995, -0.97
    return rows


def _at(rows: Tensor, y: Tensor) -> Tensor:
    return rows.gather(1, y[:, None])[:, 0]


def _logp(x: Tensor, y: Tensor) -> Tensor:
    return _at(x.log_softmax(1), y)


def _rest(x: Tensor, y: Tensor) -> Tensor:
    """log(1 - p_y), from the other classes."""
    others = x.masked_fill(F.one_hot(y, V).bool(), -math.inf)
    return others.logsumexp(1) - x.logsumexp(1)


def _arcface(x: Tensor, y: Tensor, s: float = 64, m: float = 0.5) -> Tensor:
    cosine = _at(x, y)
    angle = cosine.acos()
    moved = torch.where(angle < math.pi - m, (angle + m).cos(), cosine - m * math.sin(m))
    return F.cross_entropy(s * x.scatter(1, y[:, None], moved[:, None]), y, reduction="none")


def _circle(x: Tensor, positives: Tensor, m: float = 0.25, gamma: float = 256) -> Tensor:
    total = torch.zeros(N, dtype=x.dtype)
    for i in range(N):
        near, far = x[i][positives[i] > 0], x[i][positives[i] == 0]
        pull = (1 + m - near).relu().detach() * (near - 1 + m) * -gamma
        push = (far + m).relu().detach() * (far - m) * gamma
        if len(near) and len(far):
            total[i] = F.softplus((pull[:, None] + push[None]).flatten().logsumexp(0))
    return total


def _asl(
    x: Tensor, labels: Tensor, gamma_pos: float = 1, gamma_neg: float = 4, margin: float = 0.05
) -> Tensor:
    p = x.sigmoid()
    shifted = (p - margin).clamp(min=0)
    positive = labels * (1 - p) ** gamma_pos * F.logsigmoid(x)
    log_rest = torch.where(p > margin, torch.log1p(-shifted), 0.0)
    return -(positive + (1 - labels) * shifted**gamma_neg * log_rest).sum(1)


def _evidential_mse(x: Tensor, y: Tensor) -> Tensor:
    alpha = F.softplus(x) + 1
    moments = torch.distributions.Dirichlet(alpha)
    return ((F.one_hot(y, V) - moments.mean) ** 2 + moments.variance).sum(1)


def _evidential_log(x: Tensor, y: Tensor) -> Tensor:
    alpha = F.softplus(x) + 1
    return alpha.sum(1).log() - _at(alpha, y).log()


def _dual_focal(x: Tensor, y: Tensor, gamma: float = 5) -> Tensor:
    p = x.softmax(1)
    second = torch.where(p < _at(p, y)[:, None], p, 0.0).amax(1)
    return -((_rest(x, y).exp() + second) ** gamma) * _logp(x, y)


def _mbls(x: Tensor, y: Tensor, alpha: float = 0.1, margin: float = 10) -> Tensor:
    over = (x.amax(1, keepdim=True) - x - margin).relu()
    return F.cross_entropy(x, y, reduction="none") + alpha * over.mean(1)


def _squentropy(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x, y, reduction="none") + ((x**2).sum(1) - _at(x, y) ** 2) / (V - 1)


def _label_relaxation(x: Tensor, y: Tensor, alpha: float = 0.1) -> Tensor:
    onehot, p = F.one_hot(y, V), x.softmax(1).detach()
    near = (1 - alpha) * onehot + alpha * (1 - onehot) * p / _rest(x, y).exp().detach()[:, None]
    divergence = (near * (near.log() - x.log_softmax(1))).sum(1)
    return torch.where(_at(p, y) > 1 - alpha, 0.0, divergence)


def _phuber(x: Tensor, y: Tensor, tau: float = 10) -> Tensor:
    logp = _logp(x, y)
    return torch.where(logp > -math.log(tau), -logp, 1 + math.log(tau) - tau * logp.exp())


def _dcl(x: Tensor, y: Tensor, w: Tensor | float = 1.0, tau: float = 0.1) -> Tensor:
    others = (x / tau).masked_fill(F.one_hot(y, V).bool(), -math.inf)
    return others.logsumexp(1) - w * _at(x, y) / tau


def _rince(x: Tensor, y: Tensor, q: float = 0.5, lam: float = 0.01) -> Tensor:
    return ((lam * x.exp().sum(1)) ** q - _at(x, y).exp() ** q) / q


def _supcon(x: Tensor, positives: Tensor, tau: float = 0.1) -> Tensor:
    share = positives / positives.sum(1, keepdim=True).clamp(min=1)
    return -(share * (x / tau).log_softmax(1)).sum(1)


def _npo(x: Tensor, y: Tensor, ref_logp: Tensor, beta: float = 0.1) -> Tensor:
    return -2 / beta * F.logsigmoid(-beta * (_logp(x, y) - ref_logp))


def _clip_cov(
    x: Tensor,
    y: Tensor,
    advantage: Tensor,
    old_logp: Tensor,
    selected: Tensor,
    low: float = 0.2,
    high: float = 0.2,
) -> Tensor:
    r = (_logp(x, y) - old_logp).exp()
    return (1 - selected) * torch.maximum(-r * advantage, -r.clamp(1 - low, 1 + high) * advantage)


def _bias(x: Tensor, y: Tensor, variance: Tensor, alpha: float = 0.3, beta: float = 0.3) -> Tensor:
    return ((alpha * variance).exp() - beta) * F.cross_entropy(x, y, reduction="none")


def _accepted(x: Tensor, verifier: Tensor) -> Tensor:
    return torch.minimum(x.softmax(1), verifier.softmax(1)).sum(1)


def _hybrid(x: Tensor, verifier: Tensor, eta: float = 3) -> Tensor:
    accepted = _accepted(x, verifier)
    share = (-eta * accepted.detach()).exp()
    t = verifier.log_softmax(1)
    return share * (t.exp() * (t - x.log_softmax(1))).sum(1) + (1 - share) * (1 - accepted)


def _eql(x: Tensor, y: Tensor, negative: Tensor, alpha: float = 4) -> Tensor:
    onehot = F.one_hot(y, V).double()
    weight = onehot * (1 + alpha * (1 - negative)) + (1 - onehot) * negative
    return (weight * F.binary_cross_entropy_with_logits(x, onehot, reduction="none")).sum(1)


def _corn(x: Tensor, level: Tensor) -> Tensor:
    k = torch.arange(V)
    seen = (k <= level[:, None]).double()
    found = F.binary_cross_entropy_with_logits(x, (k < level[:, None]).double(), reduction="none")
    return (seen * found).sum(1)


def _calibration(x: Tensor, y: Tensor, omega: Tensor, T: float = 1.0) -> Tensor:
    wrong = _rest(x / T, y).exp()
    right = x.argmax(1) == y
    return omega * torch.where(right, wrong, (x / T).softmax(1).amax(1)) ** 2


@dataclass(frozen=True)
class Case:
    """A loss: its formula, class inputs, named inputs, parameters beside the defaults."""

    formula: Formula
    streams: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: tuple[Mapping[str, float], ...] = ()
    y: bool = True
    rows: Callable[[float], Tensor] = _rows


SELECTED = {"selected": torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])}
POLICY = {"advantage": _row(7, -2, 2), "old_logp": _row(8, -3, -0.1)}
LEVEL = {"level": torch.tensor([0.0, 1.0, 3.0, 6.0, 5.0])}
CASES: dict[str, Case] = {
    "arcface": Case(_arcface, parameters=({"s": 8, "m": 0.2}, {"s": 1, "m": 0}), rows=_cosines),
    "circle": Case(
        _circle, (_labels(2),), {}, ({"m": 0.1, "gamma": 16}, {"m": 0.5}), False, _cosines
    ),
    "asl_multi_label": Case(
        _asl,
        (_labels(3),),
        {},
        ({"gamma_pos": 0, "gamma_neg": 2, "margin": 0.2}, {"gamma_pos": 2.5, "margin": 0}),
        False,
    ),
    "evidential_mse": Case(_evidential_mse),
    "evidential_log": Case(_evidential_log),
    "dual_focal": Case(_dual_focal, parameters=({"gamma": 1}, {"gamma": 2.5}, {"gamma": 0})),
    "mbls": Case(_mbls, parameters=({"alpha": 1, "margin": 2}, {"alpha": 0.5, "margin": 0})),
    "squentropy": Case(_squentropy),
    "label_relaxation": Case(_label_relaxation, parameters=({"alpha": 0.4}, {"alpha": 0.01})),
    "phuber_ce": Case(_phuber, parameters=({"tau": 2}, {"tau": 50})),
    "dcl": Case(_dcl, (), {"w": _row(9, 0.2, 2)}, ({"tau": 1}, {"tau": 0.5})),
    "rince": Case(
        _rince, parameters=({"q": 1, "lam": 0.5}, {"q": 0.1, "lam": 1}, {"q": 0.01, "lam": 0.2})
    ),
    "supcon": Case(_supcon, (_labels(5),), {}, ({"tau": 1}, {"tau": 0.5}), False),
    "dft": Case(lambda x, y: -_logp(x, y).exp().detach() * _logp(x, y)),
    "npo": Case(_npo, (), {"ref_logp": _row(6, -3, -0.1)}, ({"beta": 1}, {"beta": 4})),
    "clip_cov": Case(_clip_cov, (), {**POLICY, **SELECTED}, ({"low": 0.5, "high": 0.3},)),
    "bias_weighted": Case(_bias, (), {"variance": _row(5, 0, 1)}, ({"alpha": 2, "beta": 1},)),
    "lk_alpha": Case(lambda x, v: -_accepted(x, v).log(), (_matrix(4),), y=False),
    "lk_hybrid": Case(_hybrid, (_matrix(4),), {}, ({"eta": 0.5}, {"eta": 6}), False),
    "eql_v2": Case(_eql, (), {"negative": _row(3, 0, 1, V)}, ({"alpha": 1}, {"alpha": 0})),
    "corn": Case(_corn, (), LEVEL, y=False),
    "ca_calibration": Case(_calibration, (), {"omega": _row(9, 0, 1)}, ({"T": 0.3}, {"T": 5})),
}


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_formulas(name: str, backend: str) -> None:
    case = CASES[name]
    given = (TARGET,) if case.y else ()
    function = getattr(losses, f"{name}_loss")
    for parameters in ({}, *case.parameters):
        for spread in (0.5, 2.0):
            exact = case.rows(spread).float().double().requires_grad_()
            named = {k: v.float().double() for k, v in case.named.items()}
            streams = [s.float().double() for s in case.streams]
            wanted = case.formula(exact, *given, *streams, **named, **parameters)
            (slope,) = torch.autograd.grad(wanted.sum(), exact)
            x = exact.detach().float().requires_grad_()
            options: dict[str, Any] = {k: v.float() for k, v in named.items()} | dict(parameters)
            floats = (s.float() for s in streams)
            found = function(x, *given, *floats, **options, backend=backend, reduction="none")
            torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-6)
            (grad,) = torch.autograd.grad(found.sum(), x)
            tiny = 4e-6 * max(1.0, slope.abs().amax().item())
            torch.testing.assert_close(grad.double(), slope, rtol=2e-5, atol=tiny)


def _scores(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    p, logp = x.softmax(1), x.log_softmax(1)
    mean = (p * logp).sum(1)
    deviation = (p * (logp - mean[:, None]) ** 2).sum(1).sqrt()
    return _at(logp, y), (_at(logp, y) - mean) / deviation


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_scores_of_min_k(backend: str) -> None:
    for spread in (0.5, 1.0):
        exact = (_matrix(1) * spread).float().double().requires_grad_()
        wanted = _scores(exact, TARGET)
        x = exact.detach().float().requires_grad_()
        found = lossgen.load("min_k").min_k(x, TARGET, backend=backend)
        for a, b in zip((found.logp, found.score), wanted, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-6)
            (grad,) = torch.autograd.grad(a.sum(), x, retain_graph=True)
            (slope,) = torch.autograd.grad(b.sum(), exact, retain_graph=True)
            torch.testing.assert_close(grad.double(), slope, rtol=2e-5, atol=4e-6)


@pytest.mark.parametrize("row", [torch.zeros(V), torch.tensor([40.0, 0, 0, 0, 0, 0])])
def test_scores_of_min_k_without_a_deviation_are_zero(row: Tensor) -> None:
    x = row.repeat(1, 1).requires_grad_()
    found = lossgen.load("min_k").min_k(x, torch.tensor([0]), backend="torch")
    (grad,) = torch.autograd.grad(found.score.sum(), x)
    assert found.score.item() == 0
    assert not grad.any()
