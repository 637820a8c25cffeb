"""weight, row_weight, normalizer and batchmean: arguments of every loss that no spec declares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lossgen.losses as losses
from lossgen.runtime.arguments import REDUCTIONS

N, V, D = 6, 9, 4
INF = float("inf")
#: with a target; with a declared ``weight`` and terms that count as one per row; without a target
ROWS = ["gce", "cross_entropy", "mae", "kd_forward_kl", "brier"]


def given(name: str, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(seed)
    logits = torch.randn(N, V, dtype=torch.float64, requires_grad=True)
    if name == "kd_forward_kl":
        return logits, [torch.randn(N, V, dtype=torch.float64)]
    return logits, [torch.tensor([0, 3, 8, -100, 2, 3])]


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_count_for_what_they_are_given(name: str, backend: str) -> None:
    loss = getattr(losses, f"{name}_loss")
    logits, rest = given(name)
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], dtype=torch.float64)
    rows = loss(logits, *rest, reduction="none", backend=backend)
    counted = torch.ones(N, dtype=torch.float64)
    if name != "kd_forward_kl":
        counted[3] = 0.0
    total = (rows * weight).sum()
    expected = {
        "sum": total,
        "mean": total / (weight * counted).sum(),
        "batchmean": total / N,
        "none": (rows * weight).sum(),
    }
    for reduction in REDUCTIONS:
        (slope,) = torch.autograd.grad(expected[reduction], logits, retain_graph=True)
        found = loss(logits, *rest, row_weight=weight, reduction=reduction, backend=backend)
        found = found.sum()
        torch.testing.assert_close(found, expected[reduction])
        torch.testing.assert_close(torch.autograd.grad(found, logits)[0], slope)
    for divisor in (7, 7.0, torch.tensor(7.0)):
        found = loss(logits, *rest, row_weight=weight, normalizer=divisor, backend=backend)
        torch.testing.assert_close(found, total / 7)


@pytest.mark.parametrize("name", ["gce", "mae", "focal"])
def test_numbers_per_class_of_a_loss_that_declares_none(name: str) -> None:
    """As in torch: a mean divides by the sum of the weights of the targets."""
    loss = getattr(losses, f"{name}_loss")
    logits, (target,) = given(name)
    weight = torch.rand(V, dtype=torch.float64)
    rows = loss(logits, target, reduction="none")
    own = weight[target.clamp_min(0)].masked_fill(target < 0, 0.0)
    expected = (rows * own).sum() / own.sum()
    torch.testing.assert_close(loss(logits, target, weight=weight), expected)
    title = {"gce": "GCE", "mae": "MAE", "focal": "Focal"}[name]
    module = getattr(losses, f"{title}Loss")(weight=weight)
    assert "weight" in module.state_dict()
    torch.testing.assert_close(module(logits, target), expected)
    torch.testing.assert_close(module(logits, target, normalizer=3), (rows * own).sum() / 3)


def test_terms_of_weights_of_their_own() -> None:
    """Σ A / Σ w + Σ B / N, where each row counts for its weight in all four sums."""
    logits, (target,) = given("cross_entropy")
    classes = torch.rand(V, dtype=torch.float64)
    each = torch.rand(N, dtype=torch.float64)
    kept = target >= 0
    lse = logits.logsumexp(1)
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    own = classes[target.clamp_min(0)] * kept
    expected = (each * own * nll).sum() / (each * own).sum()
    expected = expected + 0.1 * (each * lse**2 * kept).sum() / (each * kept).sum()
    found = losses.cross_entropy_loss(logits, target, weight=classes, z_loss=0.1, row_weight=each)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected_grad = torch.autograd.grad(expected, logits)[0]
    torch.testing.assert_close(logits.grad, expected_grad)


@pytest.mark.parametrize("name", ["gce", "kd_forward_kl"])
def test_a_linear_layer(name: str) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(2, 5, D, requires_grad=True)
    layer = torch.randn(V, D, requires_grad=True)
    row_weight = torch.rand(2, 5)
    row_weight[0, 2] = 0.0
    rest = torch.randint(0, V, (2, 5)) if name == "gce" else torch.randn(2, 5, V)
    plain, linear = getattr(losses, f"{name}_loss"), getattr(losses, f"linear_{name}_loss")
    for options in ({}, {"reduction": "sum"}, {"normalizer": 3}, {"reduction": "batchmean"}):
        whole = {"row_weight": row_weight, **options}
        expected = plain(hidden @ layer.T, rest, **whole)
        slopes = torch.autograd.grad(expected, (hidden, layer))
        found = linear(hidden, layer, rest, memory_budget=2 * V * 12, **whole)
        torch.testing.assert_close(found, expected)
        for one, other in zip(torch.autograd.grad(found, (hidden, layer)), slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_linear_layer_of_a_language_model() -> None:
    """Weights of tokens stand where their labels do."""
    torch.manual_seed(2)
    hidden, layer = torch.randn(2, 5, D), torch.randn(V, D)
    labels, each, classes = torch.randint(0, V, (2, 5)), torch.rand(2, 5), torch.rand(V)
    found = losses.linear_gce_loss(hidden, layer, labels, weight=classes, row_weight=each, shift=1)
    expected = losses.gce_loss(
        (hidden @ layer.T)[:, :-1], labels[:, 1:], weight=classes, row_weight=each[:, 1:]
    )
    torch.testing.assert_close(found, expected)


def test_a_mask_leaves_out_what_is_no_number() -> None:
    """Padding may hold anything: neither its loss nor its gradient counts."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [INF, float("nan"), 0.0]], requires_grad=True)
    mask = torch.tensor([True, False])
    found = losses.gce_loss(logits, torch.tensor([0, 1]), row_weight=mask)
    found.backward()
    one = losses.gce_loss(logits[:1].detach(), torch.tensor([0]))
    torch.testing.assert_close(found.detach(), one)
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0.0, 0.0, 0.0]


