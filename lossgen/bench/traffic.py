"""What a kernel's loads and stores touch, counted under Triton's interpreter.

    with Traffic({"logits": logits, "grad": grad}) as traffic:
        kernel[grid](logits, grad, ...)
    traffic.read["logits"], traffic.written["grad"]      # bytes

A lane counts if its mask lets it through, with the size of its element; it belongs to the tensor
whose storage holds its address.  Addresses in none of the named tensors count as ``OTHER``.
This is the traffic that the program asks for: caches may save some of it, nothing can add to it
but the width of a memory transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch

__all__ = ["OTHER", "Traffic"]

OTHER = "(other)"


class Traffic:
    """Context manager that counts bytes per named tensor.

    Args:
        tensors: CPU tensors by name, of any dtype and strides; where two overlap (a gradient
            that is written over the logits) the first one named takes the count.

    Attributes:
        read, written: bytes by name; tensors that were not touched count 0.
        loads, stores: for each named tensor, how often each element was read and written, in the
            order of its storage from its first element on (int64, torch).

    Raises:
        RuntimeError: TRITON_INTERPRET=1 was not set before Triton was imported.

    Patches Triton's interpreter for the time of the context, in all threads: one at a time.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.read: Counter[str] = Counter(dict.fromkeys(tensors, 0))
        self.written: Counter[str] = Counter(dict.fromkeys(tensors, 0))
        self.loads = {name: _zeros(tensor) for name, tensor in tensors.items()}
        self.stores = {name: _zeros(tensor) for name, tensor in tensors.items()}
        self._ranges = {name: _range(tensor) for name, tensor in tensors.items()}
        self._undo: list[tuple[str, Any]] = []

    def __enter__(self) -> Traffic:
        import triton
        from triton.runtime import interpreter

        if not triton.knobs.runtime.interpret:
            raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported")
        if self._undo:
            raise RuntimeError("this traffic meter is running already")
        builder = interpreter.InterpreterBuilder
        self._patch(builder, "create_masked_load", self._counting_load)
        self._patch(builder, "create_masked_store", self._counting_store)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from triton.runtime import interpreter

        for name, original in self._undo:
            setattr(interpreter.InterpreterBuilder, name, original)
        self._undo.clear()

    def _patch(self, builder: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        original = getattr(builder, name)
        self._undo.append((name, original))
        setattr(builder, name, wrap(original))

    def _counting_load(self, original: Any) -> Any:
        def load(builder: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self._count(ptrs, mask, self.read, self.loads)
            return original(builder, ptrs, mask, *rest, **named)

        return load

    def _counting_store(self, original: Any) -> Any:
        def store(builder: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self._count(ptrs, mask, self.written, self.stores)
            return original(builder, ptrs, value, mask, *rest, **named)

        return store

    def _count(
        self, ptrs: Any, mask: Any, total: Counter[str], hits: dict[str, torch.Tensor]
    ) -> None:
        addresses = np.atleast_1d(ptrs.data)
        lanes = np.broadcast_to(np.atleast_1d(mask.data).astype(bool), addresses.shape)
        addresses = addresses[lanes].astype(np.uint64)
        itemsize = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        for name, (first, end) in self._ranges.items():
            if not addresses.size:
                return
            here = (addresses >= first) & (addresses < end)
            if here.any():
                total[name] += int(here.sum()) * itemsize
                offsets = (addresses[here] - np.uint64(first)) // np.uint64(itemsize)
                np.add.at(hits[name].numpy(), offsets.astype(np.int64), 1)
                addresses = addresses[~here]
        if addresses.size:
            total[OTHER] += int(addresses.size) * itemsize


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses [first, end) of the elements that the tensor's strides can reach."""
    first = tensor.data_ptr()
    return first, first + _extent(tensor) * tensor.element_size()


def _extent(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(_extent(tensor), dtype=torch.int64)
