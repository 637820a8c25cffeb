"""A generated loss as a callable: checks, choice of variant and backend, autograd, reduction.

Eager calls with a scalar reduction compute the gradient together with the loss (``_Fused``): the
logits are read once while they are on chip.  Everything else computes rows (``_Rows``) and
reduces them with torch.  Under ``torch.compile`` the rows are a registered custom operator, which
the compiler sees as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import launch, torch_backend
from lossgen.runtime.arguments import (
    Input,
    Parameter,
    Variant,
    check_call,
    check_parameters,
    check_target_range,
)
from lossgen.runtime.device import HAS_TRITON
from lossgen.runtime.operators import register

__all__ = ["RowLoss"]

Normalizer = Callable[[Tensor, dict[str, Tensor | None], torch.dtype], Tensor]


@dataclass(frozen=True)
class RowLoss:
    """One loss: its declared arguments and its compiled variants, smallest first.

    ``key`` names the operators ``lossgen::<key>_forward`` and ``lossgen::<key>_backward``.
    ``normalizer(target, inputs, dtype)`` is what the mean divides by the sum of, default one per row.
    """

    name: str
    key: str
    parameters: tuple[Parameter, ...]
    inputs: tuple[Input, ...]
    has_target: bool
    min_classes: int
    normalizer: Normalizer | None
    variants: tuple[Variant, ...]
    operators: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", register(self))

    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None,
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
    ) -> Tensor:
        """The reduced loss; see the generated function for the contract."""
        name = f"{self.name}_loss"
        check_parameters(name, self.parameters, parameters)
        check_call(
            name,
            logits,
            target,
            tuple(zip(self.inputs, inputs, strict=True)),
            self.has_target,
            max(1, self.min_classes),
            ignore_index,
            reduction,
            backend,
            inplace_grad,
        )
        call = self._call(logits, target, parameters, inputs, ignore_index, backend)
        if torch.compiler.is_compiling():
            rows = self.operators.forward(*call.operands())[0]
            return self._reduce(rows, call, inputs, reduction).reshape(
                logits.shape[:-1] if reduction == "none" else ()
            )
        if self.has_target and not logits.is_cuda:
            assert call.target is not None
            check_target_range(call.target, call.ignored, call.logits.shape[1])
        wants_grad = torch.is_grad_enabled() and logits.requires_grad
        # float16 cannot hold a gradient before the caller's scale (a GradScaler's 65536) is known.
        if not wants_grad or reduction == "none" or logits.dtype is torch.float16:
            rows = _Rows.apply(call.logits, call)
            if reduction == "none":
                return rows.reshape(logits.shape[:-1])
            return self._reduce(rows, call, inputs, reduction)
        count = None if reduction == "sum" else self._weights(call, inputs).sum()
        return _Fused.apply(call.logits, call, count, inplace_grad and call.disjoint)

    # ------------------------------------------------------------------ one call
    def _call(
        self,
        logits: Tensor,
        target: Tensor | None,
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        backend: str,
    ) -> _Call:
        changed = {
            p.name
            for p, v in zip(self.parameters, parameters, strict=True)
            if p.off is not None and v != p.off
        }
        changed |= {
            i.name
            for i, v in zip(self.inputs, inputs, strict=True)
            if i.off is not None and v is not None
        }
        index = next(k for k, v in enumerate(self.variants) if v.uses >= changed)
        variant = self.variants[index]
        classes = logits.shape[-1]
        flat = logits.reshape(-1, classes)
        if flat.stride(-1) != 1 and classes > 1:
            flat = flat.contiguous()
        values = dict(zip((p.name for p in self.parameters), parameters, strict=True))
        given = dict(zip((i.name for i in self.inputs), inputs, strict=True))
        declared = {i.name: i for i in self.inputs}
        tensors, kinds = [], []
        for name in variant.inputs:
            kind, value = declared[name].kind, given[name]
            if value is None:
                size = classes if kind == "vocab" else flat.shape[0]
                value = flat.new_full((size,), declared[name].off or 0.0, dtype=torch.float32)
            value = value.detach().reshape(-1)
            tensors.append(value.contiguous() if kind == "vocab" else value)
            kinds.append(kind)
        return _Call(
            loss=self,
            index=index,
            logits=flat,
            # Narrow types cannot be compared with every V or ignore_index: those would wrap.
            target=None if target is None else target.reshape(-1).long(),
            inputs=tuple(tensors),
            kinds=tuple(kinds),
            parameters=tuple(float(values[n]) for n in variant.parameters),
            ignore_index=ignore_index,
            backend=self._backend(logits, backend),
        )

    def _backend(self, logits: Tensor, backend: str) -> str:
        if backend == "torch":
            return "torch"
        usable = HAS_TRITON and logits.dtype is not torch.float64
        if backend == "auto":
            return "triton" if logits.is_cuda and usable else "torch"
        if not HAS_TRITON:
            raise ValueError(f"{self.name}_loss: backend 'triton' needs the package triton")
        if logits.dtype is torch.float64:
            raise ValueError(f"{self.name}_loss: backend 'triton' computes in float32, not float64")
        if not logits.is_cuda and not launch.interpreting():
            raise ValueError(
                f"{self.name}_loss: backend 'triton' needs CUDA tensors, but logits are on "
                f"{logits.device} (set TRITON_INTERPRET=1 before importing triton to debug on CPU)"
            )
        return "triton"

    # ------------------------------------------------------------------ reduction
    def _weights(self, call: _Call, inputs: Sequence[Tensor | None]) -> Tensor:
        """What each row counts for in the mean [N]; 0 for ignored rows."""
        target, dtype = call.target, torch_backend.compute_dtype(call.logits)
        if target is None:
            return call.logits.new_ones(call.logits.shape[0], dtype=dtype)
        if self.normalizer is None:
            return (target != call.ignore_index).to(dtype)
        classes = call.logits.shape[1]
        inside = (target >= 0) & (target < classes) & (target != call.ignore_index)
        given = {
            i.name: value.reshape(-1) if value is not None else None
            for i, value in zip(self.inputs, inputs, strict=True)
        }
        weight = self.normalizer(torch.where(inside, target, 0).long(), given, dtype)
        return torch.where(target == call.ignore_index, 0.0, weight)

    def _reduce(
        self, rows: Tensor, call: _Call, inputs: Sequence[Tensor | None], reduction: str
    ) -> Tensor:
        if reduction == "none":
            return rows
        total = rows.sum()
        return total if reduction == "sum" else total / self._weights(call, inputs).sum()


@dataclass(frozen=True)
class _Call:
    """Checked and flattened arguments: logits [N, V] with class stride 1, target [N]."""

    loss: RowLoss
    index: int
    logits: Tensor
    target: Tensor | None
    inputs: tuple[Tensor, ...]
    kinds: tuple[str, ...]
    parameters: tuple[float, ...]
    ignore_index: int
    backend: str

    @property
    def ignored(self) -> Tensor:
        assert self.target is not None
        return self.target == self.ignore_index

    @property
    def disjoint(self) -> bool:
        """Does each logit have memory of its own? Not if rows are expanded."""
        rows, classes = self.logits.shape
        return rows < 2 or self.logits.stride(0) >= classes

    def without_logits(self) -> _Call:
        """For the backward, which has them from autograd: a second reference would keep them
        alive past it, and past checkpointing or offloading."""
        return replace(self, logits=self.logits.new_empty(0))

    @property
    def variant(self) -> Variant:
        return self.loss.variants[self.index]

    def operands(self) -> tuple[Any, ...]:
        """The arguments of the registered operators."""
        return (
            self.logits,
            self.target,
            list(self.inputs),
            list(self.parameters),
            self.ignore_index,
            self.index,
            self.backend,
        )

    def _module(self) -> Any:
        return launch if self.backend == "triton" else torch_backend

    def rows(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return self._module().forward(
            self.variant,
            logits,
            self.target,
            self.inputs,
            self.kinds,
            self.parameters,
            self.ignore_index,
        )

    def gradient(self, logits: Tensor, saved: Tensor, grad_rows: Tensor) -> Tensor:
        grad_rows = grad_rows.to(torch_backend.compute_dtype(logits))
        return self._module().backward(
            self.variant,
            logits,
            self.target,
            saved,
            self.inputs,
            self.kinds,
            self.parameters,
            self.ignore_index,
            grad_rows,
        )

    def fused(self, logits: Tensor, grad_rows: Tensor, out: Tensor) -> Tensor:
        return self._module().fused(
            self.variant,
            logits,
            self.target,
            self.inputs,
            self.kinds,
            self.parameters,
            self.ignore_index,
            grad_rows,
            out,
        )


class _Rows(torch.autograd.Function):
    """Loss per row [N]; the backward recomputes the softmax from the saved statistics."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, call: _Call) -> Tensor:
        loss, saved = call.rows(logits)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits, saved)
            ctx.call = call.without_logits()
        return loss

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        logits, saved = ctx.saved_tensors
        with torch.no_grad():
            grad = ctx.call.gradient(logits, saved, grad_rows)
        return _once(grad, logits, ctx.call.loss.name), None


