"""The properties that every loss must have, as plain functions of one drawn case.

``PROPERTIES`` is the table that pytest and ``lossgen verify`` walk.  A property raises
VerificationError with what was expected; it returns without a word when it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mpmath as mp
import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import DTYPES, Case
from lossgen.verify.reference import literal, literal_mpmath
from lossgen.verify.runner import Gold, Runner, gold
from lossgen.verify.tolerances import compare, slack

__all__ = ["PROPERTIES", "Property"]

Check = Callable[[Case, Runner], None]


@dataclass(frozen=True)
class Property:
    """One property, and the fields of the cases that it pins."""

    name: str
    check: Check
    fixed: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = DTYPES[:3]
    needs_target: bool = False
    triton_only: bool = False
    share: float = 1.0  # of the examples asked for

    @property
    def doc(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or self.name).strip().splitlines()[0]

    def applies(self, spec: LossSpec, backend: str) -> bool:
        """Does the property say anything about this loss and backend?"""
        if self.triton_only and backend != "triton":
            return False
        if self.fixed.get("classes", spec.min_classes) < spec.min_classes:
            return False
        return spec.has_target or not self.needs_target


def fail(message: str) -> None:
    """Raise VerificationError."""
    raise VerificationError(message)


# ---------------------------------------------------------------------------- tolerance
def _scales(case: Case, exact: Gold) -> tuple[Tensor, Tensor]:
    """Per row: the size of the loss (at least 1), and of the largest gradient."""
    finite = torch.where(exact.loss.isfinite(), exact.loss.abs(), 0.0)
    slope = torch.where(exact.grad.isfinite(), exact.grad.abs(), 0.0).amax(1)
    return finite.clamp_min(1.0), slope


def _check(
    case: Case, loss: Tensor | None, grad: Tensor | None, weight: Tensor | None = None
) -> None:
    exact = gold(case, torch.float64, weight)
    eager = gold(case, torch.float32, weight)
    value, slope = _scales(case, exact)
    factor = slack(case.spec)
    if loss is not None:
        compare("the loss", loss, exact.loss, eager.loss, value, factor)
    if grad is not None:
        compare("the gradient", grad, exact.grad, eager.grad, slope, factor)


def _close(what: str, one: Tensor, other: Tensor, ulps: float = 8.0) -> None:
    """Two results of the same kernel arithmetic, equal up to the order of sums."""
    a, b = one.double(), other.double()
    if a.shape != b.shape:
        fail(f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    same = (a == b) | (a.isnan() & b.isnan())
    size = torch.maximum(a.abs(), b.abs()).nan_to_num(0.0, 0.0, 0.0)
    scale = size.amax(-1, keepdim=True) if a.dim() == 2 else size.clamp_min(1.0)
    eps = max(torch.finfo(torch.float32).eps, torch.finfo(one.dtype).eps)
    wrong = ~same & ~((a - b).abs() <= ulps * eps * scale + 1e-37)
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        fail(f"{what} at {list(at)}: {a[at]:.9g} and {b[at]:.9g}")


# ---------------------------------------------------------------------------- the properties
def value_and_gradient(case: Case, run: Runner) -> None:
    """Value and gradient equal float64 autograd of the literal formula."""
    loss, grad = run.gradient(case)
    _check(case, loss, grad)


def fused_gradient(case: Case, run: Runner) -> None:
    """The kernel that computes loss and gradient together agrees with the formula."""
    loss, grad = run.gradient(case, reduction="sum")
    _check(case, None, grad)
    _close("sum of rows", loss[None], run.value(case).sum()[None], 64.0)


def double_precision(case: Case, run: Runner) -> None:
    """float64 logits are computed in float64."""
    if run.backend == "triton":
        return
    loss, grad = run.gradient(case)
    exact = gold(case)
    ok = torch.allclose(grad, exact.grad, rtol=1e-6, atol=1e-9, equal_nan=True)
    if loss.dtype is not torch.float64 or not ok:
        fail(f"gradient off by {(grad - exact.grad).abs().max():.3g} in float64")


def accurate_when_confident(case: Case, run: Runner) -> None:
    """Loss and gradient keep their relative accuracy on confident rows (mpmath)."""
    loss, grad = run.gradient(case)
    x, y = case.numbers()
    inputs = {k: v.numpy() for k, v in case.arguments().inputs.items()}
    for i in range(case.rows):
        row = {n: (v if case.spec.inputs[n].kind == "vocab" else v[i]) for n, v in inputs.items()}
        with mp.workdps(120):
            value, slopes = literal_mpmath(
                case.spec, [float(v) for v in x[i]], int(y[i]), case.parameters(), row
            )
            spread = float(x[i].max() - x[i].min())
            stretch = max((abs(v) for v in case.parameters().values() if math.isfinite(v)),
                          default=1.0)
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
            fail(f"{what}[{j}] is {value:.9g}, expected {mp.nstr(expected, 9)}: relative error "
                 f"{mp.nstr(error / max(size, mp.mpf(10)**-300), 3)}, allowed {bound:.3g}")


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
    _close("the loss before and after a shift by 1024", plain, shifted, 64.0 * slack(case.spec))


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
        (logits, given.target, case.keywords()), (logits[:, order], target, keys),
    ):
        held = values.clone().requires_grad_()
        loss = run.loss(held, labels, reduction="none", **options)
        loss.sum().backward()
        results.append((loss.detach(), held.grad))
    (loss, grad), (renamed, moved) = results
    assert grad is not None and moved is not None
    _close("the loss after a permutation", loss, renamed, 64.0 * slack(case.spec))
    ties = _has_ties(logits)
    if not ties:
        _close("the gradient after a permutation", grad[:, order], moved, 64 * slack(case.spec))


def _has_ties(logits: Tensor) -> bool:
    ordered = logits.double().sort(1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def tile_independent(case: Case, run: Runner) -> None:
    """Tile size and number of splits do not change the result."""
    whole = case.with_(block=128)
    loss, grad = run.gradient(whole)
    for splits in (1, 2, 4):
        other, slopes = run.gradient(case, splits=splits)
        _close(f"the loss with {splits} splits", other, loss, 64.0)
        _close(f"the gradient with {splits} splits", slopes, grad, 64.0 * slack(case.spec))


def rows_independent(case: Case, run: Runner) -> None:
    """A row's result does not depend on the other rows."""
    logits, target = case.tensors()
    keys = case.keywords()
    loss = run.loss(logits, target, reduction="none", **keys)
    for i in range(case.rows):
        own = {k: (v[i : i + 1] if isinstance(v, Tensor) and case.spec.inputs[k].kind == "row"
                   else v) for k, v in keys.items()}
        part = None if target is None else target[i : i + 1]
        alone = run.loss(logits[i : i + 1], part, reduction="none", **own)
        _close(f"row {i} alone and among others", alone, loss[i : i + 1], 16.0)


