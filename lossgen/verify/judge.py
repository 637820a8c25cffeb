"""Judging a result against the literal formula, and two results against each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.verify.cases import Case
from lossgen.verify.runner import Gold, Gradients, gold, gradients, shaken
from lossgen.verify.streams import LOGITS, streams
from lossgen.verify.tolerances import compare, further, slack

__all__ = ["check_literal", "close", "close_gradients", "fail", "naming"]


def fail(message: str) -> None:
    """Raise VerificationError."""
    raise VerificationError(message)


def naming(vector: str) -> str:
    """The gradient with respect to one of the class vectors, in messages."""
    return "the gradient" if vector == LOGITS else f"the gradient of {vector}"


def _scales(exact: Gold) -> tuple[Tensor, dict[str, Tensor]]:
    """The size of each loss (at least 1), and per row that of each gradient's terms.

    A bounded loss of a confidently wrong row has a gradient far below its terms, which cancel.
    """
    finite = torch.where(exact.loss.isfinite(), exact.loss.abs(), 0.0)
    largest = finite.clamp_max(1.0).reshape(len(finite), -1).amax(1)
    slopes = {
        name: torch.maximum(torch.where(grad.isfinite(), grad.abs(), 0.0).amax(1), largest)
        for name, grad in exact.grads.items()
    }
    return finite.clamp_min(1.0), slopes


def _noisy(case: Case, exact: Gold, weight: Tensor | None) -> Gold:
    """What rounding may do to the literal formula, as a second opinion beside ``exact``.

    Two softmaxes meet in differences, which cancel where a stream is nearly the logits.  Eager
    float32 may get those right by chance; one ulp in what goes in says what to expect.
    """
    eager = gold(case, torch.float32, weight)
    if not streams(case.spec):
        return eager
    other = Gold(*gradients(case.spec, shaken(case), weight))
    grads = {n: further(exact.grads[n], eager.grads[n], grad) for n, grad in other.grads.items()}
    return Gold(further(exact.loss, eager.loss, other.loss), grads)


def check_literal(
    case: Case, loss: Tensor | None, grads: Gradients | None, weight: Tensor | None = None
) -> None:
    """Compare with the literal formula in float64.

    Args:
        loss: [N], or [N, n_out] for several outputs.
        grads: those that there are.
        weight: what the loss was weighted by before the backward.
    """
    exact = gold(case, torch.float64, weight)
    eager = _noisy(case, exact, weight)
    value, slopes = _scales(exact)
    factor = slack(case.spec)
    if loss is not None and case.spec.outputs:
        if loss.shape != exact.loss.shape:
            fail(f"the outputs have shape {tuple(loss.shape)}, not {tuple(exact.loss.shape)}")
        for k, output in enumerate(case.spec.outputs):
            out, right, rough, size = (t[:, k] for t in (loss, exact.loss, eager.loss, value))
            compare(f"the output {output.name}", out, right, rough, size, factor)
    elif loss is not None:
        compare("the loss", loss, exact.loss, eager.loss, value, factor)
    for name, grad in (grads or {}).items():
        compare(naming(name), grad, exact.grads[name], eager.grads[name], slopes[name], factor)


def close(what: str, one: Tensor, other: Tensor, ulps: float = 8.0) -> None:
    """Two losses of the same kernel arithmetic, equal up to the order of sums."""
    _close(what, one, other, ulps, lambda size: size.clamp_min(1.0))


def close_gradients(
    case: Case, what: str, one: Gradients, other: Gradients, ulps: float = 8.0
) -> None:
    """The same for gradients, on the scale of each row.

    With streams that is at least 1/V: a gradient may be the difference of two softmaxes.

    Args:
        what: of what or when, "the gradient" being said already.
    """
    floor = 1.0 / case.classes if streams(case.spec) else 0.0
    for name in other:
        which = f"{naming(name)} {what}"
        _close(
            which,
            one[name],
            other[name],
            ulps,
            lambda size: size.amax(-1, keepdim=True).clamp_min(floor),
        )


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
