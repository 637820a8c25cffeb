"""What a kernel's loads and stores touch, counted while they are interpreted.

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
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from lossgen.verify import interpreter
from lossgen.verify.blocks import observed

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
        VerificationError: TRITON_INTERPRET=1 was not set before Triton was imported.

    Counts what all threads do meanwhile.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.read: Counter[str] = Counter(dict.fromkeys(tensors, 0))
        self.written: Counter[str] = Counter(dict.fromkeys(tensors, 0))
        self.loads = {name: _zeros(tensor) for name, tensor in tensors.items()}
        self.stores = {name: _zeros(tensor) for name, tensor in tensors.items()}
        self._ranges = {name: _range(tensor) for name, tensor in tensors.items()}
        self._watch = ExitStack()

    def __enter__(self) -> Traffic:
        interpreter.install()
        self._watch.enter_context(observed(self._count))
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.close()

    def _count(self, addresses: Any, itemsize: int, written: bool) -> None:
        total = self.written if written else self.read
        hits = self.stores if written else self.loads
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
