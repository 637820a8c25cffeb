"""DTensors whose classes are in shards → this rank's tensors, and the group that has the others.

Of the axes of a mesh, one may hold the classes; the others hold rows, which are taken as they lie,
or the shards of a weight whose whole is wanted (FSDP), which is gathered and whose gradient goes
back as the mean over that axis.  Other DTensors are refused where every tensor is
(:mod:`lossgen.runtime.tensors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.entries import Entries
from lossgen.runtime.tensors import PLAIN

__all__ = ["is_apart", "is_dtensor", "local_factors", "local_rows", "local_whole"]

#: How the axes of meshes are called that hold the classes of a weight, or copies of a model.
_VOCABULARY = ("tp", "tensor", "model", "vocab")
_DATA = ("dp", "fsdp", "data", "replicate", "cp", "context")


def is_dtensor(value: Any) -> bool:
    return type(value).__name__ == "DTensor" and isinstance(value, Tensor)


def is_apart(source: Any) -> bool:
    """Is it given otherwise than by rows in memory, by entries or as a DTensor?"""
    return type(source) not in PLAIN and (isinstance(source, Entries) or is_dtensor(source))


def local_rows(loss: str, name: str, rows: Any, axis: int, group: Any) -> tuple[Any, Any]:
    """This rank's rows and classes of ``rows`` [*, V], and the group of the other classes.

    Raises:
        TypeError: no axis of the mesh holds the classes, or more than one, or sums are pending.
        ValueError: ``group`` is another group.
    """
    if not is_dtensor(rows):
        return rows, group
    shared = [k for k, placed in enumerate(rows.placements) if placed.is_shard(axis % rows.dim())]
    if len(shared) != 1 or any(placed.is_partial() for placed in rows.placements):
        raise TypeError(
            f"{loss}: {name} is a DTensor placed as {[*rows.placements]}; one axis of its mesh "
            f"must hold the classes, Shard({axis % rows.dim()}), and the others rows or copies of "
            f"them; pass {name}.full_tensor(), or {name}.to_local() where a rank has whole rows"
        )
    return rows.to_local(), _same(loss, name, rows.device_mesh.get_group(shared[0]), group)


def _same(loss: str, name: str, found: Any, given: Any) -> Any:
    """``given`` where it is the group that was found, or holds it; that one where none is given."""
    if given is None:
        return found
    if getattr(given, "group", given) != found:
        raise ValueError(f"{loss}: the classes of {name} are in shards of another group than group")
    return given


def local_whole(value: Any, rows: bool = True) -> Any:
    """This rank's ``rows`` of a DTensor [*], or all of a vector; another value as it is."""
    if not is_dtensor(value):
        return value
    return value.to_local() if rows else value.full_tensor()


def local_factors(loss: str, factors: Sequence[Any], group: Any) -> tuple[tuple[Any, ...], Any]:
    """This rank's hidden, weight and bias, and the group that has the other classes (None: the
    weight is whole).

    Raises:
        TypeError: a mesh of which nothing says what its axes hold.
        ValueError: ``group`` is another group.
    """
    hidden, weight, *rest = factors
    bias = rest[0] if rest else None
    axis = None
    if is_dtensor(weight):
        axis = _vocabulary_axis(loss, weight, group)
        if axis is not None:
            group = _same(loss, "linear_weight", weight.device_mesh.get_group(axis), group)
    parts = (_rows_of_all_classes(hidden, group), _gathered(weight, axis), _gathered(bias, axis))
    return parts, group


def _rows_of_all_classes(hidden: Any, group: Any) -> Any:
    """Hidden with all features, and with the rows of all ranks of ``group`` (sequence parallel):
    each has classes for them."""
    if not is_dtensor(hidden):
        return hidden
    mesh, own = hidden.device_mesh, getattr(group, "group", group)
    placements = [
        _replicate() if placed.is_shard(hidden.dim() - 1) or mesh.get_group(k) == own else placed
        for k, placed in enumerate(hidden.placements)
    ]
    return hidden.redistribute(placements=placements).to_local()


def _vocabulary_axis(loss: str, weight: Any, group: Any) -> int | None:
    """Of the mesh: the one that holds the classes."""
    mesh = weight.device_mesh
    shared = [k for k, placed in enumerate(weight.placements) if placed.is_shard(0)]
    if group is not None:
        own = getattr(group, "group", group)
        return next((k for k in shared if mesh.get_group(k) == own), None)
    names = mesh.mesh_dim_names or [""] * mesh.ndim
    of_data = [k for k in shared if any(word in names[k] for word in _DATA)]
    of_classes = [k for k in shared if k not in of_data and _is_of_classes(names[k])]
    if len(of_data) + len(of_classes) < len(shared) or len(of_classes) > 1:
        raise TypeError(
            f"{loss}: linear_weight is a DTensor, and nothing says what the axes of its mesh hold; "
            "pass group=mesh.get_group(...) of the axis with the other classes, or "
            "linear_weight.full_tensor() where every rank has other rows"
        )
    return of_classes[0] if of_classes else None


def _is_of_classes(name: str) -> bool:
    return any(word in name for word in _VOCABULARY)


def _replicate() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


def _gathered(value: Any, axis: int | None) -> Any:
    """With this rank's shard of the ``axis`` of the mesh, and all of the others: of those the ranks
    have other rows, so that a gradient goes back as their mean."""
    if not is_dtensor(value):
        return value
    from torch.distributed.tensor import Partial

    placements = [p if k == axis else _replicate() for k, p in enumerate(value.placements)]
    every = [k for k, p in enumerate(value.placements) if k != axis and p.is_shard()]
    back = [Partial() if k in every else p for k, p in enumerate(placements)]
    found = value.redistribute(placements=placements).to_local(grad_placements=back)
    ranks = 1
    for k in every:
        ranks *= value.device_mesh.size(k)
    return _Mean.apply(found, ranks) if ranks > 1 else found


class _Mean(torch.autograd.Function):
    """The same; its gradient over the number of ranks that will be summed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.ranks, None
