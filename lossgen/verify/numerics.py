"""Numerical properties: the value, the gradient, and what the mathematics says about them."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import mpmath as mp
import torch
from torch import Tensor

from lossgen.spec.expr import NameKind
from lossgen.spec.trees import nodes
from lossgen.verify.cases import Case
from lossgen.verify.judge import (
    check_literal,
    close,
    close_gradients,
    corrected,
    exact_row,
    exact_values,
    fail,
    is_right,
    naming,
)
from lossgen.verify.reference import Arguments, literal
from lossgen.verify.runner import Gold, Gradients, Runner, gold, gradients, shaken
from lossgen.verify.streams import LOGITS, normal, relations, streams
from lossgen.verify.tolerances import least, slack

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
    loss, grads = run.gradient(case)
    check_literal(case, loss, grads)


def fused_gradient(case: Case, run: Runner) -> None:
    """The kernel that computes loss and gradient together agrees with the formula."""
    loss, grads = run.gradient(case, reduction="sum")
    check_literal(case, None, grads)
    close("sum of rows", loss[None], run.value(case).sum()[None], 64.0)


def double_precision(case: Case, run: Runner) -> None:
    """float64 logits are computed in float64."""
    loss, grads = run.gradient(case)
    if loss.dtype is not torch.float64:
        fail(f"the loss is {str(loss.dtype)[6:]} in float64")
    exact = gold(case)
    if _apart_in_float64(grads, exact):
        for name, off in _apart_in_float64(grads, corrected(case, exact)).items():
            fail(f"{naming(name)} off by {off:.3g} in float64")


def _apart_in_float64(grads: Gradients, exact: Gold) -> dict[str, float]:
    """How far off those gradients are that are too far off."""
    found = {}
    for name, right in exact.grads.items():
        error = torch.where(right.isfinite(), (grads[name] - right).abs(), 0.0)
        size = torch.where(right.isfinite(), right.abs(), 0.0).amax(1, keepdim=True)
        if not bool((error <= 1e-6 * size + 1e-9).all()):
            found[name] = float(error.max())
    return found


def accurate_when_confident(case: Case, run: Runner) -> None:
    """Loss and gradient keep their relative accuracy on confident rows (mpmath)."""
    if "other" in relations(case.spec, case.relation).values():
        return  # confident in another class than the target: nothing there is near 0
    outputs = len(case.spec.outputs)
    for k in range(max(1, outputs)):
        weight = torch.eye(outputs)[k].expand(case.rows, outputs) if outputs else None
        loss, grads = run.gradient(case, weight)
        rows = loss[:, k] if outputs else loss
        for i, name in product(range(case.rows), grads):
            value, slopes = exact_row(case, case.arguments(), i, name, k)
            bound = _relative_bound(case, i)
            size = max((least(case.spec), *(abs(s) for s in slopes)), default=mp.mpf(0))
            off, slopes_off = mp.mpf(0), mp.mpf(0)
            if streams(case.spec):  # they may cancel: what an ulp of the numbers does is allowed
                near, slopes_near = exact_row(case, shaken(case), i, name, k)
                off = _apart([value], [near])
                slopes_off = _apart(slopes, slopes_near)
            _relative(naming(name), grads[name][i], slopes, bound * size + 16 * slopes_off)
            if abs(value) < 0.5:  # otherwise no relative accuracy is lost to begin with
                allowed = bound * max(abs(value) + 1e-30, least(case.spec)) + 16 * off
                _relative("the loss", rows[i : i + 1], [value], allowed)


def _relative_bound(case: Case, i: int) -> float:
    given = case.arguments()
    scored = [n for n in streams(case.spec) if normal(case.spec.inputs[n])]
    rows = (given.logits[i], *(given.inputs[n][i] for n in scored))
    spread = max(float(row.max() - row.min()) for row in rows)
    stretch = max((abs(v) for v in case.parameters().values() if math.isfinite(v)), default=1.0)
    bound = 16.0 * slack(case.spec) * (1.0 + spread) * max(1.0, stretch) * 2.0**-23
    return max(bound, 4.0 * torch.finfo(case.dtype).eps * (case.dtype != torch.float32))


def _apart(one: list[Any], other: list[Any]) -> Any:
    """The largest difference, where there is one."""
    pairs = zip(one, other, strict=True)
    both = [abs(a - b) for a, b in pairs if mp.isfinite(a) and mp.isfinite(b)]
    return max(both, default=mp.mpf(0))


def _relative(what: str, out: Tensor, exact: list[Any], allowed: Any) -> None:
    for j, (value, expected) in enumerate(zip(out.tolist(), exact, strict=True)):
        if not mp.isfinite(expected) or abs(expected) > 1e38:
            continue
        error = abs(mp.mpf(value) - expected)
        if not error <= allowed + 1e-37:
            fail(
                f"{what}[{j}] is {value:.9g}, expected {mp.nstr(expected, 9)}: off by "
                f"{mp.nstr(error, 3)}, allowed {mp.nstr(allowed, 3)}"
            )


def shift_invariant(case: Case, run: Runner) -> None:
    """Adding a constant to a row changes nothing, where the formula has it so."""
    given = case.arguments()
    owned = {LOGITS: given.logits, **given.inputs}
    before = literal(case.spec, given)
    for name in _open(case):
        after = literal(case.spec, given.with_(**{name: owned[name] + 1.0}))
        if not torch.allclose(before, after, rtol=1e-9, atol=1e-9):
            continue
        exact = (owned[name] * 64).round().float() / 64  # after the shift too
        moved = (given.with_(**{name: exact.double() + shift}) for shift in (0, 1024))
        far = [exact_values(case, arguments) for arguments in moved]
        if all(v.isfinite().all() for v in far) and not torch.allclose(*far, rtol=1e-6, atol=1e-9):
            continue  # invariant for a part of the way: a clipped norm
        losses = []
        for values in (exact, exact + 1024.0):
            keys = {LOGITS: given.logits.float(), **case.keywords(), name: values}
            losses.append(run.loss(keys.pop(LOGITS), given.target, reduction="none", **keys))
        plain, shifted = losses
        limit = 64.0 * slack(case.spec)
        close(f"the loss before and after a shift of {name} by 1024", plain, shifted, limit)


def _open(case: Case) -> tuple[str, ...]:
    """The vectors that take any number: the logits, and streams like them."""
    found = (n for n in streams(case.spec) if normal(case.spec.inputs[n]))
    return (LOGITS, *found)


def zero_sum_gradient(case: Case, run: Runner) -> None:
    """The gradient of a shift-invariant loss sums to zero over the classes."""
    given, exact = case.arguments(), gold(case)
    owned = {LOGITS: given.logits, **given.inputs}
    near = {name: owned[name] / (1.0 + owned[name].abs()) for name in _open(case)}
    _, mild = gradients(case.spec, given.with_(**near))
    loss, grads = run.gradient(case)
    # where two rows meet, a gradient may be far below its terms, which cancel
    terms = loss.double().abs().clamp_max(1.0).reshape(len(loss), -1).amax(1)
    for name in exact.grads:
        # a saturated row's gradient is so small that it would seem to sum to zero
        if not all(_is_balanced(found[name]) for found in (mild, exact.grads)):
            continue
        grad = grads[name].double()
        total, size = grad.sum(1).abs(), grad.abs().sum(1) + terms * bool(streams(case.spec))
        size = size.clamp_min(least(case.spec))
        if not bool((total <= 64.0 * slack(case.spec) * 2.0**-23 * size + 1e-30).all()):
            which = naming(name)
            fail(f"{which} sums to {total.max():.3g}, its absolute values to {size.max():.3g}")


def _is_balanced(slopes: Tensor) -> bool:
    return bool((slopes.sum(1).abs() <= 1e-9 * slopes.abs().amax(1) + 1e-12).all())


def permutation(case: Case, run: Runner) -> None:
    """Renaming the classes renames the gradient."""
    if _numbers_classes(case):
        return
    given = case.arguments()
    order = torch.randperm(case.classes, generator=torch.Generator().manual_seed(case.seed))
    owned = {LOGITS: given.logits.to(case.dtype), **case.keywords()}
    permuted = dict(owned)
    for name, value in owned.items():
        if name == LOGITS or (name in given.inputs and case.spec.inputs[name].kind != "row"):
            permuted[name] = value[..., order]
    target = None if given.target is None else order.argsort()[given.target]
    ties = any(_has_ties(owned[name]) for name in (LOGITS, *streams(case.spec)))
    loss, grads = run.slopes(owned.pop(LOGITS), given.target, owned)
    renamed, moved = run.slopes(permuted.pop(LOGITS), target, permuted)
    close("the loss after a permutation", loss, renamed, 64.0 * slack(case.spec))
    if not ties:
        expected = {name: grad[:, order] for name, grad in grads.items()}
        close_gradients(case, "after a permutation", expected, moved, 64.0 * slack(case.spec))


def _numbers_classes(case: Case) -> bool:
    """Does a class's number count (index, argmax)? Then renaming classes changes the loss."""
    return any(
        getattr(node, "kind", None) is NameKind.INDEX or getattr(node, "func", "") == "argmax"
        for tree in case.spec.trees
        for node in nodes(tree)
    )


