"""The class axis in shards: which rank of a process group holds which classes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "ClassShards",
    "Group",
    "Ranks",
    "check_ranks",
    "gathered",
    "mean_count",
    "named_shards",
    "over_ranks",
    "shards_of",
    "summed",
    "whole_vector",
]

#: What a call takes as ``group``, and as ``batch_group``.
Group: TypeAlias = "ProcessGroup | ClassShards"
Ranks: TypeAlias = "ProcessGroup"


@dataclass(frozen=True)
class ClassShards:
    """Ranks that hold the classes one after the other; pass it as ``group`` where the sizes are
    known, so that no call has to ask for them.

    Args:
        group: a ``torch.distributed.ProcessGroup``; None: all ranks.
        sizes: how many classes each rank of the group holds, in the order of its ranks; they may
            differ, and be 0.

    Raises:
        TypeError, ValueError: sizes that are no counts, or not one of each rank.
    """

    group: Any
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.group is None:
            object.__setattr__(self, "group", _distributed("ClassShards").group.WORLD)
        try:
            sizes = tuple(operator.index(size) for size in self.sizes)
        except TypeError:
            sizes = (-1,)
        if min(sizes, default=0) < 0 or any(isinstance(size, bool) for size in self.sizes):
            raise TypeError(f"ClassShards: sizes must be counts of classes, not {self.sizes}")
        object.__setattr__(self, "sizes", sizes)
        if self.rank < 0:
            raise ValueError("ClassShards: this process is not in the group")
        ranks = _distributed("ClassShards").get_world_size(self.group)
        if len(sizes) != ranks:
            raise ValueError(f"ClassShards: {len(sizes)} sizes for a group of {ranks} ranks")

    def __deepcopy__(self, _: Any) -> ClassShards:
        """Of a module that holds it: a group cannot be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return named_shards, (self.group.group_name, self.sizes)

    @property
    def classes(self) -> int:
        """Of all shards."""
        return sum(self.sizes)

    @property
    def rank(self) -> int:
        """This process's, in the group."""
        rank: int = _distributed("ClassShards").get_rank(self.group)
        return rank

    @property
    def own(self) -> slice:
        """The classes of this rank."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    @property
    def ends(self) -> list[int]:
        """The class behind the last of each rank."""
        return [*accumulate(self.sizes)]


def _distributed(name: str) -> Any:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"{name}: a group needs torch.distributed.init_process_group, on every rank"
        )
    return dist


def shards_of(loss: str, group: Any, rows: int, classes: int, device: torch.device) -> ClassShards:
    """The shards of a call whose rank has ``classes`` of them, by one all_gather, unless they are
    given.

    Raises:
        RuntimeError: no process group.
        TypeError: ``group`` is none.
        ValueError: classes that are not as many as ``ClassShards`` says, on this rank; or, where
            the ranks are asked, one that has other rows than the first, on every rank.
    """
    dist = _distributed(loss)
    if isinstance(group, ClassShards):
        if group.sizes[group.rank] != classes:
            raise ValueError(
                f"{loss}: rank {group.rank} has {classes} classes, but group says "
                f"{group.sizes[group.rank]}"
            )
        return group
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"{loss}: group must be a torch.distributed.ProcessGroup or lossgen.ClassShards, not "
            f"{type(group).__name__}"
        )
    told = gathered(torch.tensor([rows, classes], device=device), group).tolist()
    for rank, (others, _) in enumerate(told):
        if others != told[0][0]:
            raise ValueError(
                f"{loss}: rank {rank} of the group has {others} rows, but rank 0 has {told[0][0]}; "
                "each rank of a group holds other classes of the same rows"
            )
    return ClassShards(group, tuple(size for _, size in told))


def named_shards(name: str, sizes: Sequence[int]) -> ClassShards:
    """Of a group by its name, as an operator takes it."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    return ClassShards(_resolve_process_group(name), tuple(sizes))


