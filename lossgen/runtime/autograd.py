"""The autograd functions of a generated loss: rows, and the reduced loss with its gradients.

Every tensor of a call is an argument of the function and is saved through autograd, which raises
where one was overwritten before the backward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import c_backend, fold, torch_backend
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, compute_dtype, reduced, weighed
from lossgen.runtime.memory import empty_like
from lossgen.runtime.scale import scale_in_place
from lossgen.runtime.tensors import FORWARD_MODE, outside_the_graph, symbolic, watched

__all__ = ["OVERWRITTEN", "Call", "Fused", "Rows", "gradients_of", "module_of", "once", "seen"]

OVERWRITTEN = "a second backward needs the logits, which inplace_grad=True has overwritten"

_TWICE = (
    "the gradient cannot be differentiated a second time; use the formula in torch where a second "
    "derivative is needed"
)


def module_of(backend: str, variant: Variant, dtype: torch.dtype) -> ModuleType:
    """The backend's functions: torch's where the C program cannot be compiled."""
    if backend == "c" and c_backend.available(variant, dtype):
        return c_backend
    if backend != "triton":
        return torch_backend
    from lossgen.runtime import launch  # and Triton with it

    return launch


@dataclass(frozen=True)
class Call:
    """A batch and how to compute it."""

    loss: str  # the function's name, for messages
    variant: Variant
    batch: Batch
    backend: str
    operators: Any  # what a mode or a tensor without data sees of the call
    index: int  # of the variant
    check: Callable[[Batch], None] | None = None  # of the values, where they were hidden before

    def detached(self) -> Call:
        """Without the tensors, which autograd holds."""
        return replace(self, batch=self.batch.without_tensors())

    def with_numbers(self, values: Sequence[float]) -> Call:
        """The same with other parameters."""
        return replace(self, batch=replace(self.batch, parameters=tuple(values)))

    @property
    def module(self) -> ModuleType:
        return module_of(self.backend, self.variant, self.batch.logits.dtype)

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if seen(batch):
            loss, saved = self.operators.forward(*batch.arguments, self.index, self.backend)
        else:
            loss, saved = self.module.forward(self.variant, batch)
        return loss, saved

    def gradients(
        self, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        grad_rows = grad_rows.to(compute_dtype(batch.logits))
        if seen(batch):
            arguments = *batch.arguments, self.index, self.backend
            found = iter(self.operators.backward(grad_rows, saved, [*wanted], *arguments))
            return tuple(next(found) if want else None for want in wanted)
        return tuple(self.module.backward(self.variant, batch, saved, grad_rows, wanted))

    def wanted(self, needs: Sequence[bool]) -> tuple[bool, ...]:
        """Of the logits and the differentiable streams, given autograd's flags of all tensors."""
        flags = zip(needs[2:], self.batch.differentiable, strict=False)
        return (needs[0], *(need for need, differentiable in flags if differentiable))

    def spread(self, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """One entry for each tensor of the batch."""
        rest = iter(gradients[1:])
        streams = (next(rest) if d else None for d in self.batch.differentiable)
        return (gradients[0], None, *streams, *[None] * len(self.batch.kinds))


def seen(batch: Batch) -> bool:
    """Must the call be an operator: because a mode records it, or because there is no data?"""
    return watched() or any(t is not None and symbolic(t) for t in batch.tensors)


class Rows(torch.autograd.Function):
    """Results per row [outputs, N], and what was saved [n_saved, N]; the backward recomputes the
    softmaxes from that."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        batch = call.batch.with_tensors(tensors)
        if call.check is not None and not seen(batch):
            call.check(batch)
        return call.rows(batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.call, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if "torch._dynamo" in sys.modules:  # of a transform that is left out of a graph, perhaps
            found: tuple[Tensor | None, ...] = outside_the_graph(Rows._slopes, ctx, grad_rows)
            return found
        return Rows._slopes(ctx, grad_rows)

    @staticmethod
    def _slopes(ctx: Any, grad_rows: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, *tensors = ctx.saved_tensors
        call: Call = ctx.call
        wanted = call.wanted(ctx.needs_input_grad[1:])
        if grad_rows is None or not any(wanted):
            return (None,) * (1 + len(tensors))
        return None, *call.spread(gradients_of(call, wanted, grad_rows, saved, tensors))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(f"{ctx.call.loss}: {FORWARD_MODE}")

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], call: Call, *tensors: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        axes = fold.axes(call.batch)
        return fold.over(
            lambda *parts: Rows.apply(call, *parts), info.batch_size, dims[1:], axes, tensors, 1
        )


def gradients_of(
    call: Call,
    wanted: tuple[bool, ...],
    grad_rows: Tensor,
    saved: Tensor,
    tensors: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Those of the rows, None where not wanted; an error when they are differentiated."""
    found = iter(_Gradients.apply(call, wanted, grad_rows, saved, *tensors))
    return tuple(next(found) if want else None for want in wanted)


class _Gradients(torch.autograd.Function):
    """The gradients that are wanted, [N, V] each; an error when they are differentiated."""

    @staticmethod
    def forward(
        call: Call,
        wanted: tuple[bool, ...],
        grad_rows: Tensor,
        saved: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        batch = call.batch.with_tensors(tensors)
        found = call.gradients(batch, saved, grad_rows, wanted)
        return tuple(g for g in found if g is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.loss = inputs[0].loss

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(f"{ctx.loss}: {_TWICE}")

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(f"{ctx.loss}: {FORWARD_MODE}")

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        call: Call,
        wanted: tuple[bool, ...],
        *tensors: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        axes = (1, 1, *fold.axes(call.batch))
        return fold.over(
            lambda *parts: _Gradients.apply(call, wanted, *parts),
            info.batch_size,
            dims[2:],
            axes,
            tensors,
            0,
        )


class Fused(torch.autograd.Function):
    """Σ loss, of rows that count for ``each`` [N] (None: 1), divided by ``count``, with the
    gradients computed on the way.

    The first backward scales the gradients and gives them away; a second one (retain_graph)
    recomputes them from the rows.  With ``inplace`` the gradient overwrites the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        count: Tensor | None,
        each: Tensor | None,
        inplace: bool,
        *tensors: Tensor | None,
    ) -> Tensor:
        logits, *others = tensors
        assert logits is not None
        source = logits.detach()
        batch = call.batch.with_tensors((source, *others))
        one = logits.new_ones((), dtype=compute_dtype(logits))
        scale = one if count is None else one / count
        weights = scale.expand(logits.shape[0]) if each is None else scale * each
        wanted = call.wanted(ctx.needs_input_grad[4:])
        ctx.reused = inplace and wanted[0]
        outs = [
            empty_like(source) if want else None
            for want in (wanted[0] and not ctx.reused, *wanted[1:])
        ]
        if ctx.reused:
            outs[0] = source
        rows = call.module.fused(call.variant, batch, weights[None], outs)
        if ctx.reused:
            torch.autograd.graph.increment_version(logits)
        # The logits too where they are the gradient by now: it must not change either.
        ctx.save_for_backward(*tensors)
        ctx.call, ctx.weights, ctx.gradients, ctx.wanted = call, weights, outs, wanted
        return reduced(weighed(rows, each), count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None and ctx.reused:
            raise RuntimeError(f"{call.loss}: {OVERWRITTEN}")
        tensors = ctx.saved_tensors  # unpacked once: a checkpoint recomputes it
        batch = call.batch.with_tensors(tensors)
        with torch.no_grad():
            if gradients is not None:
                ignored = None if batch.target is None else (batch.target, batch.ignore_index)
                found = tuple(
                    None if g is None else scale_in_place(g, grad, ignored) for g in gradients
                )
            else:
                _, saved = call.rows(batch)
                found = call.gradients(batch, saved, (grad * ctx.weights)[None], ctx.wanted)
        return None, None, None, None, *call.spread(once(found, batch.sources, call.loss))


def once(
    gradients: tuple[Tensor | None, ...], sources: tuple[Tensor, ...], name: str
) -> tuple[Tensor | None, ...]:
    """With create_graph=True: the same gradients, which refuse to be differentiated.

    Without this they would be constants to autograd, and a gradient penalty silently zero.
    """
    if not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else _Refuse.apply(g, name, *sources) for g in gradients)


class _Refuse(torch.autograd.Function):
    """The identity; its backward is an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, name: str, *sources: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(f"{ctx.name}: {_TWICE}")
