"""A generated loss of hidden · weightᵀ, whose logits exist in part or not at all.

Two schedules: by the chunk of rows (:mod:`lossgen.runtime.chunked`), and by the tile, on chip
(:mod:`lossgen.runtime.tiled`).  Under ``torch.compile`` either is one operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossgen.runtime import linear_operators
from lossgen.runtime.linear_arguments import Factors, LinearOptions
from lossgen.runtime.linear_autograd import Fused, Rows
from lossgen.runtime.linear_bind import Arguments, Bound, Source, bound, call_of, checked
from lossgen.runtime.linear_call import present
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.tensors import symbolic, transformed, watched

__all__ = ["Arguments", "linear_loss", "linear_rows"]


def linear_loss(
    loss: RowLoss,
    factors: Factors,
    arguments: Arguments,
    reduction: str,
    options: LinearOptions,
) -> Tensor:
    """The reduced loss; see the generated function for the contract."""
    sources, given, options = checked(loss, factors, arguments, reduction, options)
    if _as_operator(sources, given):
        found = bound(loss, sources, given, options)
        rows = linear_operators.rows(loss, sources, given, options)
        return _reduced(loss, rows, found, reduction)
    call, tensors, found = call_of(loss, sources, given, options)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in present(tensors))
    half = call.batch.logits.dtype is torch.float16  # as in RowLoss: its scale is not known yet
    if reduction != "none" and wants_grad and not half and not call.tiled and not transformed():
        count = loss.weights(found.batch, found.inputs).sum() if reduction == "mean" else None
        return Fused.apply(call, count, *tensors)
    return _reduced(loss, Rows.apply(call, *tensors)[0], found, reduction)


def _reduced(loss: RowLoss, rows: Tensor, found: Bound, reduction: str) -> Tensor:
    """Results [outputs, N], of which a reduced loss has one."""
    if reduction == "none":
        return rows.reshape(found.lead)
    total = rows.sum()
    return total if reduction == "sum" else total / loss.weights(found.batch, found.inputs).sum()


def _as_operator(sources: Sequence[Source], given: Arguments) -> bool:
    """Must the call be a registered operator: because something records it, or because there is
    no data?"""
    if torch.compiler.is_compiling() or watched():
        return True
    parts = [(s,) if isinstance(s, Tensor) else s for s in sources]
    tensors = (*(t for part in parts for t in part), given.target, *given.inputs)
    return any(t is not None and symbolic(t) for t in tensors)


def linear_rows(
    loss: RowLoss, factors: Factors, arguments: Arguments, options: LinearOptions
) -> tuple[Tensor, ...]:
    """The results of a program with several outputs, each of the shape of the target."""
    sources, given, options = checked(loss, factors, arguments, "none", options)
    if _as_operator(sources, given):
        lead = bound(loss, sources, given, options).lead
        rows = linear_operators.rows(loss, sources, given, options)
    else:
        call, tensors, _ = call_of(loss, sources, given, options)
        lead, rows = call.shape, Rows.apply(call, *tensors)[0]
    return tuple(row.reshape(lead) for row in rows.unbind(0))
