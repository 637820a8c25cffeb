"""A generated loss of hidden · weightᵀ, whose logits exist in part or not at all.

Two schedules: by the chunk of rows (:mod:`lossgen.runtime.chunked`), and by the tile, on chip
(:mod:`lossgen.runtime.tiled`).  Under ``torch.compile`` either is one operator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lossgen.runtime import chunked, linear_operators, tiled
from lossgen.runtime.linear_arguments import Factors, LinearOptions
from lossgen.runtime.linear_bind import Arguments, bound, call_of, checked
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.loss import RowLoss

__all__ = ["Arguments", "linear_loss", "linear_rows"]


def linear_loss(
    loss: RowLoss,
    factors: Factors,
    arguments: Arguments,
    reduction: str,
    options: LinearOptions,
) -> Tensor:
    """The reduced loss; see the generated function for the contract."""
    sources = checked(loss, factors, arguments, reduction, options)
    if torch.compiler.is_compiling():
        found = bound(loss, sources, arguments, options)
        rows = linear_operators.rows(loss, sources, arguments, options)
        if reduction == "none":
            return rows.reshape(found.lead)
        total = rows.sum()
        return (
            total if reduction == "sum" else total / loss.weights(found.batch, found.inputs).sum()
        )
    call, tensors, inputs = call_of(loss, sources, arguments, options)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in present(tensors))
    half = call.batch.logits.dtype is torch.float16  # as in RowLoss: its scale is not known yet
    count = None if reduction != "mean" else loss.weights(call.batch, inputs).sum()
    if reduction != "none" and wants_grad and not half and not call.tiled:
        return chunked.Fused.apply(call, count, *tensors)
    rows = _rows(call, tensors)
    if reduction == "none":
        return rows.reshape(call.shape)
    return rows.sum() if count is None else rows.sum() / count


def linear_rows(
    loss: RowLoss, factors: Factors, arguments: Arguments, options: LinearOptions
) -> tuple[Tensor, ...]:
    """The results of a program with several outputs, each of the shape of the target."""
    sources = checked(loss, factors, arguments, "none", options)
    if torch.compiler.is_compiling():
        lead = bound(loss, sources, arguments, options).lead
        rows = linear_operators.rows(loss, sources, arguments, options)
    else:
        call, tensors, _ = call_of(loss, sources, arguments, options)
        lead, rows = call.shape, _rows(call, tensors)
    return tuple(row.reshape(lead) for row in rows.unbind(0))


def _rows(call: LinearCall, tensors: list[Tensor | None]) -> Tensor:
    """Results [outputs, N]."""
    return (tiled.Rows if call.tiled else chunked.Rows).apply(call, *tensors)