class _Fused(torch.autograd.Function):
    """Σ loss (divided by ``count``), with the gradient computed on the way.

    The first backward scales that gradient and gives it away; a second one (retain_graph)
    recomputes it from the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, call: _Call, count: Tensor | None, inplace: bool
    ) -> Tensor:
        source = logits.detach()
        one = logits.new_ones((), dtype=torch_backend.compute_dtype(logits))
        scale = one if count is None else one / count
        out = (
            source
            if inplace
            else torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        )
        rows = call.fused(source, scale.expand(logits.shape[0]), out)
        if inplace:
            torch.autograd.graph.increment_version(logits)
        else:
            ctx.save_for_backward(logits)
        ctx.call, ctx.scale, ctx.grad = call.without_logits(), scale, out
        total = rows.sum()
        return total if count is None else total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        name = ctx.call.loss.name
        kept = ctx.saved_tensors  # unpacked once: a checkpoint recomputes it
        logits = kept[0] if kept else None
        if ctx.grad is None and logits is None:
            raise RuntimeError(
                f"{name}_loss: a second backward needs the logits, which inplace_grad=True has "
                "overwritten"
            )
        with torch.no_grad():
            if ctx.grad is not None:
                result, ctx.grad = launch.scale_in_place(ctx.grad, grad), None
            else:
                assert logits is not None
                _, saved = ctx.call.rows(logits)
                grad_rows = (grad * ctx.scale).expand(logits.shape[0])
                result = ctx.call.gradient(logits, saved, grad_rows)
        return _once(result, logits, name), None, None, None


def _once(grad: Tensor, logits: Tensor | None, name: str) -> Tensor:
    """With create_graph=True: the same gradient, which refuses to be differentiated.

    Without this it would be a constant to autograd, and a gradient penalty silently zero.
    """
    if logits is None or not torch.is_grad_enabled():
        return grad
    return _Refuse.apply(grad, logits, name)


class _Refuse(torch.autograd.Function):
    """The identity; its backward is an error."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, logits: Tensor, name: str) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"{ctx.name}_loss: the gradient cannot be differentiated a second time; use the "
            "formula in torch where a second derivative is needed"
        )
