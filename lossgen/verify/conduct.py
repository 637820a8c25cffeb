"""Properties of a loss as a torch function: rows, reductions, ignored rows, storage, autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lossgen.spec.model import LossSpec
from lossgen.verify.cases import Case
from lossgen.verify.judge import check_literal, close, fail
from lossgen.verify.limits import replace_formula
from lossgen.verify.reference import literal
from lossgen.verify.runner import Runner
from lossgen.verify.tolerances import slack

__all__ = [
    "backward_twice",
    "degenerate_shapes",
    "grad_output",
    "ignored_rows",
    "inputs_unchanged",
    "no_grad_value",
    "parameters_matter",
    "reductions",
    "rows_independent",
]


def rows_independent(case: Case, run: Runner) -> None:
    """A row's result does not depend on the other rows."""
    logits, target = case.tensors()
    keys = case.keywords()
    loss = run.loss(logits, target, reduction="none", **keys)
    for i in range(case.rows):
        own = {
            k: (v[i : i + 1] if isinstance(v, Tensor) and case.spec.inputs[k].kind == "row" else v)
            for k, v in keys.items()
        }
        part = None if target is None else target[i : i + 1]
        alone = run.loss(logits[i : i + 1], part, reduction="none", **own)
        close(f"row {i} alone and among others", alone, loss[i : i + 1], 16.0)


def grad_output(case: Case, run: Runner) -> None:
    """Every row's gradient is scaled by its own grad_output, zeros and stride 0 included."""
    weight = torch.linspace(-1.5, 2.0, case.rows)
    weight[0] = 0.0
    _, grad = run.gradient(case, weight)
    if bool((grad[0] != 0).any()):
        fail("grad_output 0 leaves a gradient")
    check_literal(case, None, grad, weight.double())
    same = torch.full((1,), 0.5).expand(case.rows)
    _, grad = run.gradient(case, same)
    check_literal(case, None, grad, same.double())


def ignored_rows(case: Case, run: Runner) -> None:
    """Ignored rows have loss 0 and gradient exactly 0, and the mean leaves them out."""
    logits, target = case.tensors()
    assert target is not None
    at = torch.arange(case.rows)
    between, all_ignored = at % 2 == 0, at < 0  # rows that count, ignored ones between them
    for kept, ignore in ((between, -100), (~between, 0), (all_ignored, -1)):
        labels = torch.where(kept, target, ignore)
        if ignore == 0:  # a class that is ignored
            labels = torch.where(kept, target.clamp_min(min(1, case.classes - 1)), ignore)
            kept = labels != ignore
        spoiled = logits.clone()
        spoiled[~kept] = math.nan
        for reduction in ("none", "sum", "mean"):
            held = spoiled.clone().requires_grad_()
            with _poisoned():
                loss = run.loss(
                    held, labels, ignore_index=ignore, reduction=reduction, **case.keywords()
                )
                loss.sum().backward()
            assert held.grad is not None
            if bool((held.grad[~kept] != 0).any()):
                fail(f"an ignored row has a gradient (reduction {reduction})")
            if reduction == "none" and bool((loss[~kept] != 0).any()):
                fail("an ignored row has a loss")
            if reduction == "sum" and bool(loss.isnan()):
                fail("the sum takes in an ignored row")
            if reduction == "mean" and bool(loss.isnan()) != (not bool(kept.any())):
                fail("the mean over the rows that count is NaN, or should be")


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fresh memory holds NaN: what a kernel does not write, shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def reductions(case: Case, run: Runner) -> None:
    """mean is the sum of rows over the sum of the spec's normalizer; sum is the sum."""
    rows = run.value(case).double()
    given = case.arguments()
    count = torch.ones(case.rows, dtype=torch.float64)
    if case.spec.normalizer is not None:
        count = literal(replace_formula(case.spec, case.spec.normalizer), given)
    for reduction, expected in (("sum", rows.sum()), ("mean", rows.sum() / count.sum())):
        value = run.value(case, reduction=reduction).double()
        close(f"the {reduction}", value[None], expected[None], 64.0)
        held, target = case.tensors()
        held = held.detach().requires_grad_()
        loss = run.loss(held, target, reduction=reduction, **case.keywords())
        close(f"the {reduction} with a gradient", loss.detach()[None].double(), value[None], 64.0)
        loss.backward()
        weight = (
            torch.ones(case.rows) if reduction == "sum" else (1.0 / count.sum()).expand(case.rows)
        )
        check_literal(case, None, held.grad, weight.double())


