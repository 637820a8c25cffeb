"""The row program in torch, over chunks of rows that stay in cache.

A chunk goes through all its operations before the next begins, so that each logit travels from
and to memory about once, although torch runs one operation at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant

__all__ = ["backward", "compute_dtype", "forward", "fused"]

#: Elements per chunk: 4 MiB of float32. Smaller chunks stay in a nearer cache, but pay torch's
#: cost per operation more often (measured: 170 ms at 1 << 19, 140 at 1 << 20, 161 at 1 << 21).
CHUNK = 1 << 20


def compute_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def _spans(logits: Tensor) -> range:
    rows, classes = logits.shape
    return range(0, rows, max(1, CHUNK // max(1, classes)))


class _Chunks:
    """Slices of everything a torch function takes, in the dtype of the arithmetic."""

    def __init__(
        self,
        logits: Tensor,
        target: Tensor | None,
        inputs: Sequence[Tensor],
        ignore_index: int,
    ) -> None:
        self.logits = logits
        self.dtype = compute_dtype(logits)
        self.ignored = None if target is None else target == ignore_index
        self.y = self.wrong = None
        if target is not None and self.ignored is not None:
            inside = (target >= 0) & (target < logits.shape[1]) & ~self.ignored
            self.y = torch.where(inside, target, 0).to(torch.int64).unsqueeze(1)
            self.wrong = ~(inside | self.ignored)
        self.inputs = [i.to(self.dtype) for i in inputs]

    def arguments(self, start: int, stop: int, kinds: Sequence[str]) -> list[Tensor]:
        args = [] if self.y is None else [self.y[start:stop]]
        for value, kind in zip(self.inputs, kinds, strict=True):
            args.append(value[start:stop].unsqueeze(1) if kind == "row" else value)
        return args

    def weights(self, grad_rows: Tensor) -> Tensor:
        """``grad_rows`` as [N, 1]; NaN, to be loud, where the target is out of range."""
        weight = grad_rows.to(self.dtype)
        if self.wrong is not None:
            weight = torch.where(self.wrong, math.nan, weight)
        return weight.unsqueeze(1)

    def finish(self, loss: Tensor) -> Tensor:
        """Zero for ignored rows, NaN for targets out of range (checked before on a CPU)."""
        if self.ignored is None or self.wrong is None:
            return loss
        return loss.masked_fill_(self.ignored, 0.0).masked_fill_(self.wrong, math.nan)

    def copy(self, start: int, stop: int) -> Tensor:
        """A chunk that the torch functions may overwrite."""
        part = self.logits[start:stop]
        return part.to(self.dtype, copy=True, memory_format=torch.contiguous_format)


def forward(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Loss [N] and saved statistics [n_saved, N]."""
    chunks = _Chunks(logits, target, inputs, ignore_index)
    rows = logits.shape[0]
    loss = torch.empty(rows, dtype=chunks.dtype, device=logits.device)
    saved = torch.empty(variant.n_saved, rows, dtype=chunks.dtype, device=logits.device)
    spans = _spans(logits)
    for start in spans:
        stop = min(start + spans.step, rows)
        args = chunks.arguments(start, stop, kinds)
        value, kept = variant.torch_forward(chunks.copy(start, stop), *args, *parameters)
        loss[start:stop] = value.squeeze(1)
        saved[:, start:stop] = kept
    return chunks.finish(loss), saved


def backward(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    saved: Tensor,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
    grad_rows: Tensor,
) -> Tensor:
    """Gradient [N, V] in the dtype of the logits; ``grad_rows`` is [N], any stride."""
    chunks = _Chunks(logits, target, inputs, ignore_index)
    rows = logits.shape[0]
    grad = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    weight = chunks.weights(grad_rows)
    spans = _spans(logits)
    for start in spans:
        stop = min(start + spans.step, rows)
        args = chunks.arguments(start, stop, kinds)
        x = logits[start:stop].to(chunks.dtype)
        grad[start:stop] = variant.torch_backward(
            x, *args, *parameters, saved[:, start:stop], weight[start:stop]
        )
    return _clear_ignored(grad, chunks.ignored)


def fused(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
    grad_rows: Tensor,
    out: Tensor,
) -> Tensor:
    """Loss [N]; the gradient goes to ``out`` [N, V], which may be the logits themselves."""
    chunks = _Chunks(logits, target, inputs, ignore_index)
    rows = logits.shape[0]
    loss = torch.empty(rows, dtype=chunks.dtype, device=logits.device)
    weight = chunks.weights(grad_rows)
    in_place = out.dtype is chunks.dtype and out.is_contiguous()
    spans = _spans(logits)
    for start in spans:
        stop = min(start + spans.step, rows)
        args = chunks.arguments(start, stop, kinds)
        part = out[start:stop]
        x = part.copy_(logits[start:stop]) if in_place else chunks.copy(start, stop)
        value, grad = variant.torch_fused(x, *args, *parameters, weight[start:stop])
        loss[start:stop] = value.squeeze(1)
        if grad.data_ptr() != part.data_ptr():
            part.copy_(grad)
    _clear_ignored(out, chunks.ignored)
    return chunks.finish(loss)


def _clear_ignored(grad: Tensor, ignored: Tensor | None) -> Tensor:
    """Exactly zero, whatever the row held."""
    if ignored is None:
        return grad
    if grad.is_cuda:  # no host synchronisation
        return grad.masked_fill_(ignored.unsqueeze(1), 0.0)
    rows = ignored.nonzero().squeeze(1)
    return grad.index_fill_(0, rows, 0.0) if rows.numel() else grad
