"""The loss of a linear layer with the logits of one chunk of rows at a time, on any device.

A chunk of rows is multiplied into a buffer, the row program overwrites the buffer with the
gradient, and two products take it to hidden and weight: 6·N·V·D operations, and one chunk of memory
beside the gradients.  Ignored rows are left out before the first product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import launch
from lossgen.runtime.autograd import module_of, once
from lossgen.runtime.batch import Batch, compute_dtype, unit_stride
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.projected import Gradients, Take, pick

__all__ = ["Fused", "Rows", "run"]


def run(
    call: LinearCall, tensors: Sequence[Any], grad_rows: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Results [outputs, N], and with ``grad_rows`` [outputs, N] the gradients of ``tensors``
    where ``wanted``."""
    sources, whole = call.sources(tensors), call.kept is None and call.positions is None
    logits = call.batch.logits
    rows, classes = logits.shape
    results = logits.new_zeros((call.batch.n_out, rows), dtype=compute_dtype(logits))
    sinks: list[Gradients | None] = [None] * len(sources)
    if grad_rows is not None:
        sinks = [
            source.gradients(tuple(wanted[3 * k : 3 * k + 3]), whole)
            for k, source in enumerate(sources)
        ]
    module = module_of(call.backend, call.variant, logits.dtype)
    fresh = lambda: logits.new_empty((min(call.step, rows), classes))  # noqa: E731
    made = [fresh() if projected else None for projected in call.projected]
    bent = call.options.softcap is not None and sinks[0] is not None
    slope = fresh() if bent else None
    # The gradient of the logits overwrites them, those of streams stand beside them.
    flags = [True, *call.batch.differentiable]
    beside = [fresh() if k and sink is not None else None for k, sink in enumerate(sinks)]
    for taken, at in call.spans():
        n = len(range(rows)[taken]) if isinstance(taken, slice) else len(taken)
        cut = [None if b is None else b[:n] for b in made]
        bend = None if slope is None else slope[:n]
        parts = [
            unit_stride(source.make(at, cut[k], None if k else bend))
            for k, source in enumerate(sources)
        ]
        batch = _chunk(call, taken, parts)
        if grad_rows is None:
            results[:, taken] = module.forward(call.variant, batch)[0]
            continue
        outs = [None if b is None else b[:n] for b in beside]
        outs[0] = parts[0] if sinks[0] is not None else None
        places = [out for out, flag in zip(outs, flags, strict=True) if flag]
        results[:, taken] = module.fused(call.variant, batch, grad_rows[:, taken], places)
        for k, sink in enumerate(sinks):
            out = outs[k]
            if sink is not None and out is not None:
                sink.add(at, out, None if k else bend)
    return results, _spread(sinks)


def _chunk(call: LinearCall, taken: Take, parts: list[Tensor]) -> Batch:
    batch, (logits, *streams) = call.batch, parts
    pairs = zip(batch.inputs, batch.kinds, strict=True)
    return replace(
        batch,
        logits=logits,
        streams=tuple(streams),
        target=None if batch.target is None else pick(batch.target, taken),
        inputs=tuple(pick(i, taken) if kind == "row" else i for i, kind in pairs),
    )


def _spread(sinks: Sequence[Gradients | None]) -> list[Tensor | None]:
    """Three entries for each source."""
    found: list[Tensor | None] = []
    for sink in sinks:
        entries = () if sink is None else sink.finish()
        found += [*entries, *[None] * (3 - len(entries))]
    return found


class Rows(torch.autograd.Function):
    """Results per row [outputs, N]; the backward makes the logits again, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, call: LinearCall, *tensors: Tensor | None) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return run(call, tensors, None, ())[0]

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        tensors, call = ctx.saved_tensors, ctx.call
        with torch.no_grad():
            weights = grad_rows.to(compute_dtype(call.batch.logits))
            _, found = run(call, tensors, weights, ctx.needs_input_grad[1:])
        return None, *once(tuple(found), present(tensors), call.loss)


class Fused(torch.autograd.Function):
    """Σ loss (divided by ``count``), with the gradients computed on the way."""

    @staticmethod
    def forward(
        ctx: Any, call: LinearCall, count: Tensor | None, *tensors: Tensor | None
    ) -> Tensor:
        logits = call.batch.logits
        one = logits.new_ones((), dtype=compute_dtype(logits))
        ctx.call, ctx.scale = call, one if count is None else one / count
        ctx.save_for_backward(*tensors)
        grad_rows = ctx.scale.expand(call.batch.n_out, logits.shape[0])
        rows, ctx.gradients = run(call, tensors, grad_rows, ctx.needs_input_grad[2:])
        total = rows.sum()
        return total if count is None else total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, call = ctx.saved_tensors, ctx.call
        found, ctx.gradients = ctx.gradients, None
        with torch.no_grad():
            if found is None:  # a second backward
                rows = (call.batch.n_out, call.batch.logits.shape[0])
                weights = (grad * ctx.scale).expand(rows)
                _, found = run(call, tensors, weights, ctx.needs_input_grad[2:])
            else:
                found = [None if g is None else launch.scale_in_place(g, grad) for g in found]
        return None, None, *once(tuple(found), present(tensors), call.loss)
