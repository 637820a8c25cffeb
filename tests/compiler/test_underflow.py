"""What underflows or overflows on the way to a number that float32 holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import lossgen

BACKENDS = ("torch", "c", "triton")
#: of what the largest class leaves to the others
COMPLEMENTS = {
    "acos(max(p))": lambda rest: math.sqrt(2 * rest),
    "sqrt(1 - max(p))": math.sqrt,
    "(1 - max(p))**0.25": lambda rest: rest**0.25,
}
CONFIDENT = [[0.0, 84.0], [0.0, 86.0, -1.0], [0.0, -1.0, 87.5], [0.0, 120.0]]
PARAMETERS = """parameters:
  tau: {default: 2.25, domain: "[0.5, 4]"}
  s: {default: 1.75, domain: "[0.5, 3]"}
"""


def _loss(folder: Path, formula: str, more: str = ""):
    path = folder / "t.yaml"
    path.write_text(f'name: t\n{more}transform: "{formula}"\n', encoding="utf-8")
    return lossgen.load(path).t_loss


@pytest.mark.parametrize("formula", COMPLEMENTS)
def test_a_root_of_what_underflows(tmp_path: Path, formula: str) -> None:
    """C flushes e^-88 to 0, whose root is 1e-19: the certificate had a subnormal number there, and
    took float32. acos was 15 % off at 86, and 0 at 87."""
    loss = _loss(tmp_path, formula)
    for row in CONFIDENT:
        x = torch.tensor([row])
        top = max(row)
        rest = sum(math.exp(v - top) for v in row if v != top)
        for backend in BACKENDS:
            found = loss(x, backend=backend).item()
            assert found == pytest.approx(COMPLEMENTS[formula](rest), rel=1e-4, abs=0), (
                row,
                backend,
            )


@pytest.mark.parametrize("formula", ["-tau*log(1 + s*u)", "x[y] - tau*log(2 + s*u) + p[y]"])
def test_a_logarithm_of_odds_that_overflow(tmp_path: Path, formula: str) -> None:
    """u = e^94: u/(1 + s·u) of it in the gradient was ∞/∞, beside other terms and in torch."""
    extra = "inputs:\n  other: {kind: class, differentiable: true}\n"
    both = f"{formula} + logp[y] - logsumexp(other/tau) - (logsumexp(x) - x[y])"
    loss = _loss(tmp_path, both, PARAMETERS + extra)
    other = torch.tensor([[3.324, 0.115, 0.828]])
    y = torch.tensor([2])
    for row in ([91.255, 0.469, -2.849], [0.0, 88.9, 0.3], [1.0, -1.0, 0.5]):
        wide = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        odds = (wide[0, :2] - wide[0, 2]).exp().sum()
        logp = wide.log_softmax(1)[0, 2]
        exact = 2 * logp - torch.logsumexp(other.double() / 1.5, 1).sum()
        if "p[y]" in formula:
            exact = exact + wide[0, 2] - 1.5 * torch.log(2 + 0.5 * odds) + logp.exp()
        else:
            exact = exact - 1.5 * torch.log(1 + 0.5 * odds)
        (slope,) = torch.autograd.grad(exact, wide)
        for backend in BACKENDS:
            x = torch.tensor([row], requires_grad=True)
            found = loss(x, y, other, tau=1.5, s=0.5, backend=backend)
            (own,) = torch.autograd.grad(found, x)
            torch.testing.assert_close(found.double(), exact.detach(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(own.double(), slope, rtol=1e-5, atol=1e-6)


def test_a_coefficient_that_float_cannot_hold(tmp_path: Path) -> None:
    """1/norm of p - onehot is 1e39 in C's double, and was ∞ in the loop of the classes, times a p
    that underflows: a gradient of ∞ where 1e-37 is right."""
    path = tmp_path / "t.yaml"
    formula = "stop_gradient(logsumexp(x))*norm(p - onehot) + log(1 - sum(p)/2)"
    path.write_text(f"name: t\ntransform: '{formula}'\n")
    module = lossgen.load(path)
    for margin in (86.0, 87.4, 90.0):
        x = torch.tensor([[-2.0, 0.1, -0.6, margin]], requires_grad=True)
        for backend in ("c", "torch"):
            loss = module.t_loss(x, torch.tensor([3]), backend=backend)
            (found,) = torch.autograd.grad(loss, x)
            assert bool((found.abs() < 1e-30).all()), f"{backend}: {found}"