def _has_ties(logits: Tensor) -> bool:
    ordered = logits.double().sort(1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def tile_independent(case: Case, run: Runner) -> None:
    """Tile size and number of splits do not change the result."""
    loss, grads = run.gradient(case.with_(block=128))  # as one tile
    tiles = [(f"with {splits} splits", case, splits) for splits in (1, 2, 4)]
    for what, other, splits in (*tiles, ("class by class", case.with_(block=1), 1)):
        value, slopes = run.gradient(other, splits=splits)
        close(f"the loss {what}", value, loss, 64.0 * slack(case.spec))
        close_gradients(case, what, slopes, grads, 64.0 * slack(case.spec))


def never_nan(case: Case, run: Runner) -> None:
    """Extreme logits give NaN only where the literal formula has no finite value."""
    given = case.arguments()
    owned = {LOGITS: given.logits, **given.inputs}
    extreme = {name: _extreme(owned[name], name) for name in _open(case)}
    alone = [{name: values} for name, values in extreme.items()]
    for changed in alone if len(alone) == 1 else [*alone, extreme]:
        _finite(case, run, given.with_(**changed))


def _extreme(values: Tensor, name: str) -> Tensor:
    """Huge, hugely negative and masked classes; a stream has them at the other end."""
    extreme = values.clone()
    extreme[:, 0] = 1e4
    if values.shape[1] > 1:
        extreme[:, 1] = -1e4
    if values.shape[1] > 2:
        extreme[0, 2] = -math.inf
    return extreme if name == LOGITS else extreme.flip(1)


def _finite(case: Case, run: Runner, given: Arguments) -> None:
    exact, slopes = gradients(case.spec, given)
    held = {name: given.inputs[name].float() for name in streams(case.spec)}
    loss, grads = run.slopes(given.logits.float(), given.target, {**case.keywords(), **held})
    known = exact.abs() < 1e38
    lost = known & ~loss.isfinite()
    if bool(lost.any()):
        fail(f"the loss is {loss[lost][0]} where {exact[lost][0]} is right")
    rows = known.reshape(len(known), -1).all(1)
    for name, grad in grads.items():
        broken = (grad.isnan() & slopes[name].isfinite()).any(1) & rows
        if any(is_right(case, given, exact, i) for i in broken.nonzero()[:, 0].tolist()):
            fail(f"{naming(name)} is NaN where the literal formula has one")


def half_precision_target(case: Case, run: Runner) -> None:
    """bfloat16 and float16: the target's gradient at p_y = 0.999 is not a rounded difference."""
    _, grads = run.gradient(case)
    check_literal(case, None, grads)
