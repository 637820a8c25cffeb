"""The batch axis of ``torch.func.vmap`` folded into the rows of a call, and back.

    logits [B, N, V], target [N], row input [B, N], class weights [V]
      → logits [B·N, V], target [B·N], row input [B·N], class weights [V]

Class weights that differ along the batch have no place among rows: then one call for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossgen.runtime.batch import Batch, unit_stride

__all__ = ["axes", "over"]


def axes(batch: Batch) -> tuple[int | None, ...]:
    """Of each tensor of a batch, the axis of its rows; None: it has none."""
    return (0, 0, *(0 for _ in batch.differentiable), *_of_inputs(batch))


def _of_inputs(batch: Batch) -> list[int | None]:
    return [0 if kind == "row" else None for kind in batch.kinds]


def over(
    function: Callable[..., tuple[Tensor, ...]],
    size: int,
    dims: Sequence[int | None],
    axes: Sequence[int | None],
    tensors: Sequence[Tensor | None],
    axis: int,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """``function`` of ``tensors``, of which ``dims`` are the batched axes and ``axes`` those of
    the rows; ``axis`` is that of the results. Results, and the batched axes of those."""
    triples = list(zip(tensors, dims, axes, strict=True))
    if any(dim is not None and rows is None for _, dim, rows in triples):
        each = [
            function(*(t if t is None or d is None else t.select(d, k) for t, d, _ in triples))
            for k in range(size)
        ]
        results = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return results, (0,) * len(results)
    found = function(*(_folded(t, d, rows, size) for t, d, rows in triples))
    results = tuple(f.unflatten(axis, (size, f.shape[axis] // max(1, size))) for f in found)
    return results, (axis,) * len(results)


def _folded(tensor: Tensor | None, dim: int | None, rows: int | None, size: int) -> Tensor | None:
    if tensor is None or rows is None:
        return tensor
    if dim is None:
        tensor = tensor.unsqueeze(rows)
        tensor = tensor.expand(*(size if k == rows else -1 for k in range(tensor.dim())))
    else:
        tensor = tensor.movedim(dim, rows)
    return unit_stride(tensor.flatten(rows, rows + 1))
