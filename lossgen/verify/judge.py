"""Judging a result against the literal formula, and two results against each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.verify.cases import Case
from lossgen.verify.runner import Gold, gold
from lossgen.verify.tolerances import compare, slack

__all__ = ["check_literal", "close", "fail"]


def fail(message: str) -> None:
    """Raise VerificationError."""
    raise VerificationError(message)


def _scales(case: Case, exact: Gold) -> tuple[Tensor, Tensor]:
    """Per row: the size of the loss (at least 1), and of the gradient's terms.

    A bounded loss of a confidently wrong row has a gradient far below its terms, which cancel.
    """
    finite = torch.where(exact.loss.isfinite(), exact.loss.abs(), 0.0)
    slope = torch.where(exact.grad.isfinite(), exact.grad.abs(), 0.0).amax(1)
    return finite.clamp_min(1.0), torch.maximum(slope, finite.clamp_max(1.0))


def check_literal(
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


def close(what: str, one: Tensor, other: Tensor, ulps: float = 8.0) -> None:
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
