"""Second derivatives and forward mode of row losses, against float64 autograd of the formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad, gradgradcheck
from torch.autograd.functional import hvp

import lossgen
from lossgen import paths
from lossgen.losses import cross_entropy_loss, gce_loss, linear_gce_loss, token_stats
from lossgen.losses import logit_pairing_loss as pairing
from lossgen.spec.load import load_spec
from lossgen.verify.reference import Arguments, literal

Rows = Callable[..., Tensor]
_DRAWN = torch.Generator().manual_seed(0)
N, V = 5, 4
X, OTHER, MOVED = (torch.randn(N, V, generator=_DRAWN, dtype=torch.float64) for _ in range(3))
WEIGHT = torch.rand(V, generator=_DRAWN, dtype=torch.float64) + 0.5
Y = torch.tensor([0, 3, -100, 1, 2])
BACKENDS = ("c", "torch")

#: losses, and what calls give beside logits and target
CASES: dict[str, dict[str, Any]] = {
    "gce": {"q": 0.4},
    "focal": {"gamma": 1.5},
    "cross_entropy": {"label_smoothing": 0.1, "z_loss": 0.25, "weight": WEIGHT},
    "brier": {},
    "mae": {},
    "comp_sum": {"tau": 1.25},
    "crammer_singer": {},
    "sce": {},
    "logit_l2": {},
    "entropy_min": {},
    "kd_forward_kl": {"teacher": OTHER},
    "logit_pairing": {"adversarial_x": OTHER},
    "trades": {"adversarial_x": OTHER},
    "reverse_kl": {"teacher": OTHER},
    # Regression: refused, as its truth moved what stop_gradient holds, which no gradient does
    "emo": {"cost": OTHER.abs()},
}
LONG = ("emo", "trades", "reverse_kl", "brier", "sce", "kd_forward_kl")  # to compile
PARTS = [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES]


def _calls(name: str, backend: str) -> tuple[Rows, Rows, tuple[Tensor, ...]]:
    """The loss per row and the formula, both of the rows that get a gradient; and those."""
    spec = load_spec(paths.specs_dir() / f"{name}.yaml")
    function = getattr(lossgen.losses, f"{name}_loss")
    given = CASES[name]
    moved = [n for n, i in spec.inputs.items() if i.kind == "class" and i.differentiable]
    wide = [n for n, i in spec.inputs.items() if i.kind == "class"]
    labels = (Y,) if spec.has_target else ()
    numbers = {n: float(given.get(n, p.default)) for n, p in spec.parameters.items()}
    inputs = {n: given.get(n, torch.full((V,), float(i.off or 0))) for n, i in spec.inputs.items()}

    def rows(x: Tensor, *others: Tensor) -> Tensor:
        options = {**given, **dict(zip(moved, others, strict=True))}
        streams = [options.pop(n) for n in wide]
        return function(x, *labels, *streams, **options, backend=backend, reduction="none")

    def exact(x: Tensor, *others: Tensor) -> Tensor:
        beside = inputs | dict(zip(moved, others, strict=True))
        counted = Y >= 0 if labels else torch.ones(N, dtype=torch.bool)
        return literal(spec, Arguments(x, Y.clamp(0), numbers, beside)) * counted

    return rows, exact, (X, *(given[n] for n in moved))


def _close(found: Any, gold: Any) -> None:
    torch.testing.assert_close(found, gold, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PARTS)
def test_second_derivatives_and_tangents(name: str, backend: str) -> None:
    rows, exact, sources = _calls(name, backend)
    tangents = (MOVED, MOVED.flip(0))[: len(sources)]
    _close(torch.func.jvp(rows, sources, tangents), torch.func.jvp(exact, sources, tangents))

    def total(function: Rows) -> Rows:
        return lambda *moved: (function(*moved) * torch.arange(1.0, N + 1)).sum()

    found, gold = (hvp(total(f), sources, tangents) for f in (rows, exact))
    _close(found, gold)
    leaves = tuple(s.clone().requires_grad_() for s in sources)
    if name != "crammer_singer":  # its pieces are straight
        assert all(h.any() for h in found[1])
    if name != "emo":  # differences move what a gradient holds still
        assert gradgradcheck(rows, leaves, check_fwd_over_rev=True)


def _penalty(loss: Tensor, x: Tensor) -> Tensor:
    """A step's gradient with a penalty on the gradient."""
    [slope] = torch.autograd.grad(loss, x, create_graph=True)
    (loss + 3 * slope.square().sum() + x.square().sum()).backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_gradient_penalty(backend: str, reduction: str) -> None:
    """Of the fused loss and of rows; by a first call, and by the plan that it leaves."""
    options: dict[str, Any] = {"weight": WEIGHT, "label_smoothing": 0.1, "reduction": reduction}
    leaf = X.clone().requires_grad_()
    gold = _penalty(F.cross_entropy(leaf, Y, **options).sum(), leaf)
    for _ in range(2):
        x = X.clone().requires_grad_()
        _close(_penalty(cross_entropy_loss(x, Y, **options, backend=backend).sum(), x), gold)
    half = X.bfloat16().requires_grad_()
    found = _penalty(cross_entropy_loss(half, Y, **options, backend=backend).sum(), half)
    wide = X.bfloat16().double().requires_grad_()
    gold = _penalty(F.cross_entropy(wide, Y, **options).sum(), wide)
    torch.testing.assert_close(found.double(), gold, rtol=2**-6, atol=2**-6)


