"""Divergences beside a target: rows that mask it, think little of it, or are nearly equal.

They used to be measured from the target's own logit, and were NaN or inaccurate in all of these.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import mpmath as mp
import pytest
import torch
from torch import Tensor

import lossgen

BACKENDS = ["torch", "c", "triton"]
INF = math.inf

#: A bounded loss of the target, and a teacher that may have another temperature.
SPEC = """
name: target_kd
title: A label and a teacher
reference: none
inputs:
  teacher: {kind: class, differentiable: true, doc: logits of the teacher}
parameters:
  tau: {default: 2.0, domain: "[1, 8]", doc: temperature of both rows}
  lam: {default: 0.5, domain: "[0, 1]", doc: weight of the teacher}
transform: (1 - lam) * (1 - p[y])**2
regularizer: >-
  lam * tau**2 * sum(softmax(teacher / tau)
  * (log_softmax(teacher / tau) - log_softmax(x / tau)))
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("specs") / "target_kd.yaml"
    path.write_text(SPEC)
    return lossgen.load(Path(path))


def exact(x: list[float], teacher: list[float], y: int, tau: float, lam: float) -> mp.mpf:
    """The formula, in which a class of weight 0 adds 0."""
    with mp.workdps(60):
        own, scaled, other = (
            [mp.exp(mp.mpf(v) / t) if v > -INF else mp.mpf(0) for v in row]
            for row, t in ((x, 1), (x, tau), (teacher, tau))
        )
        p, q, r = ([v / mp.fsum(row) for v in row] for row in (own, scaled, other))
        divergence = mp.fsum(b * mp.log(b / a) for a, b in zip(q, r, strict=True) if b)
        return (1 - lam) * (1 - p[y]) ** 2 + lam * tau**2 * divergence