def grad_output(case: Case, run: Runner) -> None:
    """Every row's gradient is scaled by its own grad_output, zeros and stride 0 included."""
    weight = torch.linspace(-1.5, 2.0, case.rows)
    weight[0] = 0.0
    _, grad = run.gradient(case, weight)
    if bool((grad[0] != 0).any()):
        fail("grad_output 0 leaves a gradient")
    _check(case, None, grad, weight.double())
    same = torch.full((1,), 0.5).expand(case.rows)
    _, grad = run.gradient(case, same)
    _check(case, None, grad, same.double())


def ignored_rows(case: Case, run: Runner) -> None:
    """Ignored rows have loss 0 and gradient exactly 0, and the mean leaves them out."""
    logits, target = case.tensors()
    assert target is not None
    kept = torch.arange(case.rows) % 2 == 1
    for ignore in (-100, -1, 0):
        labels = torch.where(kept, target.clamp_min(min(1, case.classes - 1)), ignore)
        if ignore == 0 and bool((labels[kept] == 0).any()):
            continue
        poison = torch.full((case.rows * 4, case.classes), math.nan)
        del poison  # what the allocator hands out next holds NaN
        spoiled = logits.clone()
        spoiled[~kept] = math.nan
        for reduction in ("none", "sum", "mean"):
            held = spoiled.clone().requires_grad_()
            loss = run.loss(held, labels, ignore_index=ignore, reduction=reduction,
                            **case.keywords())
            loss.sum().backward()
            assert held.grad is not None
            if bool((held.grad[~kept] != 0).any()):
                fail(f"an ignored row has a gradient (reduction {reduction})")
            if reduction == "none" and bool((loss[~kept] != 0).any()):
                fail("an ignored row has a loss")
            if reduction == "mean" and bool(loss.isnan()) != (not bool(kept.any())):
                fail("the mean over the rows that count is NaN, or should be")


def degenerate_shapes(case: Case, run: Runner) -> None:
    """N = 0 and V = 1 have defined results."""
    empty = torch.empty(0, 5, requires_grad=True)
    labels = torch.empty(0, dtype=torch.int64) if case.spec.has_target else None
    keys = case.with_(classes=5, rows=1).keywords()
    keys = {k: (v[:0] if isinstance(v, Tensor) and case.spec.inputs[k].kind == "row" else v)
            for k, v in keys.items()}
    loss = run.loss(empty, labels, reduction="sum", **keys)
    loss.backward()
    if float(loss) != 0.0 or empty.grad is None or empty.grad.shape != (0, 5):
        fail(f"N = 0 sums to {float(loss)}")
    if not bool(run.loss(empty.detach(), labels, **keys).isnan()):
        fail("the mean over no rows is not NaN")
    if case.spec.min_classes == 1:
        one = case.with_(classes=1, kind="plain")
        value, grad = run.gradient(one)
        _check(one, value, grad)


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
    if bool(held.grad[known].isnan().any()):
        fail("the gradient is NaN where the loss is finite")


