"""Losses of a whole batch against their formulas under float64 autograd."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lossgen
from lossgen import losses
from lossgen.errors import BuildError

torch.manual_seed(0)
ROWS, CLASSES = 37, 5


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def _overlap(p: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.nn.functional.one_hot(y, p.shape[1]) * w[:, None]
    return (p * t).sum(0), (p * w[:, None]).sum(0), t.sum(0)


def _mean(rows: Tensor, w: Tensor) -> Tensor:
    return (rows * w[:, None]).sum(0) / w.sum()


def _repri(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    p = x.softmax(1)
    m = _mean(p, w)
    return _mean(_entropy(p)[:, None], w)[0] + 0.7 * (m * (m / prior).log()).sum()


def _information(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    p = x.softmax(1)
    return _mean(_entropy(p)[:, None], w)[0] - _entropy(_mean(p, w))


def _marginal(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    return _entropy(_mean(x.softmax(1), w))


def _dice(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    both, p, t = _overlap(x.softmax(1), y, w)
    return 1 - ((2 * both + 0.5) / (p + t + 0.5)).mean()


def _tversky(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    both, p, t = _overlap(x.softmax(1), y, w)
    index = (both + 1) / (both + 0.3 * (p - both) + 0.7 * (t - both) + 1)
    return ((1 - index) ** 0.75).mean()


def _jaccard(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    both, p, t = _overlap(x.softmax(1), y, w)
    return 1 - ((both + 1) / (p + t - both + 1)).mean()


def _generalized(x: Tensor, y: Tensor, w: Tensor, prior: Tensor) -> Tensor:
    both, p, t = _overlap(x.softmax(1), y, w)
    rare = torch.where(t > 0, 1 / t.clamp_min(1) ** 2, 0.0)
    return 1 - 2 * (rare * both).sum() / (rare * (p + t)).sum()


Reference = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[bool, dict[str, float], Reference]] = {
    "repri": (False, {"lam": 0.7}, _repri),
    "information_maximization": (False, {}, _information),
    "marginal_entropy": (False, {}, _marginal),
    "soft_dice": (True, {"smooth": 0.5}, _dice),
    "tversky": (True, {"focus": 0.75}, _tversky),
    "jaccard": (True, {}, _jaccard),
    "generalized_dice": (True, {}, _generalized),
}


def _drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x = (3 * torch.randn(ROWS, CLASSES)).to(dtype)
    return x, torch.randint(0, CLASSES, (ROWS,)), torch.full((CLASSES,), 1.0 / CLASSES)


def _called(name: str, x: Tensor, y: Tensor, prior: Tensor, **options: Any) -> Tensor:
    has_target, numbers, _ = LOSSES[name]
    more = {"prior": prior} if name == "repri" else {}
    function = getattr(losses, f"{name}_loss")
    found: Tensor = function(x, *([y] if has_target else []), **numbers, **more, **options)
    return found


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(name: str, backend: str) -> None:
    x, y, prior = _drawn()
    weight, by = torch.rand(ROWS), torch.randint(0, 3, (ROWS,))
    weight[3] = 0.0
    for options in ({}, {"row_weight": weight}, {"by": by}, {"row_weight": weight, "by": by}):
        exact = x.double().requires_grad_()
        w = options.get("row_weight", torch.ones(ROWS)).double()
        groups = options.get("by", torch.zeros(ROWS, dtype=torch.long))
        parts = [
            LOSSES[name][2](exact[groups == g], y[groups == g], w[groups == g], prior.double())
            for g in groups.unique()
        ]
        value = torch.stack(parts).mean()
        (slope,) = torch.autograd.grad(value, exact)
        leaf = x.clone().requires_grad_()
        loss = _called(name, leaf, y, prior, backend=backend, **options)
        (found,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(loss.double(), value, rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(found.double(), slope, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["soft_dice", "repri"])
def test_of_a_linear_layer(name: str) -> None:
    has_target, numbers, reference = LOSSES[name]
    hidden, weight = torch.randn(ROWS, 8), torch.randn(CLASSES, 8)
    y, prior = torch.randint(0, CLASSES, (ROWS,)), torch.full((CLASSES,), 1.0 / CLASSES)
    leaves = [t.double().requires_grad_() for t in (hidden, weight)]
    value = reference(leaves[0] @ leaves[1].t(), y, torch.ones(ROWS).double(), prior.double())
    slopes = torch.autograd.grad(value, leaves)
    more = {"prior": prior} if name == "repri" else {}
    for budget in (None, 3 * CLASSES * 4 * 8):  # all rows at once, or a few
        own = [t.clone().requires_grad_() for t in (hidden, weight)]
        function = getattr(losses, f"linear_{name}_loss")
        target = [y] if has_target else []
        loss = function(*own, *target, **numbers, **more, memory_budget=budget)
        torch.testing.assert_close(loss.double(), value, rtol=2e-6, atol=1e-7)
        for a, b in zip(torch.autograd.grad(loss, own), slopes, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


def test_shifted_rows_of_a_linear_layer() -> None:
    """by and row_weight belong to the positions that are predicted, as the target does."""
    hidden, weight = torch.randn(2, 9, 8), torch.randn(CLASSES, 8)
    y, each = torch.randint(0, CLASSES, (2, 9)), torch.rand(2, 9)
    by = torch.arange(2)[:, None].expand(2, 9)
    found = losses.linear_soft_dice_loss(hidden, weight, y, shift=1, by=by, row_weight=each)
    rows = (hidden @ weight.t())[:, :-1]
    plain = losses.soft_dice_loss(rows, y[:, 1:], by=by[:, 1:], row_weight=each[:, 1:])
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)


def test_ignored_rows_do_not_count() -> None:
    x, y, _ = _drawn()
    masked = y.clone()
    masked[::3] = -100
    alive = masked >= 0
    leaf = x.clone().requires_grad_()
    loss = losses.tversky_loss(leaf, masked)
    loss.backward()
    part = x[alive].clone().requires_grad_()
    losses.tversky_loss(part, y[alive]).backward()
    torch.testing.assert_close(loss, losses.tversky_loss(x[alive], y[alive]))
    assert leaf.grad is not None
    assert not leaf.grad[~alive].any()
    torch.testing.assert_close(leaf.grad[alive], part.grad)


def test_a_class_that_every_row_masks() -> None:
    """0 log 0 is 0 with the derivatives 0: the marginal of that class is."""
    x, _, _ = _drawn()
    x[:, 1] = -torch.inf
    for name in ("information_maximization", "marginal_entropy"):
        leaf = x.clone().requires_grad_()
        loss = getattr(losses, f"{name}_loss")(leaf)
        loss.backward()
        part = x[:, [0, 2, 3, 4]].clone().requires_grad_()
        other = getattr(losses, f"{name}_loss")(part)
        other.backward()
        torch.testing.assert_close(loss, other)
        assert leaf.grad is not None
        assert not leaf.grad[:, 1].any()
        torch.testing.assert_close(leaf.grad[:, [0, 2, 3, 4]], part.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("formula", "scale"),
    [
        ("sum(m*(-log(m)))", 1.0),
        ("sum(m*(log(m)/log(1/V)))", 1 / math.log(CLASSES)),
        ("-sum(2*(log(m)/2)*m)", 1.0),
    ],
)
def test_however_an_entropy_is_written(tmp_path: Path, formula: str, scale: float) -> None:
    # a sign or a divisor of the logarithm hid it from its factor: 0·inf where no row has a class
    path = tmp_path / "spread.yaml"
    path.write_text(f"name: spread\nlet: {{m: batch_mean(p)}}\nbatch: {formula}\n")
    x, _, _ = _drawn()
    x[:, 1] = -torch.inf
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    loss = lossgen.load(path).spread_loss(leaf)
    value = scale * _entropy(exact.softmax(1).mean(0).index_select(0, torch.tensor([0, 2, 3, 4])))
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=1e-6)
    (a,) = torch.autograd.grad(loss, leaf)
    (b,) = torch.autograd.grad(value, exact)
    torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=1e-7)


def test_a_number_times_a_logarithm(tmp_path: Path) -> None:
    path = tmp_path / "peak.yaml"
    path.write_text("name: peak\nbatch: 2*log(sum(batch_mean(p)**2))\n")
    x, _, _ = _drawn()
    value = 2 * (x.double().softmax(1).mean(0) ** 2).sum().log()
    torch.testing.assert_close(
        lossgen.load(path).peak_loss(x).double(), value, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("classes", "value"), [(1, torch.inf), (2, 0.0)])
def test_a_second_largest_of_one_class(tmp_path: Path, classes: int, value: float) -> None:
    path = tmp_path / "gap.yaml"
    path.write_text(
        "name: gap\nlet: {m: batch_mean(p)}\nbatch: max(m) - second_max(m)\n", encoding="utf-8"
    )
    loss = lossgen.load(path).gap_loss(torch.zeros(4, classes))
    torch.testing.assert_close(loss, torch.tensor(value))


def test_images_with_classes_on_axis_1() -> None:
    x, y = torch.randn(2, CLASSES, 4, 6), torch.randint(0, CLASSES, (2, 4, 6))
    found = losses.jaccard_loss(x, y, class_dim=1)
    rows = x.movedim(1, -1).reshape(-1, CLASSES)
    torch.testing.assert_close(found, losses.jaccard_loss(rows, y.reshape(-1)))


def test_narrow_logits_are_summed_in_float32() -> None:
    x, y, _ = _drawn(torch.bfloat16)
    leaf = x.clone().requires_grad_()
    loss = losses.soft_dice_loss(leaf, y)
    loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype is torch.bfloat16
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, losses.soft_dice_loss(x.float(), y), rtol=1e-6, atol=1e-6)


def test_balance_of_experts_is_1_where_they_are_used_evenly() -> None:
    dispatched = torch.eye(4).repeat(3, 1)
    loss = losses.switch_balance_loss(torch.zeros(12, 4), dispatched)
    torch.testing.assert_close(loss, torch.tensor(1.0))
    both = losses.switch_balance_loss(torch.zeros(12, 4), dispatched + dispatched.roll(1, 1))
    torch.testing.assert_close(both, torch.tensor(1.0))


def test_an_f_score_of_amplified_probabilities() -> None:
    x, t = torch.randn(20, 1), torch.randint(0, 2, (20, 1)).float()
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    called = torch.sigmoid(73 * (torch.sigmoid(exact) - 0.5))
    value = 1 - 2 * (called * t).sum() / (t.sum() + called.sum())
    loss = losses.any_f_loss(leaf, t)
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=1e-6)
    (a,) = torch.autograd.grad(loss, leaf)
    (b,) = torch.autograd.grad(value, exact)
    torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=1e-6)


def test_numbers_of_the_formula_may_learn() -> None:
    x, _, prior = _drawn()
    lam = torch.tensor(0.7, requires_grad=True)
    loss = losses.repri_loss(x, lam=lam, prior=prior)
    (slope,) = torch.autograd.grad(loss, lam)
    m = x.double().softmax(1).mean(0)
    torch.testing.assert_close(slope.double(), (m * (m / prior.double()).log()).sum())


def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    x, y, prior = _drawn()
    with pytest.raises(TypeError, match="by must hold integers, not float32"):
        losses.soft_dice_loss(x, y, by=torch.ones(ROWS))
    with pytest.raises(TypeError, match="no argument 'reduction'"):
        losses.soft_dice_loss(x, y, reduction="sum")
    with pytest.raises(ValueError, match="no gradient is computed for row_weight"):
        losses.soft_dice_loss(x, y, row_weight=torch.ones(ROWS, requires_grad=True))
    with pytest.raises(TypeError, match="logits must be a tensor, not list"):
        losses.repri_loss(x.tolist(), prior=prior)
    path = tmp_path / "sharp.yaml"
    path.write_text(
        "name: sharp\nparameters: {t: {default: 1, domain: '(0, 4]'}}\n"
        "batch: -sum(batch_mean(softmax(t*x))**2)\n"
    )
    with pytest.raises(ValueError, match="no gradient is computed for t"):
        lossgen.load(path).sharp_loss(x, t=torch.tensor(1.0, requires_grad=True))
    leaf = x.clone().requires_grad_()
    loss = losses.soft_dice_loss(leaf, y)
    (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        slope.sum().backward()


def test_it_has_no_curve_over_a_row() -> None:
    with pytest.raises(BuildError, match="cannot compare soft_dice: it is a loss of a whole batch"):
        lossgen.compare("soft_dice")


def test_its_module() -> None:
    x, y, prior = _drawn()
    module = losses.RePRILoss(prior, lam=0.5)
    again = pickle.loads(pickle.dumps(module))
    by = torch.arange(ROWS) % 2
    expected = losses.repri_loss(x, lam=0.5, prior=prior, by=by)
    torch.testing.assert_close(again(x, by=by), expected)
    assert "prior" in dict(module.named_buffers())
    assert losses.SoftDiceLoss()(x, y) == losses.soft_dice_loss(x, y)


def test_a_row_of_no_batch_is_left_out() -> None:
    x, y, _ = _drawn()
    by = torch.arange(ROWS) % 3
    weight = (by != 1).float()
    found = losses.soft_dice_loss(x, y, by=by, row_weight=weight)
    kept = by != 1
    torch.testing.assert_close(found, losses.soft_dice_loss(x[kept], y[kept], by=by[kept]))


def test_compiled() -> None:
    """It runs as it is, beside the graph."""
    x, y, _ = _drawn()
    compiled = torch.compile(lambda x, y: 2 * losses.soft_dice_loss(x, y), backend="eager")
    torch.testing.assert_close(compiled(x, y), 2 * losses.soft_dice_loss(x, y))


#: Formulas of a batch that were refused: what they declare, the formula, and it in torch of
#: logits, labels, weights w and their probabilities.
WRITTEN: dict[str, tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "sum(index**2*batch_mean(p))": (
        "",
        lambda x, y, w: (torch.arange(x.shape[1]) ** 2 * x.softmax(1).mean(0)).sum(),
    ),
    "-batch_sum(w*logp[y])/batch_sum(w)": (
        "inputs: {w: {kind: row}}\n",
        lambda x, y, w: (
            torch.nn.functional.nll_loss(x.log_softmax(1), y, reduction="none")
            .mul(w)
            .sum()
            .div(w.sum())
        ),
    ),
    # 2.7e6 nodes multiplied out, which nothing multiplies out
    "1 - mean((a*b + c)/sqrt((a + b + 1)*(a + c + 1)*(b + c + 1)*(a + b + c + 1)))": (
        "let: {a: batch_sum(p), b: batch_sum(p**2), c: batch_sum(onehot*p)}\n",
        lambda x, y, w: _correlation(x.softmax(1), y),
    ),
}


def _correlation(p: Tensor, y: Tensor) -> Tensor:
    one = torch.nn.functional.one_hot(y, p.shape[1])
    a, b, c = p.sum(0), (p**2).sum(0), (one * p).sum(0)
    below = ((a + b + 1) * (a + c + 1) * (b + c + 1) * (a + b + c + 1)).sqrt()
    return 1 - ((a * b + c) / below).mean()


@pytest.mark.parametrize("formula", WRITTEN)
def test_what_was_refused(tmp_path: Path, formula: str) -> None:
    declared, true = WRITTEN[formula]
    path = tmp_path / "t.yaml"
    path.write_text(f"name: t\n{declared}batch: '{formula}'\n")
    module = lossgen.load(path)
    x = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    y, w = torch.arange(11) % 4, torch.rand(11, dtype=torch.float64)
    given = (y,) if "[y]" in formula or "onehot" in declared else ()
    loss = module.t_loss(x, *given, **({"w": w} if "kind: row" in declared else {}))
    torch.testing.assert_close(loss, true(x, y, w))
    slopes = (torch.autograd.grad(value, x)[0] for value in (loss, true(x, y, w)))
    torch.testing.assert_close(*slopes)


def test_a_parameter_of_the_formula_is_a_double(tmp_path: Path) -> None:
    """It was rounded to float32, beside logits in float64 too."""
    path = tmp_path / "t.yaml"
    parameters = '{g: {default: 0.3, domain: "[0, 1]"}}'
    path.write_text(f"name: t\nparameters: {parameters}\nbatch: g*sum(batch_mean(p)**2)\n")
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = 0.3 * (x.softmax(1).mean(0) ** 2).sum()
    torch.testing.assert_close(lossgen.load(path).t_loss(x), expected, rtol=1e-13, atol=0)
