"""NaN shows: each of these calls hid one, on at least one backend.

What the properties say of every loss (``nan_shows``), on the inputs where it was first seen.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lossgen
from lossgen.verify import interpreter

NAN = math.nan
backends = pytest.mark.parametrize("backend", ["torch", "c", "triton"])


@pytest.fixture(autouse=True, scope="module")
def _interpreter() -> None:
    interpreter.install()  # whose maxima drop NaN, as a GPU's do


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def call(name: str, *given: Tensor, **options: object) -> tuple[Tensor, list[Tensor]]:
    """Loss [N] of a loss of the catalogue, and the gradients of what requires one."""
    function = getattr(lossgen.load(name), f"{name}_loss")
    loss = function(*given, reduction="none", **options)
    loss.sum().backward()
    return loss.detach(), [g.grad for g in given if g.grad is not None]


def eager(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), leaves))


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


# ------------------------------------------------------------------------------- maxima, relu
@backends
@pytest.mark.parametrize("at", [0, 1, 39])
def test_a_maximum_keeps_it(backend: str, at: int) -> None:
    """C and Triton took the largest of the other logits: 2.0."""
    x = torch.linspace(-1.0, 1.0, 80).reshape(2, 40)
    x[0, at] = NAN
    x.requires_grad_()
    y = torch.tensor([3, 3])
    loss, (grad,) = call("crammer_singer", x, y, backend=backend)
    assert loss.isnan().tolist() == [True, False]
    others = x.scatter(1, y[:, None], -math.inf).max(1).values
    (expected,) = eager(torch.relu(1.0 + others - x.gather(1, y[:, None])[:, 0]), x)
    assert same(grad, expected)  # of a NaN, too: torch's relu lets its gradient through


@backends
def test_of_several_outputs(backend: str) -> None:
    """A NaN is in every result that reads it."""
    x = torch.zeros(2, 5)
    x[1, 4] = NAN
    found = lossgen.load("token_stats").token_stats(x, torch.tensor([0, 0]), backend=backend)
    assert all(out.isnan().tolist() == [False, True] for out in found)


@backends
def test_one_class_alone(backend: str) -> None:
    """There is no other class, and x[y] - x[y] was 0."""
    x = rows([NAN], [0.5])
    loss, (grad,) = call("weston_watkins", x, torch.tensor([0, 0]), backend=backend)
    assert loss.isnan().tolist() == [True, False]
    assert loss[1] == 0
    assert grad.isnan().tolist() == [[True], [False]]


@backends
@pytest.mark.parametrize("name", ["reverse_kl", "skew_kl", "skew_reverse_kl", "tvd", "renyi"])
@pytest.mark.parametrize("teacher", [False, True])
def test_one_class_of_two_rows(backend: str, name: str, teacher: bool) -> None:
    x, t = torch.zeros(2, 1), torch.zeros(2, 1)
    (t if teacher else x)[0] = NAN
    loss, _ = call(name, x.requires_grad_(), t, backend=backend)
    assert loss.isnan().tolist() == [True, False]
    assert loss[1] == 0


@backends
def test_a_hinge_has_torchs_gradient(backend: str) -> None:
    x = rows([NAN, 0.2, 3.0, -4.0], [0.1, 0.2, 0.3, -4.0])
    y = torch.tensor([1, 1])
    loss, (grad,) = call("weston_watkins", x, y, backend=backend)
    assert loss.isnan().tolist() == [True, False]
    others = torch.ones_like(x).scatter(1, y[:, None], 0.0)
    (expected,) = eager(torch.relu(1.0 + x - x.gather(1, y[:, None])) * others, x)
    assert same(grad, expected)


# ------------------------------------------------------------------------------- weights of 0
@backends
@pytest.mark.parametrize(
    ("name", "target"), [("reverse_kl", False), ("trades", True), ("mart", True)]
)
def test_a_guarded_product_keeps_it(backend: str, name: str, target: bool) -> None:
    """where(0 < p, p*a, 0) is 0 of a NaN p: the gradient of a lost row was 0."""
    x, t = rows([0.3, NAN, 2.0], [1.0, 2.0, 3.0]), torch.tensor([[0.1, 0.2, 0.3]] * 2)
    labels = [torch.tensor([2, 2])] if target else []
    loss, (grad,) = call(name, x, *labels, t, backend=backend)
    assert loss.isnan().tolist() == [True, False]
    assert grad.isnan().all(1).tolist() == [True, False]
    assert not grad[1].isnan().any()


@backends
def test_a_product_of_powers_keeps_it(backend: str) -> None:
    """Triton's tl.maximum dropped it from the exponent of p^a·q^b."""
    x, t = rows([0.3, 0.1, 2.0]), rows([0.1, NAN, 0.3])
    loss, (grad,) = call("renyi", x, t.detach(), backend=backend)
    assert loss.isnan().all()
    assert grad.isnan().all()


@backends
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_floor_keeps_it(backend: str, at: int, classes: int) -> None:
    """Triton's tl.maximum(stream[y], -1e4) was -1e4: a loss of 40001.6."""
    x = torch.zeros(1, classes, requires_grad=True)
    a = torch.zeros(1, classes)
    a[0, at % classes] = NAN
    a.requires_grad_()
    loss, grads = call("adv_comp_sum", x, torch.tensor([0]), a, backend=backend)
    assert loss.isnan().all()
    assert all(g[0, 0].isnan() for g in grads)


