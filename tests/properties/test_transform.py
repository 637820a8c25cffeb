"""T(β), the least surrogate regret at a zero-one regret, against closed forms and brute force."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from lossgen import paths
from lossgen.properties.conditional import Conditional
from lossgen.properties.consistency import transform
from lossgen.properties.setting import setting
from lossgen.spec.load import load_spec

sys.path.insert(0, str(Path(__file__).parent))
from closed_forms import adversarial, concave, paper, phi, two_point

BETAS = (0.1, 0.6)
TAUS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def regrets(name, classes, betas=BETAS, **parameters):
    spec = load_spec(paths.require_spec(name))
    risk = Conditional(setting(spec, parameters, classes, neutral=True))
    return [point.regret for point in transform(risk, betas)]


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [2, 10])
def test_comp_sum_has_the_transform_of_its_paper(classes, tau):
    """Equal where the paper's is tight; for τ > 1 it is a lower bound."""
    betas = BETAS if classes == 2 or tau == 2 else BETAS[1:]
    found = regrets("comp_sum", classes, betas, tau=tau)
    bounds = [paper(tau, classes, beta) for beta in betas]
    tight = tau <= 1 or (classes == 2 and tau <= 2)
    if tight:
        assert found == pytest.approx(bounds, abs=1e-4)
    else:
        assert all(f >= b - 1e-9 for f, b in zip(found, bounds, strict=True))
    if tau < 2:  # the least is at two classes, however many there are
        assert found == pytest.approx([two_point(tau, beta) for beta in betas], abs=1e-4)
    if tau == 2:  # the paper's up to β = 1/(n − 1)
        assert found[0] == pytest.approx(bounds[0], abs=1e-4)


def test_a_vertex_that_is_not_the_least_may_be_the_one():
    """p = (0, 1) is a local minimum, and the best that predicts the second class."""
    found = regrets("comp_sum", 2, (0.1, 0.9), tau=3.0)
    assert found == pytest.approx([0.05, (0.95 - 0.25) / 2], abs=1e-6)


@pytest.mark.parametrize("tau", [2.0, 3.0])
def test_concave_losses_by_vertices(tau):
    wanted = [concave(tau, 3, beta) for beta in BETAS]
    assert regrets("comp_sum", 3, tau=tau) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("tau", [0.5, 1.5])
def test_no_distribution_of_brute_force_has_less(tau):
    """Σ q·Φ(p) at p ∝ q^a, and with the predicted class tied to the likelier ones, of many q."""
    a, beta = 1 / (2 - tau), 0.3
    rng = np.random.default_rng(0)
    least = math.inf
    for _ in range(1500):
        i = rng.uniform((1 + beta) / 4, (1 + beta) / 2)
        rest = rng.dirichlet([1.0, 1.0]) * (1 - 2 * i + beta)
        q = np.array([i, i - beta, *rest])
        if q.min() < 0 or q.max() > i:
            continue

        def risk(p, q=q):
            kept = q > 0
            return (q[kept] * (p[kept] ** (tau - 1) - 1)).sum() / (1 - tau)

        free = q**a / (q**a).sum()
        tied = [0, 1, *(k for k in (2, 3) if q[k] > (q[0] + q[1]) / 2)]
        w = q.copy()
        w[tied] = q[tied].mean()
        predicted = w**a / (w**a).sum()
        least = min(least, risk(predicted) - risk(free))
    (found,) = regrets("comp_sum", 4, (beta,), tau=tau)
    assert found <= least + 1e-6
    assert found == pytest.approx(least, abs=2e-3)


def test_a_hinge_is_minimised_at_its_corners():
    """Newton's steps alone ended above 0.61: x = (1, 0, 0) has 0.6."""
    spec = load_spec(paths.require_spec("crammer_singer"))
    risk = Conditional(setting(spec, {}, 3, neutral=True))
    q = np.array([[0.7, 0.0, 0.3]])
    _, value = risk.best(q, (1, 1, 1), [np.log(q + 1e-14), np.zeros((1, 3))])
    assert value == pytest.approx([0.6], abs=1e-5)


def test_the_smooth_adversarial_losses_keep_the_bound_of_their_paper():
    """Φ_τ(1)·β ≤ risk − least ρ-margin risk, where ν ≥ √(V − 1)/ρ; with ν = 1 it fails."""
    classes, rho, rng = 3, 1.0, np.random.default_rng(1)
    spec = load_spec(paths.require_spec("adv_comp_sum"))
    for tau in (0.5, 1.0, 1.5):
        enough = math.sqrt(classes - 1) / rho
        at = setting(spec, {"tau": tau, "rho": rho, "nu": enough}, classes, neutral=True)
        margins = []
        for _ in range(60):
            x = rng.normal(0, 10 ** rng.uniform(-2, 0.7), classes)
            moved = x + rng.normal(0, 10 ** rng.uniform(-3, 0.5), classes)
            q = np.sort(rng.dirichlet(np.ones(classes)))[::-1]
            one = at.__class__(**{**vars(at), "inputs": {"adversarial_x": moved[None]}})
            y = np.arange(classes)
            none = np.zeros(classes, dtype=np.int64)
            risk = q @ one.evaluated(np.repeat(x[None], classes, 0), y, none)[0]
            least = sum(q[k] * phi(tau, k) for k in range(classes))
            beta = q[0] - q[moved.argmax()]
            margins.append(risk - least - adversarial(tau, beta))
        assert min(margins) >= -1e-12


def test_clean_adversarial_logits_leave_the_comp_sum_loss():
    assert regrets("adv_comp_sum", 2, (0.5,), tau=1.5, rho=2.0) == pytest.approx(
        [two_point(1.5, 0.5)], abs=1e-4
    )