def test_weights_that_are_learned_get_their_gradient() -> None:
    logits, (target,) = given("gce")
    each = torch.rand(N, dtype=torch.float64, requires_grad=True)
    q = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    found = losses.gce_loss(logits, target, q=q, row_weight=each)
    slopes = torch.autograd.grad(found, (logits, each, q))
    p = logits.softmax(1)[torch.arange(N), target.clamp_min(0)]
    rows = (1 - p**q) / q * (target >= 0)
    expected = (rows * each).sum() / (each * (target >= 0)).sum()
    torch.testing.assert_close(found, expected)
    others = torch.autograd.grad(expected, (logits, each, q))
    for one, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_second_backward_and_a_scaled_one() -> None:
    logits, (target,) = given("gce")
    each = torch.rand(N, dtype=torch.float64)
    found = losses.gce_loss(logits, target, row_weight=each)
    (first,) = torch.autograd.grad(found, logits, retain_graph=True)
    (second,) = torch.autograd.grad(found, logits, 2 * torch.ones_like(found))
    torch.testing.assert_close(second, 2 * first)


def test_transforms_and_graphs() -> None:
    logits, (target,) = given("gce")
    each = torch.rand(N, dtype=torch.float64)
    whole = losses.gce_loss(logits, target, row_weight=each)
    (expected,) = torch.autograd.grad(whole, logits)
    transformed = torch.func.grad(lambda x: losses.gce_loss(x, target, row_weight=each))
    torch.testing.assert_close(transformed(logits.detach()), expected)
    apart = torch.func.vmap(lambda x, t, w: losses.gce_loss(x, t, row_weight=w))
    found = apart(logits.detach()[:, None], target[:, None], each[:, None])
    rows = losses.gce_loss(logits.detach(), target, reduction="none")
    torch.testing.assert_close(found[:3], rows[:3])
    compiled = torch.compile(
        lambda x, n: losses.gce_loss(x, target, row_weight=each, normalizer=n),
        backend="eager",
        fullgraph=True,
    )
    torch.testing.assert_close(compiled(logits, 3), (rows * each).sum() / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_weight": torch.ones(5)}, r"row_weight has shape \[5\], but logits .* need \[6\]"),
        ({"row_weight": [1.0] * 6}, "row_weight must be a tensor, not list"),
        ({"weight": torch.ones(8)}, r"weight has shape \[8\], .* need \[9\], one number per class"),
        ({"weight": -torch.ones(9)}, "weight has values outside its domain"),
        ({"normalizer": 3, "reduction": "sum"}, "normalizer is what a mean divides by"),
        ({"normalizer": torch.ones(6)}, "normalizer must be a number or a scalar tensor"),
        ({"reduction": "batch"}, "reduction must be one of 'mean', 'sum', 'none', 'batchmean'"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    logits, (target,) = given("gce")
    with pytest.raises((TypeError, ValueError), match=message):
        losses.gce_loss(logits, target, **options)  # type: ignore[arg-type]


def test_loss_and_log_normaliser_of_one_call() -> None:
    """What others return beside the loss (lse, z-loss) are outputs of one program here."""
    logits, (target,) = given("cross_entropy")
    kept = target >= 0
    found = losses.token_stats(logits, target)
    torch.testing.assert_close(found.lse[kept], logits.logsumexp(1)[kept])
    loss = (-found.logp + 0.1 * found.lse**2)[kept].mean()
    expected = losses.cross_entropy_loss(logits, target, z_loss=0.1)
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, logits)[0])
