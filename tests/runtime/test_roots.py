"""Roots: sparsemax, entmax and equations of one's own against sorts, bisections and mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mpmath as mp
import pytest
import torch
from torch import Tensor

import lossgen
from lossgen import paths
from lossgen.ir.literal import literal
from lossgen.ir.plan import SWEEPS
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec
from lossgen.verify.precise import literal_mpmath

BACKENDS = ("torch", "c", "triton")
LOSSES = ("sparsemax", "entmax15")


# ------------------------------------------------------------------- what the papers compute
def sparsemax(x: Tensor) -> Tensor:
    """Martins and Astudillo, algorithm 1, under autograd."""
    apart = x - x.detach().amax(-1, keepdim=True)
    ordered, _ = apart.sort(-1, descending=True)
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    sums = ordered.cumsum(-1) - 1
    support = (count * ordered > sums).sum(-1, keepdim=True)
    return (apart - sums.gather(-1, support - 1) / support).clamp_min(0)


def entmax15(x: Tensor) -> Tensor:
    """Peters, Niculae and Martins, algorithm 2: of the k largest, t = mean - √((1 - k·var)/k)."""
    apart = (x - x.detach().amax(-1, keepdim=True)) / 2
    ordered, _ = apart.sort(-1, descending=True)
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    mean = ordered.cumsum(-1) / count
    spread = (ordered**2).cumsum(-1) - count * mean**2
    t = mean - ((1 - spread) / count).clamp_min(0).sqrt()
    support = ((t <= ordered) & (spread <= 1)).sum(-1, keepdim=True)
    return (apart - t.gather(-1, support - 1)).clamp_min(0) ** 2


MAPS: dict[str, Callable[[Tensor], Tensor]] = {"sparsemax": sparsemax, "entmax15": entmax15}


def fenchel_young(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (q - e)·x + H(q) in float64, and its gradient q - e."""
    x = x.double()
    q = MAPS[name](x)
    power, scale = (2.0, 0.5) if name == "sparsemax" else (1.5, 4 / 3)
    lead = torch.where(q > 0, x - x.gather(1, y[:, None]), 0.0)
    hot = torch.nn.functional.one_hot(y, x.shape[1])
    return (q * lead).sum(1) + scale * (1 - (q**power).sum(1)), q - hot


@cache
def spec(name: str) -> LossSpec:
    return load_spec(paths.require_spec(name))


def loss(name: str) -> Callable[..., Tensor]:
    return getattr(lossgen.load(name), f"{name}_loss")


