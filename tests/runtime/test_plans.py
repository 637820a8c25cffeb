"""Calls that have a plan: the same results and the same refusals as a first call."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from lossgen.losses import (
    cross_entropy_loss,
    gce_loss,
    grpo_loss,
    sigmoid_bce_loss,
    token_stats,
    trades_loss,
)
from lossgen.runtime import c_build, plans
from lossgen.runtime.loss import RowLoss
from tests.runtime.planned_calls import WEIGHT, draw, labels

pytestmark = [
    pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler"),
    pytest.mark.usefixtures("no_plans"),
]


CASES: dict[str, Callable[[Tensor, Tensor, Tensor, str], Tensor]] = {
    "gce": lambda x, u, y, r: gce_loss(x, y, q=0.6, reduction=r),
    "cross_entropy": lambda x, u, y, r: cross_entropy_loss(x, y, reduction=r),
    "trades": lambda x, u, y, r: trades_loss(x, y, u, reduction=r),
    "class weights": lambda x, u, y, r: cross_entropy_loss(x, y, weight=WEIGHT, reduction=r),
    "terms that share their weights": lambda x, u, y, r: cross_entropy_loss(
        x, y, weight=WEIGHT.double(), z_loss=0.1, label_smoothing=0.2, reduction=r
    ),
    "an input that is not given": lambda x, u, y, r: cross_entropy_loss(
        x, y, z_loss=0.1, label_smoothing=0.2, softcap=9.0, temperature=2.0, reduction=r
    ),
    "in place": lambda x, u, y, r: gce_loss(1 * x, y, reduction=r, inplace_grad=True),
    "narrow labels": lambda x, u, y, r: gce_loss(x, y.short(), reduction=r),
    "streams of another dtype": lambda x, u, y, r: trades_loss(x, y, u.float(), reduction=r),
    "classes first": lambda x, u, y, r: gce_loss(x.movedim(-1, 0), y, reduction=r, class_dim=0),
    "row inputs": lambda x, u, y, r: grpo_loss(
        x,
        y,
        advantage=u[..., 0].detach(),
        old_logp=-u[..., 1].detach().abs(),
        ref_logp=-u[..., 2].detach().double().abs(),
        reduction=r,
    ),
    "several outputs": lambda x, u, y, r: torch.stack(token_stats(x, y)).sum(),
}


def computed(
    case: str, reduction: str, lead: tuple[int, ...], dtype: torch.dtype, seed: int, grad: bool
) -> list[Tensor]:
    x, u = draw(*lead, seed=seed, dtype=dtype), draw(*lead, seed=seed + 10, dtype=dtype)
    loss = CASES[case](x.requires_grad_(grad), u.requires_grad_(grad), labels(*lead), reduction)
    if not grad:
        return [loss]
    (2.5 * loss).sum().backward()
    return [loss.detach(), *(t.grad for t in (x, u) if t.grad is not None)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lead", [(5,), (2, 3), ()])
@pytest.mark.parametrize(
    ("reduction", "grad"),
    [("mean", True), ("sum", True), ("none", True), ("mean", False), ("none", False)],
)
def test_a_planned_call_gives_what_a_first_call_gives(
    case, lead, reduction, grad, monkeypatch, only_plans
) -> None:
    """Rows with a gradient, weights in a mean, gradients in place, labels that are not int64 and
    classes on another axis had no plan, and took 0.3 to 0.9 ms a call."""
    more = {"gce": [torch.float64, torch.float16], "class weights": [torch.float16]}
    for dtype in (torch.float32, torch.bfloat16, *more.get(case, [])):
        with monkeypatch.context() as patch:  # two first calls
            patch.setattr(plans.Plans, "learn", lambda *_: None)
            gold = [computed(case, reduction, lead, dtype, seed, grad) for seed in (0, 1)]
        computed(case, reduction, lead, dtype, 2, grad)
        with monkeypatch.context() as patch:
            patch.setattr(RowLoss, "_call", None)
            for seed in (0, 1):
                found = computed(case, reduction, lead, dtype, seed, grad)
                torch.testing.assert_close(found, gold[seed], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("class_dim", [None, -1, 2])
@pytest.mark.parametrize("lay", [lambda t: t, lambda t: t.transpose(0, 1)])
def test_layouts(lay, class_dim, monkeypatch) -> None:
    results = []
    for seed in (0, 0, 1, 1):
        x = lay(draw(4, 3, seed=seed)).requires_grad_()
        y = lay(labels(4, 3))
        loss = gce_loss(x, y, class_dim=class_dim)
        results.append((loss.item(), torch.autograd.grad(loss, x)[0]))
    torch.testing.assert_close(results[:2][0], results[1])
    torch.testing.assert_close(results[2], results[3])
    assert results[0][0] != results[2][0]


def test_what_a_later_call_holds_is_looked_at(only_plans) -> None:
    x, y = draw(5).requires_grad_(), labels(5)
    gce_loss(x, y)
    labels_of_bce = torch.rand(5, 7)
    sigmoid_bce_loss(x, labels_of_bce)
    only_plans()
    gce_loss(x, y)
    sigmoid_bce_loss(x, labels_of_bce)
    for wrong in (7, -1, -(2**40)):
        with pytest.raises(IndexError, match=rf"Target {wrong} is out of bounds"):
            gce_loss(x, y.clone().index_fill_(0, torch.tensor([3]), wrong))
    with pytest.raises(ValueError, match="q = 2 is outside its domain"):
        gce_loss(x, y, q=2)
    with pytest.raises(TypeError, match="q must be a number, not bool"):
        gce_loss(x, y, q=True)
    with pytest.raises(ValueError, match="values outside its domain"):
        sigmoid_bce_loss(x, labels_of_bce + 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ignore_index": True}, TypeError),
        ({"ignore_index": 1.0}, TypeError),
        ({"class_dim": True}, TypeError),
        ({"class_dim": 2}, ValueError),
        ({"reduction": "avg"}, ValueError),
        ({"reduction": ["mean"]}, ValueError),
        ({"backend": {}}, ValueError),
        ({"backend": "cpp"}, ValueError),
    ],
)
def test_options_that_equal_others_are_refused_all_the_same(options, error) -> None:
    """``True == 1`` and a list has no hash: a plan must not be found, nor looked for, by those."""
    x, y = draw(5), labels(5).abs() % 7
    for good in ({"ignore_index": 1}, {"class_dim": 1}):
        gce_loss(x, y, **good)
    with pytest.raises(error):
        gce_loss(x, y, **options)


def test_other_tensors_are_checked(only_plans) -> None:
    x, y = draw(5), labels(5)
    gce_loss(x, y)
    with pytest.raises(ValueError, match="target has shape"):
        gce_loss(x, y[:4])
    with pytest.raises(TypeError, match="integer dtype"):
        gce_loss(x, y.float())
    with pytest.raises(TypeError, match="layout sparse_coo"):
        gce_loss(x.to_sparse(), y)
    torch.testing.assert_close(gce_loss(x, y.int()), gce_loss(x, y))
    torch.testing.assert_close(gce_loss(torch._neg_view(-x), y), gce_loss(x, y))


def test_options_switch_variants() -> None:
    x, y = draw(5), labels(5)
    for smoothing in (0.0, 0.1, None, 0.1, 0.0):
        for weight in (None, torch.rand(7) + 0.1):
            found = cross_entropy_loss(x, y, label_smoothing=smoothing, weight=weight)
            gold = torch.nn.functional.cross_entropy(
                x, y, label_smoothing=smoothing or 0.0, weight=weight
            )
            torch.testing.assert_close(found, gold)


def test_no_row_counts(only_plans) -> None:
    y = torch.full((5,), -100)
    for _ in range(2):
        x = draw(5).requires_grad_()
        loss = gce_loss(x, y)
        loss.backward()
        assert loss.isnan()
        assert not x.grad.any()
        only_plans()


def test_the_backward(only_plans) -> None:
    """Twice, scaled, by an infinite factor, after a change, and by itself."""
    y = labels(5)
    gce_loss(draw(5).requires_grad_(), y).backward()
    only_plans()
    x = draw(5).requires_grad_()
    loss = gce_loss(x, y)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, x)
    torch.testing.assert_close(3 * first, second)
    (third,) = torch.autograd.grad(gce_loss(x, y), x, torch.tensor(float("inf")))
    assert not third[0].any()
    assert third[1:].isinf().any()
    loss = gce_loss(x, y)
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    (slope,) = torch.autograd.grad(gce_loss(x, y), x, create_graph=True)
    assert slope.requires_grad


def test_labels_that_change_before_the_backward() -> None:
    for _ in range(2):
        x, y = draw(5).requires_grad_(), labels(5)
        loss = gce_loss(x, y)
        y.fill_(0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_constant_stream_that_requires_grad_gets_none() -> None:
    for _ in range(2):
        x, u = draw(5).requires_grad_(), torch.rand(5, 7).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, by the first call
            sigmoid_bce_loss(x, 1 * u).backward()
        assert u.grad is None
        assert x.grad is not None


def test_who_requires_grad_may_change() -> None:
    x, u, y = draw(5), draw(5, seed=1), labels(5)
    for flags in [(True, False), (False, True), (True, True), (False, False)] * 2:
        leaves = [t.clone().requires_grad_(flag) for t, flag in zip((x, u), flags, strict=True)]
        loss = trades_loss(leaves[0], y, leaves[1])
        assert loss.requires_grad == any(flags)
        if any(flags):
            loss.backward()
        assert tuple(t.grad is not None for t in leaves) == flags
        with torch.no_grad():
            assert not trades_loss(leaves[0], y, leaves[1]).requires_grad


def test_a_checkpoint_may_recompute_a_first_call_by_its_plan() -> None:
    x, y = draw(2, 3).requires_grad_(), labels(2, 3)
    for _ in range(2):
        checkpoint(gce_loss, 2 * x, y, use_reentrant=False).backward()


def test_modes_and_transforms_see_operators() -> None:
    """Whatever plans there are."""
    x, y = draw(5), labels(5)
    gold = gce_loss(x, y)
    graph = make_fx(lambda a, b: gce_loss(a, b))(x, y)
    assert "lossgen" in graph.code
    torch.testing.assert_close(graph(x, y), gold)
    with FakeTensorMode() as mode:
        assert gce_loss(mode.from_tensor(x), mode.from_tensor(y)).shape == ()
    assert gce_loss(x.to("meta"), y.to("meta")).is_meta
    rows = torch.func.vmap(lambda a, b: gce_loss(a, b, reduction="sum"))(x, y)
    torch.testing.assert_close(rows, gce_loss(x, y, reduction="none"))
    slope = torch.func.grad(gce_loss)(x, y)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(gce_loss(leaf, y), leaf)[0], slope)
    moved = torch.func.jvp(lambda a: gce_loss(a, y), (x,), (x,))[1]
    torch.testing.assert_close(moved, (slope * x).sum())


def test_memory_that_was_freed_is_not_read(only_plans) -> None:
    x, y = draw(5), labels(5)
    gce_loss(x, y)
    only_plans()
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="has been freed"):
        gce_loss(x, y)


def test_gradients_take_the_place_of_the_logits(only_plans) -> None:
    """Of each call's own memory: where another argument lies in it they do not."""
    y, leaf = labels(5), draw(5).requires_grad_()
    for _ in range(2):
        rows = 1 * leaf
        loss = gce_loss(rows, y, inplace_grad=True)
        (slope,) = torch.autograd.grad(loss, rows, retain_graph=True)
        assert slope.data_ptr() == rows.data_ptr()
        with pytest.raises(RuntimeError, match="inplace_grad=True has overwritten"):
            torch.autograd.grad(loss, rows)
        only_plans()
    with pytest.raises(AssertionError, match="first time"):
        gce_loss(leaf, y, inplace_grad=True)  # a leaf is another fact, and refused


