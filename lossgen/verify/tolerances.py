"""How close is close enough: the one place that says so.

    |out - gold| <= 4·max|eager - gold| + 8·eps·scale + 1e-13

gold is the literal formula in float64 (which itself loses 1e-13 where 1 - p cancels), eager the
same formula in the arithmetic of the kernel (float32), each maximum is over a row, and what the
output dtype itself rounds is added.  Where that is not met, eager is also gold for numbers that are
one ulp off (a few draws of them), whichever is further from gold: a difference of two softmaxes, or
an exponential, is as uncertain as that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lossgen.errors import VerificationError
from lossgen.passes.worst import BOUND, LEAST
from lossgen.runtime.arguments import Variant
from lossgen.spec.model import Accuracy, LossSpec

__all__ = ["EAGER", "FLOOR", "ROUNDING", "compare", "further", "least", "slack", "stated"]

EAGER = 4.0
ROUNDING = 8.0
FLOOR = 1e-13
WIDEST = 256.0


def slack(spec: LossSpec) -> float:
    """A spec that states a wider bound for its certificate gets it here too, up to ``WIDEST``:
    beyond that the bound is about points that are 0/0, relative errors of numbers near 0."""
    return min(WIDEST, max(1.0, spec.accuracy.ulp / 4.0)) if spec.accuracy else 1.0


def stated(spec: LossSpec, variant: Variant) -> LossSpec:
    """``spec`` with the accuracy that the certificate of its kernels is about."""
    wide = variant.arithmetic == "float64"
    if not wide and variant.bound == BOUND and not variant.absolute:
        return spec
    scale = max(least(spec), LEAST) if wide else least(spec)
    reason = f"computed in {variant.arithmetic}"
    own = Accuracy(ulp=variant.bound, scale=scale, reason=reason, absolute=variant.absolute)
    return spec.model_copy(update={"accuracy": own})


def least(spec: LossSpec) -> float:
    """What relative errors of smaller numbers are relative to, if the spec says so; else 0."""
    return spec.accuracy.scale if spec.accuracy else 0.0


def further(gold: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Entry by entry, the one that is further from gold; not finite is far, and says nothing."""
    one, other = one.double(), other.double()
    nearer = (one - gold).abs() < (other - gold).abs()
    return torch.where(nearer | (~one.isfinite() & other.isfinite()), other, one)


def compare(
    what: str, out: Tensor, gold: Tensor, eager: Tensor, scale: Tensor, factor: float = 1.0
) -> None:
    """Rows against rows: tensors [N] or [N, V] (``scale`` [N]).

    Raises:
        VerificationError: naming the entry that is off most.
    """
    dtype = out.dtype
    out, gold, eager = out.detach().double(), gold.detach().double(), eager.detach().double()
    if out.shape != gold.shape:
        raise VerificationError(f"{what} has shape {tuple(out.shape)}, not {tuple(gold.shape)}")
    if out.numel() == 0:
        return
    known = gold.abs() < torch.finfo(dtype).max  # also False for NaN
    lost = known & ~out.isfinite()
    if bool(lost.any()):
        at = tuple(int(i) for i in lost.nonzero()[0])
        raise VerificationError(f"{what}{list(at)} is {out[at]:g} where {gold[at]:g} is expected")
    # Where the literal formula overflows in float64 it is no judge.
    error = torch.where(known, (out - gold).abs(), 0.0)
    noise = torch.where(known & eager.isfinite(), (eager - gold).abs(), 0.0)
    if out.dim() == 2:
        noise, scale = noise.amax(1, keepdim=True), scale[:, None]
    own = _rounding(dtype) * gold.nan_to_num(0.0).abs() + _smallest(dtype)
    bound = FLOOR + EAGER * noise + ROUNDING * factor * torch.finfo(torch.float32).eps * scale + own
    wrong = error > bound
    if bool(wrong.any()):
        worst = int((error / bound.expand_as(error)).argmax())
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
        raise VerificationError(
            f"{what}{list(at)} is {out[at]:.9g}, expected {gold[at]:.9g}: off by "
            f"{error[at]:.3g}, allowed {bound.expand_as(error)[at]:.3g}"
        )


def _rounding(dtype: torch.dtype) -> float:
    """What writing a number in ``dtype`` may cost, relative."""
    return torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 0.0


def _smallest(dtype: torch.dtype) -> float:
    """The spacing of the subnormal numbers, and what flushing to zero may cost."""
    info = torch.finfo(dtype)
    return max(info.smallest_normal * info.eps, 1e-37)
