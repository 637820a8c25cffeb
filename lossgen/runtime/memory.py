"""Rows of gradients on the CPU: from a pool of buffers that are used again.

A fresh large tensor costs more than a loss: the system finds and clears every page at its first
write, and the pages of the last step's gradient have gone back to it by then.  So a large buffer
is kept when its last tensor is gone, and handed out again, as the allocators of GPUs do.

A tensor of the pool is made by ``torch.frombuffer`` over a view of the pages.  Torch holds that
view for as long as the storage lives, views and ``detach()`` of it included; the end of the view
gives the pages back.  A buffer is therefore never handed out twice, whatever the caller does with
the tensor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from lossgen.runtime.tensors import PLAIN, watched

__all__ = ["empty_cache", "empty_like", "maker_of", "set_cache_limit"]

_HUGE = 1 << 21  # bytes of a huge page: 128 faults in place of 65000 for 268 MB
_WORTH_IT = 2 * _HUGE
_SAME_SIZE = 2  # buffers of one size: the gradient of this step and of the one before
_STEPS = 8  # sizes per power of two, so that rows that vary a little share their buffers


def _quarter_of_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (ValueError, OSError, AttributeError):
        return 0


class _Lease(weakref.ref):
    """Of a view that torch holds; knows the buffer behind it."""

    __slots__ = ("buffer",)
    buffer: _Buffer


class _Pool:
    """Free buffers, oldest first. Deques and integers only: a tensor may end in any thread, and
    at any moment of this one, so that nothing here may wait for a lock.

    A view that ends is only noted, by a function of C, and looked at in the next call.  Python code
    that runs while an object is finalised would swallow a Ctrl-C: one that came while a loss was
    computing is raised in the first such code.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free: deque[_Buffer] = deque()
        self.ended: deque[_Lease] = deque()
        self.lent: dict[int, _Lease] = {}

    def settle(self) -> None:
        """Take back the buffers whose tensors are gone."""
        while True:
            try:
                lease = self.ended.popleft()
            except IndexError:
                return
            del self.lent[id(lease)]
            self.give(lease.buffer)

    def take(self, size: int) -> _Buffer:
        for _ in range(len(self.free)):  # one turn: what others take meanwhile is not here
            try:
                buffer = self.free.popleft()
            except IndexError:
                break
            if buffer.size == size:
                return buffer
            self.free.append(buffer)
        return _Buffer(size)

    def give(self, buffer: _Buffer) -> None:
        """Keep a buffer, and let go of the oldest that are too many or too much."""
        self.free.append(buffer)
        held = list(self.free)
        alike = [b for b in held if b.size == buffer.size]
        for old in alike[:-_SAME_SIZE]:
            held.remove(old)
            self._drop(old)
        total = sum(b.size for b in held)
        for old in held:
            if total <= self.limit:
                break
            total -= old.size
            self._drop(old)

    def _drop(self, buffer: _Buffer) -> None:
        with suppress(ValueError, IndexError):  # another thread has taken it
            self.free.remove(buffer)

    def lend(self, size: int) -> memoryview:
        """A view of ``size`` bytes, whose end gives the buffer back."""
        self.settle()
        buffer = self.take(_rounded(size))
        view = buffer.view(size)
        lease = _Lease(view, self.ended.append)
        lease.buffer = buffer
        self.lent[id(lease)] = lease
        return view


class _Buffer:
    """Pages of this process, aligned to huge ones."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first = ctypes.c_char.from_buffer(self.pages)
        self.start = -ctypes.addressof(first) % _HUGE
        del first
        # Advice: a system without huge pages works as well.
        with suppress(OSError, AttributeError):
            self.pages.madvise(mmap.MADV_HUGEPAGE, self.start, size)

    def view(self, size: int) -> memoryview:
        return memoryview(self.pages)[self.start : self.start + size]


def _rounded(size: int) -> int:
    """The next of ``_STEPS`` sizes per power of two, in whole huge pages."""
    step = max(_HUGE, (1 << size.bit_length() - 1) // _STEPS)
    return -(-size // step) * step


_POOL = _Pool(_quarter_of_memory())
_USABLE = sys.platform == "linux" and sys.implementation.name == "cpython"


def maker_of(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """``empty_like`` for tensors with the shape, strides, dtype and device of ``rows``."""
    if rows.numel() * rows.dtype.itemsize < _WORTH_IT and rows.is_contiguous():
        return torch.empty_like
    return empty_like


def empty_like(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised and contiguous, in the shape, dtype (unless given) and device of ``rows``."""
    dtype = dtype or rows.dtype
    size = rows.numel() * dtype.itemsize
    small = size < _WORTH_IT or size > _POOL.limit
    if small or not _USABLE or not rows.is_cpu or type(rows) not in PLAIN or watched():
        return torch.empty_like(rows, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.frombuffer(_POOL.lend(size), dtype=dtype).view(rows.shape)


def empty_cache() -> None:
    """Give the memory of all free buffers back to the system, as ``torch.cuda.empty_cache`` does.

    Tensors that are alive keep theirs.
    """
    _POOL.settle()
    _POOL.free.clear()


def set_cache_limit(size: int) -> None:
    """Keep at most ``size`` bytes of free buffers for gradients on the CPU; 0 keeps none.

    Default: a quarter of the machine's memory, of each size the two used last.
    """
    _POOL.limit = max(0, int(size))
    _POOL.settle()
    if not size:
        empty_cache()
