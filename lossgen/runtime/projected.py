"""Rows of logits that a chunk at a time makes, and the gradients of what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lossgen.runtime.batch import compute_dtype
from lossgen.runtime.memory import empty_like

__all__ = ["Existing", "Gradients", "Projected", "Take"]

_WIDE_PRODUCT = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 8)  # mm(out_dtype=)

Take: TypeAlias = slice | Tensor  # rows of a chunk: a range, or indices
_BLOCK = 1 << 13  # classes whose half-precision gradients are converted to float32 at a time


def pick(rows: Tensor, take: Take) -> Tensor:
    """A range is a view, indices make a copy."""
    return rows[take] if isinstance(take, slice) else rows.index_select(0, take)


@dataclass(frozen=True)
class Existing:
    """Rows [N, V] that are there already."""

    tensors: tuple[Tensor]

    def make(self, take: Take, buffer: Tensor | None, slope: Tensor | None) -> Tensor:
        return pick(self.tensors[0], take)

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> _RowGradients | None:
        (rows,) = self.tensors
        return _RowGradients(_fresh(rows, whole)) if wanted[0] else None


@dataclass(frozen=True)
class Projected:
    """scale · cap · tanh((hidden · weightᵀ + bias) / cap); without ``cap``, scale times the sum."""

    tensors: tuple[Tensor, Tensor, Tensor | None]  # hidden [N, D], weight [V, D], bias [V]
    cap: float | None = None
    scale: float = 1.0

    def make(self, take: Take, buffer: Tensor, slope: Tensor | None) -> Tensor:
        """The rows, in ``buffer`` [R, V]; ``slope`` [R, V] takes the derivative of the cap."""
        hidden, weight, bias = self.tensors
        scale = self.scale if self.cap is None else 1 / self.cap
        start, keep = (buffer, 0.0) if bias is None else (bias, scale)
        torch.addmm(start, pick(hidden, take), weight.t(), beta=keep, alpha=scale, out=buffer)
        if self.cap is not None:
            if slope is not None:
                torch.cosh(buffer, out=slope).reciprocal_().square_()
            buffer.tanh_().mul_(self.cap * self.scale)
        return buffer

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> _FactorGradients | None:
        return _FactorGradients(self, wanted, whole) if any(wanted) else None


class _RowGradients:
    def __init__(self, out: Tensor) -> None:
        self.out = out

    def add(self, take: Take, gradient: Tensor, slope: Tensor | None) -> None:
        self.out[take] = gradient

    def finish(self) -> tuple[Tensor]:
        return (self.out,)


class _FactorGradients:
    """Of hidden, weight and bias; the sums over chunks are float32 (float64) until the end."""

    def __init__(self, source: Projected, wanted: tuple[bool, ...], whole: bool) -> None:
        hidden, weight, bias = source.tensors
        self.source, dtype = source, compute_dtype(hidden)
        self.hidden = _fresh(hidden, whole) if wanted[0] else None
        self.weight = empty_like(weight, dtype) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=dtype) if wanted[2] and bias is not None else None
        self.begun = False

    def add(self, take: Take, gradient: Tensor, slope: Tensor | None) -> None:
        """``gradient`` [R, V] of the rows that were made; it is overwritten."""
        hidden, weight, _ = self.source.tensors
        scale = self.source.scale
        if slope is not None:
            gradient.mul_(slope)
        if self.hidden is not None:
            part = (
                self.hidden[take]
                if isinstance(take, slice)
                else hidden.new_empty(len(take), hidden.shape[1])
            )
            torch.addmm(part, gradient, weight, beta=0, alpha=scale, out=part)
            if not isinstance(take, slice):
                self.hidden.index_copy_(0, take, part)
        if self.weight is not None:
            _add_product(self.weight, gradient, pick(hidden, take), scale, self.begun)
        if self.bias is not None:
            self.bias.add_(gradient.sum(0, dtype=self.bias.dtype), alpha=scale)
        self.begun = True

    def finish(self) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = self.source.tensors
        if self.weight is not None and not self.begun:
            self.weight.zero_()
        totals = (self.hidden, self.weight, self.bias)
        return tuple(
            None if total is None or source is None else total.to(source.dtype)
            for total, source in zip(totals, (hidden, weight, bias), strict=True)
        )


Gradients = _RowGradients | _FactorGradients


def _fresh(rows: Tensor, whole: bool) -> Tensor:
    """For gradients of all rows, or of some: the others get 0."""
    return empty_like(rows) if whole else torch.zeros_like(rows)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor, scale: float, add: bool) -> None:
    """total [V, D] = add · total + scale · gradientᵀ · hidden, summed in the dtype of ``total``."""
    keep = float(add)
    if gradient.dtype is total.dtype:
        total.addmm_(gradient.t(), hidden, beta=keep, alpha=scale)
        return
    if gradient.is_cuda and _WIDE_PRODUCT:
        part = torch.mm(gradient.t(), hidden, out_dtype=total.dtype)
        if add:
            total.add_(part, alpha=scale)
        else:
            torch.mul(part, scale, out=total)
        return
    wide = hidden.to(total.dtype)
    for start in range(0, total.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        part = gradient[:, block].to(total.dtype)
        total[block].addmm_(part.t(), wide, beta=keep, alpha=scale)
