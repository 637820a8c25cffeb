"""A generated loss of hidden · weightᵀ, whose logits exist in part or not at all.

Two schedules: by the chunk of rows (:mod:`lossgen.runtime.chunked`), and by the tile, on chip
(:mod:`lossgen.runtime.tiled`).  Under ``torch.compile`` either is one operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossgen.runtime import linear_operators
from lossgen.runtime.batch import reduced, scaled
from lossgen.runtime.divisor import divisor
from lossgen.runtime.linear_arguments import Factors, LinearOptions
from lossgen.runtime.linear_autograd import Fused, Rows
from lossgen.runtime.linear_bind import Arguments, Bound, Source, bound, call_of, checked
from lossgen.runtime.linear_call import present
from lossgen.runtime.linear_slopes import learned
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.slopes import asked
from lossgen.runtime.tensors import (
    in_transform,
    outside_the_graph,
    symbolic,
    transformed,
    watched,
)

__all__ = ["Arguments", "linear_loss", "linear_rows"]


def linear_loss(
    loss: RowLoss,
    factors: Factors,
    arguments: Arguments,
    reduction: str,
    options: LinearOptions,
) -> Tensor:
    """The reduced loss; see the generated function for the contract."""
    wanted = asked(loss, arguments.parameters, arguments.inputs)
    if torch.compiler.is_compiling() and (wanted or in_transform()):
        whole = (loss, factors, arguments, reduction, options)
        result: Tensor = outside_the_graph(linear_loss, *whole)
        return result
    sources, given, options = checked(loss, factors, arguments, reduction, options)
    if wanted:
        results, found, count = learned(loss, wanted, sources, given, reduction, options)
        return _reduced(results, found, reduction, count)
    found, count = bound(loss, sources, given, options), None
    if reduction == "mean":
        count, ratio = divisor(loss, found.index, found.batch, found.inputs)
        if ratio is not None:
            names = [declared.name for declared in loss.others]
            given = replace(given, inputs=scaled(loss.shared, names, given.inputs, ratio))
    if _as_operator(sources, given):
        rows = linear_operators.rows(loss, sources, given, options)
        return _reduced(rows, found, reduction, count)
    call, tensors, _ = call_of(loss, sources, given, options)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in present(tensors))
    half = call.batch.logits.dtype is torch.float16  # as in RowLoss: its scale is not known yet
    if reduction != "none" and wants_grad and not half and not call.tiled and not transformed():
        return Fused.apply(call, count, *tensors)
    return _reduced(Rows.apply(call, *tensors)[0], found, reduction, count)


def _reduced(rows: Tensor, found: Bound, reduction: str, count: Tensor | None) -> Tensor:
    """Results [outputs, N], of which a reduced loss has one."""
    if reduction == "none":
        return rows.reshape(found.lead)
    return reduced(rows, count)


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
    wanted = asked(loss, arguments.parameters, arguments.inputs)
    if torch.compiler.is_compiling() and (wanted or in_transform()):
        results: tuple[Tensor, ...] = outside_the_graph(
            linear_rows, loss, factors, arguments, options
        )
        return results
    sources, given, options = checked(loss, factors, arguments, "none", options)
    if wanted:
        rows, found, _ = learned(loss, wanted, sources, given, "none", options)
        lead = found.lead
    elif _as_operator(sources, given):
        lead = bound(loss, sources, given, options).lead
        rows = linear_operators.rows(loss, sources, given, options)
    else:
        call, tensors, _ = call_of(loss, sources, given, options)
        lead, rows = call.shape, Rows.apply(call, *tensors)[0]
    return tuple(row.reshape(lead) for row in rows.unbind(0))
