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
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype
from lossgen.runtime.memory import empty_like

__all__ = ["backward", "forward", "fused"]

#: Elements per chunk: 4 MiB of float32. Smaller chunks stay in a nearer cache, but pay torch's
#: cost per operation more often (measured: 170 ms at 1 << 19, 140 at 1 << 20, 161 at 1 << 21).
CHUNK = 1 << 20


class _Chunks:
    """Slices of everything a torch function takes, in the dtype of the arithmetic."""

    def __init__(self, variant: Variant, batch: Batch) -> None:
        self.batch = batch
        self.dtype = arithmetic(variant, batch.logits.dtype)
        self.ignored = batch.ignored
        self.y = self.wrong = None
        if batch.target is not None and self.ignored is not None:
            target = batch.target
            inside = (target >= 0) & (target < batch.logits.shape[1]) & ~self.ignored
            self.y = torch.where(inside, target, 0).to(torch.int64).unsqueeze(1)
            self.wrong = ~(inside | self.ignored)
        self.inputs = [i.to(self.dtype) for i in batch.inputs]

    def results(self) -> Tensor:
        """[outputs, N], to be filled."""
        logits = self.batch.logits
        size = self.batch.n_out, logits.shape[0]
        return torch.empty(size, dtype=compute_dtype(logits), device=logits.device)

    def spans(self) -> list[slice]:
        """The rows of each chunk."""
        rows, classes = self.batch.logits.shape
        step = max(1, CHUNK // max(1, classes * (1 + len(self.batch.streams))))
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def arguments(self, span: slice) -> list[Tensor | float]:
        args: list[Tensor | float] = [] if self.y is None else [self.y[span]]
        args += [stream[span].to(self.dtype) for stream in self.batch.streams]
        for value, kind in zip(self.inputs, self.batch.kinds, strict=True):
            args.append(value[span].unsqueeze(1) if kind == "row" else value)
        return [*args, *self.batch.parameters]

    def weights(self, grad_rows: Tensor) -> Tensor:
        """``grad_rows`` [outputs, N] as [N, outputs]; NaN, to be loud, where the target is out of
        range."""
        weight = grad_rows.to(self.dtype)
        if self.wrong is not None:
            weight = torch.where(self.wrong, math.nan, weight)
        return weight.t()

    def finish(self, loss: Tensor) -> Tensor:
        """Zero for ignored rows, NaN for targets out of range (checked before on a CPU)."""
        if self.ignored is None or self.wrong is None:
            return loss
        return loss.masked_fill_(self.ignored, 0.0).masked_fill_(self.wrong, math.nan)

    def copy(self, span: slice) -> Tensor:
        """A chunk that the torch functions may overwrite."""
        part = self.batch.logits[span]
        return part.to(self.dtype, copy=True, memory_format=torch.contiguous_format)

    def clear_ignored(self, grad: Tensor) -> Tensor:
        """Exactly zero, whatever the row held."""
        if self.ignored is None:
            return grad
        return grad.masked_fill_(self.ignored.unsqueeze(1), 0.0)  # without a look at values


def forward(variant: Variant, batch: Batch) -> tuple[Tensor, Tensor]:
    """Results [outputs, N] and saved statistics [n_saved, N]."""
    chunks, logits = _Chunks(variant, batch), batch.logits
    rows = logits.shape[0]
    loss = chunks.results()
    saved = torch.empty(variant.n_saved, rows, dtype=chunks.dtype, device=logits.device)
    for span in chunks.spans():
        value, kept = variant.torch_rows(chunks.copy(span), *chunks.arguments(span))
        loss[:, span] = value.t()
        saved[:, span] = kept
    return chunks.finish(loss), saved


def backward(
    variant: Variant, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients [N, V] in the dtype of the logits: of the logits and of each differentiable
    stream, where ``wanted``; ``grad_rows`` is [outputs, N], any stride."""
    chunks, logits = _Chunks(variant, batch), batch.logits
    found = [empty_like(logits) if want else None for want in wanted]
    weight = chunks.weights(grad_rows)
    for span in chunks.spans():
        x = logits[span].to(chunks.dtype)
        grads = variant.torch_backward(x, *chunks.arguments(span), saved[:, span], weight[span])
        for out, grad in zip(found, grads, strict=True):
            if out is not None:
                out[span] = grad
    return tuple(None if out is None else chunks.clear_ignored(out) for out in found)


def fused(
    variant: Variant, batch: Batch, grad_rows: Tensor, outs: Sequence[Tensor | None]
) -> Tensor:
    """Results [outputs, N]; the gradients go to ``outs`` [N, V] each, the first of which may be
    the logits themselves; None: not wanted."""
    chunks, logits = _Chunks(variant, batch), batch.logits
    loss = chunks.results()
    weight = chunks.weights(grad_rows)
    reused = outs[0]  # the chunk is worked on where its gradient will stand
    if reused is not None and not (reused.dtype is chunks.dtype and reused.is_contiguous()):
        reused = None
    for span in chunks.spans():
        args = chunks.arguments(span)
        x = chunks.copy(span) if reused is None else reused[span].copy_(logits[span])
        value, grads = variant.torch_rows(x, *args, weight[span])
        loss[:, span] = value.t()
        # any of the gradients may stand in x, which is where the first goes: that is written last
        for out, grad in reversed(list(zip(outs, grads, strict=True))):
            if out is not None and grad.data_ptr() != out[span].data_ptr():
                out[span].copy_(grad)
    for out in outs:
        if out is not None:
            chunks.clear_ignored(out)
    return chunks.finish(loss)
