"""Gradients to parameters and inputs, against float64 autograd of the literal formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossgen
from lossgen import paths
from lossgen.losses import (
    FocalLoss,
    cross_entropy_loss,
    focal_loss,
    gce_loss,
    linear_cross_entropy_loss,
    linear_focal_loss,
    taylor_ce_loss,
)
from lossgen.spec.load import load_spec
from lossgen.verify.reference import Arguments, literal

torch.manual_seed(0)
N, V, D = 12, 7, 5
X = torch.randn(N, V) * 2
Y = torch.randint(V, (N,))
Y[3] = -100
WEIGHT = torch.rand(V) + 0.5
BACKENDS = ("c", "torch")
#: what is hard: sure of the target, sure of another class, ties, masks, offsets
HARD = torch.stack(
    [
        F.one_hot(torch.tensor(2), V) * 30.0,
        F.one_hot(torch.tensor(4), V) * 30.0,
        torch.zeros(V),
        torch.tensor([0.3, -1.0, 2.0, -torch.inf, -torch.inf, 0.1, -2.0]),
        torch.randn(V) + 3000.0,
        torch.randn(V) * 1e-3,
    ]
)


def _exact(
    name: str, x: Tensor, y: Tensor, by: str, value: float, **others: Any
) -> tuple[Tensor, Tensor]:
    """Of each row that counts, in float64, and how it answers to the logits: Σ |dslope/dx·x|."""
    spec = load_spec(paths.specs_dir() / f"{name}.yaml")
    numbers = {n: p.default for n, p in spec.parameters.items()}
    tensors = {n: v for n, v in others.items() if isinstance(v, Tensor)}
    numbers |= {n: v for n, v in others.items() if not isinstance(v, Tensor)}
    point = torch.full((len(x), 1), value, dtype=torch.float64, requires_grad=True)
    missing = {n: torch.full((V,), i.off) for n, i in spec.inputs.items() if n not in tensors}
    inputs = {n: t.double() for n, t in {**missing, **tensors}.items()}
    x = x.double().clamp(-1e4).requires_grad_()  # autograd has 0·∞ where a class is masked
    given = Arguments(x, y.clamp(0), {**numbers, by: point}, inputs)
    rows = literal(spec, given)
    (slope,) = torch.autograd.grad(rows[y >= 0].sum(), point, create_graph=True)
    (moved,) = torch.autograd.grad(slope.sum(), x)
    return slope.detach().squeeze(1), (moved * x).detach().abs().sum(1)


#: losses, a parameter of theirs, values of it, and what else a call gives
CASES: tuple[tuple[str, str, tuple[float, ...], dict[str, Any]], ...] = (
    ("gce", "q", (0.7, 1.0, 1e-3, 0.05), {}),
    ("focal", "gamma", (2.0, 0.0, 0.5), {}),
    ("cross_entropy", "temperature", (1.0, 0.2, 30.0), {}),
    ("cross_entropy", "label_smoothing", (0.0, 0.1), {}),
    ("cross_entropy", "z_loss", (0.0, 0.1), {"weight": WEIGHT}),
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "by", "values", "others"), CASES)
def test_rows_equal_autograd(
    name: str, by: str, values: tuple[float, ...], others: dict[str, Any], backend: str
) -> None:
    function: Callable[..., Tensor] = getattr(lossgen.losses, f"{name}_loss")
    for value in values:
        for x, y in ((X, Y), (HARD, torch.full((len(HARD),), 2))):
            if by == "label_smoothing":  # a masked class makes it infinite
                x = x.clamp(-40)
            point = torch.tensor(value, requires_grad=True)
            given = {by: point, "backend": backend, "reduction": "none", **others}
            rows = function(x, y, **given)
            found = torch.stack(
                [torch.autograd.grad(r, point, retain_graph=True)[0] for r in rows.unbind()]
            )
            exact, kappa = _exact(name, x, y, by, point.item(), **others)
            # the torch program of rows 1e-3 apart is 1.8e-8 off, of a smoothing's slope of 1.6e-5
            least = 4e-8 if (by, backend) == ("label_smoothing", "torch") else 1e-9
            allowed = 3e-6 * exact.abs() + 2**-21 * kappa + least
            assert ((found - exact).abs() <= allowed).all(), (value, found, exact, allowed)
            plain = function(x, y, **{**given, by: point.item()})
            torch.testing.assert_close(rows, plain, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reductions_ignored_rows_and_the_logits(backend: str) -> None:
    slopes, _ = _exact("gce", X, Y, "q", 0.7)
    for reduction, weight in (
        ("mean", torch.full((N,), 1 / 11)),
        ("sum", torch.ones(N)),
        ("none", torch.arange(N) - 3.0),
    ):
        x, q = X.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)
        loss = gce_loss(x, Y, q=q, reduction=reduction, backend=backend)
        loss.backward(weight if reduction == "none" else None)
        torch.testing.assert_close(q.grad, (slopes * weight).sum().float(), rtol=1e-6, atol=1e-6)
        alone = X.clone().requires_grad_()
        plain = gce_loss(alone, Y, q=0.7, reduction=reduction, backend=backend)
        plain.backward(weight if reduction == "none" else None)
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(x.grad, alone.grad)


def test_a_term_that_counts_rows_beside_weights() -> None:
    """The z-loss is divided by the rows and the rest by their weights, also where its weight is 0
    and the term itself is compiled out."""
    lse = X.double().logsumexp(1)[Y >= 0]
    for value in (0.0, 0.25):
        z = torch.tensor(value, requires_grad=True)
        cross_entropy_loss(X, Y, weight=WEIGHT, z_loss=z).backward()
        torch.testing.assert_close(z.grad.double(), (lse**2).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    gamma = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    focal_loss(X, Y, gamma=gamma).backward()
    assert gamma.grad.dtype is dtype
    exact = _exact("focal", X, Y, "gamma", 1.5)[0].sum() / 11
    eps = torch.finfo(dtype).eps if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(gamma.grad.double(), exact, rtol=eps, atol=0)
    for half in (torch.bfloat16, torch.float16):
        gamma.grad = None
        focal_loss(X.to(half), Y, gamma=gamma).backward()
        exact = _exact("focal", X.to(half), Y, "gamma", 1.5)[0].sum() / 11
        torch.testing.assert_close(gamma.grad.double(), exact, rtol=2 * eps, atol=0)


def test_a_tensor_without_gradient_is_its_number() -> None:
    gamma = torch.tensor(1.5)
    assert torch.equal(focal_loss(X, Y, gamma=gamma), focal_loss(X, Y, gamma=1.5))
    assert torch.equal(focal_loss(X, Y, gamma=torch.tensor(2)), focal_loss(X, Y, gamma=2))
    with torch.no_grad():
        found = focal_loss(X, Y, gamma=gamma.requires_grad_())
    assert not found.requires_grad
    assert torch.equal(found, focal_loss(X, Y, gamma=1.5))


def test_a_tensor_that_changes_is_read_again() -> None:
    """The last call of a loss is remembered with its numbers: a tensor may hold another by now."""
    gamma, x = nn.Parameter(torch.tensor(1.5)), X[:2].clone()
    with torch.no_grad():
        for value in (1.5, 0.5, 2.5):
            gamma.fill_(value)
            assert torch.equal(focal_loss(x, Y[:2], gamma=gamma), focal_loss(x, Y[:2], gamma=value))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"q = 2 is outside its domain \(0, 1\]"):
        gce_loss(X, Y, q=torch.tensor(2.0, requires_grad=True))
    with pytest.raises(TypeError, match="gamma must be a number, not Tensor"):
        focal_loss(X, Y, gamma=torch.ones(N, requires_grad=True))
    with pytest.raises(
        TypeError, match=r"no gradient is computed for t, a whole number; pass t\.d"
    ):
        taylor_ce_loss(X, Y, t=torch.tensor(3.0, requires_grad=True))
    hot = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(ValueError, match=r"no gradient is computed for temperature; pass temp"):
        linear_focal_loss(torch.randn(N, D), torch.randn(V, D), Y, temperature=hot)


def test_second_derivatives_are_refused() -> None:
    x, gamma = X.clone().requires_grad_(), torch.tensor(1.5, requires_grad=True)
    for wanted in (gamma, x):
        loss = focal_loss(x, Y, gamma=gamma)
        [first] = torch.autograd.grad(loss, wanted, create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
            first.sum().backward()


def test_a_second_backward_and_one_tensor_twice() -> None:
    gamma = torch.tensor(1.5, requires_grad=True)
    once = torch.autograd.grad(focal_loss(X, Y, gamma=gamma), gamma)[0]
    loss = focal_loss(X, Y, gamma=gamma) + focal_loss(X, Y, gamma=gamma * 1.0)
    for _ in range(2):
        [twice] = torch.autograd.grad(loss, gamma, retain_graph=True)
        torch.testing.assert_close(twice, 2 * once)


def test_transforms() -> None:
    def of(gamma: Tensor, x: Tensor = X) -> Tensor:
        return focal_loss(x, Y, gamma=gamma)

    gamma = torch.tensor(1.5, requires_grad=True)
    [slope] = torch.autograd.grad(of(gamma), gamma)
    torch.testing.assert_close(torch.func.grad(of)(gamma.detach()), slope)
    stacked = torch.stack([X, X / 2])
    each = torch.func.vmap(torch.func.grad(of), in_dims=(None, 0))(gamma.detach(), stacked)
    torch.testing.assert_close(each[0], slope)


def test_torch_compile() -> None:
    """The part that learns is left out of the graph; a tensor that does not learn is in it."""
    gamma = torch.tensor(1.5, requires_grad=True)
    x = X.clone().requires_grad_()
    compiled = torch.compile(lambda x, g: 3 * focal_loss(2 * x, Y, gamma=g), backend="eager")
    found = torch.autograd.grad(compiled(x, gamma), (x, gamma))
    exact = torch.autograd.grad(3 * focal_loss(2 * x, Y, gamma=gamma), (x, gamma))
    torch.testing.assert_close(found, exact)
    whole = torch.compile(
        lambda x, g: 3 * focal_loss(2 * x, Y, gamma=g), backend="eager", fullgraph=True
    )
    for value in (1.5, 0.25):
        torch.testing.assert_close(
            whole(X, torch.tensor(value)), 3 * focal_loss(2 * X, Y, gamma=value)
        )


def test_autocast_and_modules() -> None:
    module = FocalLoss(gamma=nn.Parameter(torch.tensor(1.5)))
    assert [name for name, _ in module.named_parameters()] == ["gamma"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(X, Y).backward()
    exact = _exact("focal", X, Y, "gamma", 1.5)[0].sum() / 11
    torch.testing.assert_close(module.gamma.grad.double(), exact, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------- a linear layer
HIDDEN, HEAD = torch.randn(N, D), torch.randn(V, D)


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "c", "memory_budget": 200},
        {"backend": "torch"},
        {"backend": "triton", "schedule": "tiled"},
    ],
    ids=["chunked", "torch", "tiled"],
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_linear_layer(options: dict[str, Any], reduction: str) -> None:
    def all_of(loss: Tensor) -> list[Tensor]:
        weight = torch.arange(N) - 2.0 if reduction == "none" else None
        return list(torch.autograd.grad(loss, (hidden, head, gamma), weight))

    hidden, head = HIDDEN.clone().requires_grad_(), HEAD.clone().requires_grad_()
    gamma = torch.tensor(1.5, requires_grad=True)
    rows = all_of(focal_loss(hidden @ head.T, Y, gamma=gamma, reduction=reduction))
    made = linear_focal_loss(hidden, head, Y, gamma=gamma, reduction=reduction, **options)
    for one, other in zip(all_of(made), rows, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_shifted_linear_layer_learns_its_temperature() -> None:
    hidden, y = torch.randn(2, 6, D), torch.randint(V, (2, 6))
    heat = torch.tensor(1.25, requires_grad=True)
    linear_cross_entropy_loss(hidden, HEAD, y, temperature=heat, shift=1).backward()
    exact = torch.tensor(1.25, dtype=torch.float64, requires_grad=True)
    logits = (hidden @ HEAD.T)[:, :-1].double().reshape(-1, V)
    F.cross_entropy(logits / exact, y[:, 1:].reshape(-1)).backward()
    torch.testing.assert_close(heat.grad.double(), exact.grad, rtol=1e-5, atol=0)


# ---------------------------------------------------------------------------- inputs
INPUTS = """\
name: learned
parameters: {a: {default: 1.5, domain: "[0.1, 4]", doc: scale}}
inputs:
  w: {kind: row, differentiable: true, domain: "(0, inf)", range: [0.5, 2], off: 1}
  bias: {kind: vocab, differentiable: true, off: 0, range: [-2, 2], doc: of each class}
