"""A generated loss as a callable: checks, choice of variant and backend, autograd, reduction.

Eager calls with a scalar reduction compute the gradients together with the loss (``Fused``): the
logits are read once while they are on chip.  Everything else computes rows (``Rows``) and
reduces them with torch.  Under ``torch.compile`` the rows are a registered custom operator, which
the compiler sees as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import launch
from lossgen.runtime.arguments import (
    Input,
    Parameter,
    Variant,
    check_call,
    check_input_values,
    check_parameters,
    check_stream_range,
    check_target_range,
)
from lossgen.runtime.autograd import Call, Fused, Rows
from lossgen.runtime.batch import Batch, compute_dtype, unit_stride, wider
from lossgen.runtime.device import HAS_TRITON
from lossgen.runtime.operators import register

__all__ = ["RowLoss"]

Normalizer = Callable[[Tensor, dict[str, Tensor | None], torch.dtype], Tensor]


@dataclass(frozen=True)
class RowLoss:
    """One loss: its declared arguments and its compiled variants, smallest first.

    ``key`` names the operators ``lossgen::<key>_forward`` and ``lossgen::<key>_backward``.
    ``normalizer(target, inputs, dtype)`` is what the mean divides by the sum of, default one per
    row.  ``outputs`` names the results of a program that has several and is not reduced.
    """

    name: str
    key: str
    parameters: tuple[Parameter, ...]
    inputs: tuple[Input, ...]
    has_target: bool
    min_classes: int
    normalizer: Normalizer | None
    variants: tuple[Variant, ...]
    outputs: tuple[str, ...] = ()
    operators: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", register(self))

    @property
    def function(self) -> str:
        """The name of the generated function."""
        return self.name if self.outputs else f"{self.name}_loss"

    @property
    def streams(self) -> tuple[Input, ...]:
        """The class inputs."""
        return tuple(i for i in self.inputs if i.kind == "class")

    @property
    def others(self) -> tuple[Input, ...]:
        """The vocab and row inputs."""
        return tuple(i for i in self.inputs if i.kind != "class")

    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
    ) -> Tensor:
        """The reduced loss; see the generated function for the contract."""
        self.check(
            logits,
            target,
            streams,
            parameters,
            inputs,
            ignore_index,
            reduction,
            backend,
            inplace_grad,
        )
        index, call = self._call(logits, target, streams, parameters, inputs, ignore_index, backend)
        batch = call.batch
        wants_grad = torch.is_grad_enabled() and any(s.requires_grad for s in batch.sources)
        # float16 cannot hold a gradient before the caller's scale (a GradScaler's 65536) is known.
        plain = not wants_grad or reduction == "none" or batch.logits.dtype is torch.float16
        if plain or torch.compiler.is_compiling():
            rows = self._rows(index, call)[0]
            if reduction == "none":
                return rows.reshape(logits.shape[:-1])
            return self._reduce(rows, batch, inputs, reduction)
        count = None if reduction == "sum" else self.weights(batch, inputs).sum()
        inplace = inplace_grad and batch.disjoint
        return Fused.apply(call, count, inplace, batch.logits, *batch.streams)

    def rows(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        backend: str,
    ) -> tuple[Tensor, ...]:
        """The results of a program with several outputs, each of the shape of the target."""
        self.check(
            logits, target, streams, parameters, inputs, ignore_index, "none", backend, False
        )
        index, call = self._call(logits, target, streams, parameters, inputs, ignore_index, backend)
        found = self._rows(index, call)
        return tuple(row.reshape(logits.shape[:-1]) for row in found.unbind(0))

    def _rows(self, index: int, call: Call) -> Tensor:
        """Results [outputs, N]."""
        batch = call.batch
        if not torch.compiler.is_compiling():
            return Rows.apply(call, batch.logits, *batch.streams)
        return self.operators.forward(
            batch.logits,
            batch.target,
            list(batch.streams),
            list(batch.inputs),
            list(batch.parameters),
            batch.ignore_index,
            index,
            call.backend,
        )[0]

    def check(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
        function: str | None = None,
    ) -> None:
        """Raises TypeError, ValueError, IndexError before anything is computed, in the name of
        ``function``."""
        name = function or self.function
        check_parameters(name, self.parameters, parameters)
        given = (*zip(self.streams, streams, strict=True), *zip(self.others, inputs, strict=True))
        check_call(
            name,
            logits,
            target,
            given,
            self.has_target,
            max(1, self.min_classes),
            ignore_index,
            reduction,
            backend,
            inplace_grad,
        )
        if logits.device.type != "cpu" or torch.compiler.is_compiling():
            return
        for declared, value in zip(self.streams, streams, strict=True):
            check_stream_range(name, declared, value)
        for declared, beside in zip(self.others, inputs, strict=True):
            if beside is not None:
                check_input_values(name, declared, beside)
        if target is not None and self.has_target:
            check_target_range(target.long(), ignore_index, logits.shape[-1])

    # ------------------------------------------------------------------ one call
    def _call(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        backend: str,
    ) -> tuple[int, Call]:
        classes = logits.shape[-1]
        dtype = wider(logits, streams)  # autograd takes the gradients back to each one's own
        logits, streams = logits.to(dtype), [s.to(dtype) for s in streams]
        flat = unit_stride(logits.reshape(-1, classes))
        index, batch = self.bind(
            flat,
            None if target is None else target.reshape(-1),
            tuple(unit_stride(s.reshape(-1, classes)) for s in streams),
            parameters,
            inputs,
            ignore_index,
        )
        backend = self.backend_of(logits, backend)
        return index, Call(self.function, self.variants[index], batch, backend)

    def bind(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: tuple[Tensor, ...],
        parameters: Sequence[float],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
    ) -> tuple[int, Batch]:
        """The index of the smallest variant that covers the call, and what it takes: of rows
        [N, V] and a target [N]."""
        values = dict(zip((p.name for p in self.parameters), parameters, strict=True))
        given = dict(zip((i.name for i in self.others), inputs, strict=True))
        changed = {p.name for p in self.parameters if p.off is not None and values[p.name] != p.off}
        changed |= {i.name for i in self.others if i.off is not None and given[i.name] is not None}
        index = next(k for k, v in enumerate(self.variants) if v.uses >= changed)
        variant = self.variants[index]
        declared = {i.name: i for i in self.others}
        tensors, kinds = [], []
        for name in variant.inputs:
            kind, value = declared[name].kind, given[name]
            if value is None:
                size = logits.shape[1 if kind == "vocab" else 0]
                value = logits.new_full((size,), declared[name].off or 0.0, dtype=torch.float32)
            value = value.detach().reshape(-1)
            tensors.append(value.contiguous() if kind == "vocab" else value)
            kinds.append(kind)
        return index, Batch(
            logits=logits,
            # Narrow types cannot be compared with every V or ignore_index: those would wrap.
            target=None if target is None else target.long(),
            streams=streams,
            differentiable=tuple(i.differentiable for i in self.streams),
            inputs=tuple(tensors),
            kinds=tuple(kinds),
            parameters=tuple(float(values[n]) for n in variant.parameters),
            ignore_index=ignore_index,
            outputs=self.outputs,
        )

    def backend_of(self, logits: Tensor, backend: str) -> str:
        """The backend that ``backend`` stands for. Raises ValueError."""
        if backend == "torch":
            return "torch"
        on_cpu = logits.device.type == "cpu"
        if backend == "c":
            if not on_cpu:
                raise ValueError(
                    f"{self.function}: backend 'c' needs CPU tensors, but logits are on "
                    f"{logits.device}"
                )
            return "c"
        usable = HAS_TRITON and logits.dtype is not torch.float64
        if backend == "auto":
            on_gpu = "triton" if logits.is_cuda and usable else "torch"
            return "c" if on_cpu else on_gpu
        if not HAS_TRITON:
            raise ValueError(f"{self.function}: backend 'triton' needs the package triton")
        if logits.dtype is torch.float64:
            raise ValueError(f"{self.function}: backend 'triton' computes in float32, not float64")
        if not logits.is_cuda and not launch.interpreting():
            raise ValueError(
                f"{self.function}: backend 'triton' needs CUDA tensors, but logits are on "
                f"{logits.device} (set TRITON_INTERPRET=1 before importing triton to debug on CPU)"
            )
        return "triton"

    # ------------------------------------------------------------------ reduction
    def weights(self, batch: Batch, inputs: Sequence[Tensor | None]) -> Tensor:
        """What each row counts for in the mean [N]; 0 for ignored rows."""
        target, dtype = batch.target, compute_dtype(batch.logits)
        if target is None:
            return batch.logits.new_ones(batch.logits.shape[0], dtype=dtype)
        if self.normalizer is None:
            return (target != batch.ignore_index).to(dtype)
        classes = batch.logits.shape[1]
        inside = (target >= 0) & (target < classes) & (target != batch.ignore_index)
        given = {
            i.name: value.reshape(-1) if value is not None else None
            for i, value in zip(self.others, inputs, strict=True)
        }
        weight = self.normalizer(torch.where(inside, target, 0).long(), given, dtype)
        return torch.where(target == batch.ignore_index, 0.0, weight)

    def _reduce(
        self, rows: Tensor, batch: Batch, inputs: Sequence[Tensor | None], reduction: str
    ) -> Tensor:
        total = rows.sum()
        return total if reduction == "sum" else total / self.weights(batch, inputs).sum()