ROWS = [
    pytest.param([-INF, 1, 2], [-INF, 2, 1], 0, id="masked in both rows"),
    pytest.param([1, 2, 0.5], [-INF, 2, 1], 0, id="masked by the teacher"),
    pytest.param([0, 0], [-1e4, -INF], 0, id="the only class of the teacher"),
    pytest.param([0.3, 1, 2], [-1e4, 2, 1], 0, id="far below in the teacher"),
    pytest.param([-1e4, 1, 2], [-1e4, 2, 1], 0, id="far below in both rows"),
    pytest.param([-40, 1, 2], [-41, 2, 1], 0, id="improbable"),
    pytest.param([3e3, 2.9e3, 3e3], [-2e3, -2e3, -2.1e3], 1, id="offsets of their own"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("x", "teacher", "y"), ROWS)
def test_any_target(
    module: ModuleType, backend: str, x: list[float], teacher: list[float], y: int
) -> None:
    rows = [torch.tensor([row], dtype=torch.float32, requires_grad=True) for row in (x, teacher)]
    loss = module.target_kd_loss(
        rows[0], torch.tensor([y]), teacher=rows[1], reduction="sum", backend=backend
    )
    assert loss.item() == pytest.approx(float(exact(x, teacher, y, 2.0, 0.5)), rel=1e-5)
    loss.backward()
    double = [torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in (x, teacher)]
    _eager(double[0], double[1], y, 2.0, 0.5).backward()
    for row, gold in zip(rows, double, strict=True):
        assert row.grad is not None
        assert gold.grad is not None
        torch.testing.assert_close(row.grad.double(), gold.grad, rtol=1e-4, atol=2e-6)


def _eager(x: Tensor, teacher: Tensor, y: int, tau: float, lam: float) -> Tensor:
    """Autograd of the formula over the classes that have any weight."""
    keep = (teacher > -INF)[0]
    logs = torch.log_softmax(x / tau, 1)[:, keep]
    other = torch.log_softmax(teacher / tau, 1)[:, keep]
    divergence = (other.exp() * (other - logs)).sum()
    return (1 - lam) * (1 - torch.softmax(x, 1)[0, y]) ** 2 + lam * tau**2 * divergence


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("height", [0.0, 6.0, 13.0])
def test_nearly_equal_rows(module: ModuleType, backend: str, apart: float, height: float) -> None:
    """The divergence is second order in what is between the rows, and so is its error."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 9, generator=generator)
    x[:, 2] += height
    teacher = x + apart * torch.randn(4, 9, generator=generator)
    loss = module.target_kd_loss(
        x, torch.full((4,), 2), teacher=teacher, lam=1.0, reduction="none", backend=backend
    )
    for k in range(4):
        gold = exact(x[k].double().tolist(), teacher[k].double().tolist(), 2, 2.0, 1.0)
        assert float(loss[k]) == pytest.approx(float(gold), rel=2e-6 / apart)


def test_a_label_that_no_row_allows_is_infinite(module: ModuleType) -> None:
    x, teacher = torch.tensor([[-INF, 1.0, 2.0]]), torch.tensor([[1.0, 2.0, 0.5]])
    for backend in BACKENDS:
        loss = module.target_kd_loss(
            x, torch.tensor([0]), teacher=teacher, reduction="sum", backend=backend
        )
        assert loss.item() == INF


#: The exponents mention a statistic, the norm; so does what is between them.
NORMALISED = """
name: normalised_kd
title: A label and a teacher, normalised
reference: none
inputs:
  teacher: {kind: class, doc: logits of the teacher}
let:
  s: teacher / (1 + norm(teacher))
  t: x / (1 + norm(x))
transform: -logp[y] + sum(softmax(s) * (log_softmax(s) - log_softmax(t)))
accuracy: {ulp: 64, reason: squares of offsets}
"""


@pytest.mark.parametrize("backend", ["torch", "c"])
def test_normalised_logits(tmp_path: Path, backend: str) -> None:
    """What is between two softmaxes may depend on x through a statistic of an earlier sweep."""
    path = tmp_path / "normalised_kd.yaml"
    path.write_text(NORMALISED)
    loss = lossgen.load(path).normalised_kd_loss
    g = torch.Generator().manual_seed(3)
    x, teacher = torch.randn(2, 5, 9, generator=g, dtype=torch.float64)
    y = torch.randint(9, (5,), generator=g)
    ours, gold = (x.clone().requires_grad_() for _ in "ab")
    loss(ours, y, teacher=teacher, reduction="sum", backend=backend).backward()
    s = teacher / (1 + teacher.norm(dim=1, keepdim=True))
    t = gold / (1 + gold.norm(dim=1, keepdim=True))
    divergence = (s.softmax(1) * (s.log_softmax(1) - t.log_softmax(1))).sum()
    (torch.nn.functional.cross_entropy(gold, y, reduction="sum") + divergence).backward()
    torch.testing.assert_close(ours.grad, gold.grad, rtol=1e-9, atol=1e-12)


#: The label's term is infinite where its class is masked, unless it has no weight.
LABEL = """
name: label_kd
title: A label or a teacher
reference: none
inputs:
  teacher: {kind: class, doc: logits of the teacher}
parameters:
  alpha: {default: 0.5, domain: "[0, 1]", doc: weight of the teacher}
transform: -(1 - alpha) * logp[y] + alpha * sum(softmax(teacher) * (log_softmax(teacher) - logp))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_masked_label_is_infinite_or_nothing(tmp_path: Path, backend: str) -> None:
    """A clamped z gave half of that; and s - alpha·s, with alpha = 1, lost what is beside
    it."""
    path = tmp_path / "label_kd.yaml"
    path.write_text(LABEL)
    loss = lossgen.load(path).label_kd_loss
    x, teacher = torch.tensor([[-INF, 1.0, 0.0, 2.0]]), torch.tensor([[-INF, 0.5, 1.0, -1.0]])
    y = torch.tensor([0])
    for alpha in (0.0, 0.5):
        assert loss(x, y, teacher=teacher, alpha=alpha, backend=backend).item() == INF
    found = loss(x, y, teacher=teacher, alpha=1.0, backend=backend).item()
    assert found == pytest.approx(float(exact(x[0].tolist(), teacher[0].tolist(), 0, 1.0, 1.0)))