def test_logits_that_another_argument_lies_in_are_not_overwritten() -> None:
    y = labels(5)
    for shared in (False, True, False, True):
        rows = 1 * draw(5).requires_grad_()
        other = rows.detach() if shared else rows.detach().clone()
        held = other.clone()
        trades_loss(rows, y, other, inplace_grad=True).backward()
        assert torch.equal(other, held)


def test_the_backward_of_rows(only_plans) -> None:
    """Twice, weighted, and to be differentiated again."""
    y = labels(5)
    gce_loss(draw(5).requires_grad_(), y, reduction="none").sum().backward()
    only_plans()
    x = draw(5).requires_grad_()
    rows = gce_loss(x, y, reduction="none")
    (first,) = torch.autograd.grad(rows.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(rows, x, 3 * torch.ones(5), retain_graph=True)
    torch.testing.assert_close(3 * first, second)
    (slope,) = torch.autograd.grad(rows.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, first)
    assert slope.requires_grad


def test_threads_share_a_plan(only_plans) -> None:
    y = labels(64)
    inputs = [draw(64, seed=seed) for seed in range(4)]
    gold = [gce_loss(x.requires_grad_(), y) for x in inputs]
    slopes = [torch.autograd.grad(loss, x)[0] for loss, x in zip(gold, inputs, strict=True)]
    only_plans()
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(100):
            loss = gce_loss(inputs[k], y)
            (slope,) = torch.autograd.grad(loss, inputs[k])
            if not (torch.equal(loss, gold[k]) and torch.equal(slope, slopes[k])):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_plan_keeps_no_tensor_alive() -> None:
    x, y = draw(5).requires_grad_(), labels(5)
    gone = [weakref.ref(x), weakref.ref(y)]
    for _ in range(2):
        gce_loss(x, y).backward()
    del x, y
    assert all(ref() is None for ref in gone)


def test_plans_are_bounded() -> None:
    loss = gce_loss.__globals__["LOSS"]
    for rows in range(1, 2 * plans._KEPT + 9):
        gce_loss(draw(rows), labels(rows))
    assert 0 < len(loss.plans.kept) <= plans._KEPT
