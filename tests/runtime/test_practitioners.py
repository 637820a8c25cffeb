"""Losses that practitioners use, against their formulas written in torch, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen import losses

N, V = 5, 6
Reference = Callable[..., Tensor]


def _labels(seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(N, V, generator=random) < 0.4).double()
    labels[:, 0] = 1.0  # no row without one
    return labels


def _row(seed: int, low: float, high: float) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(N, generator=random, dtype=torch.float64) * (high - low) + low


def _matrix(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(N, V, generator=random, dtype=torch.float64) * 2


def _at(rows: Tensor, y: Tensor) -> Tensor:
    return rows.gather(1, y[:, None])[:, 0]


def _logp(x: Tensor, y: Tensor) -> Tensor:
    return _at(x.log_softmax(1), y)


def _ratio(x: Tensor, y: Tensor, old_logp: Tensor) -> Tensor:
    return (_logp(x, y) - old_logp).clamp(-20, 20).exp()


def _cosface(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(64 * (x - 0.35 * F.one_hot(y, V)), y, reduction="none")


def _seesaw(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    p = x.detach().softmax(1)
    likelier = (p / _at(p, y)[:, None]).clamp(min=1) ** 2
    rarer = (counts / counts[y][:, None]).clamp(max=1) ** 0.8
    return -_logp(x + (likelier * rarer).log(), y)


def _dual_clip(x: Tensor, y: Tensor, advantage: Tensor, old_logp: Tensor) -> Tensor:
    r = _ratio(x, y, old_logp)
    found = torch.maximum(-r * advantage, -r.clamp(0.8, 1.2) * advantage)
    return torch.where(advantage < 0, torch.minimum(found, -3 * advantage), found)


def _sapo(x: Tensor, y: Tensor, advantage: Tensor, old_logp: Tensor) -> Tensor:
    tau = torch.where(advantage > 0, 1.0, 1.05)
    return -advantage * 4 / tau * (tau * (_ratio(x, y, old_logp) - 1)).sigmoid()


def _cispo(x: Tensor, y: Tensor, advantage: Tensor, old_logp: Tensor) -> Tensor:
    return -_ratio(x, y, old_logp).detach().clamp(max=5) * advantage * _logp(x, y)


def _dino(x: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    return -(((teacher - center) / 0.04).softmax(1) * (x / 0.1).log_softmax(1)).sum(1)


def _energy(x: Tensor, inlier: Tensor) -> Tensor:
    energy = -x.logsumexp(1)
    return torch.where(inlier > 0, (energy + 23).relu(), (-5 - energy).relu()) ** 2


def _coral(x: Tensor, level: Tensor) -> Tensor:
    above = (torch.arange(V) < level[:, None]).double()
    return F.binary_cross_entropy_with_logits(x, above, reduction="none").sum(1)


def _mdca(x: Tensor, y: Tensor) -> Tensor:
    gap = x.softmax(1).mean(0) - F.one_hot(y, V).double().mean(0)
    return F.cross_entropy(x, y) + gap.abs().sum() / V


def _taid(x: Tensor, teacher: Tensor) -> Tensor:
    between = (0.5 * x.detach() + 0.5 * teacher).log_softmax(1)
    return (between.exp() * (between - x.log_softmax(1))).sum(1)


def _unlikelihood(x: Tensor, y: Tensor, negatives: Tensor) -> Tensor:
    rest = (1 - x.softmax(1)).log()
    listed = negatives * (1 - F.one_hot(y, V))
    return -_logp(x, y) - torch.where(listed > 0, rest, 0.0).sum(1)


@dataclass(frozen=True)
class Case:
    """A loss: its formula, its class inputs, and those by name; ``y``: has it a target?"""

    formula: Reference
    streams: tuple[Tensor, ...] = ()
    named: dict[str, Tensor] = field(default_factory=dict)
    y: bool = True


POLICY = {"advantage": _row(7, -2, 2), "old_logp": _row(8, -3, -0.1)}
LEVEL = {"level": torch.tensor([0.0, 1.0, 3.0, 6.0, 5.0])}
CASES: dict[str, Case] = {
    "unlikelihood": Case(_unlikelihood, (_labels(2),)),
    "partial_label": Case(lambda x, c: -(c * x.softmax(1)).sum(1).log(), (_labels(3),), y=False),
    "complementary_label": Case(lambda x, y: -(1 - _at(x.softmax(1), y)).log()),
    "cosface": Case(_cosface),
    "seesaw": Case(_seesaw, (), {"counts": torch.tensor([1.0, 5.0, 40.0, 3.0, 200.0, 9.0])}),
    "cispo": Case(_cispo, (), POLICY),
    "sapo": Case(_sapo, (), POLICY),
    "dual_clip_ppo": Case(_dual_clip, (), POLICY),
    "taid": Case(_taid, (_matrix(4),), y=False),
    "mdca": Case(_mdca),
    "energy_ood": Case(_energy, (), {"inlier": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])}, y=False),
    "dino": Case(_dino, (_matrix(7) * 0.05,), {"center": _matrix(8)[0] * 0.05}, y=False),
    "coral": Case(_coral, (), LEVEL, y=False),
}
TARGET = torch.tensor([0, 3, 5, 1, 2])


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_formulas(name: str, backend: str) -> None:
    case = CASES[name]
    given = (TARGET,) if case.y else ()
    for scale in (0.5, 3.0):
        exact = (_matrix(1) * scale).requires_grad_()
        wanted = case.formula(exact, *given, *case.streams, **case.named)
        (slope,) = torch.autograd.grad(wanted.sum(), exact)
        x = exact.detach().float().requires_grad_()
        function = getattr(losses, f"{name}_loss")
        options: dict[str, Any] = {k: v.float() for k, v in case.named.items()}
        options["backend"] = backend
        if wanted.dim():
            options["reduction"] = "none"
        found = function(x, *given, *(s.float() for s in case.streams), **options)
        torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=2e-6)
        (grad,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(grad.double(), slope, rtol=2e-5, atol=4e-6)