def no_grad_value(case: Case, run: Runner) -> None:
    """The value without a gradient is the value with one; calls repeat bit for bit."""
    loss, grad = run.gradient(case)
    value = run.value(case)
    if not torch.equal(loss.nan_to_num(7.0), value.nan_to_num(7.0)):
        fail(f"with gradient {loss.tolist()}, without {value.tolist()}")
    again, slopes = run.gradient(case)
    if not (torch.equal(again.nan_to_num(7.0), loss.nan_to_num(7.0))
            and torch.equal(slopes.nan_to_num(7.0), grad.nan_to_num(7.0))):
        fail("two calls differ")


def inputs_unchanged(case: Case, run: Runner) -> None:
    """Nothing that the caller owns is written to."""
    logits, target = case.tensors()
    before = logits.clone()
    labels = None if target is None else target.clone()
    held = logits.detach().requires_grad_()
    run.loss(held, target, **case.keywords()).backward()
    if not torch.equal(held.detach().nan_to_num(7.0), before.nan_to_num(7.0)):
        fail("the logits were written to")
    if target is not None and labels is not None and not torch.equal(target, labels):
        fail("the target was written to")


def backward_twice(case: Case, run: Runner) -> None:
    """A second backward through the same graph gives the same gradient."""
    logits, target = case.tensors()
    for reduction in ("mean", "none"):
        held = logits.detach().clone().requires_grad_()
        total = run.loss(held, target, reduction=reduction, **case.keywords()).sum()
        (first,) = torch.autograd.grad(total, held, retain_graph=True)
        first = first.clone()
        (second,) = torch.autograd.grad(total, held)
        _close(f"the second gradient ({reduction})", second, first, 16.0 * slack(case.spec))


def half_precision_target(case: Case, run: Runner) -> None:
    """bfloat16 and float16: the target's gradient at p_y = 0.999 is not a rounded difference."""
    _, grad = run.gradient(case)
    _check(case, None, grad)


def parameters_matter(case: Case, run: Runner) -> None:
    """Every parameter and input changes the result for some logits."""
    base = case.with_(options=True, kind="plain", rows=4, classes=max(5, case.classes))
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


PROPERTIES: tuple[Property, ...] = (
    Property("value_and_gradient", value_and_gradient),
    Property("fused_gradient", fused_gradient),
    Property("double_precision", double_precision, dtypes=(torch.float64,)),
    Property("accurate_when_confident", accurate_when_confident, needs_target=True, share=0.2,
             dtypes=(torch.float32,),
             fixed={"kind": "peaked", "classes": 7, "layout": "contiguous", "options": False}),
    Property("shift_invariant", shift_invariant, dtypes=(torch.float32,), share=0.5,
             fixed={"kind": "plain", "layout": "contiguous"}),
    Property("zero_sum_gradient", zero_sum_gradient, dtypes=(torch.float32,), share=0.5,
             fixed={"kind": "peaked", "layout": "contiguous"}),
    Property("permutation", permutation, dtypes=(torch.float32,), share=0.5,
             fixed={"layout": "contiguous", "kind": "plain"}),
    Property("tile_independent", tile_independent, triton_only=True, share=0.5,
             fixed={"rows": 2, "block": 16}),
    Property("rows_independent", rows_independent, share=0.3),
    Property("grad_output", grad_output, share=0.5, fixed={"rows": 3}),
    Property("ignored_rows", ignored_rows, needs_target=True, share=0.3,
             fixed={"rows": 4, "kind": "plain"}),
    Property("degenerate_shapes", degenerate_shapes, share=0.2, dtypes=(torch.float32,)),
    Property("never_nan", never_nan, share=0.5, dtypes=(torch.float32,)),
    Property("no_grad_value", no_grad_value, share=0.3),
    Property("inputs_unchanged", inputs_unchanged, share=0.3),
    Property("backward_twice", backward_twice, share=0.3),
    Property("half_precision_target", half_precision_target, share=0.5, needs_target=True,
             dtypes=DTYPES[1:3], fixed={"kind": "peaked", "classes": 17}),
    Property("parameters_matter", parameters_matter, share=0.1, dtypes=(torch.float32,),
             fixed={"layout": "contiguous"}),
)
