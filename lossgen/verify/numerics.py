"""Numerical properties: the value, the gradient, and what the mathematics says about them."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import torch
from torch import Tensor

from lossgen.verify.cases import Case
from lossgen.verify.judge import check_literal, close, fail
from lossgen.verify.reference import literal, literal_mpmath
from lossgen.verify.runner import Runner, gold
from lossgen.verify.tolerances import slack

__all__ = [
    "accurate_when_confident",
    "double_precision",
    "fused_gradient",
    "half_precision_target",
    "never_nan",
    "permutation",
    "shift_invariant",
    "tile_independent",
    "value_and_gradient",
    "zero_sum_gradient",
]


def value_and_gradient(case: Case, run: Runner) -> None:
    """Value and gradient equal float64 autograd of the literal formula."""
    loss, grad = run.gradient(case)
    check_literal(case, loss, grad)


def fused_gradient(case: Case, run: Runner) -> None:
    """The kernel that computes loss and gradient together agrees with the formula."""
    loss, grad = run.gradient(case, reduction="sum")
    check_literal(case, None, grad)
    close("sum of rows", loss[None], run.value(case).sum()[None], 64.0)


def double_precision(case: Case, run: Runner) -> None:
    """float64 logits are computed in float64."""
    loss, grad = run.gradient(case)
    exact = gold(case)
    error = torch.where(exact.grad.isfinite(), (grad - exact.grad).abs(), 0.0)
    size = torch.where(exact.grad.isfinite(), exact.grad.abs(), 0.0).amax(1, keepdim=True)
    if loss.dtype is not torch.float64 or not bool((error <= 1e-6 * size + 1e-9).all()):
        fail(f"gradient off by {error.max():.3g} in float64")


def accurate_when_confident(case: Case, run: Runner) -> None:
    """Loss and gradient keep their relative accuracy on confident rows (mpmath)."""
    loss, grad = run.gradient(case)
    x, y = case.numbers()
    inputs = {k: v.double().tolist() for k, v in case.arguments().inputs.items()}
    for i in range(case.rows):
        row = {n: (v if case.spec.inputs[n].kind == "vocab" else v[i]) for n, v in inputs.items()}
        with mp.workdps(120):
            value, slopes = literal_mpmath(
                case.spec, [float(v) for v in x[i]], int(y[i]), case.parameters(), row
            )
            spread = float(x[i].max() - x[i].min())
            stretch = max(
                (abs(v) for v in case.parameters().values() if math.isfinite(v)), default=1.0
            )
            bound = 16.0 * slack(case.spec) * (1.0 + spread) * max(1.0, stretch) * 2.0**-23
            bound = max(bound, 4.0 * torch.finfo(case.dtype).eps * (case.dtype != torch.float32))
            size = max((abs(s) for s in slopes), default=mp.mpf(0))
            _relative("the gradient", grad[i], slopes, bound, size)
            if abs(value) < 0.5:  # otherwise no relative accuracy is lost to begin with
                _relative("the loss", loss[i : i + 1], [value], bound, abs(value) + 1e-30)


def _relative(what: str, out: Tensor, exact: list[Any], bound: float, size: Any) -> None:
    for j, (value, expected) in enumerate(zip(out.tolist(), exact, strict=True)):
        if not mp.isfinite(expected) or abs(expected) > 1e38:
            continue
        error = abs(mp.mpf(value) - expected)
        if not error <= bound * size + 1e-37:
            fail(
                f"{what}[{j}] is {value:.9g}, expected {mp.nstr(expected, 9)}: relative error "
                f"{mp.nstr(error / max(size, mp.mpf(10) ** -300), 3)}, allowed {bound:.3g}"
            )


def shift_invariant(case: Case, run: Runner) -> None:
    """Adding a constant to a row changes nothing, where the formula has it so."""
    given = case.arguments()
    moved = type(given)(given.logits + 1.0, given.target, given.parameters, given.inputs)
    a, b = literal(case.spec, given), literal(case.spec, moved)
    if not torch.allclose(a, b, rtol=1e-9, atol=1e-9):
        return
    logits = (given.logits * 64).round() / 64  # exact in float32 after the shift too
    keys = case.keywords()
    plain = run.loss(logits.float(), given.target, reduction="none", **keys)
    shifted = run.loss((logits + 1024.0).float(), given.target, reduction="none", **keys)
    close("the loss before and after a shift by 1024", plain, shifted, 64.0 * slack(case.spec))


def zero_sum_gradient(case: Case, run: Runner) -> None:
    """The gradient of a shift-invariant loss sums to zero over the classes."""
    exact = gold(case)
    size = exact.grad.abs().amax(1)
    if not bool((exact.grad.sum(1).abs() <= 1e-9 * size + 1e-12).all()):
        return
    _, grad = run.gradient(case)
    total, size = grad.double().sum(1).abs(), grad.double().abs().sum(1)
    if not bool((total <= 64.0 * slack(case.spec) * 2.0**-23 * size + 1e-30).all()):
        fail(f"the gradient sums to {total.max():.3g}, its absolute values to {size.max():.3g}")


def permutation(case: Case, run: Runner) -> None:
    """Renaming the classes renames the gradient."""
    given = case.arguments()
    order = torch.randperm(case.classes, generator=torch.Generator().manual_seed(case.seed))
    keys = case.keywords()
    for name, entry in case.spec.inputs.items():
        if entry.kind == "vocab" and name in keys:
            keys[name] = keys[name][order]
    logits = given.logits.to(case.dtype)
    target = None if given.target is None else order.argsort()[given.target]
    results = []
    for values, labels, options in (
        (logits, given.target, case.keywords()),
        (logits[:, order], target, keys),
    ):
        held = values.clone().requires_grad_()
        loss = run.loss(held, labels, reduction="none", **options)
        loss.sum().backward()
        results.append((loss.detach(), held.grad))
    (loss, grad), (renamed, moved) = results
    assert grad is not None
    assert moved is not None
    close("the loss after a permutation", loss, renamed, 64.0 * slack(case.spec))
    ties = _has_ties(logits)
    if not ties:
        close("the gradient after a permutation", grad[:, order], moved, 64 * slack(case.spec))


def _has_ties(logits: Tensor) -> bool:
    ordered = logits.double().sort(1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def tile_independent(case: Case, run: Runner) -> None:
    """Tile size and number of splits do not change the result."""
    whole = case.with_(block=128)
    loss, grad = run.gradient(whole)
    for splits in (1, 2, 4):
        other, slopes = run.gradient(case, splits=splits)
        close(f"the loss with {splits} splits", other, loss, 64.0)
        close(f"the gradient with {splits} splits", slopes, grad, 64.0 * slack(case.spec))


def never_nan(case: Case, run: Runner) -> None:
    """Extreme logits give NaN only where the literal formula has no finite value."""
    given = case.arguments()
    extreme = given.logits.clone()
    extreme[:, 0] = 1e4
    if case.classes > 1:
        extreme[:, 1] = -1e4
    if case.classes > 2:
        extreme[0, 2] = -math.inf
    exact = literal(case.spec, type(given)(extreme, given.target, given.parameters, given.inputs))
    held = extreme.float().requires_grad_()
    loss = run.loss(held, given.target, reduction="none", **case.keywords())
    loss.sum().backward()
    assert held.grad is not None
    known = exact.abs() < 1e38
    if bool((known & ~loss.isfinite()).any()):
        fail(f"the loss is {loss[known & ~loss.isfinite()][0]} where {exact[known][0]} is right")
    source = extreme.clone().requires_grad_()
    again = literal(case.spec, type(given)(source, given.target, given.parameters, given.inputs))
    (slopes,) = torch.autograd.grad(again.sum(), source)
    if bool((held.grad.isnan() & slopes.isfinite() & known[:, None]).any()):
        fail("the gradient is NaN where the literal formula has one")


def half_precision_target(case: Case, run: Runner) -> None:
    """bfloat16 and float16: the target's gradient at p_y = 0.999 is not a rounded difference."""
    _, grad = run.gradient(case)
    check_literal(case, None, grad)
