"""Rows of logits that a chunk at a time makes, and the gradients of what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lossgen.runtime.memory import empty_like
from lossgen.runtime.products import Direct, product_of

__all__ = ["Existing", "Gradients", "Projected", "Take", "flat", "pick"]

Take: TypeAlias = slice | Tensor  # rows of a chunk: a range, or indices


def pick(rows: Tensor, take: Take) -> Tensor:
    """Rows [R, *] of [N, *], or of sequences [B, S, *] that are numbered on. A range is a view, in
    sequences where it does not leave one; indices make a copy."""
    if rows.dim() == 3:
        length = rows.shape[1]
        if isinstance(take, slice):
            k, first = divmod(take.start, length)
            if take.stop <= (k + 1) * length:
                return rows[k, first : first + take.stop - take.start]
            take = torch.arange(take.start, take.stop, device=rows.device)
        return rows[take // length, take % length]
    return rows[take] if isinstance(take, slice) else rows.index_select(0, take)


def flat(rows: Tensor) -> Tensor:
    """[N, *] of [*, *] without a copy; sequences that are parts of longer ones as they are."""
    if rows.dim() == 3 and rows.numel() and rows.stride(-1) == 1:
        longer = rows.stride(0) != rows.shape[1] * rows.stride(1)
        if longer and rows.shape[0] > 1 and rows.shape[1] > 1:
            return rows
    return rows.reshape(rows.shape[:-1].numel(), rows.shape[-1])  # of no classes too


@dataclass(frozen=True)
class Existing:
    """Rows [N, V] that are there already."""

    tensors: tuple[Tensor]

    def rows(self, take: Take, n: int) -> Tensor:
        """Those of a chunk [n, V]."""
        return pick(self.tensors[0], take)

    def copies(self, dtype: torch.dtype) -> bool:
        """Does a chunk of ``dtype`` take memory of its own?"""
        return self.tensors[0].dtype is not dtype

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> Any:
        (rows,) = self.tensors
        return _RowGradients(_fresh(rows, whole)) if wanted[0] else None


@dataclass(frozen=True)
class Projected:
    """scale · cap · tanh((hidden · weightᵀ + bias) / cap); without ``cap``, scale times the sum."""

    tensors: tuple[Tensor, Tensor, Tensor | None]  # hidden [N, D], weight [V, D], bias [V]
    dtype: torch.dtype  # of the rows that are made
    cap: float | None = None
    scale: float = 1.0

    @property
    def product(self) -> Direct:
        return product_of(self.tensors[1], self.dtype)

    def taken(self, take: Take, dead: Tensor | None) -> Tensor:
        """Rows of hidden [R, D] as the products take them; zeros where ``dead`` [R], so that
        nothing that an ignored row holds can reach a sum."""
        found = pick(self.tensors[0], take)
        if dead is not None:
            found = found.masked_fill(dead.unsqueeze(1), 0.0)
        return self.product.widened(found)

    def make(self, hidden: Tensor, buffer: Tensor, slope: Tensor | None) -> Tensor:
        """The rows, in ``buffer`` [R, V]; ``slope`` [R, V] takes the derivative of the cap."""
        _, weight, bias = self.tensors
        scale = self.scale if self.cap is None else 1 / self.cap
        self.product.logits(hidden, weight, bias, scale, buffer)
        if self.cap is not None:
            if slope is not None:
                torch.cosh(buffer, out=slope).reciprocal_().square_()
            buffer.tanh_().mul_(self.cap * self.scale)
        return buffer

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> _FactorGradients | None:
        return _FactorGradients(self, wanted, whole) if any(wanted) else None


class _RowGradients:
    def __init__(self, out: Tensor) -> None:
        self.whole, self.out = out, out.view(out.shape[:-1].numel(), out.shape[-1])

    def add(self, take: Take, gradient: Tensor, hidden: Tensor | None = None) -> None:
        """``gradient`` [R, V] of the rows that were taken."""
        self.out[take] = gradient.to(self.out.dtype)

    def finish(self) -> tuple[Tensor]:
        return (self.whole,)


class _FactorGradients:
    """Of hidden, weight and bias; the sums over chunks are float32 (float64) until the end."""

    def __init__(self, source: Projected, wanted: tuple[bool, ...], whole: bool) -> None:
        hidden, weight, bias = source.tensors
        self.source = source
        self.whole = _fresh(hidden, whole) if wanted[0] else None
        self.hidden = None if self.whole is None else self.whole.view(-1, weight.shape[1])
        self.weight = empty_like(weight, source.dtype) if wanted[1] else None
        self.bias = None
        if wanted[2] and bias is not None:
            self.bias = torch.zeros_like(bias, dtype=source.dtype)
        self.begun = False

    def add(self, take: Take, gradient: Tensor, hidden: Tensor | None = None) -> None:
        """``gradient`` [R, V] of the rows over ``scale``, in the dtype of the product; ``hidden``
        [R, D] as ``Projected.taken`` gave it."""
        assert hidden is not None
        product, scale = self.source.product, self.source.scale
        weight = self.source.tensors[1]
        if self.hidden is not None:
            part = (
                self.hidden[take]
                if isinstance(take, slice)
                else self.hidden.new_empty(len(take), weight.shape[1])
            )
            product.to_hidden(gradient, weight, scale, part)
            if not isinstance(take, slice):
                self.hidden.index_copy_(0, take, part)
        if self.weight is not None:
            product.to_weight(gradient, hidden, scale, self.weight, self.begun)
        if self.bias is not None:
            self.bias.add_(gradient.sum(0, dtype=self.bias.dtype), alpha=scale)
        self.begun = True

    def finish(self) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = self.source.tensors
        if self.weight is not None and not self.begun:
            self.weight.zero_()
        totals = (self.whole, self.weight, self.bias)
        return tuple(
            None if total is None or source is None else total.to(source.dtype)
            for total, source in zip(totals, (hidden, weight, bias), strict=True)
        )


Gradients = _RowGradients | _FactorGradients


def _fresh(rows: Tensor, whole: bool) -> Tensor:
    """For gradients of all rows, or of some: the others get 0."""
    if rows.dim() == 3:  # parts of longer sequences
        rows = rows.new_empty(()).expand(rows.shape)
        make = torch.empty_like if whole else torch.zeros_like
        return make(rows, memory_format=torch.contiguous_format)
    if whole:
        return empty_like(rows)
    return torch.zeros_like(rows, memory_format=torch.contiguous_format)