def degenerate_shapes(case: Case, run: Runner) -> None:
    """N = 0 and V = 1 have defined results."""
    empty = torch.empty(0, 5, requires_grad=True)
    labels = torch.empty(0, dtype=torch.int64) if case.spec.has_target else None
    keys = case.with_(classes=5, rows=1).keywords()
    keys = {
        k: (v[:0] if isinstance(v, Tensor) and case.spec.inputs[k].kind == "row" else v)
        for k, v in keys.items()
    }
    loss = run.loss(empty, labels, reduction="sum", **keys)
    loss.backward()
    if float(loss) != 0.0 or empty.grad is None or empty.grad.shape != (0, 5):
        fail(f"N = 0 sums to {float(loss)}")
    if not bool(run.loss(empty.detach(), labels, **keys).isnan()):
        fail("the mean over no rows is not NaN")
    if case.spec.min_classes == 1:
        one = case.with_(classes=1, kind="plain")
        value, grad = run.gradient(one)
        check_literal(one, value, grad)


def no_grad_value(case: Case, run: Runner) -> None:
    """The value without a gradient is the value with one; calls repeat bit for bit."""
    loss, grad = run.gradient(case)
    value = run.value(case)
    if not torch.equal(loss.nan_to_num(7.0), value.nan_to_num(7.0)):
        fail(f"with gradient {loss.tolist()}, without {value.tolist()}")
    again, slopes = run.gradient(case)
    if not (
        torch.equal(again.nan_to_num(7.0), loss.nan_to_num(7.0))
        and torch.equal(slopes.nan_to_num(7.0), grad.nan_to_num(7.0))
    ):
        fail("two calls differ")


def inputs_unchanged(case: Case, run: Runner) -> None:
    """Nothing that the caller owns is written to."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    owned = {"logits": logits, "target": target, **keys}
    tensors = {name: value for name, value in owned.items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in tensors.items()}
    run.loss(logits.detach().requires_grad_(), target, **keys).backward()
    for name, value in tensors.items():
        if not torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0)):
            fail(f"{name} was written to")


def backward_twice(case: Case, run: Runner) -> None:
    """A second backward through the same graph gives the same gradient."""
    logits, target = case.tensors()
    for reduction in ("mean", "none"):
        held = logits.detach().clone().requires_grad_()
        total = run.loss(held, target, reduction=reduction, **case.keywords()).sum()
        (first,) = torch.autograd.grad(total, held, retain_graph=True)
        first = first.clone()
        (second,) = torch.autograd.grad(total, held)
        close(f"the second gradient ({reduction})", second, first, 16.0 * slack(case.spec))


def parameters_matter(case: Case, run: Runner) -> None:
    """Every parameter and input changes the result for some logits."""
    base = case.with_(variant=-1, kind="plain", rows=4, classes=max(5, case.classes))
    logits, target = base.tensors()
    keys = base.keywords()
    for name, value in keys.items():
        changed = dict(keys)
        if isinstance(value, Tensor):
            changed[name] = value * 0.5
        else:
            changed[name] = _another(case.spec, name, value)
        logits64, target64 = logits.double(), target
        torch_run = Runner(run.module, run.spec, "torch")
        grads = []
        for options in (keys, changed):
            held = logits64.clone().requires_grad_()
            loss = torch_run.loss(held, target64, reduction="none", **options)
            loss.sum().backward()
            assert held.grad is not None
            grads.append((loss.detach(), held.grad))
        if torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1]):
            fail(f"{name} changes nothing")


def _another(spec: LossSpec, name: str, value: float) -> float:
    entry = spec.parameters[name]
    for candidate in (value * 0.5, value * 2.0, value + 0.25, value - 0.25, value + 1, value - 1):
        usable = entry.domain.contains(candidate) and math.isfinite(candidate)
        if usable and candidate != value and (not entry.integer or candidate == int(candidate)):
            return candidate
    return float(entry.default)