def test_rows_that_count_differently() -> None:
    each = torch.tensor([0.5, 0.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    gold, x = X.clone().requires_grad_(), X.clone().requires_grad_()
    rows = gce_loss(gold, Y, reduction="none")
    counted = each * (Y >= 0)
    exact = _penalty((rows * counted).sum() / counted.sum(), gold)
    _close(_penalty(gce_loss(x, Y, row_weight=each), x), exact)


def test_triton() -> None:
    def of(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        penalty = _penalty(gce_loss(leaf, Y, backend=backend), leaf)
        tangent = MOVED.to(x.dtype)
        moved = torch.func.jvp(lambda v: gce_loss(v, Y, backend=backend), (x,), (tangent,))[1]
        return penalty.double(), moved.double()

    torch.testing.assert_close(of(X.float(), "triton"), of(X, "c"), rtol=1e-5, atol=1e-6)


def test_transforms_and_levels() -> None:
    def exact(x: Tensor) -> Tensor:
        p = x.softmax(1).gather(1, Y.clamp(0)[:, None])[:, 0]
        return ((1 - p**0.7) / 0.7 * (Y >= 0)).sum() / 4

    def loss(x: Tensor) -> Tensor:
        return gce_loss(x, Y)

    gold = torch.func.hessian(exact)(X)
    for one in (torch.func.jacfwd, torch.func.jacrev):
        for other in (torch.func.jacfwd, torch.func.jacrev):
            _close(one(other(loss))(X), gold)
    stacked = torch.stack([X, X / 2])
    each = torch.func.vmap(torch.func.hessian(loss))(stacked)
    _close(each[0], gold)
    for x in (X, X.clone().requires_grad_()):
        with forward_ad.dual_level():
            moved = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, MOVED))).tangent
        _close(moved, torch.func.jvp(exact, (X,), (MOVED,))[1])


def test_several_results() -> None:
    def exact(x: Tensor) -> tuple[Tensor, ...]:
        p, logp = x.softmax(1), x.log_softmax(1)
        own = logp.gather(1, Y.clamp(0)[:, None])[:, 0]
        found = own, -(p * logp).sum(1), x.logsumexp(1), p.square().sum(1)
        return tuple(f * (Y >= 0) for f in found)

    def total(function: Callable[[Tensor], tuple[Tensor, ...]]) -> Rows:
        return lambda x: sum((k + 1) * (f * (Y >= 0)).sum() for k, f in enumerate(function(x)))

    for backend in BACKENDS:
        stats = total(lambda x, b=backend: token_stats(x, Y, backend=b))
        _close(hvp(stats, X, MOVED), hvp(total(exact), X, MOVED))


