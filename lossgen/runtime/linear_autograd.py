"""The autograd functions of the loss of a linear layer: rows, and the reduced loss.

Every tensor of a call is an argument of the function and is saved through autograd, which raises
where one was overwritten before the backward.  Under ``torch.func.vmap`` there is one call for each
sample: a weight gets a gradient for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import chunked, sharded
from lossgen.runtime.autograd import once
from lossgen.runtime.batch import reduced, weighed
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.scale import scale_in_place
from lossgen.runtime.values import check_target_range

__all__ = ["Fused", "Rows", "schedule_of"]


def schedule_of(call: LinearCall) -> Any:
    """The module that runs it."""
    if call.options.group is not None:
        return sharded
    if not call.tiled:
        return chunked
    from lossgen.runtime import tiled  # and Triton with it

    return tiled


class Rows(torch.autograd.Function):
    """Results per row [outputs, N], and what the schedule keeps; the backward makes the logits
    again."""

    @staticmethod
    def forward(call: LinearCall, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        target = tensors[call.n_factors]
        if call.unseen and target is not None and target.device.type == "cpu":
            check_target_range(target, call.batch.ignore_index, call.batch.logits.shape[1])
        results, kept = schedule_of(call).statistics(call, tensors)
        return results, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        kept = output[1:]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.n_kept = len(kept)
        ctx.save_for_backward(*kept, *tensors)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        saved, call = ctx.saved_tensors, ctx.call
        needs = ctx.needs_input_grad[1:]
        wanted = needs[: call.n_factors]
        if grad_rows is None or not any(wanted):
            return (None,) * (1 + len(needs))
        found = iter(_Gradients.apply(call, wanted, ctx.n_kept, grad_rows, *saved))
        factors = [next(found) if want else None for want in wanted]
        return None, *factors, *[None] * (len(needs) - len(wanted))

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], call: LinearCall, *tensors: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _each(lambda *one: Rows.apply(call, *one), info.batch_size, dims[1:], tensors)


class _Gradients(torch.autograd.Function):
    """Of the factors that are wanted; an error when they are differentiated."""

    @staticmethod
    def forward(
        call: LinearCall,
        wanted: tuple[bool, ...],
        n_kept: int,
        grad_rows: Tensor,
        *saved: Tensor | None,
    ) -> tuple[Tensor, ...]:
        kept, tensors = saved[:n_kept], saved[n_kept:]
        grad_rows = grad_rows.to(call.dtype)
        found = schedule_of(call).gradients(call, tensors, kept, grad_rows, wanted)
        return tuple(
            torch.zeros_like(t) if g is None else g
            for g, t, want in zip(found, tensors, wanted, strict=False)
            if want
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.loss = inputs[0].loss

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"{ctx.loss}: the gradient cannot be differentiated a second time; use the formula in "
            "torch where a second derivative is needed"
        )

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        call: LinearCall,
        wanted: tuple[bool, ...],
        n_kept: int,
        *tensors: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        run: Callable[..., Any] = lambda *one: _Gradients.apply(call, wanted, n_kept, *one)  # noqa: E731
        return _each(run, info.batch_size, dims[3:], tensors)


def _each(
    run: Callable[..., tuple[Tensor, ...]],
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor | None],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One call for each sample of ``size``, whose axis is ``dims`` of each tensor."""
    pairs = list(zip(tensors, dims, strict=True))
    calls = [
        run(*(t if t is None or dim is None else t.select(dim, k) for t, dim in pairs))
        for k in range(size)
    ]
    found = tuple(torch.stack(results) for results in zip(*calls, strict=True))
    return found, (0,) * len(found)


class Fused(torch.autograd.Function):
    """Σ loss, of rows that count for ``each`` [N] (None: 1), divided by ``count``, by the chunk,
    with the gradients computed on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        call: LinearCall,
        count: Tensor | None,
        each: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        rows, device = call.batch.logits.shape[0], call.batch.logits.device
        one = torch.ones((), dtype=call.dtype, device=device)
        scale = one if count is None else one / count
        weights = scale.expand(rows) if each is None else scale * each
        ctx.call, ctx.weights = call, weights.expand(call.batch.n_out, rows)
        ctx.save_for_backward(*tensors)
        results, ctx.gradients = chunked.run(call, tensors, ctx.weights, ctx.needs_input_grad[3:])
        return reduced(weighed(results, each), count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, call = ctx.saved_tensors, ctx.call
        found, ctx.gradients = ctx.gradients, None
        with torch.no_grad():
            if found is None:  # a second backward
                weights = grad * ctx.weights
                _, found = chunked.run(call, tensors, weights, ctx.needs_input_grad[3:])
            else:
                found = [None if g is None else scale_in_place(g, grad) for g in found]
        rest = [None] * (len(tensors) - len(found))
        return None, None, None, *once(tuple(found), present(tensors), call.loss), *rest
