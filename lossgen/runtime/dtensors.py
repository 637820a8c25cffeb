"""DTensors whose classes are in shards → this rank's tensors, and the group that has the others.

Of the axes of a mesh, one may hold the classes; the others hold rows, which are taken as they lie,
or the shards of a weight whose whole is wanted (FSDP), which is gathered and whose gradient goes
back as the mean over that axis.  Other DTensors are refused where every tensor is
(:mod:`lossgen.runtime.tensors`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.entries import Entries
from lossgen.runtime.tensors import PLAIN

__all__ = ["is_apart", "is_dtensor", "local_factors", "local_rest", "local_rows"]

#: How the axes of meshes are called that hold the classes of a weight, or copies of a model.
_VOCABULARY = ("tp", "tensor", "model", "vocab")
_DATA = ("dp", "fsdp", "data", "replicate", "shard", "cp", "context")


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
    if _ranks(given) != _ranks(found):
        raise ValueError(f"{loss}: the classes of {name} are in shards of another group than group")
    return given


def _ranks(group: Any) -> frozenset[int]:
    """Of a process group, or of what holds one."""
    from torch.distributed import get_process_group_ranks

    return frozenset(get_process_group_ranks(getattr(group, "group", group)))


def local_rest(value: Any, kind: str, group: Any) -> Any:
    """Of a DTensor of kind "row" the rows of this rank and of all ranks of ``group``; of kind
    "vocab" the whole vector; another value as it is."""
    if not is_dtensor(value):
        return value
    return value.full_tensor() if kind == "vocab" else _all_rows(value, group)


def local_factors(loss: str, factors: Sequence[Any], group: Any) -> tuple[tuple[Any, ...], Any]:
    """This rank's hidden, weight and bias, and the group that has the other classes (None: the
    weight is whole).

    Raises:
        TypeError: a mesh of which nothing says what its axes hold.
        ValueError: ``group`` is another group.
    """
    hidden, weight, *rest = factors
    bias = rest[0] if rest else None
    if is_dtensor(weight):
        axis = _vocabulary_axis(loss, weight, group)
        if axis is not None:
            group = _same(loss, "linear_weight", weight.device_mesh.get_group(axis), group)
    whole = _all_rows(hidden, group, hidden.dim() - 1 if is_dtensor(hidden) else None)
    return (whole, _gathered(weight, group), _gathered(bias, group)), group


def _all_rows(rows: Any, group: Any, features: int | None = None) -> Any:
    """With the rows of all ranks of ``group``, each of which has classes for them (sequence
    parallel), with all of the axis ``features``, and with no sum pending."""
    if not is_dtensor(rows):
        return rows
    own = _axis_of(rows, group)

    def is_cut(placed: Any) -> bool:
        return features is not None and placed.is_shard(features)

    placements = [
        _replicate() if k == own or placed.is_partial() or is_cut(placed) else placed
        for k, placed in enumerate(rows.placements)
    ]
    return rows.redistribute(placements=placements).to_local()


def _axis_of(value: Any, group: Any) -> int | None:
    """Of the mesh of a DTensor: the one whose ranks are those of ``group``."""
    if group is None:
        return None
    mesh, ranks = value.device_mesh, _ranks(group)
    return next((k for k in range(mesh.ndim) if _ranks(mesh.get_group(k)) == ranks), None)


def _vocabulary_axis(loss: str, weight: Any, group: Any) -> int | None:
    """Of the mesh: the one that holds the classes."""
    mesh = weight.device_mesh
    shared = [k for k, placed in enumerate(weight.placements) if placed.is_shard(0)]
    if group is not None:
        axis = _axis_of(weight, group)
        ranks = [_ranks(mesh.get_group(k)) & _ranks(group) for k in range(mesh.ndim)]
        apart = axis is None and any(len(both) > 1 for both in ranks)
        if apart or (axis not in (None, *shared) and len(_ranks(group)) > 1):
            raise ValueError(
                f"{loss}: linear_weight is a DTensor placed as {[*weight.placements]}, which does "
                "not spread its classes over the ranks of group"
            )
        return axis if axis in shared else None
    names = mesh.mesh_dim_names or [""] * mesh.ndim
    of_data = [k for k in shared if any(word in names[k] for word in _DATA)]
    of_classes = [k for k in shared if k not in of_data and _is_of_classes(names[k])]
    if len(of_data) + len(of_classes) < len(shared) or len(of_classes) > 1:
        raise TypeError(
            f"{loss}: linear_weight is a DTensor, and nothing says what the axes of its mesh hold; "
            "pass group=mesh.get_group(...) of the axis with the other classes, or name the axes: "
            "tp where ranks have other classes, dp where they have other rows"
        )
    return of_classes[0] if of_classes else None


def _is_of_classes(name: str) -> bool:
    return any(word in name for word in _VOCABULARY)


def _replicate() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


def _gathered(value: Any, group: Any) -> Any:
    """With this rank's shard of the classes of ``group``, and all of the other axes' shards: of
    those the ranks have other rows, so that a gradient goes back as their mean."""
    if not is_dtensor(value):
        return value
    from torch.distributed.tensor import Partial

    axis = _axis_of(value, group)
    placements = [p if k == axis else _replicate() for k, p in enumerate(value.placements)]
    every = [k for k, p in enumerate(value.placements) if k != axis and p.is_shard()]
    back = [Partial() if k in every else p for k, p in enumerate(placements)]
    found = value.redistribute(placements=placements).to_local(grad_placements=back)
    ranks = math.prod(value.device_mesh.size(k) for k in every)
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
