"""The autograd functions of a generated loss: rows, and the reduced loss with its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import c_backend, launch, torch_backend
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, compute_dtype
from lossgen.runtime.memory import empty_like

__all__ = ["Call", "Fused", "Rows", "module_of", "once"]


def module_of(backend: str, variant: Variant, dtype: torch.dtype) -> ModuleType:
    """The backend's functions: torch's where the C program cannot be compiled."""
    if backend == "c" and c_backend.available(variant, dtype):
        return c_backend
    return launch if backend == "triton" else torch_backend


@dataclass(frozen=True)
class Call:
    """A batch and how to compute it."""

    loss: str  # the function's name, for messages
    variant: Variant
    batch: Batch
    backend: str

    def detached(self) -> Call:
        """Without the tensors that autograd holds."""
        return Call(self.loss, self.variant, self.batch.without_rows(), self.backend)

    @property
    def module(self) -> ModuleType:
        return module_of(self.backend, self.variant, self.batch.logits.dtype)

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.module.forward(self.variant, batch)

    def gradients(
        self, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        grad_rows = grad_rows.to(compute_dtype(batch.logits))
        return self.module.backward(self.variant, batch, saved, grad_rows, wanted)

    def wanted(self, needs: tuple[bool, ...]) -> tuple[bool, ...]:
        """Of the logits and the differentiable streams, given autograd's flags of all."""
        flags = zip(needs[1:], self.batch.differentiable, strict=True)
        return (needs[0], *(need for need, differentiable in flags if differentiable))

    def spread(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """One entry for the logits and for each stream."""
        rest = iter(gradients[1:])
        streams = (next(rest) if d else None for d in self.batch.differentiable)
        return (gradients[0], *streams)


class Rows(torch.autograd.Function):
    """Results per row [outputs, N]; the backward recomputes the softmaxes from what was saved."""

    @staticmethod
    def forward(ctx: Any, call: Call, logits: Tensor, *streams: Tensor) -> Tensor:
        loss, saved = call.rows(call.batch)
        if any(ctx.needs_input_grad[1:]):
            ctx.save_for_backward(logits, saved, *streams)
            ctx.call = call.detached()
        return loss

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        logits, saved, *streams = ctx.saved_tensors
        call: Call = ctx.call
        batch = call.batch.of(logits, tuple(streams))
        with torch.no_grad():
            wanted = call.wanted(ctx.needs_input_grad[1:])
            found = call.gradients(batch, saved, grad_rows, wanted)
        return None, *call.spread(once(found, batch.sources, call.loss))


class Fused(torch.autograd.Function):
    """Σ loss (divided by ``count``), with the gradients computed on the way.

    The first backward scales the gradients and gives them away; a second one (retain_graph)
    recomputes them from the rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        count: Tensor | None,
        inplace: bool,
        logits: Tensor,
        *streams: Tensor,
    ) -> Tensor:
        batch = call.batch
        source = logits.detach()
        one = logits.new_ones((), dtype=compute_dtype(logits))
        scale = one if count is None else one / count
        wanted = call.wanted(ctx.needs_input_grad[3:])
        reused = inplace and wanted[0]
        outs = [
            empty_like(source) if want else None for want in (wanted[0] and not reused, *wanted[1:])
        ]
        if reused:
            outs[0] = source
        plain = batch.of(source, tuple(s.detach() for s in streams))
        rows = call.module.fused(call.variant, plain, scale.expand(1, logits.shape[0]), outs)
        if reused:
            torch.autograd.graph.increment_version(logits)
            ctx.kept = False
        else:
            ctx.save_for_backward(logits, *streams)
            ctx.kept = True
        ctx.call, ctx.scale, ctx.gradients, ctx.wanted = call.detached(), scale, outs, wanted
        total = rows.sum()
        return total if count is None else total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        kept = ctx.saved_tensors  # unpacked once: a checkpoint recomputes it
        if ctx.gradients is None and not ctx.kept:
            raise RuntimeError(
                f"{call.loss}: a second backward needs the logits, which inplace_grad=True has "
                "overwritten"
            )
        batch = call.batch.of(kept[0], tuple(kept[1:])) if ctx.kept else None
        with torch.no_grad():
            if ctx.gradients is not None:
                found = tuple(
                    None if g is None else launch.scale_in_place(g, grad) for g in ctx.gradients
                )
                ctx.gradients = None
            else:
                assert batch is not None
                _, saved = call.rows(batch)
                grad_rows = (grad * ctx.scale).expand(1, batch.logits.shape[0])
                found = call.gradients(batch, saved, grad_rows, ctx.wanted)
        sources = batch.sources if batch is not None else None
        return None, None, None, *call.spread(once(found, sources, call.loss))


def once(
    gradients: tuple[Tensor | None, ...], sources: tuple[Tensor, ...] | None, name: str
) -> tuple[Tensor | None, ...]:
    """With create_graph=True: the same gradients, which refuse to be differentiated.

    Without this they would be constants to autograd, and a gradient penalty silently zero.
    """
    if sources is None or not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else _Refuse.apply(g, name, *sources) for g in gradients)


class _Refuse(torch.autograd.Function):
    """The identity; its backward is an error."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, name: str, *sources: Tensor) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"{ctx.name}: the gradient cannot be differentiated a second time; use the "
            "formula in torch where a second derivative is needed"
        )
