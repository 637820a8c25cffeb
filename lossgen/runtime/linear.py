"""A generated loss of hidden · weightᵀ, whose logits exist in part or not at all.

Two schedules: by the chunk of rows (:mod:`lossgen.runtime.chunked`), and by the tile, on chip
(:mod:`lossgen.runtime.tiled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lossgen.runtime import chunked, tiled
from lossgen.runtime.linear_arguments import (
    Factors,
    LinearOptions,
    autocast,
    check_constant,
    check_linear,
    chunk_rows,
    is_tiled,
    shifted,
    stand_in,
)
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.loss import RowLoss

__all__ = ["Arguments", "linear_loss", "linear_rows"]


@dataclass(frozen=True)
class Arguments:
    """What a generated function was called with, beside the factors."""

    target: Tensor | None
    streams: tuple[Tensor | tuple[Tensor, ...], ...]  # logits, or (hidden, weight[, bias])
    parameters: tuple[float, ...]
    inputs: tuple[Tensor | None, ...]
    ignore_index: int
    backend: str


def linear_loss(
    loss: RowLoss,
    factors: Factors,
    arguments: Arguments,
    reduction: str,
    options: LinearOptions,
) -> Tensor:
    """The reduced loss; see the generated function for the contract."""
    if torch.compiler.is_compiling():
        return _compiled(loss, factors, arguments, reduction, options)
    call, tensors, inputs = _bind(loss, factors, arguments, reduction, options)
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
    if torch.compiler.is_compiling():
        return tuple(_compiled(loss, factors, arguments, None, options))
    call, tensors, _ = _bind(loss, factors, arguments, "none", options)
    return tuple(row.reshape(call.shape) for row in _rows(call, tensors).unbind(0))


def _rows(call: LinearCall, tensors: list[Tensor | None]) -> Tensor:
    """Results [outputs, N]."""
    return (tiled.Rows if call.tiled else chunked.Rows).apply(call, *tensors)


def _compiled(
    loss: RowLoss,
    factors: Factors,
    given: Arguments,
    reduction: str | None,
    options: LinearOptions,
) -> Any:
    """Under torch.compile: the loss of logits that exist, one graph without a break."""
    shift = options.shift
    logits = linear(*factors)
    if options.softcap is not None:
        logits = options.softcap * torch.tanh(logits / options.softcap)
    logits = logits / options.temperature
    streams = [s if isinstance(s, Tensor) else linear(*s) for s in given.streams]
    logits, *streams = (
        r[..., : r.shape[-2] - shift, :] if shift else r for r in (logits, *streams)
    )
    kinds = [declared.kind for declared in loss.others]
    inputs = [
        None if value is None else shifted(value, kind, shift)
        for value, kind in zip(given.inputs, kinds, strict=True)
    ]
    target = None if given.target is None else shifted(given.target, "row", shift)
    first = (logits, target, streams, given.parameters, inputs, given.ignore_index)
    if reduction is None:
        return loss.rows(*first, given.backend)
    return loss(*first, reduction, given.backend, False)


def _bind(
    loss: RowLoss,
    factors: Factors,
    given: Arguments,
    reduction: str,
    options: LinearOptions,
) -> tuple[LinearCall, list[Tensor | None], list[Tensor | None]]:
    """The call, its tensors (three of each source), and the inputs of the rows that count."""
    name = f"linear_{loss.function}"
    streams = [s if isinstance(s, Tensor) else Factors(*s) for s in given.streams]
    check_linear(name, [factors, *streams], options)
    for declared, stream in zip(loss.streams, streams, strict=True):
        check_constant(name, declared, stream)
    sources = [s if isinstance(s, Tensor) else autocast(s) for s in (factors, *streams)]
    logits, *others = (stand_in(source) for source in sources)
    loss.check(
        logits,
        given.target,
        others,
        given.parameters,
        given.inputs,
        given.ignore_index,
        reduction,
        given.backend,
        False,
        function=name,
    )
    shift, lead, classes = options.shift, logits.shape[:-1], logits.shape[-1]
    positions = None
    if shift:
        every = torch.arange(lead.numel(), device=logits.device).reshape(lead)
        every = every[..., : max(0, lead[-1] - shift)]
        lead, positions = every.shape, every.reshape(-1)
    kinds = [declared.kind for declared in loss.others]
    inputs = [
        None if value is None else shifted(value, kind, shift)
        for value, kind in zip(given.inputs, kinds, strict=True)
    ]
    target = None if given.target is None else shifted(given.target, "row", shift).reshape(-1)
    rows = logits.new_zeros(()).expand(lead.numel(), classes)
    index, batch = loss.bind(
        rows, target, (rows,) * len(others), given.parameters, inputs, given.ignore_index
    )
    ignored = batch.ignored
    kept = (~ignored).nonzero().squeeze(1) if ignored is not None and bool(ignored.any()) else None
    tensors: list[Tensor | None] = []
    for source in sources:
        first, *rest = (source,) if isinstance(source, Tensor) else source
        tensors += [first.reshape(-1, first.shape[-1]), *rest, *[None] * (2 - len(rest))]
    made = tuple(not isinstance(source, Tensor) for source in sources)
    buffers = sum(made) + (options.softcap is not None) + sum(batch.differentiable)
    row = max(1, buffers * classes * rows.element_size())
    wanted = given.backend
    if options.schedule == "tiled" and wanted == "auto":
        wanted = "triton"
    backend = loss.backend_of(logits, wanted)
    by_tile = is_tiled(name, backend, options, row)
    call = LinearCall(
        loss=name,
        variant=loss.variants[index],
        backend=backend,
        batch=batch,
        projected=made,
        options=options,
        shape=lead,
        positions=positions,
        kept=kept,
        step=0 if by_tile else chunk_rows(name, rows, options.memory_budget, row),
        tiled=by_tile,
    )
    return call, tensors, inputs
