"""Losses of a linear layer as two registered torch operators, for ``torch.compile``.

lossgen::linear_rows      (key of the loss, factors, target, …) -> results [outputs, N]
lossgen::linear_gradients (grad_rows [outputs, N], wanted, the same) -> gradients of the factors

The graph holds no logits: the operators run the schedules as they are run without a compiler, and
the backward makes the logits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import chunked, tiled
from lossgen.runtime.arguments import check_target_range
from lossgen.runtime.batch import compute_dtype
from lossgen.runtime.linear_arguments import Factors, LinearOptions
from lossgen.runtime.linear_bind import Arguments, Source, bound, call_of
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.operators import loss_of

__all__ = ["rows"]

_NAMESPACE = __name__.partition(".")[0]  # a vendored runtime has operators of its own
_ARGUMENTS = (
    "str key, Tensor[] tensors, bool[] present, Tensor? target, Tensor[] inputs, bool[] given, "
    "float[] parameters, int ignore_index, str backend, float? softcap, float temperature, "
    "int shift, int? memory_budget, str schedule, bool filter"
)


def rows(
    loss: RowLoss, sources: Sequence[Source], given: Arguments, options: LinearOptions
) -> Tensor:
    """Results [outputs, N], as a node of the graph."""
    parts: list[Tensor | None] = []
    for source in sources:
        parts += [source, None, None] if isinstance(source, Tensor) else [*source]
    found: Tensor = _forward(
        loss.key,
        [t for t in parts if t is not None],
        [t is not None for t in parts],
        given.target,
        [i for i in given.inputs if i is not None],
        [i is not None for i in given.inputs],
        [float(p) for p in given.parameters],
        given.ignore_index,
        given.backend,
        options.softcap,
        options.temperature,
        options.shift,
        options.memory_budget,
        options.schedule,
        options.filter,
    )
    return found


def _spread(values: Sequence[Tensor], flags: Sequence[bool]) -> list[Tensor | None]:
    rest = iter(values)
    return [next(rest) if flag else None for flag in flags]


def _unpacked(
    key: str,
    tensors: Sequence[Tensor],
    present: Sequence[bool],
    target: Tensor | None,
    inputs: Sequence[Tensor],
    given: Sequence[bool],
    parameters: Sequence[float],
    ignore_index: int,
    backend: str,
    *options: Any,
) -> tuple[RowLoss, list[Source], Arguments, LinearOptions]:
    parts = _spread(tensors, present)
    sources: list[Source] = []
    for k in range(0, len(parts), 3):
        first, weight, bias = parts[k : k + 3]
        assert first is not None
        sources.append(first if weight is None else Factors(first, weight, bias))
    arguments = Arguments(
        target,
        (),
        tuple(parameters),
        tuple(_spread(inputs, given)),
        ignore_index,
        backend,
    )
    return loss_of(key), sources, arguments, LinearOptions(*options)


def _run(
    arguments: Sequence[Any], grad_rows: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Results, and the gradients of the tensors where wanted: three of each source."""
    loss, sources, given, options = _unpacked(*arguments)
    call, tensors, _ = call_of(loss, sources, given, options)
    batch = call.batch
    if batch.target is not None and not batch.logits.is_cuda:
        check_target_range(batch.target, given.ignore_index, batch.logits.shape[1])
    schedule = tiled if call.tiled else chunked
    return schedule.run(call, tensors, grad_rows, wanted)


def _results(*arguments: Any) -> Tensor:
    return _run(arguments, None, ())[0]


def _results_fake(*arguments: Any) -> Tensor:
    loss, sources, given, options = _unpacked(*arguments)
    batch = bound(loss, sources, given, options).batch
    size = (batch.n_out, batch.logits.shape[0])
    return batch.logits.new_empty(size, dtype=compute_dtype(batch.logits))


def _gradients(grad_rows: Tensor, wanted: Sequence[bool], *arguments: Any) -> list[Tensor]:
    tensors, present = arguments[1:3]
    rest = iter(wanted)
    _, found = _run(arguments, grad_rows, [next(rest) if flag else False for flag in present])
    kept = [g for g, flag in zip(found, present, strict=True) if flag]
    return [
        torch.zeros_like(t) if g is None else g.reshape(t.shape).contiguous()
        for g, t, want in zip(kept, tensors, wanted, strict=True)
        if want
    ]


def _gradients_fake(grad_rows: Tensor, wanted: Sequence[bool], *arguments: Any) -> list[Tensor]:
    pairs = zip(arguments[1], wanted, strict=True)
    return [t.new_empty(t.shape) for t, want in pairs if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    key, tensors, present, target, given, *rest = inputs
    ctx.save_for_backward(target, *tensors, *given)
    ctx.key, ctx.present, ctx.rest = key, present, rest
    ctx.count = len(tensors)
    ctx.needs = [t.requires_grad for t in tensors]


def _differentiate(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
    target, *saved = ctx.saved_tensors
    tensors, given = saved[: ctx.count], saved[ctx.count :]
    found = iter(
        _backward(grad_rows, ctx.needs, ctx.key, tensors, ctx.present, target, given, *ctx.rest)
    )
    grads = [next(found) if need else None for need in ctx.needs]
    flags, numbers, *others = ctx.rest
    # An empty list is taken for a list of tensors, whatever its type says.
    lists: list[Any] = [None if values else [] for values in (flags, numbers)]
    return None, grads, None, None, [None] * len(given), *lists, *[None] * len(others)


_forward = torch.library.custom_op(
    f"{_NAMESPACE}::linear_rows", _results, mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor"
)
_backward = torch.library.custom_op(
    f"{_NAMESPACE}::linear_gradients",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor grad_rows, bool[] wanted, {_ARGUMENTS}) -> Tensor[]",
)
_forward.register_fake(_results_fake)
_backward.register_fake(_gradients_fake)
_forward.register_autograd(_differentiate, setup_context=_save)
