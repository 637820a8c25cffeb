"""A generated loss of hidden · weightᵀ whose logits exist for one chunk of rows at a time.

A chunk of rows is multiplied into a buffer, the row program overwrites the buffer with the
gradient, and two products take it to hidden and weight: 6·N·V·D operations, and one chunk of memory
beside the gradients.  Ignored rows are left out before the first product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lossgen.runtime import launch
from lossgen.runtime.arguments import Variant
from lossgen.runtime.autograd import module_of, once
from lossgen.runtime.batch import Batch, compute_dtype, unit_stride
from lossgen.runtime.linear_arguments import (
    Factors,
    LinearOptions,
    autocast,
    check_constant,
    check_linear,
    chunk_rows,
    shifted,
    stand_in,
)
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.projected import Existing, Gradients, Projected, Take, pick

__all__ = ["Arguments", "linear_loss", "linear_rows"]


@dataclass(frozen=True)
class LinearCall:
    """One call, without the tensors that autograd holds: three of each source."""

    loss: str
    variant: Variant
    backend: str
    batch: Batch  # of all rows; its logits and streams are stand-ins without memory
    projected: tuple[bool, ...]  # of the logits and each stream: made from factors?
    options: LinearOptions
    shape: torch.Size  # of the results
    positions: Tensor | None  # rows of hidden that the results belong to; None: all
    kept: Tensor | None  # results that count; None: all
    step: int  # rows per chunk

    def sources(self, tensors: Sequence[Any]) -> list[Existing | Projected]:
        found: list[Existing | Projected] = []
        for k, made in enumerate(self.projected):
            first, weight, bias = tensors[3 * k : 3 * k + 3]
            if not made:
                found.append(Existing((first,)))
            elif k:
                found.append(Projected((first, weight, bias)))
            else:
                cap, scale = self.options.softcap, 1 / self.options.temperature
                found.append(Projected((first, weight, bias), cap, scale))
        return found

    def spans(self) -> list[tuple[Take, Take]]:
        """Of each chunk: its results, and their rows of the sources."""
        count = self.batch.logits.shape[0] if self.kept is None else len(self.kept)
        found: list[tuple[Take, Take]] = []
        for start in range(0, count, self.step):
            part = slice(start, min(start + self.step, count))
            results = part if self.kept is None else self.kept[part]
            at = results if self.positions is None else self.positions[results]
            found.append((results, at))
        return found

    def run(
        self, tensors: Sequence[Any], grad_rows: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Results [outputs, N], and with ``grad_rows`` [outputs, N] the gradients of ``tensors``
        where ``wanted``."""
        sources, whole = self.sources(tensors), self.kept is None and self.positions is None
        logits = self.batch.logits
        rows, classes = logits.shape
        results = logits.new_zeros((self.batch.n_out, rows), dtype=compute_dtype(logits))
        sinks: list[Gradients | None] = [None] * len(sources)
        if grad_rows is not None:
            sinks = [
                source.gradients(tuple(wanted[3 * k : 3 * k + 3]), whole)
                for k, source in enumerate(sources)
            ]
        module = module_of(self.backend, self.variant, logits.dtype)
        fresh = lambda: logits.new_empty((min(self.step, rows), classes))  # noqa: E731
        made = [fresh() if projected else None for projected in self.projected]
        bent = self.options.softcap is not None and sinks[0] is not None
        slope = fresh() if bent else None
        # The gradient of the logits overwrites them, those of streams stand beside them.
        flags = [True, *self.batch.differentiable]
        beside = [fresh() if k and sink is not None else None for k, sink in enumerate(sinks)]
        for taken, at in self.spans():
            n = len(range(rows)[taken]) if isinstance(taken, slice) else len(taken)
            cut = [None if b is None else b[:n] for b in made]
            bend = None if slope is None else slope[:n]
            parts = [
                unit_stride(source.make(at, cut[k], None if k else bend))
                for k, source in enumerate(sources)
            ]
            batch = self._chunk(taken, parts)
            if grad_rows is None:
                results[:, taken] = module.forward(self.variant, batch)[0]
                continue
            outs = [None if b is None else b[:n] for b in beside]
            outs[0] = parts[0] if sinks[0] is not None else None
            given = [out for out, flag in zip(outs, flags, strict=True) if flag]
            results[:, taken] = module.fused(self.variant, batch, grad_rows[:, taken], given)
            for k, sink in enumerate(sinks):
                out = outs[k]
                if sink is not None and out is not None:
                    sink.add(at, out, None if k else bend)
        return results, _spread(sinks)

    def _chunk(self, taken: Take, parts: list[Tensor]) -> Batch:
        batch, (logits, *streams) = self.batch, parts
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


class _Rows(torch.autograd.Function):
    """Results per row [outputs, N]; the backward makes the logits again, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, call: LinearCall, *tensors: Tensor | None) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call.run(tensors, None, ())[0]

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        tensors, call = ctx.saved_tensors, ctx.call
        with torch.no_grad():
            weights = grad_rows.to(compute_dtype(call.batch.logits))
            _, found = call.run(tensors, weights, ctx.needs_input_grad[1:])
        return None, *once(tuple(found), _given(tensors), call.loss)


class _Fused(torch.autograd.Function):
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
        rows, ctx.gradients = call.run(tensors, grad_rows, ctx.needs_input_grad[2:])
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
                _, found = call.run(tensors, weights, ctx.needs_input_grad[2:])
            else:
                found = [None if g is None else launch.scale_in_place(g, grad) for g in found]
        return None, None, *once(tuple(found), _given(tensors), call.loss)


def _given(tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)


# ---------------------------------------------------------------------------- what users call
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
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in _given(tensors))
    half = call.batch.logits.dtype is torch.float16  # as in RowLoss: its scale is not known yet
    count = None if reduction != "mean" else loss.weights(call.batch, inputs).sum()
    if reduction != "none" and wants_grad and not half:
        return _Fused.apply(call, count, *tensors)
    rows = _Rows.apply(call, *tensors)
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
    return tuple(row.reshape(call.shape) for row in _Rows.apply(call, *tensors).unbind(0))


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
    call = LinearCall(
        loss=name,
        variant=loss.variants[index],
        backend=loss.backend_of(logits, given.backend),
        batch=batch,
        projected=made,
        options=options,
        shape=lead,
        positions=positions,
        kept=kept,
        step=chunk_rows(name, rows, options.memory_budget, buffers),
    )
    return call, tensors, inputs
