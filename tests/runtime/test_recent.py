"""Calls like the last one: its plan without a search, and no call that is not like it."""

from __future__ import annotations

import ctypes
import time

import pytest
import torch

from lossgen.losses import cross_entropy_loss, gce_loss
from lossgen.runtime import c_build, plans, threads
from tests.runtime.planned_calls import WEIGHT, draw, labels

pytestmark = [
    pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler"),
    pytest.mark.usefixtures("no_plans"),
]


@pytest.mark.parametrize(("name", "given"), [("q", True), ("q", 2.0), ("ignore_index", 1.0)])
def test_numbers_that_equal_the_last_are_refused_all_the_same(name, given) -> None:
    """The last call's plan is taken for the same objects alone."""
    x, y = draw(5), labels(5).abs() % 7
    gce_loss(x, y, **{name: 1 if name == "ignore_index" else 1.0})
    with pytest.raises((TypeError, ValueError)):
        gce_loss(x, y, **{name: given})


def test_a_call_like_the_last_is_not_searched_for(monkeypatch) -> None:
    """That took as long as what is computed of 32 x 10."""
    weight, x, y = WEIGHT.clone(), draw(5), labels(5)
    gold = cross_entropy_loss(x, y, weight=weight)
    monkeypatch.setattr(plans, "_facts", None)
    assert torch.equal(cross_entropy_loss(x, y, weight=weight), gold)
    with pytest.raises(TypeError, match="NoneType"):  # none of these is like it
        cross_entropy_loss(x, y)  # also of fewer tensors
    for other in (x.double(), x.clone().requires_grad_(), x.t().contiguous().t(), x[:4]):
        with pytest.raises(TypeError, match="NoneType"):
            cross_entropy_loss(other, y[: len(other)], weight=weight)
    with torch.no_grad(), pytest.raises(TypeError, match="NoneType"):
        cross_entropy_loss(x, y, weight=weight)


def test_without_a_guard_of_torch_calls_are_searched_for(monkeypatch, only_plans) -> None:
    monkeypatch.setattr(torch._C._dynamo.guards, "TensorGuards", None)
    x, y = draw(5), labels(5)
    gold = gce_loss(x, y)
    only_plans()
    assert torch.equal(gce_loss(x, y), gold)


def test_rows_may_be_changed_in_place() -> None:
    """A view that a function of autograd returns may not."""
    x, y = draw(2, 3).requires_grad_(), labels(2, 3)
    for _ in range(2):
        rows = gce_loss(x, y, reduction="none")
        rows *= 2.0
        rows.sum().backward()
    other = draw(2, 3).requires_grad_()
    gce_loss(other, y, reduction="sum").backward()
    torch.testing.assert_close(x.grad, 4 * other.grad)


def test_a_team_that_comes_late_is_left_alone_for_a_while(monkeypatch) -> None:
    """All of its threads are waited for: on a busy machine 128 x 1000 took 8 ms in place of 0.3."""
    kind = ctypes.CFUNCTYPE(
        None, ctypes.CFUNCTYPE(None, ctypes.c_void_p), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    )
    asked: list[int] = []

    def late(work, data, wanted, flags) -> None:
        work(data)
        asked.append(wanted)
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    team = kind(late)
    monkeypatch.setattr(threads, "team", lambda: ctypes.cast(team, ctypes.c_void_p).value)
    monkeypatch.setattr(threads, "_SMALL", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, y = draw(64), labels(64)
    found = [gce_loss(x, y)]
    while not asked:  # after another test, whose team did come late
        found.append(gce_loss(x, y))
    found += [gce_loss(x, y) for _ in range(64)]
    assert asked == [0]
    found.append(gce_loss(x, y))
    assert asked == [0, 0]
    assert all(torch.equal(one, found[0]) for one in found)
