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
from lossgen.runtime.batch import reduced, scaled, weighed
from lossgen.runtime.linear_arguments import (
    LinearOptions,
    Source,
    parts_of,
    shifted,
    stand_in,
)
from lossgen.runtime.linear_autograd import Fused, Rows
from lossgen.runtime.linear_bind import Arguments, Bound, bound, call_of, called, checked
from lossgen.runtime.linear_call import present
from lossgen.runtime.linear_slopes import learned
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.shards import whole_vector
from lossgen.runtime.slopes import asked
from lossgen.runtime.tensors import (
    in_transform,
    outside_the_graph,
    symbolic,
    transformed,
    watched,
)
from lossgen.runtime.weights import Weights, left_out

__all__ = ["Arguments", "linear_loss", "linear_rows"]

_EVEN = Weights()  # rows that count the same


def linear_loss(
    loss: RowLoss,
    factors: Source,
    arguments: Arguments,
    reduction: str,
    options: LinearOptions,
    weights: Weights = _EVEN,
) -> Tensor:
    """The reduced loss; see the generated function for the contract."""
    wanted = asked(loss, arguments.parameters, arguments.inputs)
    if torch.compiler.is_compiling() and (wanted or in_transform()):
        whole = (loss, factors, arguments, reduction, options, weights)
        result: Tensor = outside_the_graph(linear_loss, *whole)
        return result
    sources, given, options = checked(loss, factors, arguments, reduction, options)
    given, each, weights = _weighted(loss, sources, given, reduction, options, weights)
    found = bound(loss, sources, given, options)
    held = (found.index, found.batch, found.inputs)
    count, ratio = weights.divisor(loss, *held, wanted, each, reduction)
    if ratio is not None:
        names = [declared.name for declared in loss.others]
        given = replace(given, inputs=scaled(loss.shared, names, given.inputs, ratio))
    if wanted:
        rows = learned(loss, wanted, sources, given, options)[0]
        return _reduced(rows, found, reduction, count, each)
    if _as_operator(sources, given):
        rows = linear_operators.rows(loss, sources, given, options)
        return _reduced(rows, found, reduction, count, each)
    call, tensors, _ = call_of(loss, sources, given, options)
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in present(tensors))
    half = call.batch.logits.dtype is torch.float16  # as in RowLoss: its scale is not known yet
    moved = any(t is not None and t.requires_grad for t in (each, count))
    late = half or moved or call.tiled or options.group is not None or transformed()
    if reduction != "none" and wants_grad and not late:
        return Fused.apply(call, count, each, *tensors)
    return _reduced(Rows.apply(call, *tensors)[0], found, reduction, count, each)


def _weighted(
    loss: RowLoss,
    sources: Sequence[Source],
    given: Arguments,
    reduction: str,
    options: LinearOptions,
    weights: Weights,
) -> tuple[Arguments, Tensor | None, Weights]:
    """The arguments with the rows that count nothing left out, and what each result counts for
    [N]; None: 1."""
    if weights.even and reduction != "batchmean":
        return given, None, weights
    logits = stand_in(sources[0], options.group)
    lead, classes = logits.shape[:-1], logits.shape[-1]
    name = called(loss, sources[0])
    if options.group is not None:
        weights = weights._replace(weight=whole_vector(weights.weight, options.group))
    weights = weights.checked(name, logits, lead, classes, reduction)
    own = given.target if loss.has_target else None
    each = weights.of_rows(logits, own, lead)
    left = left_out(own, each, given.ignore_index)
    given = given if left is None else replace(given, target=left)
    return given, None if each is None else shifted(each, "row", options.shift).reshape(-1), weights


def _reduced(
    rows: Tensor, found: Bound, reduction: str, count: Tensor | None, each: Tensor | None
) -> Tensor:
    """Results [outputs, N], of which a reduced loss has one."""
    rows = weighed(rows, each)
    if reduction == "none":
        return rows.reshape(found.lead)
    return reduced(rows, count)


def _as_operator(sources: Sequence[Source], given: Arguments) -> bool:
    """Must the call be a registered operator: because something records it, or because there is
    no data?"""
    if torch.compiler.is_compiling() or watched():
        return True
    tensors = (*(t for s in sources for t in parts_of(s)), given.target, *given.inputs)
    return any(t is not None and symbolic(t) for t in tensors)


def linear_rows(
    loss: RowLoss, factors: Source, arguments: Arguments, options: LinearOptions
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
        rows, found = learned(loss, wanted, sources, given, options)
        lead = found.lead
    elif _as_operator(sources, given):
        lead = bound(loss, sources, given, options).lead
        rows = linear_operators.rows(loss, sources, given, options)
    else:
        call, tensors, _ = call_of(loss, sources, given, options)
        lead, rows = call.shape, Rows.apply(call, *tensors)[0]
    return tuple(row.reshape(lead) for row in rows.unbind(0))
