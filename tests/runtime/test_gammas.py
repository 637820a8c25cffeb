"""Losses with lgamma, digamma and polygamma, on rows that are hard for them."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath as mp
import pytest
import torch
from torch import Tensor

import lossgen
from lossgen.runtime import c_build
from lossgen.runtime.device import HAS_TRITON

C = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
TRITON = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
BACKENDS = ["torch", pytest.param("c", marks=C), pytest.param("triton", marks=TRITON)]
INF = math.inf
ROWS = torch.tensor(
    [
        [0.3, -1.2, 2.0, 0.7, -0.1],
        [100.0, 0.0, 1.0, -2.0, 0.5],  # sure of y, in evidence of 100
        [0.0, 100.0, -3.0, 1.0, 2.0],  # and of another class
        [0.7] * 5,
        [2.0, 2.0, -1.0, 2.0, -1.0],
        [3000.0, 2997.0, 3001.0, 2999.5, 3000.0],
        [-3000.0, -3001.0, -2999.0, -3000.0, -3002.0],
        [1.0, -INF, 0.5, -INF, 2.0],
        [-30.0, -31.0, -30.5, -29.0, -28.0],
    ]
)
TARGET = torch.zeros(len(ROWS), dtype=torch.long)
COUNTS = torch.tensor([[0.0, 3, 1, 0, 7], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).repeat(3, 1)


#: not of the catalogue: in float64 their kernels spill on a GPU
GAMMAS = Path(__file__).parent / "gammas"


def _divergence(x: Tensor, y: Tensor) -> Tensor:
    """KL(Dir(a) || Dir(1)) as torch.distributions has it."""
    hot = torch.nn.functional.one_hot(y, x.shape[1]).bool()
    evidence = torch.nn.functional.softplus(x).masked_fill(hot, 0.0)
    concentration = torch.distributions.Dirichlet(evidence + 1)
    flat = torch.distributions.Dirichlet(torch.ones_like(x))
    return torch.distributions.kl_divergence(concentration, flat)


def _ce(x: Tensor, y: Tensor) -> Tensor:
    alpha = torch.nn.functional.softplus(x) + 1
    return torch.digamma(alpha.sum(1)) - torch.digamma(alpha.gather(1, y[:, None]).squeeze(1))


def _counted(x: Tensor, counts: Tensor) -> Tensor:
    """Of counts in a given order: that of any order less log of the number of orders."""
    alpha = torch.nn.functional.softplus(x).clamp(1e-6, 1e6)
    total = torch.lgamma(alpha.sum(1)) - torch.lgamma((alpha + counts).sum(1))
    return -(total + (torch.lgamma(alpha + counts) - torch.lgamma(alpha)).sum(1))


#: kept here, as other tests empty sys.modules of what was loaded
_CE = lossgen.load(GAMMAS / "evidential_ce.yaml")
_KL = lossgen.load(GAMMAS / "evidential_kl.yaml")
LOSSES = {
    "evidential_kl": (_KL.evidential_kl_loss, _divergence, {}),
    "evidential_ce": (_CE.evidential_ce_loss, _ce, {}),
    "annealed": (
        _CE.evidential_ce_loss,
        lambda x, y: _ce(x, y) + 0.3 * _divergence(x, y),
        {"annealing": 0.3},
    ),
}
LINEAR = {
    loss: getattr(module, f"linear_{loss.__name__}")
    for module, loss in [(_CE, _CE.evidential_ce_loss), (_KL, _KL.evidential_kl_loss)]
}


def _of_reference(reference, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double().requires_grad_()
    value = reference(x, y)
    [grad] = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


def _close(got: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_hard_rows(name, backend):
    loss, reference, parameters = LOSSES[name]
    value, grad = _of_reference(reference, ROWS, TARGET)
    x = ROWS.clone().requires_grad_()
    got = loss(x, TARGET, reduction="none", backend=backend, **parameters)
    got.sum().backward()
    _close(got.detach(), value)
    _close(x.grad, grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 5])
def test_counts(size, backend):
    loss = lossgen.load(GAMMAS / "dirichlet_multinomial.yaml").dirichlet_multinomial_loss
    counts, rows = COUNTS[:, :size].contiguous(), ROWS[:, :size].contiguous()
    value, grad = _of_reference(lambda x, y: _counted(x, counts.double()), rows, TARGET)
    x = rows.clone().requires_grad_()
    got = loss(x, counts=counts, reduction="none", backend=backend)
    got.sum().backward()
    _close(got.detach(), value)
    _close(x.grad, grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_against_mpmath(backend):
    """Where float64 autograd has lost digits too: the divergence of much evidence that is even."""
    loss = lossgen.load(GAMMAS / "evidential_kl.yaml").evidential_kl_loss
    rows = torch.tensor([[0.0, 3e4, 3e4, 3e4], [5.0, 1e6, 1e6, 1e6], [1.0, -8.0, -9.0, -8.0]])
    got = loss(rows, TARGET[:3], reduction="none", backend=backend)
    for row, value in zip(rows.tolist(), got.tolist(), strict=True):
        with mp.workdps(60):
            evidence = [mp.log1p(mp.exp(-abs(v))) + max(v, 0) for v in map(mp.mpf, row[1:])]
            total = mp.fsum(evidence) + len(row)
            exact = mp.loggamma(total) - mp.loggamma(len(row))
            for e in evidence:
                exact += e * (mp.digamma(e + 1) - mp.digamma(total)) - mp.loggamma(e + 1)
        assert value == pytest.approx(float(exact), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_of_a_linear_layer(name, backend):
    loss, reference, parameters = LOSSES[name]
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 4), torch.randn(5, 4) * 3
    y = torch.tensor([0, 4, 2, 2, 1, 3])
    owned = [t.double().requires_grad_() for t in (hidden, weight)]
    value = reference(owned[0] @ owned[1].T, y).mean()
    exact = torch.autograd.grad(value, owned)
    given = [t.clone().requires_grad_() for t in (hidden, weight)]
    got = LINEAR[loss](*given, y, backend=backend, **parameters)
    _close(got.detach(), value.detach())
    for one, other in zip(torch.autograd.grad(got, given), exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-6)


@TRITON
def test_no_tiles_in_float64():
    loss, _, _ = LOSSES["evidential_ce"]
    with pytest.raises(ValueError, match="computed in float64; use schedule 'chunked'"):
        LINEAR[loss](
            torch.randn(6, 4),
            torch.randn(5, 4),
            torch.zeros(6, dtype=torch.long),
            schedule="tiled",
            backend="triton",
        )


@pytest.mark.parametrize("backend", ["torch", pytest.param("c", marks=C)])
@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name, backend):
    """Of digamma they are polygamma(2, e)."""
    loss, reference, parameters = LOSSES[name]
    rows, y = ROWS[:5], TARGET[:5]
    along = torch.linspace(-1, 1, rows.numel()).reshape(rows.shape)
    x = rows.double().requires_grad_()
    [grad] = torch.autograd.grad(reference(x, y).sum(), x, create_graph=True)
    [exact] = torch.autograd.grad((grad * along).sum(), x)
    x = rows.clone().requires_grad_()
    value = loss(x, y, reduction="sum", backend=backend, **parameters)
    [grad] = torch.autograd.grad(value, x, create_graph=True)
    [got] = torch.autograd.grad((grad * along).sum(), x)
    torch.testing.assert_close(got.double(), exact, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_value(backend):
    """Below 0 the three are NaN, as the logarithm is, and the rows beside are what they are."""
    loss = lossgen.loss("lgamma(x[y]) + digamma(x[y]) + trigamma(x[y])")
    x = torch.tensor([[-0.5, 1.0], [1.5, -2.0], [0.0, 1.0]])
    got = loss(x, torch.zeros(3, dtype=torch.long), reduction="none", backend=backend)
    exact = torch.lgamma(x[1, 0]) + torch.digamma(x[1, 0]) + torch.polygamma(1, x[1, 0])
    assert math.isnan(got[0])
    assert got[1].item() == pytest.approx(exact.item(), rel=1e-6)


def test_synonyms_are_the_same_formula():
    one = lossgen.loss("gammaln(exp(x[y])) - loggamma(2*exp(x[y])) + psi(exp(x[y]))")
    other = lossgen.loss("lgamma(exp(x[y])) - lgamma(2*exp(x[y])) + digamma(exp(x[y]))")
    x, y = torch.randn(3, 4), torch.tensor([0, 3, 1])
    assert torch.equal(one(x, y, reduction="none"), other(x, y, reduction="none"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_orders_of_polygamma(backend):
    """Each has the next one in its gradient."""
    loss = lossgen.loss(
        "polygamma(1, exp(x[y])) + polygamma(2, exp(x[y])) + polygamma(6, exp(x[y]))"
    )
    a = torch.tensor([0.7, 1.0, 3.0, 8.5])
    x = a.log()[:, None].expand(4, 3).clone().requires_grad_()
    got = loss(x, torch.arange(4) % 3, reduction="none", backend=backend)
    got.sum().backward()
    a = x.detach()[:, 0].double().exp()
    exact = sum(torch.polygamma(n, a) for n in (1, 2, 6))
    slope = sum(torch.polygamma(n + 1, a) for n in (1, 2, 6)) * a
    torch.testing.assert_close(got.detach().double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(x.grad.double().sum(1), slope, rtol=3e-6, atol=0)


@TRITON
def test_tiles_in_float32():
    """Where float32 holds the loss, its logits are made on chip as those of any other."""
    loss = lossgen.loss("lgamma(2 + p[y]) + digamma(2 + p[y])")
    torch.manual_seed(1)
    hidden, weight = torch.randn(6, 4), torch.randn(9, 4)
    y = torch.tensor([0, 8, 2, 2, 5, 3])
    found = []
    for schedule in ("tiled", "chunked"):
        given = [t.clone().requires_grad_() for t in (hidden, weight)]
        value = loss.linear_custom_loss(*given, y, schedule=schedule, backend="triton")
        found.append([value.detach(), *torch.autograd.grad(value, given)])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