@backends
@pytest.mark.parametrize("at", [0, 1])
def test_what_cancels_is_read(backend: str, at: int) -> None:
    """EMO's loss is ce/emd·emd, which is ce, and NaN where emd is."""
    x, cost = rows([0.3, 0.1], [0.1, 0.2]), torch.ones(2, 2)
    cost[0, at] = NAN
    loss, (grad,) = call("emo", x, torch.tensor([0, 0]), cost, backend=backend)
    assert loss.isnan().tolist() == [True, False]
    assert grad.isnan().any(1).tolist() == [True, False]


# ------------------------------------------------------------------------------- formulas
FORMULAS = {
    "relu(max(x) - 1)": lambda x: torch.relu(x.max(1).values - 1),
    "maximum(x[y], 0) + sum(minimum(x, 1))": lambda x: (
        x[:, 0].clamp_min(0) + x.clamp_max(1.0).sum(1)
    ),
    "clip(sum(x), -1, 1)": lambda x: x.sum(1).clamp(-1, 1),
    "where(x[y] > 0, 1, x[y]**2)": lambda x: torch.where(x[:, 0] > 0, 1.0, x[:, 0] ** 2),
    "where(x[y] != 0, x[y], 1)": lambda x: torch.where(x[:, 0] != 0, x[:, 0], 1.0),
    "sum(where(x > 0, 1, x)) + x[y]": lambda x: torch.where(x > 0, 1.0, x).sum(1) + x[:, 0],
    "sum(where(x <= 0, 2, 1)) + x[y]": lambda x: torch.where(x <= 0, 2.0, 1.0).sum(1) + x[:, 0],
    "max(x, over=others)": lambda x: x[:, 1:].max(1).values,
    "second_max(x)": lambda x: x.sort(1, descending=True).values[:, 1],
}


@backends
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("at", [0, 1])
def test_as_in_eager_torch(backend: str, formula: str, at: int, tmp_path: Path) -> None:
    """NaN compares false, as in torch.where; everything else keeps it, and of y it always shows."""
    path = tmp_path / "written.yaml"
    path.write_text(
        "name: written\ntitle: written\nreference: none\nmin_classes: 3\n"
        f"transform: '{formula}'\naccuracy: {{ulp: 16, reason: a test}}\n",
        encoding="utf-8",
    )
    module = lossgen.load(path)
    x = torch.tensor([[0.3, 0.1, -2.0, 1.5], [0.3, 0.1, -2.0, 1.5]])
    x[0, at] = NAN
    given = [torch.tensor([0, 0])] if module.LOSS.has_target else []
    loss = module.written_loss(x, *given, reduction="none", backend=backend)
    expected = FORMULAS[formula](x)
    if at == 0 and formula == "max(x, over=others)":
        expected[0] = NAN  # of y nothing is read: a NaN in a row is in its loss all the same
    assert same(loss, expected)


# ------------------------------------------------------------------------------- and nothing else
@backends
@pytest.mark.parametrize("name", ["cross_entropy", "gce", "crammer_singer", "weston_watkins"])
def test_ignored_rows_stay_zero(backend: str, name: str) -> None:
    x = rows([NAN] * 4, [1.0, 2.0, 3.0, 4.0])
    loss, (grad,) = call(name, x, torch.tensor([-100, 1]), backend=backend)
    assert loss[0] == 0
    assert not grad[0].any()
    assert loss[1].isfinite()
    assert grad[1].isfinite().all()


@backends
@pytest.mark.parametrize("top", [85.0, 90.0, 95.0, 100.0, 105.0])
def test_an_inverse_that_overflows(backend: str, top: float, tmp_path: Path) -> None:
    """1/Σ exp of classes e^-95 below the largest is no float32: 0·∞ in their gradient."""
    path = tmp_path / "written.yaml"
    path.write_text(
        "name: written\ntitle: written\nreference: none\n"
        "transform: sigmoid(tanh(logsumexp(x)))\naccuracy: {ulp: 8, reason: a test}\n",
        encoding="utf-8",
    )
    x = rows([top, 0.0, 1.0])
    loss = lossgen.load(path).written_loss(x, reduction="sum", backend=backend)
    loss.backward()
    assert loss.item() == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert x.grad is not None
    assert same(x.grad, torch.zeros(1, 3))


@backends
def test_a_parameter_of_zero_adds_nothing(backend: str) -> None:
    """nu·norm(…) is 0 at nu = 0, also where a masked class makes the norm infinite."""
    x, a = rows([3.0, -0.5, -4.0]), rows([-math.inf, 1.0, 2.0])
    loss, grads = call("adv_comp_sum", x, torch.tensor([1]), a, nu=0.0, backend=backend)
    alone, (grad,) = call(
        "adv_comp_sum",
        rows([3.0, -0.5, -4.0]),
        torch.tensor([1]),
        torch.zeros(1, 3),
        nu=0.0,
        backend=backend,
    )
    assert same(loss, alone)
    assert same(grads[0], grad)
    assert not grads[1].any()
