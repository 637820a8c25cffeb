"""Losses whose small values have an absolute accuracy, and what is nearly uniform."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor

from lossgen.compiler import compile_loss
from lossgen.ir.plan import KernelPlan
from lossgen.losses import dice_loss, dist_row_loss
from lossgen.spec.load import load_text

ULP = 2.0**-23


def formula(text: str, head: str = "") -> KernelPlan:
    spec = f"name: t\ntitle: T\nreference: R\n{head}transform: '{text}'\n"
    return compile_loss(load_text(spec)).variants[0]


# ---------------------------------------------------------------------------- accuracy.scale
#: exact only to an ulp of 1: it vanishes for a confident row, and no rule knows tanh
ABSOLUTE = "tanh(1) - tanh(p[y])"


def accuracy(ulp: float, scale: str) -> str:
    return f"accuracy: {{ulp: {ulp:.1f}{scale}, reason: vanishes}}\n"


def test_errors_below_the_scale_are_absolute() -> None:
    certificate = formula(ABSOLUTE, accuracy(4, ", scale: 1")).certificate
    assert certificate is not None
    assert certificate.loss_kappa <= 4
    assert certificate.scale == 1.0
    assert " (1 + kappa) ulp of max(|true value|, 1) at " in str(certificate)
    assert "max(" not in str(formula("-logp[y]").certificate)


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        (ABSOLUTE, ""),
        (ABSOLUTE, ", scale: 0.001"),  # an ulp of 1 is a thousand of the scale
        (f"1000 * ({ABSOLUTE})", ", scale: 1"),
    ],
)
def test_absolute_errors_above_the_bound_are_seen(text: str, scale: str) -> None:
    """Float32 is not enough for what the spec asks."""
    assert formula(text, accuracy(16, scale)).stable.arithmetic == "float64"


def test_headers_say_where_errors_are_absolute() -> None:
    from lossgen.cli.listing import read_header

    for name in ("dice", "dist_row"):
        header = read_header(name)
        assert "ulp of max(|true value|, 1)" in header["certificate"]
        assert "absolute" in header
    assert "absolute" not in read_header("cross_entropy")


# ---------------------------------------------------------------------------- p - 1/V
def test_what_is_beside_the_uniform_is_not_expanded() -> None:
    found = formula("sum((p - 1/V)**2)")
    (total,) = (s for s in found.sums if s.symbol in found.stable.loss.free_symbols)
    assert str(total.body) == "expm1(logu0)**2/V**2"
    assert "excess_over_uniform" in found.stable.rules
    assert found.sweeps == 2
    assert formula("sum(p**2) - 2*p[y]").sweeps == 1


def correlation(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """1 - rho of each row at 60 digits, and its gradient."""
    losses, grads = [], []
    with mp.workdps(60):
        for row, other in zip(x.tolist(), u.tolist(), strict=True):
            p, t = (softmax(v) for v in (row, other))
            a, b = ([v - mp.mpf(1) / len(row) for v in w] for w in (p, t))
            aa, bb, ab = (mp.fdot(v, w) for v, w in ((a, a), (b, b), (a, b)))
            size = mp.sqrt(aa * bb)
            losses.append(float(1 - ab / size))
            parts = zip(p, a, b, strict=True)
            grads.append([float(q * (ab / size * v / aa - w / size)) for q, v, w in parts])
    return torch.tensor(losses).double(), torch.tensor(grads).double()


def softmax(row: list[float]) -> list[mp.mpf]:
    exponentials = [mp.exp(v) if math.isfinite(v) else mp.mpf(0) for v in row]
    total = mp.fsum(exponentials)
    return [e / total for e in exponentials]


def rows(student: float, teacher: float, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, u = (torch.randn(3, classes, generator=generator) for _ in range(2))
    return x * student, u * teacher


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("classes", [3, 7, 500])
@pytest.mark.parametrize(
    ("student", "teacher"), [(1e-3, 2.0), (1e-3, 1e-3), (2.0, 1e-3), (0.3, 0.3), (2.0, 2.0)]
)
def test_nearly_flat_rows(student: float, teacher: float, classes: int, backend: str) -> None:
    """Eager loses 1e-4 of loss and gradient where logits are 1e-3: an ulp of 1/V, relative."""
    x, u = rows(student, teacher, classes)
    loss, grad = correlation(x, u)
    leaf = x.requires_grad_()
    found = dist_row_loss(leaf, u, backend=backend, reduction="none")
    (slopes,) = torch.autograd.grad(found.sum(), leaf)
    assert bool(((found.double() - loss).abs() <= 16 * ULP).all())
    size = grad.abs().amax(1, keepdim=True)
    assert bool(((slopes.double() - grad).abs() <= 64 * ULP * size).all())


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_flat_rows_have_no_direction(offset: float, backend: str) -> None:
    flat, other = torch.full((2, 5), offset), rows(1.0, 1.0, 5)[0][:2]
    for x, u in ((flat, other), (other, flat), (flat, flat)):
        leaf = x.clone().requires_grad_()
        loss = dist_row_loss(leaf, u, T=2.0, backend=backend, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        assert loss.tolist() == [4.0, 4.0]
        assert not grad.any()


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_rows_that_agree_or_contradict(backend: str) -> None:
    x, _ = rows(1.0, 1.0, 7)
    x[:, 2] += 30.0
    masked = x.clone()
    masked[:, 0] = -math.inf
    for student, teacher in (
        (x, x + 0.1),
        (x, x.flip(1)),
        (masked, x),
        (x, masked),
        (x + 3000, masked - 3000),
    ):
        loss, grad = correlation(student, teacher)
        leaf = student.clone().requires_grad_()
        found = dist_row_loss(leaf, teacher, backend=backend, reduction="none")
        (slopes,) = torch.autograd.grad(found.sum(), leaf)
        assert bool(((found.double() - loss).abs() <= 16 * ULP).all())
        assert bool(((slopes.double() - grad).abs() <= 16 * ULP).all())


# ---------------------------------------------------------------------------- 1 - p where p is 1
def dice(row: list[float], y: int, alpha: float, gamma: float) -> mp.mpf:
    p = softmax(row)
    total = mp.mpf(0)
    for k, own in enumerate(p):
        g, e = mp.fsum(q for j, q in enumerate(p) if j != k) ** alpha * own, int(k == y)
        total += 1 - (2 * g * e + gamma) / (g * g + e + gamma)
    return total


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("gamma", [1.0, 2.0**-12])
@pytest.mark.parametrize("alpha", [0.0, 2.0**-7, 0.25, 1.0])
def test_dice_at_confident_rows(alpha: float, gamma: float, backend: str) -> None:
    """Eager's 1 - p is 0 from 17 on: the loss is off by up to 1, the gradient NaN."""
    x, _ = rows(1.0, 1.0, 6)
    for at, high in ((0, 12.0), (0, 40.0), (1, 12.0), (1, 20.0), (1, 40.0), (1, 75.0)):
        leaf = (x + high * torch.eye(6)[at]).requires_grad_()
        y = torch.zeros(3, dtype=torch.long)
        loss = dice_loss(leaf, y, alpha=alpha, gamma=gamma, backend=backend, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        with mp.workdps(90):
            for row, value, slopes in zip(leaf.tolist(), loss.detach(), grad, strict=True):
                exact = dice(row, 0, alpha, gamma)
                assert abs(float(value) - exact) <= 8 * ULP * max(1, exact)
                for j, slope in enumerate(slopes.tolist()):
                    moved = [v + mp.mpf(10) ** -40 * (k == j) for k, v in enumerate(row)]
                    right = (dice(moved, 0, alpha, gamma) - exact) * mp.mpf(10) ** 40
                    assert abs(slope - right) <= 16 * ULP * max(1, abs(right))


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_a_clamp_that_only_the_end_of_a_domain_needs(backend: str) -> None:
    """0 * inf at alpha = 0 in a row whose other classes are all masked."""
    x = torch.tensor([[1.0, -math.inf, -math.inf]], requires_grad=True)
    loss = dice_loss(x, torch.tensor([0]), alpha=0.0, backend=backend)
    loss.backward()
    assert x.grad is not None
    assert (loss.item(), x.grad.abs().max().item()) == (0.0, 0.0)
