"""Which axis of the logits holds the classes: the last, or ``class_dim``.

torch's losses of images take logits [N, C, H, W] with a target [N, H, W]; here classes stand last
unless the call says otherwise.  Shapes that fit both readings mean two different numbers, so that
they are refused until ``class_dim`` says which is meant.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["class_axis", "classes_last", "lead_of", "shape_text"]


def class_axis(loss: str, logits: Any, rows: Sequence[Any], given: Any) -> int:
    """The axis of the classes, from 0 on; ``rows`` are the tensors with one value per row.

    Raises:
        TypeError: ``given`` is neither an integer nor None.
        ValueError: no such axis, or None where the last axis and the second fit.
    """
    if not isinstance(logits, Tensor) or logits.dim() == 0:
        return -1  # refused by the checks of types and shapes
    n = logits.dim()
    if given is not None:
        axis = _integer(loss, given)
        if not -n <= axis < n:
            raise ValueError(f"{loss}: class_dim = {axis} is no axis of logits with {n} axes")
        return axis % n
    shapes = [r.shape for r in rows if isinstance(r, Tensor)]
    if n < 3 or not shapes or logits.shape[1] == 1:
        return n - 1
    if shapes[0] == lead_of(logits.shape, n - 1) and shapes[0] == lead_of(logits.shape, 1):
        raise ValueError(
            f"{loss}: logits of shape {shape_text(logits.shape)} with rows of shape "
            f"{shape_text(shapes[0])} can hold their classes on the last axis or, as torch's "
            "losses read them, on axis 1; pass class_dim=-1 or class_dim=1"
        )
    return n - 1


def _integer(loss: str, given: Any) -> int:
    if not isinstance(given, (bool, Tensor)):
        try:
            return operator.index(given)
        except TypeError:
            pass
    raise TypeError(f"{loss}: class_dim must be an integer or None, not {type(given).__name__}")


def lead_of(shape: Sequence[int], axis: int) -> torch.Size:
    """The shape of what has one value per row."""
    axis %= len(shape)
    return torch.Size((*shape[:axis], *shape[axis + 1 :]))


def classes_last(rows: Tensor, axis: int) -> Tensor:
    """A view [*, V]; autograd takes the gradient back into the caller's layout."""
    return rows if axis in (-1, rows.dim() - 1) else rows.movedim(axis, -1)


def shape_text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(n)) for n in shape) + "]"
