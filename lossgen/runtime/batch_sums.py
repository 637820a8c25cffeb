"""Sums over the rows of each batch, of results and of class terms, and their gradients.

A call of a linear layer's schedule by the chunk, whose last class inputs are *vectors*: what the
class terms of a part count for, [G, V] of G batches.  The gradient of such an input is the sum over
the rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import chunked
from lossgen.runtime.autograd import once
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.projected import Existing, Projected, Take

__all__ = ["Rows", "Sums", "wide"]


def wide(tensor: Tensor) -> torch.dtype:
    """Of sums over rows."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Rows:
    """The rows of a call: what batch each is of, and which results are sums of class terms."""

    name: str  # of the function, for messages
    call: LinearCall
    groups: Tensor | None  # the batch of each result [N]; None: there is one
    size: int  # batches
    vectors: tuple[bool, ...]  # of each result

    @property
    def n_vectors(self) -> int:
        return sum(self.vectors)

    def total(self, values: Tensor) -> Tensor:
        """The sum of each batch [G, 1] of one number per result [N]."""
        if self.groups is None:
            return values.sum(dtype=wide(values)).reshape(1, 1)
        total = values.new_zeros(self.size, dtype=wide(values))
        return total.index_add_(0, self.groups, values.to(total.dtype))[:, None]

    def each(self, values: Tensor) -> Tensor:
        """One number of each batch [G, 1] for its results [N], or one for all."""
        return values[0] if self.groups is None else values[:, 0][self.groups]

    def with_vectors(self, vectors: Sequence[Tensor]) -> _Call:
        """The call, whose class terms count for ``vectors`` [G, V]."""
        groups, call = self.groups, self.call
        if groups is not None and call.positions is not None:  # by the rows of hidden
            last = int(call.positions.max()) + 1 if len(groups) else 0
            groups = groups.new_zeros(last).index_copy(0, call.positions, groups)
        own = {field.name: getattr(call, field.name) for field in fields(LinearCall)}
        return _Call(**own, vectors=tuple(_Vector((v,), groups) for v in vectors))


@dataclass(frozen=True)
class _Vector(Existing):
    """What class terms count for: [G, V], one row for each batch; its gradient is their sum."""

    groups: Tensor | None = None

    def rows(self, take: Take, n: int) -> Tensor:
        (weights,) = self.tensors
        return weights.expand(n, -1) if self.groups is None else weights[self.groups[take]]

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> Any:
        return _Total(self) if wanted[0] else None


class _Total:
    """The sum over the rows of each batch [G, V]."""

    def __init__(self, vector: _Vector) -> None:
        (weights,) = vector.tensors
        self.groups, self.total = vector.groups, torch.zeros_like(weights, dtype=wide(weights))

    def add(self, take: Take, gradient: Tensor, hidden: Tensor | None = None) -> None:
        """``gradient`` [R, V] of the rows that were taken."""
        if self.groups is None:
            self.total += gradient.sum(0, keepdim=True)
        else:
            self.total.index_add_(0, self.groups[take], gradient.to(self.total.dtype))

    def finish(self) -> tuple[Tensor]:
        return (self.total,)


@dataclass(frozen=True)
class _Call(LinearCall):
    """The last class inputs are ``vectors``."""

    vectors: tuple[_Vector, ...] = ()

    def sources(self, tensors: Sequence[Any]) -> list[Existing | Projected]:
        found = super().sources(tensors)
        return [*found[: len(found) - len(self.vectors)], *self.vectors]


class Sums(torch.autograd.Function):
    """Of each result of the rows, which count for ``each`` [N]: [G, V] of class terms, [G, 1] of
    one number per row. The logits are read again for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Rows, each: Tensor, *tensors: Tensor | None) -> Any:
        ctx.rows = rows
        ctx.save_for_backward(each, *tensors)
        n, classes = rows.n_vectors, rows.call.batch.logits.shape[1]
        call = rows.with_vectors([each.new_zeros(rows.size, classes)] * n)
        others = call.n_factors - 3 * n
        wanted = (*(False,) * others, *(True, False, False) * n)
        weights = each.expand(len(rows.vectors), -1) if n else None
        results, found = chunked.run(call, tensors, weights, wanted)
        totals = iter(found[others::3])
        pairs = zip(rows.vectors, results, strict=True)
        return tuple(
            next(totals) if vector else rows.total(torch.where(each == 0, 0.0, row * each))
            for vector, row in pairs
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, (each, *tensors) = ctx.rows, ctx.saved_tensors
        needs, classes = ctx.needs_input_grad[2:], rows.call.batch.logits.shape[1]
        most = torch.finfo(each.dtype).max ** 0.5  # ∞ times a probability of 0
        scales, vectors = list[Tensor](), list[Tensor]()
        for vector, grad in zip(rows.vectors, grads, strict=True):
            if grad is None:
                grad = each.new_zeros(rows.size, classes if vector else 1)
            grad = grad.to(each.dtype).clamp(-most, most)
            scales.append(each if vector else rows.each(grad) * each)
            vectors += [grad] if vector else []
        with torch.no_grad():
            call = rows.with_vectors(vectors)
            n = 3 * len(vectors)
            wanted = (*needs[: call.n_factors - n], *(False,) * n)
            _, gradients = chunked.run(call, tensors, torch.stack(scales), wanted)
        reason = "the gradient of a batch's loss cannot be differentiated a second time"
        found = once(tuple(gradients), present(tensors), rows.name, reason)
        return None, None, *found, *[None] * (len(tensors) - len(found))
