"""Bytes at addresses: bounds, alignment, and what nobody orders.

Two warps that touch the same bytes, one of them to write, must have a barrier of their program
between them; warps of different programs never may.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Fault", "Memory", "Place", "extent"]

Array = NDArray[Any]
_GRAIN = 2  # bytes that are watched together
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_NOBODY, _SEVERAL = -1, -2


class Fault(Exception):
    """What a GPU would refuse, or leave to chance."""


@dataclass(frozen=True)
class Place:
    """Where lanes stand: their program, their warp (of all programs), how many barriers ago."""

    program: Array
    warp: Array
    epoch: Array

    def __getitem__(self, some: Array) -> Place:
        return Place(self.program[some], self.warp[some], self.epoch[some])


def extent(tensor: Tensor) -> tuple[int, int]:
    """Addresses [first, end) of the elements that the tensor's strides can reach."""
    first = tensor.data_ptr()
    if not tensor.numel():
        return first, first
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (1 + last) * tensor.element_size()


class _Watch:
    """Who wrote and who read a grain of memory last."""

    def __init__(self, size: int) -> None:
        grains = -(-size // _GRAIN)
        self._writer, self._writing, self._written, self._reader, self._reading, self._read = (
            np.full(grains, _NOBODY) for _ in range(6)
        )

    def load(self, at: Array, by: Place) -> bool:
        """Is there a conflict with what was written?"""
        other = (self._writer[at] != by.warp) & (self._writer[at] != _NOBODY)
        now = (self._writing[at] != by.program) | (self._written[at] == by.epoch)
        again = (self._reading[at] == by.program) & (self._read[at] == by.epoch)
        same = self._reader[at] == by.warp
        alone = (self._reading[at] == _NOBODY) | (self._reading[at] == by.program)
        self._reader[at] = np.where(again & ~same, _SEVERAL, by.warp)
        self._reading[at] = np.where(alone, by.program, _SEVERAL)
        self._read[at] = by.epoch
        self._reader[at[self._reader[at] != by.warp]] = _SEVERAL  # of this very access
        self._reading[at[self._reading[at] != by.program]] = _SEVERAL
        return bool((other & now).any())

    def store(self, at: Array, by: Place) -> bool:
        """Is there a conflict with what was read or written?"""
        other = (self._reader[at] != by.warp) & (self._reader[at] != _NOBODY)
        now = (self._reading[at] != by.program) | (self._read[at] == by.epoch)
        before = (self._writer[at] != by.warp) & (self._writer[at] != _NOBODY)
        too = (self._writing[at] != by.program) | (self._written[at] == by.epoch)
        self._writer[at], self._writing[at], self._written[at] = by.warp, by.program, by.epoch
        together = (self._writer[at] != by.warp).any()
        return bool((other & now).any() or (before & too).any() or together)


class Memory:
    """Ranges of addresses, which do not overlap."""

    def __init__(self, ranges: Iterable[tuple[int, Array]]) -> None:
        self._ranges = sorted(ranges, key=lambda pair: pair[0])
        self._starts = np.array([start for start, _ in self._ranges], np.int64)
        self._watches = [_Watch(data.size) for _, data in self._ranges]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Memory:
        """That of tensors, which may share it."""
        merged: list[list[int]] = []
        for first, end in sorted(extent(tensor) for tensor in tensors):
            if merged and first < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            elif end > first:
                merged.append([first, end])
        return cls((first, _bytes(first, end - first)) for first, end in merged)

    def load(self, at: Array, sizes: Sequence[int], by: Place) -> list[Array]:
        """What lanes read at ``at``: elements of ``sizes`` bytes, one behind the other."""
        return self._access(at, sizes, by, None)

    def store(self, at: Array, sizes: Sequence[int], by: Place, values: list[Array]) -> None:
        """The same for writing."""
        self._access(at, sizes, by, values)

    def _access(
        self, at: Array, sizes: Sequence[int], by: Place, values: list[Array] | None
    ) -> list[Array]:
        what = "load" if values is None else "store"
        if (at % sum(sizes)).any():
            raise Fault(f"a {what} of {sum(sizes)} bytes at an address that is no multiple")
        which = np.searchsorted(self._starts, at, side="right") - 1
        found = [np.zeros(at.shape, _UNSIGNED[size]) for size in sizes]
        for k in np.unique(which):
            some = which == k
            start, data = self._ranges[k]
            offsets = at[some] - start
            if k < 0 or (offsets + sum(sizes) > data.size).any():
                raise Fault(f"a {what} of {sum(sizes)} bytes outside of what the kernel was given")
            for n, size in enumerate(sizes):
                self._element(k, what, offsets + n * size, size, by[some])
                places = offsets[:, None] + n * size + np.arange(size)
                if values is None:
                    found[n][some] = data[places].view(_UNSIGNED[size])[:, 0]
                else:
                    value = np.ascontiguousarray(values[n][some].astype(_UNSIGNED[size]))
                    data[places] = value[:, None].view(np.uint8)
        return found

    def _element(self, k: int, what: str, offsets: Array, size: int, by: Place) -> None:
        for part in range(0, size, _GRAIN):
            watch = self._watches[k]
            if getattr(watch, what)((offsets + part) // _GRAIN, by):
                raise Fault(f"a {what} that no barrier keeps from what another warp does")


def _bytes(first: int, size: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(first))