def computed(name: str, x: Tensor, y: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    rows = loss(name)(leaf, y, reduction="none", backend=backend)
    rows.sum().backward()
    assert leaf.grad is not None
    return rows.detach(), leaf.grad


def hard_rows() -> dict[str, tuple[list[float], int]]:
    """Logits and target."""
    mask = -math.inf
    return {
        "confident": ([9.0, 1.0, 2.0, -4.0], 0),
        "nearly confident": ([1.0, 0.03, -0.5, 0.01], 0),
        "confident in another": ([9.0, 1.0, 2.0, -4.0], 2),
        "flat": ([0.25] * 5, 3),
        "nearly flat": ([0.0, 1e-4, -1e-4, 2e-4, 0.0], 1),
        "ties": ([1.5, 1.5, 0.25, 1.5, 0.25], 1),
        "a class at the threshold": ([0.0, 0.0, -0.5, -3.0], 2),
        "the target at the threshold": ([1.0, 0.0], 1),
        "offset": ([3000.25, 3001.0, 2999.5, 3000.75], 0),
        "negative offset": ([-3000.25, -3001.0, -2999.5, -3000.75], 1),
        "masked": ([2.0, mask, 1.5, mask, 1.75], 0),
        "far apart": ([1e4, -1e4, 9999.5], 1),
        "one class": ([7.0], 0),
        "one class left": ([mask, 3.0, mask], 1),
    }


# ------------------------------------------------------------------- the losses of the catalogue
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_hard_rows(name: str, backend: str) -> None:
    """Against the sort, the literal formula in mpmath, and another solver of its equation."""
    for label, (row, target) in hard_rows().items():
        x, y = torch.tensor([row]), torch.tensor([target])
        rows, gradient = computed(name, x, y, backend)
        value, slopes = fenchel_young(name, x, y)
        torch.testing.assert_close(gradient.double(), slopes, atol=3e-7, rtol=3e-6, msg=label)
        with mp.workdps(60):
            truth = literal(spec(name), row, target, {})
            other, _ = literal_mpmath(spec(name), row, target, {}, {}, gradient=False)
            assert abs(truth.results[0] - other) <= mp.mpf(10) ** -50
        expected = float(truth.results[0])
        assert float(rows) == pytest.approx(expected, rel=3e-6, abs=1e-12), label
        assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-9), label
        exact = torch.tensor([[float(v) for v in truth.gradients["x"]]], dtype=torch.float64)
        torch.testing.assert_close(gradient.double(), exact, atol=3e-7, rtol=3e-6, msg=label)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_random_rows(name: str, backend: str) -> None:
    """Rows of one tile, of several, and many short ones; offsets and scales."""
    generator = torch.Generator().manual_seed(7)
    for shape in ((300, 3), (5, 40), (2, 2500)):
        for scale in (0.01, 1.0, 6.0):
            x = torch.randn(shape, generator=generator) * scale + 100
            y = torch.randint(shape[1], (shape[0],), generator=generator)
            rows, gradient = computed(name, x, y, backend)
            value, slopes = fenchel_young(name, x, y)
            torch.testing.assert_close(rows.double(), value, atol=2e-6, rtol=3e-6)
            torch.testing.assert_close(gradient.double(), slopes, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_tied_classes_have_one_gradient(name: str, backend: str) -> None:
    """To the bit: no class is the first of equal ones, and none is left out."""
    x = torch.tensor([[0.3, 1.7, 1.7, 0.9, 1.7, 0.9]]).repeat(3, 1)
    _, gradient = computed(name, x, torch.tensor([0, 3, 5]), backend)
    for row, others in zip(gradient, ((1, 2, 4), (1, 2, 4), (1, 2, 4)), strict=True):
        assert len({float(row[k]) for k in others}) == 1
    assert float(gradient[0, 3]) == float(gradient[0, 5])


@pytest.mark.parametrize("name", LOSSES)
def test_float64_and_its_gradient(name: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda x: loss(name)(x, y, reduction="none"), x)
    rows, _ = computed(name, x.detach(), y, "c")
    torch.testing.assert_close(rows, fenchel_young(name, x, y)[0].detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_whatever_stands_beside_a_row(backend: str) -> None:
    """Rows are repeated until the last has its root: the others keep theirs."""
    x, y = torch.randn(64, 33) * 2, torch.randint(33, (64,))
    for name in LOSSES:
        whole = computed(name, x, y, backend)
        again = computed(name, x, y, backend)
        for k in (0, 17, 63):
            alone = computed(name, x[k : k + 1], y[k : k + 1], backend)
            for one, other, part in zip(whole, again, alone, strict=True):
                assert torch.equal(one, other)
                if backend != "torch":  # whose sums depend on the shape of a chunk
                    assert torch.equal(one[k], part[0])
                torch.testing.assert_close(one[k], part[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_newton_steps_crawl_along(backend: str) -> None:
    """Each leaves out a few classes."""
    steps = torch.arange(2000.0)
    rows = torch.stack([-(1 - 0.9**steps), -steps / 2000, -torch.log1p(steps), -(steps**0.3)])
    x, y = rows * torch.tensor([[1.0], [0.02], [0.5], [0.1]]), torch.tensor([0, 1, 3, 1999])
    for name in LOSSES:
        _, gradient = computed(name, x, y, backend)
        torch.testing.assert_close(
            gradient.double(), fenchel_young(name, x, y)[1], atol=2e-6, rtol=2e-5
        )


def test_nan_shows() -> None:
    x = torch.tensor([[1.0, math.nan, 0.5], [1.0, 0.5, 0.25]])
    for name in LOSSES:
        for backend in BACKENDS:
            rows, gradient = computed(name, x, torch.tensor([0, 0]), backend)
            assert rows.isnan().tolist() == [True, False]
            assert gradient[0].isnan().any()
            assert not gradient[1].isnan().any()


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_linear_form(backend: str) -> None:
    hidden, weight = torch.randn(5, 7, requires_grad=True), torch.randn(11, 7, requires_grad=True)
    y = torch.tensor([0, 10, 3, 3, 7])
    for name in LOSSES:
        module = lossgen.load(name)
        linear = getattr(module, f"linear_{name}_loss")
        found = torch.autograd.grad(linear(hidden, weight, y, backend=backend), (hidden, weight))
        rows = loss(name)(hidden @ weight.T, y, backend=backend)
        for one, other in zip(found, torch.autograd.grad(rows, (hidden, weight)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------- what is refused
def test_no_tiles() -> None:
    hidden, weight, y = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])
    linear = lossgen.load("sparsemax").linear_sparsemax_loss
    with pytest.raises(ValueError, match="a root in its formula; use schedule 'chunked'"):
        linear(hidden, weight, y, schedule="tiled", backend="triton")


def test_no_second_derivatives() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    rows = loss("sparsemax")(x, torch.tensor([0, 1]), backend="torch")
    (gradient,) = torch.autograd.grad(rows, x, create_graph=True)
    with pytest.raises(Exception, match=r"no derivative with respect to x is formed of root"):
        gradient.square().sum().backward()


# ------------------------------------------------------------------- equations of one's own
def root(e: Callable[[Tensor, Tensor], Tensor], x: Tensor, low: float, high: float) -> Tensor:
    """By bisection; t - e/e' at the root has its derivative."""
    rows = torch.zeros_like(x[:, :1])
    ends = [rows.detach() + low, rows.detach() + high]
    for _ in range(80):
        middle = (ends[0] + ends[1]) / 2
        below = e(x.detach(), middle) >= 0
        ends = [torch.where(below, middle, ends[0]), torch.where(below, ends[1], middle)]
    t = ends[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(e(x.detach(), t).sum(), t)
    return ends[0] - e(x, ends[0]) / slope


def cubes(x: Tensor, t: Tensor) -> Tensor:
    apart = x - x.amax(1, keepdim=True) - t
    return (apart.clamp_min(0) ** 3).sum(1, keepdim=True) - 1


def at(value: Tensor, y: Tensor) -> Tensor:
    return value.gather(1, y[:, None])[:, 0]


def hot(x: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(y, x.shape[1])


OWN: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "a map at the target": (
        "transform: (1 - sparsemax(x)[y])**2 + sum(sparsemax(x)**2)",
        lambda x, y: (1 - at(sparsemax(x), y)) ** 2 + (sparsemax(x) ** 2).sum(1),
    ),
    "a map beside the target": (
        "transform: sum((entmax15(x) - onehot)**2)",
        lambda x, y: ((entmax15(x) - hot(x, y)) ** 2).sum(1),
    ),
    "a temperature": (
        'parameters: {t: {default: 2, domain: "[1, 4]"}}\n'
        "transform: sum((sparsemax(x/t) - onehot)**2)",
        lambda x, y: ((sparsemax(x / 2) - hot(x, y)) ** 2).sum(1),
    ),
    "beside a softmax": (
        "transform: -logp[y] + sum(entmax15(x)*p)",
        lambda x, y: (entmax15(x) * x.softmax(1)).sum(1) - at(x.log_softmax(1), y),
    ),
    "a maximum that moves": (
        "transform: sum(relu(x - max(x) - root(a, sum(relu(x - max(x) - a)) - 1, -1, 0))**2)",
        lambda x, y: (sparsemax(x) ** 2).sum(1),
    ),
    "an equation of one's own": (
        "transform: root(a, sum(relu(x - max(x) - a)**3) - 1, -1, 0) - x[y] + max(x)",
        lambda x, y: root(cubes, x, -1.0, 0.0)[:, 0] - at(x, y) + x.amax(1),
    ),
    "the paper's formula": (
        "let: {q: sparsemax(x)}\ntransform: sum(q*(x - x[y])) + (1 - sum(q**2))/2",
        lambda x, y: (
            (sparsemax(x) * (x - at(x, y)[:, None])).sum(1) + (1 - (sparsemax(x) ** 2).sum(1)) / 2
        ),
    ),
}


@pytest.mark.parametrize("label", OWN)
def test_own_equations(label: str, tmp_path: Path) -> None:
    """Values and gradients by the implicit function theorem, against autograd in float64."""
    formula, reference = OWN[label]
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\n{formula}\n")
    module, generator = lossgen.load(path), torch.Generator().manual_seed(3)
    function = module.own_loss
    for classes in (1, 2, 5, 40):
        x = torch.randn(6, classes, generator=generator) * 1.5
        y = torch.randint(classes, (6,), generator=generator)
        exact = x.double().requires_grad_()
        expected = reference(exact, y)
        expected.sum().backward()
        assert exact.grad is not None
        takes = (y,) if module.LOSS.has_target else ()
        for backend in BACKENDS:
            leaf = x.clone().requires_grad_()
            rows = function(leaf, *takes, reduction="none", backend=backend)
            rows.sum().backward()
            assert leaf.grad is not None
            torch.testing.assert_close(rows.double(), expected, atol=3e-6, rtol=1e-5)
            torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=3e-6, rtol=1e-5)


def test_the_bound_on_sweeps(tmp_path: Path) -> None:
    """Newton's steps leave the interval of an arc tangent: 26 halvings of 64 sweeps are sure."""
    assert SWEEPS == 64
    path = tmp_path / "bent.yaml"
    path.write_text(
        "name: bent\n"
        "let: {apart: x - stop_gradient(max(x))}\n"
        "transform: root(a, sum(where(apart < 0, 0, atan(1000*(apart - a)))) + 1/2, -8, 8) - x[y]\n"
    )
    function, (x, y) = lossgen.load(path).bent_loss, (torch.randn(4, 9), torch.arange(4))
    x[3] = 0.5  # nine of the largest
    count = torch.tensor([1.0, 1.0, 1.0, 9.0], dtype=torch.float64)
    exact = torch.tan(0.5 / count) / 1000 - at(x, y)
    for backend in BACKENDS:
        found = function(x, y, reduction="none", backend=backend)
        torch.testing.assert_close(found.double(), exact, atol=16 * 2.0**-26, rtol=2e-7)
