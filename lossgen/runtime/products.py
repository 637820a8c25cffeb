"""The three products of a chunk, with sums in float32 (float64) whatever the factors are.

    logits = hidden · weightᵀ    dhidden = gradient · weight    dweight += gradientᵀ · hidden

``Direct`` where the factors have the dtype of the arithmetic.  ``Blocks`` on a CPU, where torch has
no product of half-precision factors with a float32 result: the weight is widened a block of classes
at a time, and nothing is rounded on the way.  ``Narrow`` on other devices: half-precision products
with a float32 result, of a gradient that has been rounded once.
"""

from __future__ import annotations

from functools import lru_cache

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


def adds_in_place(factor: Tensor, dtype: torch.dtype) -> bool:
    """Does ``addmm`` put a product of half-precision factors on top of a float32 sum? There it
    reads and writes the sum once, in the product; first torch has only ``mm`` like that."""
    return has_wide_product(factor, dtype) and _adds_in_place(factor.device, factor.dtype)


@lru_cache
def _adds_in_place(device: torch.device, dtype: torch.dtype) -> bool:
    """By trying: which release takes a float32 sum is not the same for every build."""
    one = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        wide_addmm(torch.zeros(16, 16, device=device), one, one, 1.0, 1.0)
    except (RuntimeError, AttributeError):
        return False
    return True


def wide_addmm(total: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    """total = beta · total + alpha · a · b, of half-precision factors and a float32 sum; with
    beta = 0, whatever it held."""
    add = torch.ops.aten.addmm.dtype_out
    add(total, a, b, total.dtype, beta=beta, alpha=alpha, out=total)


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
        if adds_in_place(weight, out.dtype):
            wide_addmm(out, hidden, weight.t(), 0.0, scale)
            scale_left = 1.0
        elif has_wide_product(weight, out.dtype):
            torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
            scale_left = scale
        else:  # rounded to the dtype of the factors, as torch's own linear layer does
            out.copy_(torch.mm(hidden, weight.t()))
            scale_left = scale
        if scale_left != 1.0:
            out.mul_(scale_left)
        if bias is not None:
            out.add_(bias, alpha=scale)

    def to_weight(
        self, gradient: Tensor, hidden: Tensor, scale: float, total: Tensor, add: bool
    ) -> None:
        if adds_in_place(hidden, total.dtype):
            wide_addmm(total, gradient.t(), hidden, float(add), scale)
            return
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
