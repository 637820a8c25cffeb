"""The three products of a chunk, with sums in float32 (float64) whatever the factors are.

    logits = hidden · weightᵀ    dhidden = gradient · weight    dweight += gradientᵀ · hidden

``Direct`` where the factors have the dtype of the arithmetic.  ``Blocks`` on a CPU, where torch has
no product of half-precision factors with a float32 result: the weight is widened a block of classes
at a time, and nothing is rounded on the way.  ``Narrow`` on other devices: half-precision products
with a float32 result, of a gradient that has been rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Blocks", "Direct", "Narrow", "product_of"]

_RELEASE = tuple(int(n) for n in torch.__version__.split(".")[:2])
_BLOCK_BYTES = 1 << 22  # of a widened block: it should be in cache


def product_of(weight: Tensor, dtype: torch.dtype) -> Direct:
    """How factors like ``weight`` are multiplied, for logits in ``dtype``."""
    if weight.dtype is dtype:
        return Direct(dtype)
    return Blocks(dtype) if weight.device.type == "cpu" else Narrow(dtype, weight.dtype)


def has_wide_product(factor: Tensor, dtype: torch.dtype) -> bool:
    """Does ``mm(out_dtype=dtype)`` take it? Not on ROCm, whose tensors say "cuda" too."""
    if not factor.is_cuda or torch.version.hip is not None or _RELEASE < (2, 8):
        return False
    return dtype is torch.float32 and factor.dtype in (torch.bfloat16, torch.float16)


class Direct:
    """Factors, logits and gradients in one dtype."""

    def __init__(self, dtype: torch.dtype, narrow: torch.dtype | None = None) -> None:
        self.dtype = dtype  # of the logits and their gradient
        self.narrow = narrow  # what the gradient is rounded to before the products, if it is

    def widened(self, hidden: Tensor) -> Tensor:
        """[R, D] as the products take it."""
        return hidden

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, out: Tensor
    ) -> None:
        """out [R, V] = scale · (hidden · weightᵀ + bias)."""
        start, keep = (out, 0.0) if bias is None else (bias, scale)
        torch.addmm(start, hidden, weight.t(), beta=keep, alpha=scale, out=out)

    def to_hidden(self, gradient: Tensor, weight: Tensor, scale: float, out: Tensor) -> None:
        """out [R, D] = scale · gradient · weight."""
        torch.addmm(out, gradient, weight, beta=0, alpha=scale, out=out)

    def to_weight(
        self, gradient: Tensor, hidden: Tensor, scale: float, total: Tensor, add: bool
    ) -> None:
        """total [V, D] = add · total + scale · gradientᵀ · hidden."""
        total.addmm_(gradient.t(), hidden, beta=float(add), alpha=scale)


class Blocks(Direct):
    """A weight that is narrower than the logits, widened by the block."""

    def widened(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.dtype)

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, out: Tensor
    ) -> None:
        for block in _blocks(weight):
            start = None if bias is None else bias[block].to(self.dtype)
            super().logits(hidden, weight[block].to(self.dtype), start, scale, out[:, block])

    def to_hidden(self, gradient: Tensor, weight: Tensor, scale: float, out: Tensor) -> None:
        total = out.new_zeros(out.shape, dtype=self.dtype)
        for block in _blocks(weight):
            total.addmm_(gradient[:, block], weight[block].to(self.dtype), alpha=scale)
        out.copy_(total)


class Narrow(Direct):
    """Half-precision factors on a device that multiplies them fast."""

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, out: Tensor
    ) -> None:
        if has_wide_product(weight, out.dtype):
            torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
        else:  # rounded to the dtype of the factors, as torch's own linear layer does
            out.copy_(torch.mm(hidden, weight.t()))
        if scale != 1.0:
            out.mul_(scale)
        if bias is not None:
            out.add_(bias, alpha=scale)

    def to_weight(
        self, gradient: Tensor, hidden: Tensor, scale: float, total: Tensor, add: bool
    ) -> None:
        if has_wide_product(hidden, total.dtype):
            part = torch.mm(gradient.t(), hidden, out_dtype=total.dtype)
            if add:
                total.add_(part, alpha=scale)
            else:
                torch.mul(part, scale, out=total)
            return
        wide = hidden.to(total.dtype)
        for block in _blocks(total):
            part = gradient[:, block].to(total.dtype)
            total[block].addmm_(part.t(), wide, beta=float(add), alpha=scale)


def _blocks(weight: Tensor) -> list[slice]:
    """Of classes."""
    classes, features = weight.shape
    step = max(16, _BLOCK_BYTES // (8 * max(1, features)))
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