transform: -log_softmax(a*x + bias)[y] * w
normalizer: w
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path: Path = tmp_path_factory.mktemp("specs") / "learned.yaml"
    path.write_text(INPUTS)
    module = lossgen.load(path)
    path.write_text("gone: true")  # the module has what its derivatives are made of
    return module


def _inputs() -> dict[str, Tensor]:
    found = {
        "a": torch.tensor(1.25),
        "w": torch.linspace(0.5, 2, N),
        "bias": torch.ones(V).cumsum(0),
    }
    return {name: value.requires_grad_() for name, value in found.items()}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_and_classes_get_gradients(learned: ModuleType, reduction: str) -> None:
    weight = torch.arange(N) - 2.0 if reduction == "none" else torch.tensor(2.0)
    exact = {n: v.detach().double().requires_grad_() for n, v in _inputs().items()}
    logits = (HIDDEN @ HEAD.T).double()
    logp = (logits * exact["a"] + exact["bias"]).log_softmax(1)
    counts = Y >= 0
    rows = -logp.gather(1, Y.clamp(0)[:, None])[:, 0] * exact["w"] * counts
    norm = (exact["w"] * counts).sum() if reduction == "mean" else 1.0
    (rows * weight if reduction == "none" else rows * weight / norm).sum().backward()
    calls: list[Callable[..., Tensor]] = [
        lambda **given: learned.learned_loss(HIDDEN @ HEAD.T, Y, backend="c", **given),
        lambda **given: learned.learned_loss(HIDDEN @ HEAD.T, Y, backend="torch", **given),
        lambda **given: learned.linear_learned_loss(HIDDEN, HEAD, Y, memory_budget=200, **given),
    ]
    for call in calls:
        found = _inputs()
        (call(**found, reduction=reduction) * weight).sum().backward()
        for name, value in found.items():
            torch.testing.assert_close(
                value.grad.double(), exact[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


def test_a_module_learns_its_numbers_per_class(learned: ModuleType) -> None:
    module = learned.LearnedLoss(nn.Parameter(torch.zeros(V)))
    module(X, Y).backward()
    exact = (X.softmax(1) - F.one_hot(Y.clamp(0), V))[Y >= 0].sum(0) / 11
    free = torch.zeros(V, requires_grad=True)
    F.cross_entropy(1.5 * X + free, Y).backward()
    assert exact.shape == module.bias.grad.shape
    torch.testing.assert_close(module.bias.grad, free.grad, rtol=1e-5, atol=1e-6)
