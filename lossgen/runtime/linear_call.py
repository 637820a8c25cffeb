"""One call of the loss of a linear layer: what both schedules start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch
from lossgen.runtime.linear_arguments import LinearOptions
from lossgen.runtime.projected import Existing, Projected, Take

__all__ = ["LinearCall", "present"]


@dataclass(frozen=True)
class LinearCall:
    """One call, without the tensors that autograd holds: three of each source."""

    loss: str
    variant: Variant
    backend: str
    batch: Batch  # of all rows; its logits and streams are stand-ins without memory
    projected: tuple[bool, ...]  # of the logits and each stream: made from factors?
    options: LinearOptions
    shape: torch.Size  # of the results
    positions: Tensor | None  # rows of hidden that the results belong to; None: all
    kept: Tensor | None  # results that count; None: all
    step: int  # rows per chunk
    tiled: bool  # the schedule: by the tile, or by the chunk

    def sources(self, tensors: Sequence[Any]) -> list[Existing | Projected]:
        found: list[Existing | Projected] = []
        for k, made in enumerate(self.projected):
            first, weight, bias = tensors[3 * k : 3 * k + 3]
            if not made:
                found.append(Existing((first,)))
            elif k:
                found.append(Projected((first, weight, bias)))
            else:
                cap, scale = self.options.softcap, 1 / self.options.temperature
                found.append(Projected((first, weight, bias), cap, scale))
        return found

    def results(self, device: torch.device) -> Tensor:
        """The results that count."""
        if self.kept is not None:
            return self.kept
        return torch.arange(self.batch.logits.shape[0], device=device)

    def spans(self) -> list[tuple[Take, Take]]:
        """Of each chunk: its results, and their rows of the sources."""
        count = self.batch.logits.shape[0] if self.kept is None else len(self.kept)
        found: list[tuple[Take, Take]] = []
        for start in range(0, count, self.step):
            part = slice(start, min(start + self.step, count))
            results = part if self.kept is None else self.kept[part]
            at = results if self.positions is None else self.positions[results]
            found.append((results, at))
        return found


def present(tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)
