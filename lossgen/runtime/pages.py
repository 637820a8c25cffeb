"""Fresh rows of gradients, on huge pages where a large CPU tensor can have them.

The first write to a page of 4 KiB stops until the system has found and cleared it, which takes
longer than a loss does: 268 MB stop 65000 times, with pages of 2 MiB 128 times.
"""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

__all__ = ["empty_like"]

_HUGE = 1 << 21
_WORTH_IT = 2 * _HUGE  # bytes: less holds no whole page for certain
_MADV_HUGEPAGE = 14
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def empty_like(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised and contiguous, in the shape, dtype (unless given) and device of ``rows``."""
    found = torch.empty(rows.shape, dtype=dtype or rows.dtype, device=rows.device)
    size = found.numel() * found.element_size()
    if _LIBC is not None and found.device.type == "cpu" and size >= _WORTH_IT:
        begin = -(-found.data_ptr() // _HUGE) * _HUGE
        length = (found.data_ptr() + size - begin) // _HUGE * _HUGE
        # Advice: where the system offers no huge pages nothing changes.
        _LIBC.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return found
