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
from torch.autograd import forward_ad

from lossgen.runtime import c_backend, fold, torch_backend
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, compute_dtype, reduced, unit_stride, weighed
from lossgen.runtime.bilinear import THIRD, added
from lossgen.runtime.memory import empty_like
from lossgen.runtime.scale import scale_in_place
from lossgen.runtime.second import along, curved
from lossgen.runtime.tensors import outside_the_graph, symbolic, watched

__all__ = ["OVERWRITTEN", "Call", "Fused", "Rows", "differentiable", "module_of", "once", "seen"]

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
    programs: Any = None  # the derivatives of the loss (``slopes.Programs``)
    learned: bool = False  # do parameters or inputs get gradients beside it?
    origin: Call | None = None  # of a derivative along a row: what it is the derivative of
    by: int = 0  # and along which source

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

    def applied(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Results and what was saved, as autograd sees them."""
        rows, saved = Rows.apply(self, *tensors)
        return rows, saved

    def slopes(
        self,
        tensors: Sequence[Tensor | None],
        saved: Tensor,
        grad_rows: Tensor,
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the rows, None where not wanted, as autograd sees them."""
        if self.origin is not None:
            tensors = self._once(tensors)
        found = iter(_Gradients.apply(self, wanted, grad_rows, saved, *tensors))
        return tuple(next(found) if want else None for want in wanted)

    def wanted(self, needs: Sequence[bool]) -> tuple[bool, ...]:
        """Of the logits and the differentiable streams, given autograd's flags of all tensors."""
        flags = zip(needs[2:], self.batch.differentiable, strict=False)
        return (needs[0], *(need for need, differentiable in flags if differentiable))

    def _once(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of a derivative along a row: where the sources refuse third derivatives."""
        watching = torch.is_grad_enabled() or forward_ad._current_level >= 0
        flags = self.batch.differentiable[:-1]  # the last is what it is along
        places = (0, *(2 + k for k, flag in enumerate(flags) if flag)) if watching else ()
        message = f"{self.loss}: {THIRD}"
        return [_Refuse.apply(t, message) if k in places else t for k, t in enumerate(tensors)]

    def with_tangent(
        self, tensors: Sequence[Tensor | None], tangent: Tensor
    ) -> list[Tensor | None]:
        """Of a derivative along a row: along another one."""
        place = 1 + len(self.batch.differentiable)
        own = unit_stride(tangent.to(self.batch.logits.dtype))
        return [own if k == place else tensor for k, tensor in enumerate(tensors)]

    def gathered(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of one entry for each tensor of the batch, those of what gets a gradient."""
        streams = zip(tensors[2:], self.batch.differentiable, strict=False)
        return [tensors[0], *(tensor for tensor, differentiable in streams if differentiable)]

    def spread(self, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """One entry for each tensor of the batch."""
        rest = iter(gradients[1:])
        streams = (next(rest) if d else None for d in self.batch.differentiable)
        return (gradients[0], None, *streams, *[None] * len(self.batch.kinds))


def seen(batch: Batch) -> bool:
    """Must the call be an operator: because a mode records it, or because there is no data?"""
    return watched() or any(t is not None and symbolic(t) for t in batch.tensors)


def beside_a_graph(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same where torch compiles: of a transform that is left out of a graph, perhaps."""
    if "torch._dynamo" in sys.modules:
        return outside_the_graph(function, *arguments)
    return function(*arguments)


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
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = beside_a_graph(Rows._slopes, ctx, grad_rows)
        return found

    @staticmethod
    def _slopes(ctx: Any, grad_rows: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, *tensors = ctx.saved_tensors
        call: Call = ctx.call
        wanted = call.wanted(ctx.needs_input_grad[1:])
        if grad_rows is None or not any(wanted):
            return (None,) * (1 + len(tensors))
        return None, *call.spread(call.slopes(tensors, saved, grad_rows, wanted))

    @staticmethod
    def jvp(ctx: Any, _: None, *moved: Tensor | None) -> tuple[Tensor | None, None]:
        _, *tensors = ctx.saved_tensors
        return beside_a_graph(along, ctx.call, tensors, ctx.call.gathered(moved)), None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], call: Call, *tensors: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        axes = fold.axes(call.batch)
        return fold.over(
            lambda *parts: Rows.apply(call, *parts), info.batch_size, dims[1:], axes, tensors, 1
        )


class _Gradients(torch.autograd.Function):
    """The gradients that are wanted, [N, V] each; compare ``lossgen.runtime.second``."""

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
        ctx.call, ctx.wanted, grad_rows, saved, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_rows, saved, *tensors)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(grad_rows, saved, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = beside_a_graph(_Gradients._second, ctx, *grads)
        return found

    @staticmethod
    def _second(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        grad_rows, _, *tensors = ctx.saved_tensors
        rest = iter(grads)
        moved = [next(rest) if want else None for want in ctx.wanted]
        wanted = call.wanted(ctx.needs_input_grad[4:])
        total, found = curved(call, tensors, moved, wanted, grad_rows, ctx.needs_input_grad[2])
        total = total.to(grad_rows.dtype) if total is not None else None
        return None, None, total, None, *call.spread(found)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *moved: Tensor | None) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = beside_a_graph(_Gradients._moved, ctx, *moved)
        return found

    @staticmethod
    def _moved(
        ctx: Any, moved_rows: Tensor | None, _: Tensor | None, *moved: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        grad_rows, saved, *tensors = ctx.saved_tensors
        tangents = call.gathered(moved)
        pairs = zip(tangents, ctx.wanted, strict=True)
        if call.origin is not None and any(t is not None and want for t, want in pairs):
            raise NotImplementedError(f"{call.loss}: {THIRD}")
        _, found = curved(call, tensors, tangents, ctx.wanted, grad_rows, False)
        if moved_rows is not None:
            first = call.slopes(tensors, saved, moved_rows, ctx.wanted)
            found = [*map(added, found, first)]
        return tuple(f for f, want in zip(found, ctx.wanted, strict=True) if want)

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
        if torch.is_grad_enabled() and not ctx.reused:
            found = differentiable(call, ctx.wanted, batch, grad * ctx.weights)
            return None, None, None, None, *call.spread(found)
        with torch.no_grad():
            if gradients is not None:
                ignored = None if batch.target is None else (batch.target, batch.ignore_index)
                found = tuple(
                    None if g is None else scale_in_place(g, grad, ignored) for g in gradients
                )
            else:
                _, saved = call.rows(batch)
                found = call.gradients(batch, saved, (grad * ctx.weights)[None], ctx.wanted)
        found = once(found, batch.sources, call.loss, OVERWRITTEN)
        return None, None, None, None, *call.spread(found)


def differentiable(
    call: Call, wanted: tuple[bool, ...], batch: Batch, scale: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of Σ ``scale``·rows, from the rows, so that they can be differentiated."""
    with torch.no_grad():
        _, saved = call.rows(batch)
    grad_rows = scale.expand(1, batch.logits.shape[0])
    return call.slopes(batch.tensors, saved, grad_rows, wanted)


def once(
    gradients: tuple[Tensor | None, ...],
    sources: tuple[Tensor, ...],
    name: str,
    reason: str = _TWICE,
) -> tuple[Tensor | None, ...]:
    """With create_graph=True: the same gradients, which refuse to be differentiated.

    Without this they would be constants to autograd, and a gradient penalty silently zero.
    """
    if not torch.is_grad_enabled():
        return gradients
    return tuple(
        None if g is None else _Refuse.apply(g, f"{name}: {reason}", *sources) for g in gradients
    )


class _Refuse(torch.autograd.Function):
    """The identity; its backward is an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, message: str, *sources: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.message = inputs[1]

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(ctx.message)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(ctx.message)
