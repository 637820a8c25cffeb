"""Gradients to parameters and inputs of the loss of a linear layer; see
:mod:`lossgen.runtime.slopes`.

The programs of the derivatives run by the chunk or by the tile too, and make the logits again: no
more of them exists at a time.  Numbers per class are a class input made of factors, of which the
weight is [V, 1] and the hidden states are 1: its gradient is their sum over the rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lossgen.runtime.batch import compute_dtype
from lossgen.runtime.entries import Entries
from lossgen.runtime.linear_arguments import Factors, LinearOptions, Source, stand_in
from lossgen.runtime.linear_autograd import Rows
from lossgen.runtime.linear_bind import Arguments, Bound, bound, call_of
from lossgen.runtime.linear_call import present
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.slopes import is_vocab, joined, lent, numbers_of, sources_of

__all__ = ["learned"]


def learned(
    loss: RowLoss,
    wanted: dict[str, Tensor],
    sources: list[Source],
    given: Arguments,
    options: LinearOptions,
) -> tuple[Tensor, Bound]:
    """Results [outputs, N] of a checked call that wants gradients to ``wanted``, and its rows."""
    found = bound(loss, sources, given, options)
    call, tensors, _ = call_of(loss, sources, given, options)
    rows: Tensor = Rows.apply(call, *tensors)[0]
    others = [t for t in present(tensors[: call.n_factors]) if t.requires_grad]
    variant = loss.variants[found.index]
    values = numbers_of(loss, variant, found.batch.parameters)
    fixed = [_detached(s) for s in sources]
    logits, streams = fixed[0], dict(zip((i.name for i in loss.streams), fixed[1:], strict=True))
    held = {
        i.name: None if v is None else v.detach()
        for i, v in zip(loss.others, given.inputs, strict=True)
    }

    def run(program: RowLoss) -> Tensor:
        beside = [streams[i.name] for i in program.streams]
        own = tuple(held.get(i.name) for i in program.others)
        arguments = replace(given, parameters=tuple(values), inputs=own, streams=())
        call, tensors, _ = call_of(program, [logits, *beside], arguments, _own(program, options))
        result: Tensor = Rows.apply(call, *tensors)[0]
        return result

    for name, source in sources_of(loss, wanted, found.inputs).items():
        if is_vocab(loss, name) and options.group is not None:
            why = "as the classes are in shards"
            raise ValueError(f"{call.loss}: no gradient is computed for {name}, {why}")
        if is_vocab(loss, name):
            one = source.to(compute_dtype(found.batch.logits))
            lead = stand_in(logits).shape[:-1]
            streams[name] = Factors(one.new_ones((*lead, 1)), one[:, None])
            rows = joined(rows, run(loss.programs.spread(name, variant.uses)))
            del streams[name]
        else:
            with torch.no_grad():
                slopes = run(loss.programs.slope(name, variant.uses))
            rows = lent(call.loss, rows, slopes, source, others)
    return rows, found


def _detached(source: Source) -> Source:
    if isinstance(source, Tensor):
        return source.detach()
    if isinstance(source, Entries):
        return source.mapped(Tensor.detach)
    return Factors(*(None if part is None else part.detach() for part in source))


def _own(program: RowLoss, options: LinearOptions) -> LinearOptions:
    """By the tile only what has such kernels: a program in float64 has none."""
    tiled = all(variant.tiled is not None for variant in program.variants)
    return options if tiled or options.schedule != "tiled" else replace(options, schedule="chunked")
