"""What to write instead of an argument that is refused: the end of a message, or nothing.

The checks (:mod:`lossgen.runtime.arguments`) say what is wrong; here is told from its type and
shape what was probably meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lossgen.runtime.layout import lead_of

__all__ = [
    "of_a_number",
    "of_a_stream",
    "of_a_target",
    "of_a_target_shape",
    "of_logits",
    "of_no_tensor",
    "out_of_bounds",
]


def of_no_tensor(name: str, value: Any) -> str:
    """Where a tensor is wanted."""
    if isinstance(value, nn.Module):
        return "; pass its weight" if hasattr(value, "weight") else ""
    known = isinstance(value, (int, float, list, tuple)) or hasattr(value, "__array__")
    return f"; pass torch.as_tensor({name})" if known else ""


def of_logits(logits: Tensor, target: Any) -> str:
    """Where floating point is wanted."""
    if isinstance(target, Tensor) and target.dtype.is_floating_point:
        return "; they come before the target"
    return "" if logits.dtype.is_complex else "; pass logits.float()"


def of_a_number(name: str, value: Any, default: float) -> str:
    """Where a number is wanted."""
    if value is None:
        return f"; without it, it is {default:g}"
    if isinstance(value, Tensor):
        return f"; pass {name}.item()" if value.numel() == 1 else "; it is one for all rows"
    return ""


def of_a_target(target: Tensor, logits: Tensor, axis: int) -> str:
    """Where integers are wanted."""
    if target.shape == logits.shape:
        rows = f"target.argmax({axis if axis < logits.dim() - 1 else -1})"
        return (
            f"; of one-hot rows pass {rows}, and give probabilities to a loss of them "
            "(`lossgen list soft target`)"
        )
    return "" if target.dtype.is_complex else "; pass target.long()"


def of_a_target_shape(target: Tensor, logits: Tensor, lead: torch.Size, axis: bool) -> str:
    """Where one class per row is wanted; ``axis``: another may hold the classes."""
    given = target.shape
    if logits.dim() == 1:
        return "; logits hold a number per class: [N, V]"
    axes = [
        k for k in (1, 0) if axis and k < logits.dim() - 1 and given == lead_of(logits.shape, k)
    ]
    if axes:
        torchs = ", as in torch," if axes[0] == 1 else ""
        return f"; if axis {axes[0]} holds the classes{torchs} pass class_dim={axes[0]}"
    if given == logits.shape:
        return "; of one-hot rows pass target.argmax(-1)"
    if given == (*lead, 1):
        return "; pass target.squeeze(-1)"
    if target.numel() == lead.numel() > 1:
        shape = ", ".join(map(str, lead)) if len(lead) > 1 else "-1"
        return f"; pass target.reshape({shape})"
    if axis and given[:-1] == lead[:-1] and given[-1:] == (lead[-1] - 1,):
        return "; of a language model pass logits[..., :-1, :]" if len(lead) > 1 else ""
    return ""


def of_a_stream(name: str, value: Tensor, logits: Tensor) -> str:
    """Where numbers per row and class are wanted."""
    if value.dim() == logits.dim() - 1 and not value.dtype.is_complex:
        one_hot = f"torch.nn.functional.one_hot({name}, {logits.shape[-1]}).to(logits.dtype)"
        return f"; of classes pass {one_hot}"
    return ""


def out_of_bounds(label: int, classes: int, ignore_index: int) -> IndexError:
    """The error of a target that is no class; it begins as torch's does."""
    last = f"0 to {classes - 1}" if classes > 1 else "0"
    return IndexError(
        f"Target {label} is out of bounds: the classes are {last}, and rows of target "
        f"{ignore_index} (ignore_index) are left out"
    )
