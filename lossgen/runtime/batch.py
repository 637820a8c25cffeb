"""The checked and flattened arguments of one call, as the backends take them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.layout import classes_last
from lossgen.runtime.tensors import in_memory

__all__ = [
    "Batch",
    "arithmetic",
    "compute_dtype",
    "reduced",
    "rows_of",
    "scaled",
    "unit_stride",
    "weighed",
    "wider",
]


def compute_dtype(logits: Tensor) -> torch.dtype:
    """Of results: float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def arithmetic(variant: Variant, dtype: torch.dtype) -> torch.dtype:
    """Of every operation on logits of ``dtype``, and of what the forward saves."""
    wide = variant.arithmetic == "float64" or dtype is torch.float64
    return torch.float64 if wide else torch.float32


def wider(rows: Tensor, others: Iterable[Tensor]) -> torch.dtype:
    """Of the logits and the class inputs: the dtype that holds the values of all of them."""
    return functools.reduce(torch.promote_types, (t.dtype for t in others), rows.dtype)


def reduced(rows: Tensor, count: Tensor | None) -> Tensor:
    """Σ rows, divided by ``count``. On a CPU rounded once, as ``sum_rows`` of C does: a value is
    the same with and without a gradient."""
    if rows.device.type != "cpu":
        total = rows.sum()
        return total if count is None else total / count
    total = rows.sum(dtype=torch.float64)
    return (total if count is None else total / count).to(rows.dtype)


def weighed(rows: Tensor, each: Tensor | None) -> Tensor:
    """``rows`` [outputs, N] times what they count for [N]; 0 where that is 0, of infinity too."""
    if each is None:
        return rows
    return torch.where(each == 0, 0.0, rows * each)


def scaled(
    shared: Sequence[str], names: Sequence[str], inputs: Sequence[Tensor | None], ratio: Tensor
) -> tuple[Any, ...]:
    """``inputs``, called ``names``, with the first that is given of ``shared`` times ``ratio``."""
    pairs = enumerate(zip(names, inputs, strict=True))
    k = next(k for k, (name, value) in pairs if name in shared and value is not None)
    return tuple(
        value.to(ratio.dtype) * ratio if i == k and value is not None else value
        for i, value in enumerate(inputs)
    )


def rows_of(vector: Tensor, axis: int, classes: int) -> Tensor:
    """[N, V] with class stride 1, of a tensor that has its classes on ``axis``."""
    return unit_stride(classes_last(vector, axis).reshape(-1, classes))


def unit_stride(rows: Tensor) -> Tensor:
    """[N, V] with class stride 1."""
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def _addresses(tensor: Tensor) -> tuple[int, int]:
    """From the first element to the end of the last."""
    start = tensor.data_ptr()
    if not tensor.numel():
        return start, start
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (1 + last) * tensor.element_size()


@dataclass(frozen=True)
class Batch:
    """Rows of one call: everything [N, V] has class stride 1."""

    logits: Tensor  # [N, V]
    target: Tensor | None  # [N] int64
    streams: tuple[Tensor, ...]  # [N, V] each, dtype of the logits
    differentiable: tuple[bool, ...]  # which of them get a gradient
    inputs: tuple[Tensor, ...]  # [V] or [N]
    kinds: tuple[str, ...]  # "vocab" or "row"
    parameters: tuple[float, ...]
    ignore_index: int
    outputs: tuple[str, ...]  # names of the results; none: the loss

    @property
    def n_out(self) -> int:
        """Results per row."""
        return max(1, len(self.outputs))

    @property
    def n_gradients(self) -> int:
        """The logits, and the differentiable streams."""
        return 1 + sum(self.differentiable)

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What the gradients belong to."""
        pairs = zip(self.streams, self.differentiable, strict=True)
        return (self.logits, *(stream for stream, wanted in pairs if wanted))

    @property
    def ignored(self) -> Tensor | None:
        return None if self.target is None else self.target == self.ignore_index

    @property
    def disjoint(self) -> bool:
        """Does each logit have memory of its own? Not if rows are expanded, if a negation is put
        off, or if another argument is a view of the logits."""
        rows, classes = self.logits.shape
        if self.logits.is_neg() or self.logits._is_zerotensor():
            return False
        if rows > 1 and self.logits.stride(0) < classes:
            return False
        first, end = _addresses(self.logits)
        others = (_addresses(tensor) for tensor in (*self.streams, *self.inputs))
        return all(stop <= first or end <= start for start, stop in others)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What autograd holds for the backward, and checks for changes: ``with_tensors`` takes it
        back."""
        return (self.logits, self.target, *self.streams, *self.inputs)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Of the registered operators."""
        tensors = (self.logits, self.target, [*self.streams], [*self.inputs])
        return (*tensors, [*self.parameters], self.ignore_index)

    def with_tensors(self, tensors: Sequence[Any]) -> Batch:
        """The same call with other tensors: autograd hands back its own."""
        logits, target, *rest = tensors
        n = len(self.differentiable)  # ``dataclasses.replace`` takes as long as a small loss
        own = (self.kinds, self.parameters, self.ignore_index, self.outputs)
        streams, inputs = tuple(rest[:n]), tuple(rest[n:])
        return Batch(logits, target, streams, self.differentiable, inputs, *own)

    def without_tensors(self) -> Batch:
        """For autograd, which keeps them: a second reference would keep them alive past the
        backward, and past checkpointing or offloading."""
        nothing = torch.empty(0, dtype=self.logits.dtype, device=self.logits.device)
        return self.with_tensors((nothing, None))

    def in_memory(self) -> Batch:
        """For a backend that reads addresses. Raises TypeError."""
        found = [None if t is None else in_memory(t) for t in self.tensors]
        if all(new is old for new, old in zip(found, self.tensors, strict=True)):
            return self
        return self.with_tensors(found)
