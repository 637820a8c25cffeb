"""From the arguments of a linear function to the call that both schedules start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lossgen.runtime.batch import Batch, wider
from lossgen.runtime.linear_arguments import (
    Factors,
    LinearOptions,
    autocast,
    check_constant,
    check_linear,
    chunk_rows,
    in_dtype,
    is_tiled,
    shifted,
    stand_in,
)
from lossgen.runtime.linear_call import LinearCall
from lossgen.runtime.loss import RowLoss

__all__ = ["Arguments", "Bound", "Source", "bound", "call_of", "checked"]

Source: TypeAlias = (
    Tensor | Factors
)  # of the logits and each class input: rows [*, V], or what makes them


@dataclass(frozen=True)
class Arguments:
    """What a generated function was called with, beside the factors."""

    target: Tensor | None
    streams: tuple[Tensor | tuple[Tensor, ...], ...]  # logits, or (hidden, weight[, bias])
    parameters: tuple[float, ...]
    inputs: tuple[Tensor | None, ...]
    ignore_index: int
    backend: str


@dataclass(frozen=True)
class Bound:
    """The rows of a call, whose logits and streams are stand-ins without memory."""

    lead: torch.Size  # of the results
    positions: Tensor | None  # rows of hidden that the results belong to; None: all
    index: int  # of the variant
    batch: Batch
    inputs: list[Tensor | None]  # of the rows that count


def checked(
    loss: RowLoss, factors: Factors, given: Arguments, reduction: str, options: LinearOptions
) -> list[Source]:
    """Logits and class inputs, in one dtype: autocast's, and the widest of them.

    Raises:
        TypeError, ValueError, IndexError: as the generated function says.
    """
    name = f"linear_{loss.function}"
    streams = [s if isinstance(s, Tensor) else Factors(*s) for s in given.streams]
    sources = [autocast(source) for source in (factors, *streams)]
    check_linear(name, sources, options)
    for declared, stream in zip(loss.streams, streams, strict=True):
        check_constant(name, declared, stream)
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
    dtype = wider(logits, others)  # autograd takes the gradients back to each one's own
    return [in_dtype(source, dtype) for source in sources]


def bound(loss: RowLoss, sources: list[Source], given: Arguments, options: LinearOptions) -> Bound:
    """Shift and flatten; nothing here looks at a value."""
    logits = stand_in(sources[0])
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
    streams = (rows,) * (len(sources) - 1)
    index, batch = loss.bind(rows, target, streams, given.parameters, inputs, given.ignore_index)
    return Bound(lead, positions, index, batch, inputs)


def call_of(
    loss: RowLoss, sources: list[Source], given: Arguments, options: LinearOptions
) -> tuple[LinearCall, list[Tensor | None], list[Tensor | None]]:
    """The call, its tensors (three of each source), and the inputs of the rows that count."""
    name, found = f"linear_{loss.function}", bound(loss, sources, given, options)
    batch = found.batch
    ignored = batch.ignored
    kept = (~ignored).nonzero().squeeze(1) if ignored is not None and bool(ignored.any()) else None
    tensors: list[Tensor | None] = []
    for source in sources:
        first, *rest = (source,) if isinstance(source, Tensor) else source
        tensors += [first.reshape(-1, first.shape[-1]), *rest, *[None] * (2 - len(rest))]
    made = tuple(not isinstance(source, Tensor) for source in sources)
    buffers = sum(made) + (options.softcap is not None) + sum(batch.differentiable)
    row = max(1, buffers * batch.logits.shape[1] * batch.logits.element_size())
    wanted = given.backend
    if options.schedule == "tiled" and wanted == "auto":
        wanted = "triton"
    backend = loss.backend_of(batch.logits, wanted)
    by_tile = is_tiled(name, backend, options, row)
    call = LinearCall(
        loss=name,
        variant=loss.variants[found.index],
        backend=backend,
        batch=batch,
        projected=made,
        options=options,
        shape=found.lead,
        positions=found.positions,
        kept=kept,
        step=0 if by_tile else chunk_rows(name, batch.logits, options.memory_budget, row),
        tiled=by_tile,
    )
    return call, tensors, found.inputs
