"""Which backend runs a call.

Triton is imported where a call may need it: that takes longer than all else that a loss imports.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["backend_of", "has_triton", "interpreting"]


def has_triton() -> bool:
    """Can Triton be imported?"""
    from lossgen.runtime.primitives import HAS_TRITON

    return HAS_TRITON


def interpreting() -> bool:
    """Was Triton imported with TRITON_INTERPRET=1?"""
    from lossgen.runtime.primitives import INTERPRETING

    return INTERPRETING


def backend_of(function: str, logits: Tensor, backend: str) -> str:
    """The backend that ``backend`` stands for. Raises ValueError."""
    if backend == "torch" or logits.is_meta:  # nothing runs where there is no data
        return "torch"
    on_cpu = logits.device.type == "cpu"
    if backend == "c":
        if not on_cpu:
            raise ValueError(
                f"{function}: backend 'c' needs CPU tensors, but logits are on {logits.device}"
            )
        return "c"
    if backend == "auto" and on_cpu:
        return "c"
    usable = logits.dtype is not torch.float64 and has_triton()
    if backend == "auto":
        return "triton" if logits.is_cuda and usable else "torch"
    if not has_triton():
        raise ValueError(f"{function}: backend 'triton' needs the package triton")
    if logits.dtype is torch.float64:
        raise ValueError(f"{function}: backend 'triton' computes in float32, not float64")
    if not logits.is_cuda and not interpreting():
        raise ValueError(
            f"{function}: backend 'triton' needs CUDA tensors, but logits are on "
            f"{logits.device} (set TRITON_INTERPRET=1 before importing triton to debug on CPU)"
        )
    return "triton"
