"""What second derivatives there are of a derivative along a row, D(x; v) = Σ_j v_j·dL/dx_j.

D is linear in v, and second derivatives of L are symmetric, so that those programs serve which
there are for L itself:

    D, moved by x' and v'              x'·dD(x; v)/dx + D(x; v')
    g·dD(x; v)/dx, moved by v'         g·dD(x; v')/dx
    g·dD(x; v)/dv, moved by x'         g·dD(x; x')/dx

What is left, g·dD(x; v)/dx moved by x', is a third derivative of L, and an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossgen.runtime.directions import programs

if TYPE_CHECKING:
    from lossgen.runtime.autograd import Call

__all__ = ["THIRD", "across", "added", "curved_again"]

Tensors = Sequence[Tensor | None]
THIRD = "third derivatives are not formed; use the formula in torch for them"


def added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Their sum; None is nothing."""
    return one if other is None else other if one is None else one + other


def across(call: Call, tensors: Tensors, tangents: Tensors) -> Tensor:
    """The change [outputs, N] of the rows of D along ``tangents``, one or None for each source;
    the last is that of v."""
    *moved, along = tangents
    logits = tensors[0]
    assert logits is not None
    rows, saved = call.applied(tensors)
    total = torch.zeros_like(rows)
    wanted = (*(m is not None for m in moved), False)
    for k in range(len(rows)) if any(wanted) else ():
        one = torch.zeros_like(rows.detach())
        one[k] = 1.0
        parts = call.slopes(tensors, saved, one, wanted)
        pairs = zip(parts, moved, strict=False)
        products = [(p * m).sum(1, dtype=rows.dtype) for p, m in pairs if p is not None]
        total = total + torch.stack(products).sum(0) * one[:, :1]
    if along is not None:
        total = total + call.applied(call.with_tangent(tensors, along))[0]
    return total


def curved_again(
    call: Call,
    tensors: Tensors,
    tangents: Tensors,
    wanted: tuple[bool, ...],
    grad_rows: Tensor,
) -> list[Tensor | None]:
    """What the gradients of Σ ``grad_rows``·D change by along ``tangents``, for each source, but
    for third derivatives of the loss."""
    *moved, along = tangents
    found: list[Tensor | None] = [None] * len(wanted)
    if along is not None and any(wanted[:-1]):
        found = gradients(call, call.with_tangent(tensors, along), grad_rows, (*wanted[:-1], False))
    if wanted[-1]:
        by = tuple(k == call.by for k in range(len(wanted)))
        for program, given in _siblings(call, tensors, moved):
            [part] = (g for g in gradients(program, given, grad_rows, by) if g is not None)
            found[-1] = added(found[-1], part)
    return found


def gradients(
    call: Call, tensors: Tensors, grad_rows: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """Those of the rows, which are computed for it."""
    _, saved = call.applied(tensors)
    return [*call.slopes(tensors, saved, grad_rows, wanted)]


def _siblings(call: Call, tensors: Tensors, moved: Tensors) -> Iterator[tuple[Call, Tensors]]:
    """The derivatives of the loss itself along ``moved``. Raises NotImplementedError."""
    origin = call.origin
    assert origin is not None
    for k, tangent in enumerate(moved):
        if tangent is None:
            continue
        if k == call.by:
            yield call, call.with_tangent(tensors, tangent)
            continue
        batch = call.batch.with_tensors(tensors)
        held = dict(zip(call.variant.inputs, batch.inputs, strict=True))
        if any(name not in held for name in origin.variant.inputs):
            raise NotImplementedError(f"{call.loss}: {THIRD}")
        inputs = [held[name] for name in origin.variant.inputs]
        given = (batch.logits, batch.target, *batch.streams[:-1], *inputs)
        yield from programs(origin, given, [tangent if i == k else None for i in range(len(moved))])