def test_one_row_of_two_is_moved() -> None:
    """The other's program is neither compiled nor run: its second derivatives are not asked for."""
    x, other = X.clone().requires_grad_(), OTHER.clone().requires_grad_()
    slopes = torch.autograd.grad(pairing(x, Y, other), (x, other), create_graph=True)
    mixed = torch.autograd.grad(slopes[0].square().sum(), (x, other))
    a, b = X.clone().requires_grad_(), OTHER.clone().requires_grad_()
    logp = a.log_softmax(1) + b.log_softmax(1)
    rows = -logp.gather(1, Y.clamp(0)[:, None])[:, 0] + 0.5 * (a - b).square().mean(1)
    [slope] = torch.autograd.grad((rows * (Y >= 0)).sum() / 4, a, create_graph=True)
    _close(mixed, torch.autograd.grad(slope.square().sum(), (a, b)))


# ---------------------------------------------------------------------------- what is refused
def test_third_derivatives() -> None:
    x = X.clone().requires_grad_()
    [slope] = torch.autograd.grad(gce_loss(x, Y), x, create_graph=True)
    [second] = torch.autograd.grad(slope.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gce_loss: third derivatives are not formed"):
        (second.square().sum() + x.square().sum()).backward()
    hessian = torch.func.hessian(lambda v: gce_loss(v, Y))
    with pytest.raises(RuntimeError, match="third derivatives are not formed"):
        torch.func.jvp(hessian, (X,), (MOVED,))


def test_a_parameter_or_input_that_moves() -> None:
    q = torch.tensor(0.7, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="gce_loss: q carries a tangent"):
        torch.func.jvp(lambda q: gce_loss(X, Y, q=q), (q,), (q,))
    with pytest.raises(NotImplementedError, match="weight carries a tangent"):
        torch.func.jvp(lambda w: cross_entropy_loss(X, Y, weight=w), (WEIGHT,), (WEIGHT,))
    x = X.clone().requires_grad_()
    loss = gce_loss(x, Y, q=q.requires_grad_())
    [slope] = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"gce_loss: .* asks for gradients to parameters"):
        slope.square().sum().backward()


def test_a_linear_layer_and_overwritten_logits() -> None:
    hidden = X.float().requires_grad_()
    [slope] = torch.autograd.grad(linear_gce_loss(hidden, torch.eye(V), Y), hidden, create_graph=1)
    with pytest.raises(RuntimeError, match="linear_gce_loss: the gradient cannot be different"):
        (slope.square().sum() + hidden.square().sum()).backward()
    x = X.clone().requires_grad_()
    for _ in range(2):
        loss = gce_loss(x * 1, Y, inplace_grad=True)
        [slope] = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RuntimeError, match="inplace_grad=True has overwritten"):
            (slope.square().sum() + x.square().sum()).backward()


REFUSED = """\
name: stepped
transform: second_max(softmax(2*x))
"""


def test_a_function_without_a_rule(tmp_path: Path) -> None:
    """An error that names the loss and the function, the second time as the first."""
    path = tmp_path / "stepped.yaml"
    path.write_text(REFUSED)
    loss = lossgen.load(path).stepped_loss
    for _ in range(2):
        x = X.clone().requires_grad_()
        [slope] = torch.autograd.grad(loss(x), x, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"stepped_loss: .*x is formed of second_max"):
            (slope.square().sum() + x.square().sum()).backward()


UNKNOWN = """\
name: barbell
transform: -logp[y] + 0.5 * sum(p**2)
"""


def test_a_spec_of_ones_own_without_parameters(tmp_path: Path) -> None:
    """The module has what its derivatives are made of."""
    path = tmp_path / "barbell.yaml"
    path.write_text(UNKNOWN)
    loss = lossgen.load(path).barbell_loss
    path.unlink()

    def exact(x: Tensor) -> Tensor:
        logp = x.log_softmax(1)
        rows = -logp.gather(1, Y.clamp(0)[:, None])[:, 0] + 0.5 * logp.exp().square().sum(1)
        return (rows * (Y >= 0)).sum() / 4

    _close(hvp(lambda x: loss(x, Y), X, MOVED), hvp(exact, X, MOVED))
