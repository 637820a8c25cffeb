"""Judging a result against the literal formula, and two results against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath as mp
import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.passes.truth import FAR
from lossgen.verify.cases import Case
from lossgen.verify.reference import Arguments, literal, literal_mpmath
from lossgen.verify.runner import Gold, Gradients, gold, gradients, shaken
from lossgen.verify.streams import LOGITS, streams
from lossgen.verify.tolerances import compare, further, least, slack

__all__ = [
    "check_literal",
    "close",
    "close_gradients",
    "corrected",
    "exact_row",
    "exact_values",
    "fail",
    "is_right",
    "naming",
]


_SHAKES = 3


def fail(message: str) -> None:
    """Raise VerificationError."""
    raise VerificationError(message)


def naming(vector: str) -> str:
    """The gradient with respect to one of the class vectors, in messages."""
    return "the gradient" if vector == LOGITS else f"the gradient of {vector}"


def _scales(case: Case, exact: Gold) -> tuple[Tensor, dict[str, Tensor]]:
    """The size of each loss (at least 1), and per row that of each gradient's terms, at least
    what the spec and its certificate say.

    A bounded loss of a confidently wrong row has a gradient far below its terms, which cancel.
    """
    finite = torch.where(exact.loss.isfinite(), exact.loss.abs(), 0.0)
    rows = finite.reshape(len(finite), -1).amax(1)
    floor = torch.where(_dominated(case), rows.clamp_min(1.0), least(case.spec))
    floor = torch.maximum(rows.clamp_max(1.0), floor)
    slopes = {
        name: torch.maximum(torch.where(grad.isfinite(), grad.abs(), 0.0).amax(1), floor)
        for name, grad in exact.grads.items()
    }
    return finite.clamp_min(1.0), slopes


def _dominated(case: Case) -> Tensor:
    """[N]: the rows of which the certificate promises absolute accuracy, as another class than the
    target, or the first, is far above it."""
    given, accuracy = case.arguments(), case.spec.accuracy
    if accuracy is None or not accuracy.absolute:
        return torch.zeros(case.rows, dtype=torch.bool)
    at = torch.zeros(case.rows, dtype=torch.long) if given.target is None else given.target
    wide = [given.logits, *(given.inputs[n] for n in streams(case.spec))]
    above = [v.amax(1) - v.gather(1, at[:, None])[:, 0] for v in wide]
    sizes = [abs(v) for v in case.parameters().values() if v and math.isfinite(v)]
    stretch = max((max(v, 1.0 / v) for v in sizes), default=1.0)
    return torch.stack(above).amax(0).nan_to_num(math.inf) * stretch > FAR


def _noisy(case: Case, exact: Gold, eager: Gold, weight: Tensor | None) -> Gold:
    """What rounding may do to the literal formula, as a second opinion beside ``exact``.

    Where two softmaxes nearly cancel, or e^75 is taken of a difference of logits, eager float32 may
    be right by chance, and so may a row that is one ulp off: a few of them, and what float32 makes
    of them, say what to expect.
    """
    for draw in range(_SHAKES):
        near = shaken(case, draw)
        other, single = (
            Gold(*gradients(case.spec, _cast(near, dtype), weight))
            for dtype in (torch.float64, torch.float32)
        )
        eager = _further(exact, eager, other)
        lost = {n: exact.grads[n] + (single.grads[n] - g) for n, g in other.grads.items()}
        eager = _further(exact, eager, Gold(exact.loss + (single.loss - other.loss), lost))
    return eager


def _cast(given: Arguments, dtype: torch.dtype) -> Arguments:
    """What float32 holds of the vectors, in ``dtype``."""
    inputs = {name: values.float().to(dtype) for name, values in given.inputs.items()}
    return given.with_(logits=given.logits.float().to(dtype), **inputs)


def _further(exact: Gold, one: Gold, other: Gold) -> Gold:
    grads = {n: further(exact.grads[n], one.grads[n], g) for n, g in other.grads.items()}
    return Gold(further(exact.loss, one.loss, other.loss), grads)


def check_literal(
    case: Case, loss: Tensor | None, grads: Gradients | None, weight: Tensor | None = None
) -> None:
    """Compare with the literal formula in float64.

    Args:
        loss: [N], or [N, n_out] for several outputs.
        grads: those that there are.
        weight: what the loss was weighted by before the backward.
    """
    exact, eager = gold(case, torch.float64, weight), gold(case, torch.float32, weight)
    try:
        _check(case, loss, grads, exact, eager)
    except VerificationError:  # by a stricter judge, whom most cases content
        truth = corrected(case, exact, weight)
        _check(case, loss, grads, truth, _noisy(case, truth, eager, weight))


def exact_row(
    case: Case, given: Arguments, i: int, name: str, k: int, gradient: bool = True
) -> tuple[Any, list[Any]]:
    """Row ``i`` of the literal formula with 120 digits, and its gradient by the vector ``name``;
    NaN where it divides by 0."""
    inputs = {
        n: (v if case.spec.inputs[n].kind == "vocab" else v[i]).double().tolist()
        for n, v in given.inputs.items()
    }
    target = None if given.target is None else int(given.target[i])
    row = given.logits[i].tolist()
    with mp.workdps(120):
        try:
            return literal_mpmath(
                case.spec, row, target, given.parameters, inputs, gradient, by=name, output=k
            )
        except ZeroDivisionError:
            return mp.nan, [mp.nan] * len(row)


def exact_values(case: Case, given: Arguments) -> Tensor:
    """The literal formula in float64; with 120 digits where that is no number."""
    found = literal(case.spec, given)
    rows = found.reshape(len(found), -1)
    for i, k in (~rows.isfinite()).nonzero().tolist():
        rows[i, k] = float(exact_row(case, given, i, LOGITS, k, False)[0])
    return found


def is_right(case: Case, given: Arguments, exact: Tensor, i: int) -> bool:
    """Is the literal formula right in float64 on this row? A sum that is 0 there may be e^-10000,
    and 1 - p of a confident row is 0 there, which (1 - p)^0.01 is not."""
    values = exact[i].reshape(-1).tolist()
    truths = [exact_row(case, given, i, LOGITS, k, False)[0] for k in range(len(values))]
    return all(abs(v - t) <= 1e-9 * (1 + abs(t)) for v, t in zip(values, truths, strict=True))


def corrected(case: Case, exact: Gold, weight: Tensor | None = None) -> Gold:
    """``exact`` as mpmath has it, where no class is masked: float64 loses 1 - p, and squares of
    what it holds overflow in a derivative.  Of equal maxima autograd knows which counts."""
    given, outputs = case.arguments(), max(1, len(case.spec.outputs))
    wide = [given.logits, *(given.inputs[n] for n in streams(case.spec))]
    finite = torch.stack([v.isfinite().all(1) for v in wide]).all(0)
    found = Gold(exact.loss.clone(), {n: g.clone() for n, g in exact.grads.items()})
    for i in finite.nonzero()[:, 0].tolist():
        if any(len(v[i].unique()) < case.classes for v in wide) and is_right(
            case, given, exact.loss, i
        ):
            continue
        own = torch.ones(outputs) if weight is None else weight[i].reshape(-1)
        for name, grad in found.grads.items():
            rows = [exact_row(case, given, i, name, k) for k in range(outputs)]
            slopes = [
                torch.tensor([float(s) for s in slopes], dtype=torch.float64) for _, slopes in rows
            ]
            grad[i] = sum(float(w) * slope for w, slope in zip(own, slopes, strict=True))
            found.loss[i] = torch.tensor([float(v) for v, _ in rows], dtype=torch.float64).reshape(
                exact.loss[i].shape
            )
    return found


def _check(
    case: Case, loss: Tensor | None, grads: Gradients | None, exact: Gold, eager: Gold
) -> None:
    value, slopes = _scales(case, exact)
    factor = slack(case.spec)
    if loss is not None and case.spec.outputs:
        if loss.shape != exact.loss.shape:
            fail(f"the outputs have shape {tuple(loss.shape)}, not {tuple(exact.loss.shape)}")
        for k, output in enumerate(case.spec.outputs):
            out, right, rough, size = (t[:, k] for t in (loss, exact.loss, eager.loss, value))
            compare(f"the output {output.name}", out, right, rough, size, factor)
    elif loss is not None:
        compare("the loss", loss, exact.loss, eager.loss, value, factor)
    # of a loss that its dtype does not hold nobody expects the gradient
    held = exact.loss.abs().reshape(case.rows, -1) < torch.finfo(torch.float32).max
    known = held.all(1, keepdim=True)
    for name, grad in (grads or {}).items():
        right = torch.where(known, exact.grads[name], math.inf)
        compare(naming(name), grad, right, eager.grads[name], slopes[name], factor)


def close(what: str, one: Tensor, other: Tensor, ulps: float = 8.0) -> None:
    """Two losses of the same kernel arithmetic, equal up to the order of sums."""
    _close(what, one, other, ulps, lambda size: size.clamp_min(1.0))


def close_gradients(
    case: Case, what: str, one: Gradients, other: Gradients, ulps: float = 8.0
) -> None:
    """The same for gradients, on the scale of each row.

    A gradient may be a difference that cancels, or hang on a large power of a probability: four
    times what float32, or an ulp of the numbers, costs the literal formula is allowed; with streams
    the scale is at least 1/V.

    Args:
        what: of what or when, "the gradient" being said already.
    """
    several = bool(streams(case.spec))
    lost: dict[str, float] = {}
    floor = torch.where(_dominated(case), 1.0, several / case.classes)[:, None]
    for name in other:
        scale = partial(_row_scale, floor=floor)
        try:
            _close(f"{naming(name)} {what}", one[name], other[name], ulps, scale)
        except VerificationError:
            lost = lost or _lost(case)
            scale = partial(_row_scale, floor=floor.clamp_min(4.0 * lost[name] / ulps))
            _close(f"{naming(name)} {what}", one[name], other[name], ulps, scale)


def _row_scale(size: Tensor, floor: Tensor) -> Tensor:
    return torch.maximum(size.amax(-1, keepdim=True), floor)


def _lost(case: Case) -> dict[str, float]:
    """The largest error of each gradient of the literal formula in float32, in ulps."""
    right = gold(case)
    exact, eager = right.grads, _noisy(case, right, gold(case, torch.float32), None).grads
    unit = torch.finfo(torch.float32).eps
    errors = {n: (eager[n] - exact[n]).abs().nan_to_num(0.0, 0.0, 0.0) for n in exact}
    return {n: float(error.max()) / unit if error.numel() else 0.0 for n, error in errors.items()}


def _close(
    what: str, one: Tensor, other: Tensor, ulps: float, scale: Callable[[Tensor], Tensor]
) -> None:
    a, b = one.double(), other.double()
    if a.shape != b.shape:
        fail(f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}")
    same = (a == b) | (a.isnan() & b.isnan())
    size = torch.maximum(a.abs(), b.abs()).nan_to_num(0.0, 0.0, 0.0)
    eps = max(torch.finfo(torch.float32).eps, torch.finfo(one.dtype).eps)
    wrong = ~same & ~((a - b).abs() <= ulps * eps * scale(size) + 1e-37)
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        fail(f"{what} at {list(at)}: {a[at]:.9g} and {b[at]:.9g}")
