"""The autograd functions of calls that have a plan; compare ``lossgen.runtime.autograd``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossgen.runtime.autograd import OVERWRITTEN, differentiable, once
from lossgen.runtime.scale import scale_in_place
from lossgen.runtime.tensors import transformed, watched

if TYPE_CHECKING:
    from lossgen.runtime.plans import Plan

__all__ = ["planned_rows", "planned_total"]

Tensors = Sequence[Tensor | None]


class _Total(torch.autograd.Function):
    """As ``Fused``."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        values: Sequence[float],
        count: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        outs = plan.room(tensors)
        total, scale = plan.frames.total(tensors, values, count, outs)
        ctx.save_for_backward(*tensors)
        ctx.plan, ctx.values, ctx.scale, ctx.gradients = plan, values, scale, outs
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        tensors = ctx.saved_tensors  # unpacked once: a checkpoint recomputes it
        if found is None or grad.item() != 1.0 or torch.is_grad_enabled():
            found = _slopes(ctx, grad, found, tensors)
        return (None, None, None, *ctx.plan.spread(found))


def _slopes(ctx: Any, grad: Tensor, found: Tensors | None, tensors: Tensors) -> Tensors:
    """The gradients times ``grad``; from the rows where they may be differentiated."""
    plan: Plan = ctx.plan
    overwritten = plan.inplace and ctx.overwritten
    if torch.is_grad_enabled() and not overwritten:
        call, batch = plan.call.with_numbers(ctx.values), plan.batch(ctx.values, tensors)
        return differentiable(call, plan.wanted, batch, grad * ctx.scale)
    with torch.no_grad():
        if found is None:
            found = _again(ctx, grad, tensors)
        else:
            index = plan.call.batch.ignore_index
            ignored = None if tensors[1] is None else (tensors[1], index)
            for gradient in found:
                if gradient is not None:
                    scale_in_place(gradient, grad, ignored)
    sources = tuple(t for k in plan.sources if (t := tensors[k]) is not None)
    return once(tuple(found), sources, plan.call.loss, OVERWRITTEN)


def _again(ctx: Any, grad: Tensor, tensors: Tensors) -> tuple[Tensor | None, ...]:
    """The gradients once more, [N, V] each. Raises RuntimeError where the logits are gone."""
    plan: Plan = ctx.plan
    if plan.inplace and ctx.overwritten:
        raise RuntimeError(f"{plan.call.loss}: {OVERWRITTEN}")
    batch = plan.batch(ctx.values, tensors)
    _, saved = plan.call.rows(batch)
    grad_rows = (grad * ctx.scale).expand(1, batch.logits.shape[0])
    return plan.call.gradients(batch, saved, grad_rows, plan.wanted)


class _TotalInPlace(_Total):
    """The same, whose gradient takes the place of the logits where nothing else stands there."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        values: Sequence[float],
        count: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        logits = tensors[0]
        ctx.overwritten = logits is not None and plan.is_free(logits, tensors[2:])
        if not ctx.overwritten or logits is None:
            return _Total.forward(ctx, plan, values, count, *tensors)
        outs = [logits.detach(), *plan.room(tensors, 1)]
        total, scale = plan.frames.total(tensors, values, count, outs)
        torch.autograd.graph.increment_version(logits)
        ctx.save_for_backward(*tensors)
        ctx.plan, ctx.values, ctx.scale, ctx.gradients = plan, values, scale, outs
        return total


class _Rows(torch.autograd.Function):
    """As ``Rows``, without what transforms need, which have no plans."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, values: Sequence[float], *tensors: Tensor | None) -> Tensor:
        rows, saved = plan.rows(tensors, values)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(saved, *tensors)
        ctx.plan, ctx.values = plan, values
        return rows

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        saved, *tensors = ctx.saved_tensors
        if grad_rows is None:
            return (None,) * (2 + len(tensors))
        found: Tensors
        if torch.is_grad_enabled() or transformed() or watched():
            call = plan.call.with_numbers(ctx.values)
            slopes = grad_rows.reshape(plan.frames.results)
            found = call.slopes(tensors, saved, slopes, plan.wanted)
        else:
            found = plan.room(tensors)
            plan.frames.backward(tensors, ctx.values, saved, grad_rows, found)
        return (None, None, *plan.spread(found))


#: ``Function.apply`` without its search for tensors of a transform that has ended: those have no
#: plan.
_apply_total = super(torch.autograd.Function, _Total).apply
_apply_in_place = super(torch.autograd.Function, _TotalInPlace).apply
_apply_rows = super(torch.autograd.Function, _Rows).apply


def planned_total(
    plan: Plan, values: Sequence[float], count: Tensor | None, tensors: Tensors
) -> Tensor:
    """Σ loss, divided by ``count`` or by what the plan counts, with its gradients."""
    apply = _apply_in_place if plan.inplace else _apply_total
    total: Tensor = apply(plan, values, count, *tensors)
    return total


def planned_rows(plan: Plan, values: Sequence[float], tensors: Tensors) -> Tensor:
    """Results in the shape of a call's, with a gradient."""
    rows: Tensor = _apply_rows(plan, values, *tensors)
    return rows
