"""Gradients times the gradient of the loss, in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossgen.runtime.choice import has_triton

__all__ = ["scale_in_place"]

_SCALED = 4096  # gradients that a program scales at once


def scale_in_place(
    grad: Tensor, factor: Tensor, ignored: tuple[Tensor, int] | None = None
) -> Tensor:
    """``grad`` [N, V] *= ``factor`` (a scalar tensor), free of traffic where it is 1; rows that
    ``ignored`` (target [N], ignore_index) leaves out stay 0 where it is infinite or NaN."""
    plain = grad.is_cuda and grad.dtype is not torch.float64 and grad.is_contiguous()
    if plain and has_triton():
        if grad.numel():
            from lossgen.runtime.kernels.scaling import scale_kernel
            from lossgen.runtime.launch import processors, running_on

            programs = min(-(-grad.numel() // _SCALED), 8 * processors(grad))
            target, index = (grad, 0) if ignored is None else ignored
            with running_on(grad):
                scale_kernel[(programs,)](
                    grad,
                    factor.to(torch.float32),
                    target,
                    target.stride(0),
                    index,
                    grad.shape[-1],
                    grad.numel(),
                    programs,
                    HAS_TARGET=ignored is not None,
                    BLOCK=_SCALED,
                    num_warps=8,
                )
        return grad
    if not grad.is_cuda and float(factor) == 1.0:
        return grad
    grad.mul_(factor)
    if ignored is not None and (grad.is_cuda or not math.isfinite(factor)):
        grad.masked_fill_((ignored[0] == ignored[1]).unsqueeze(1), 0.0)
    return grad
