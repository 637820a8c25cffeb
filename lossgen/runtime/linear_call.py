"""One call of the loss of a linear layer: what both schedules start from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, compute_dtype
from lossgen.runtime.entries import Listed
from lossgen.runtime.linear_arguments import LinearOptions
from lossgen.runtime.projected import Existing, Projected, Take

__all__ = ["LinearCall", "present", "without_autocast"]


@dataclass(frozen=True)
class LinearCall:
    """One call, without its tensors, which autograd holds: three of each source, the target, and
    the vocab and row inputs of the variant."""

    loss: str
    variant: Variant
    backend: str
    batch: Batch  # of all rows; its logits and streams are stand-ins, target and inputs left out
    projected: tuple[bool, ...]  # of the logits and each stream: made from factors?
    fills: tuple[float | None, ...]  # of each: what entries leave out; None: no entries
    options: LinearOptions
    shape: torch.Size  # of the results
    positions: Tensor | None  # rows of hidden that the results belong to; None: all
    run: tuple[int, int]  # results that are one after the other in the sources, and rows till the
    # next ones
    kept: Tensor | None  # results that count; None: all, or not asked
    step: int  # rows per chunk
    tiled: bool  # the schedule: by the tile, or by the chunk
    unseen: bool = False  # were the values hidden when the arguments were checked?

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic, and of logits that are made."""
        return compute_dtype(self.batch.logits)

    @property
    def n_factors(self) -> int:
        """Of the tensors, how many belong to the sources."""
        return 3 * len(self.projected)

    def opened(self, tensors: Sequence[Any]) -> Batch:
        """The batch with its target and inputs."""
        target, *inputs = tensors[self.n_factors :]
        batch = self.batch
        return batch.with_tensors((batch.logits, target, *batch.streams, *inputs))

    def sources(self, tensors: Sequence[Any]) -> list[Existing | Projected]:
        found: list[Existing | Projected] = []
        for k, (made, fill) in enumerate(zip(self.projected, self.fills, strict=True)):
            first, weight, bias = tensors[3 * k : 3 * k + 3]
            if fill is not None:
                classes = self.batch.logits.shape[1]
                found.append(Listed((first, weight), fill, classes, self.dtype))
            elif not made:
                found.append(Existing((first,)))
            elif k:
                found.append(Projected((first, weight, bias), self.dtype))
            else:
                cap, scale = self.options.softcap, 1 / self.options.temperature
                found.append(Projected((first, weight, bias), self.dtype, cap, scale))
        return found

    def spans(self) -> list[tuple[Take, Take]]:
        """Of each chunk: its results, and their rows of the sources. Chunks of long runs are
        ranges, which are not copied."""
        count = self.batch.logits.shape[0] if self.kept is None else len(self.kept)
        found: list[tuple[Take, Take]] = []
        run, apart = self.run
        if self.kept is None and self.step <= run < count:
            for first in range(0, count, run):
                moved = first // run * apart - first
                for start in range(first, first + run, self.step):
                    stop = min(start + self.step, first + run)
                    found.append((slice(start, stop), slice(start + moved, stop + moved)))
            return found
        for start in range(0, count, self.step):
            part = slice(start, min(start + self.step, count))
            results = part if self.kept is None else self.kept[part]
            at = results if self.positions is None else self.positions[results]
            found.append((results, at))
        return found


def present(tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """The factors have been cast; nothing inside a schedule may be cast again."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