def gathered(part: Tensor, group: Any) -> Tensor:
    """``part`` [*] of every rank, [ranks, *], in their order: the same on each. RuntimeError where
    one of them does not answer within the time that the group allows."""
    dist = _distributed("lossgen")
    part = part.contiguous()
    whole = part.new_empty((dist.get_world_size(group), *part.shape))
    # its name from torch 2.13 on, where the other is deprecated
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
    with _explained(dist, group):
        gather(whole.view(-1), part.view(-1), group=group)
    return whole


@contextmanager
def _explained(dist: Any, group: Any) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"lossgen: rank {dist.get_rank(group)} of {dist.get_world_size(group)} waited for what "
            "the other ranks of group have; one of them has failed, or has not made this call with "
            f"tensors of these sizes: {error}"
        ) from error


def whole_vector(value: Tensor | None, shards: ClassShards) -> Tensor | None:
    """A vector over the classes of which each rank has its own, by one all_gather; a whole one as
    it is."""
    own, most = shards.sizes[shards.rank], max(shards.sizes)
    is_part = isinstance(value, Tensor) and value.dim() == 1 and value.shape[0] == own
    if value is None or not is_part or most == shards.classes:
        return value
    found: Tensor = _Whole.apply(value, shards)
    return found


class _Whole(torch.autograd.Function):
    """A vector from its parts: every rank has the gradient of all of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shards: ClassShards) -> Tensor:
        ctx.own = shards.own
        padded = value.new_zeros(max(shards.sizes))
        padded[: value.shape[0]] = value
        parts = zip(gathered(padded, shards.group), shards.sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own], None


def mean_count(target: Tensor, group: Any = None, ignore_index: int = -100) -> Tensor:
    """What a mean is divided by where ranks have other rows: pass it as ``normalizer``.

    DDP and FSDP average gradients over the ranks; each rank's sum over this number then gives the
    gradient of the mean over the rows of all ranks.

    Args:
        target: [*], this rank's labels; or a mask of the rows that count, bool.
        group: the process group whose ranks have other rows; None: all ranks.
        ignore_index: rows with this target do not count.

    Returns:
        A scalar, float32: the rows that count on all ranks over the number of ranks.

    Raises:
        RuntimeError: no process group.
    """
    dist = _distributed("mean_count")
    counts = target if target.dtype is torch.bool else target != ignore_index
    total = counts.sum().to(torch.float64 if target.device.type == "cpu" else torch.float32)
    dist.all_reduce(total, group=group)
    return (total / dist.get_world_size(group)).to(torch.float32)


def check_ranks(name: str, group: Any, by: Tensor | None) -> None:
    """Raises TypeError, ValueError: ``group`` is no process group, or not with ``by``."""
    if group is None:
        return
    dist = _distributed(name)
    if not isinstance(group, dist.ProcessGroup):
        kind = type(group).__name__
        raise TypeError(f"{name}: batch_group must be a torch.distributed.ProcessGroup, not {kind}")
    if by is not None:
        raise ValueError(
            f"{name}: rows of one value of by are a batch of their own, on one rank; pass by or "
            "batch_group"
        )


def over_ranks(sums: Sequence[Tensor], group: Any) -> tuple[Tensor, ...]:
    """Sums over the rows of each rank, over those of all ranks, by one all_reduce; and one for the
    gradient, of what the losses of all ranks add up to."""
    return tuple(sums) if group is None else _OverRanks.apply(group, *sums)


class _OverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, *sums: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return _together(sums, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_together(gradients, ctx.group)


def _together(parts: Sequence[Tensor], group: Any) -> tuple[Tensor, ...]:
    whole = torch.cat([part.reshape(-1) for part in parts])
    summed([whole], group)
    pieces = whole.split([part.numel() for part in parts])
    return tuple(
        piece.reshape(part.shape).to(part.dtype) for piece, part in zip(pieces, parts, strict=True)
    )


def summed(parts: Sequence[Tensor], group: Any) -> None:
    """Each of ``parts`` over the ranks, in place."""
    dist = _distributed("lossgen")
    with _explained(dist, group):
        for part in parts:  # contiguous: memory is what is summed
            dist.all_reduce(part, group=group)
