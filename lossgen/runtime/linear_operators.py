"""Losses of a linear layer as two registered torch operators, for ``torch.compile``.

lossgen::linear_rows      (key of the loss, factors, target, …) -> results [outputs, N], and kept
lossgen::linear_gradients (grad_rows, kept, wanted, the same) -> gradients of the factors

The graph holds no logits: the operators run the schedules as they are run without a compiler, and
the backward makes the logits again.  Kept is what classes in shards would have to be gathered for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import sharded
from lossgen.runtime.batch import compute_dtype
from lossgen.runtime.entries import Entries
from lossgen.runtime.linear_arguments import Factors, LinearOptions, Source, parts_of
from lossgen.runtime.linear_autograd import schedule_of
from lossgen.runtime.linear_bind import Arguments, bound, call_of
from lossgen.runtime.linear_call import LinearCall
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.operators import loss_of
from lossgen.runtime.shards import ClassShards, named_shards
from lossgen.runtime.values import check_listed, check_target_range

__all__ = ["rows"]

_NAMESPACE = __name__.partition(".")[0]  # a vendored runtime has operators of its own
_ARGUMENTS = (
    "str key, Tensor[] tensors, bool[] present, Tensor? target, Tensor[] inputs, bool[] given, "
    "Tensor numbers, float[] fills, bool capped, int ignore_index, str backend, int shift, "
    "int? memory_budget, str schedule, bool filter, bool? skip_ignored, str? group, int[] sizes"
)
_NUMBERS = 6  # their place in the arguments


def rows(
    loss: RowLoss, sources: Sequence[Source], given: Arguments, options: LinearOptions
) -> Tensor:
    """Results [outputs, N], as a node of the graph."""
    parts: list[Tensor | None] = []
    for source in sources:
        parts += parts_of(source)
    present = [t for t in parts if t is not None]
    shards: ClassShards | None = options.group
    found: list[Tensor] = _forward(
        loss.key,
        present,
        [t is not None for t in parts],
        given.target,
        [i for i in given.inputs if i is not None],
        [i is not None for i in given.inputs],
        as_tensor(present[0], [options.softcap or 1.0, options.temperature, *given.parameters]),
        [s.fill if isinstance(s, Entries) else math.nan for s in sources],
        options.softcap is not None,
        given.ignore_index,
        given.backend,
        options.shift,
        options.memory_budget,
        options.schedule,
        options.filter,
        options.skip_ignored,
        None if shards is None else shards.group.group_name,
        [] if shards is None else [*shards.sizes],
    )
    return found[0]


def as_tensor(like: Tensor, values: Sequence[float]) -> Tensor:
    """Float64 on the CPU, for a graph that serves all values: a Python float would be a constant of
    it, and so would one that ``torch.tensor`` or ``torch.full`` is made of."""
    one = like.new_ones((), dtype=torch.float64, device="cpu")  # fake where ``like`` is
    return torch.stack([one * v for v in values])


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
    numbers: Tensor,
    fills: Sequence[float],
    capped: bool,
    ignore_index: int,
    backend: str,
    *rest: Any,
    values: Sequence[float] | None = None,
) -> tuple[RowLoss, list[Source], Arguments, LinearOptions]:
    """``values`` stand for ``numbers`` where those cannot be read."""
    parts = _spread(tensors, present)
    sources: list[Source] = []
    for k in range(0, len(parts), 3):
        first, weight, bias = parts[k : k + 3]
        assert first is not None
        if not math.isnan(fill := fills[k // 3]):  # NaN: no entries
            sources.append(Entries(first, weight, fill))
        else:
            sources.append(first if weight is None else Factors(first, weight, bias))
    cap, temperature, *parameters = numbers.tolist() if values is None else values
    arguments = Arguments(
        target,
        (),
        tuple(parameters),
        tuple(_spread(inputs, given)),
        ignore_index,
        backend,
    )
    scaling = (cap if capped else None, temperature)
    *options, group, sizes = rest
    options.append(None if group is None else named_shards(group, sizes))
    return loss_of(key), sources, arguments, LinearOptions(*scaling, *options)


def _opened(arguments: Sequence[Any]) -> tuple[LinearCall, list[Tensor | None]]:
    loss, sources, given, options = _unpacked(*arguments)
    call, tensors, found = call_of(loss, sources, given, options)
    target, classes = found.batch.target, found.batch.logits.shape[1]
    if target is not None and target.device.type == "cpu":
        check_target_range(target, given.ignore_index, classes)
    for declared, source in zip(loss.streams, sources[1:], strict=True):
        if isinstance(source, Entries):
            check_listed(call.loss, declared, source, classes)
    return call, tensors


def _results(*arguments: Any) -> list[Tensor]:
    call, tensors = _opened(arguments)
    results, kept = schedule_of(call).statistics(call, tensors)
    return [results, *(kept if call.options.group is not None else ())]


def _results_fake(*arguments: Any) -> list[Tensor]:
    # Shapes do not depend on numbers.
    values = [1.0] * arguments[_NUMBERS].shape[0]
    loss, sources, given, options = _unpacked(*arguments, values=values)
    found = bound(loss, sources, given, options)
    logits, variant = found.batch.logits, loss.variants[found.index]
    size = (found.batch.n_out, logits.shape[0])
    results = torch.empty(size, dtype=compute_dtype(logits), device=logits.device)
    if options.group is None:
        return [results]
    return [results, *sharded.kept_like(variant, found.batch)]


def _gradients(
    grad_rows: Tensor, kept: Sequence[Tensor], wanted: Sequence[bool], *arguments: Any
) -> list[Tensor]:
    tensors, present = arguments[1:3]
    rest = iter(wanted)
    asked = [next(rest) if flag else False for flag in present]
    call, rows = _opened(arguments)
    schedule = schedule_of(call)
    kept = schedule.statistics(call, rows)[1] if call.tiled else kept
    found = schedule.gradients(call, rows, kept, grad_rows, asked)
    given = [g for g, flag in zip(found, present, strict=True) if flag]
    return [
        torch.zeros_like(t) if g is None else g.reshape(t.shape).contiguous()
        for g, t, want in zip(given, tensors, wanted, strict=True)
        if want
    ]


def _gradients_fake(
    grad_rows: Tensor, kept: Sequence[Tensor], wanted: Sequence[bool], *arguments: Any
) -> list[Tensor]:
    pairs = zip(arguments[1], wanted, strict=True)
    return [t.new_empty(t.shape) for t, want in pairs if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    key, tensors, present, target, given, flags, numbers, *rest = inputs
    kept = output[1:]
    ctx.save_for_backward(target, numbers, *kept, *tensors, *given)
    ctx.kept = len(kept)
    ctx.key, ctx.present, ctx.flags, ctx.rest = key, present, flags, rest
    ctx.count = len(tensors)
    ctx.needs = [t.requires_grad for t in tensors]


def _differentiate(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    target, numbers, *saved = ctx.saved_tensors
    kept, saved = saved[: ctx.kept], saved[ctx.kept :]
    tensors, given = saved[: ctx.count], saved[ctx.count :]
    arguments = (ctx.key, tensors, ctx.present, target, given, ctx.flags, numbers, *ctx.rest)
    found = iter(_backward(grads[0], kept, ctx.needs, *arguments))
    grads = [next(found) if need else None for need in ctx.needs]
    # An empty list is taken for a list of tensors, whatever its type says.
    nothing: list[Any] = [[] if value == [] else None for value in (ctx.flags, *ctx.rest)]
    return None, grads, None, None, [None] * len(given), nothing[0], None, *nothing[1:]


_forward = torch.library.custom_op(
    f"{_NAMESPACE}::linear_rows", _results, mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor[]"
)
_backward = torch.library.custom_op(
    f"{_NAMESPACE}::linear_gradients",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor grad_rows, Tensor[] kept, bool[] wanted, {_ARGUMENTS}) -> Tensor[]",
)
_forward.register_fake(_results_fake)
_backward.register_fake(_gradients_fake)
_forward.register_autograd(_differentiate, setup_context=_save)
