"""A class input of which a call lists K classes a row: the best ones of a teacher, the labels of a
row, the classes that are allowed.

The rows [R, V] of one chunk are written down in a buffer, K numbers each, read by the row program
as any class input, and taken out again: no more than a chunk of them exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossgen.runtime.arguments import Input, is_number, no_tensor, warn_constant
from lossgen.runtime.layout import shape_text
from lossgen.runtime.projected import Existing, Take, pick

__all__ = ["Entries", "Listed", "check_entries"]

#: Of the buffer, so that its rows keep the alignment of the widest loads.
_ALIGNED = 16


class Entries(NamedTuple):
    """A class input [*, V] by the K classes of each row that are listed.

    Args:
        indices: [*, K], integers. Those below 0 are padding; so is, where indices cannot be read
            before the call (on a GPU), what is no class.
        values: [*, K], floating point: those of the listed classes. None: 1 for each, a mask. Of a
            class that is listed twice they are added up; without values it counts once.
        fill: the value of every other class: 0 for probabilities and masks, -inf for logits.
    """

    indices: Tensor
    values: Tensor | None = None
    fill: float = 0.0

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Entries:
        """``function`` of both tensors."""
        values = None if self.values is None else function(self.values)
        return Entries(function(self.indices), values, self.fill)


def check_entries(
    loss: str, declared: Input, entries: Entries, lead: torch.Size, device: torch.device
) -> Entries:
    """Shapes, dtypes and devices, of rows ``lead``; detached where no gradient is computed.

    Raises:
        TypeError, ValueError: as for a tensor, in the words of entries.
    """
    indices, values, fill = entries
    names = f"the indices of {declared.name}", f"the values of {declared.name}"
    for name, value in zip(names, (indices, values), strict=True):
        if value is None and name == names[1]:
            continue
        if not isinstance(value, Tensor):
            raise no_tensor(loss, name, value)
        if value.device != device:
            raise ValueError(f"{loss}: {name} are on {value.device}, but logits are on {device}")
    kind = str(indices.dtype).removeprefix("torch.")
    if indices.dtype.is_floating_point or indices.dtype.is_complex or kind == "bool":
        raise TypeError(f"{loss}: {names[0]} must have an integer dtype, not {kind}")
    if indices.dim() != len(lead) + 1 or indices.shape[:-1] != lead:
        wanted = shape_text((*lead, -1)).replace("-1", "K")
        raise ValueError(
            f"{loss}: {names[0]} have shape {shape_text(indices.shape)}, but these logits need "
            f"{wanted}, of each row K classes"
        )
    if values is not None and values.shape != indices.shape:
        raise ValueError(
            f"{loss}: {names[1]} have shape {shape_text(values.shape)}, but the indices have "
            f"shape {shape_text(indices.shape)}"
        )
    if values is not None and not values.dtype.is_floating_point:
        kind = str(values.dtype).removeprefix("torch.")
        raise TypeError(f"{loss}: {names[1]} must be floating point, not {kind}")
    if isinstance(fill, bool) or not is_number(fill) or fill != fill:
        raise TypeError(f"{loss}: the fill of {declared.name} must be a number, not {fill!r}")
    if not (declared.domain.everything or declared.domain.contains(fill)):
        raise ValueError(
            f"{loss}: the fill of {declared.name} is {fill:g}, outside its domain {declared.domain}"
        )
    if values is not None and not declared.differentiable:
        if values.requires_grad and torch.is_grad_enabled():
            warn_constant(loss, declared.name)
        entries = entries._replace(values=values.detach())
    return entries if indices.shape[-1] else _padded(entries)


def _padded(entries: Entries) -> Entries:
    """One place where there is none: what has no elements has no rows either."""
    indices, values, fill = entries
    blank = indices.new_full((*indices.shape[:-1], 1), -1, dtype=torch.long)  # a byte has none
    if values is not None:
        values = torch.cat([values, values.new_zeros(blank.shape)], -1)  # which still learn
    return Entries(blank, values, fill)


@dataclass(frozen=True)
class Listed(Existing):
    """Rows [N, V] that are ``fill`` but for the classes that ``tensors`` list: indices [N, K] and
    their values [N, K]."""

    tensors: tuple[Tensor, Tensor | None]  # type: ignore[assignment]
    fill: float
    classes: int
    dtype: torch.dtype  # of the rows
    #: The buffer, and where the last chunk wrote.
    table: list[Tensor] = field(default_factory=list)

    def rows(self, take: Take, n: int) -> Tensor:
        """Those of a chunk [n, V], until the next one is asked for."""
        values, places = self.tensors[1], self.places(take)
        if self.table and self.table[0].shape[0] >= n:
            buffer, last = self.table
            buffer[: len(last)].scatter_(1, last, self.fill)
        else:
            width = self.classes + 1  # a column for padding
            width += -width % _ALIGNED
            size = (n, width)
            buffer = torch.full(size, self.fill, dtype=self.dtype, device=places.device)
        rows = buffer[:n]
        rows.scatter_(1, places, 1.0 if values is None else 0.0)
        if values is not None:
            rows.scatter_add_(1, places, pick(values, take).to(self.dtype))
        self.table[:] = buffer, places
        return rows[:, : self.classes]

    def places(self, take: Take) -> Tensor:
        """The classes that a chunk lists [n, K]; V for padding and for no class."""
        found = pick(self.tensors[0], take).long()
        return torch.where((found < 0) | (found >= self.classes), self.classes, found)

    def copies(self, dtype: torch.dtype) -> bool:
        return True

    def gradients(self, wanted: tuple[bool, ...], whole: bool) -> Any:
        return _EntryGradients(self) if wanted[1] else None


class _EntryGradients:
    """Of the values that were listed."""

    def __init__(self, source: Listed) -> None:
        values = source.tensors[1]
        assert values is not None
        self.source = source
        self.out = torch.zeros_like(values, memory_format=torch.contiguous_format)
        self.flat = self.out.view(-1, values.shape[-1])

    def add(self, take: Take, gradient: Tensor, hidden: Tensor | None = None) -> None:
        """``gradient`` [R, V] of the rows that were taken."""
        places = self.source.places(take)
        last = places.clamp(max=self.source.classes - 1)
        found = gradient.gather(1, last).masked_fill_(places == self.source.classes, 0.0)
        self.flat[take] = found.to(self.out.dtype)

    def finish(self) -> tuple[None, Tensor]:
        return None, self.out
