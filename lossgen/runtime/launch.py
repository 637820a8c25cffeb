"""How the Triton kernels are launched: tile sizes and warps, in one table.

Nothing here is tuned on silicon: the table follows from counts of the machine code (``make
counts``) and from the ahead-of-time gate, which fails where a kernel spills.  A thread holds 32
values of a row that is one tile, half as many where there is a class input or the loss is heavy;
16 of a tile that it reduces, 8 where that tile is short or the state is long, and 8 of one that it
writes.  AMD has 64 threads to a warp, so its warps are halved.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lossgen.runtime.architectures import architecture_of
from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic
from lossgen.runtime.memory import empty_like
from lossgen.runtime.tensors import in_memory
from lossgen.runtime.tuned import ROWS

__all__ = [
    "Config",
    "backward",
    "config",
    "config_of",
    "forward",
    "fused",
    "is_heavy",
    "is_narrow",
    "n_splits",
    "processors",
    "running_on",
    "shape",
]

_LARGEST_TILE = {"forward": 4096, "merge": 1024, "backward": 2048, "fused": 8192}
_ONE_TILE = 16384  # the longest row that the fused kernel keeps on chip
_HELD = 32  # values of such a row in a thread
_WIDE_TILE = 2048  # from here a thread reduces 16 values of a tile at once (kernels.sweeps), else 8
_MANY, _HEAVIEST = 9, 45  # numbers of a state, operations: more leave no registers for 16 values
_HEAVY = 27  # operations on a class, as ``Tiled.work`` counts them
_SHORT = 64  # classes of a row that one thread does alone
_SHORT_ROWS = 128  # of a program
_MAX_SPLITS = 64
_TILES = 8  # of a program of the backward, which computes the row's scalars once


@dataclass(frozen=True)
class Config:
    """Launch constants of one kernel."""

    block: int
    warps: int
    rows: int = 1
    one_tile: bool = False


def config(
    role: str,
    n_classes: int,
    hip: bool = False,
    streams: int = 0,
    heavy: bool = False,
    narrow: bool = False,
    architecture: str = "",
) -> Config:
    """The launch of kernel ``role`` for rows of ``n_classes``; ``streams``: class inputs beside
    the logits, and the index, which share the registers; ``heavy``, ``narrow``: ``is_heavy`` and
    ``is_narrow``.  What was measured on an ``architecture`` goes before what is counted."""
    many = narrow and role != "backward"
    chosen = _configured(role, n_classes, hip, heavy or streams > 0, heavy, many)
    if architecture not in ROWS or chosen.rows > 1 or many:
        return chosen
    key = role, _width(n_classes), heavy or streams > 0, heavy
    block, warps = ROWS[architecture].get(key, (chosen.block, chosen.warps))
    return replace(chosen, block=chosen.block if chosen.one_tile else block, warps=warps)


def _width(n_classes: int) -> int:
    """Of a tile that holds a row."""
    return max(16, 1 << max(0, n_classes - 1).bit_length())


@lru_cache
def _configured(
    role: str, n_classes: int, hip: bool, crowded: bool, heavy: bool, many: bool
) -> Config:
    width = _width(n_classes)
    if n_classes <= _SHORT:
        return Config(width, 2 if hip else 4, rows=_SHORT_ROWS)
    one_tile = role == "fused" and width <= _ONE_TILE >> 2 * crowded
    halved = crowded if role == "fused" else heavy  # more warps would leave each fewer registers
    block = width if one_tile else min(width, _LARGEST_TILE[role] >> halved)
    narrow = _WIDE_TILE // 2
    if not one_tile and block > narrow and (many or n_classes < 2 * block):
        block = narrow if many else max(narrow, block // 2)  # else the last tile is mostly empty
    swept = role != "backward" and block >= _WIDE_TILE
    held = _HELD >> crowded if one_tile else 16 if swept else 8
    warps = max(1, min(32, block // (32 * held)))
    return Config(block, max(1, warps // 2) if hip else warps, one_tile=one_tile)


def config_of(
    role: str, variant: Variant, n_classes: int, hip: bool, architecture: str = ""
) -> Config:
    """The launch of a variant's kernel ``role``."""
    heavy, streams = is_heavy(variant), len(variant.streams) + variant.indexed
    narrow = heavy and is_narrow(variant)
    return config(role, n_classes, hip, streams, heavy, narrow, architecture)


def is_heavy(variant: Variant) -> bool:
    """Does a class take so many registers that a thread holds fewer of them? In float64 too."""
    return variant.tiled is None or variant.tiled.work > _HEAVY


def is_narrow(variant: Variant) -> bool:
    """Does a thread hold 8 classes of a tile that it reduces, not 16? Merging costs the least of
    all where a class takes many operations, and kernels of such losses would spill."""
    operations = variant.tiled.work if variant.tiled is not None else _HEAVIEST + 1
    return variant.n_state > _MANY or operations > _HEAVIEST


def shape(chosen: Config, strides: Sequence[int], n_classes: int, itemsize: int) -> dict[str, int]:
    """The constants of ``lossgen.runtime.kernels.rows`` that a launch and its rows decide together:
    ``strides`` of all [N, V] that are read and written, elements of ``itemsize`` bytes."""
    lane = min(16 // itemsize, chosen.block)
    begins = {stride % lane for stride in strides}
    fits = not chosen.one_tile or n_classes + lane - 1 <= chosen.block
    aligned = 0
    if chosen.rows == 1:
        aligned = 2 if begins == {0} and n_classes % lane == 0 else int(len(begins) == 1 and fits)
    return {"ROWS": chosen.rows, "BLOCK": chosen.block, "LANE": lane, "ALIGNED": aligned}


def _config(role: str, variant: Variant, batch: Batch) -> Config:
    classes, hip = batch.logits.shape[1], torch.version.hip is not None
    return config_of(role, variant, classes, hip, architecture_of(batch.logits.device))


def _shape(chosen: Config, batch: Batch, outs: Sequence[Tensor] = ()) -> dict[str, int]:
    rows = (batch.logits, *batch.streams, *outs)
    strides = [row.stride(0) for row in rows]
    return shape(chosen, strides, batch.logits.shape[1], batch.logits.element_size())


def n_splits(n_rows: int, n_classes: int, block: int, processors: int) -> int:
    """Programs per row: more than one when the rows alone leave processors idle."""
    if n_rows == 0 or n_rows >= processors:
        return 1
    wanted = -(-2 * processors // n_rows)
    most = min(_MAX_SPLITS, max(1, -(-n_classes // block)))
    return 1 << (min(wanted, most).bit_length() - 1)


def _forward_launch(variant: Variant, batch: Batch) -> tuple[Config, int]:
    """The launch of the forward, and its programs per row."""
    chosen, logits = _config("forward", variant, batch), batch.logits
    if variant.merge_kernel is None or chosen.rows > 1:
        return chosen, 1
    rows, classes = logits.shape
    return chosen, n_splits(rows, classes, chosen.block, processors(logits))


def _overwrites(logits: Tensor, outs: Sequence[Tensor | None]) -> bool:
    """Does a gradient have the place of the logits, of which other programs read the target?"""
    return any(out is not None and out.data_ptr() == logits.data_ptr() for out in outs)


def processors(logits: Tensor) -> int:
    """Of its device; 1 on a CPU."""
    if logits.is_cuda:
        return int(torch.cuda.get_device_properties(logits.device).multi_processor_count)
    return 1


def running_on(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels are launched on the current device: make it that of ``tensor``."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _given(batch: Batch) -> list[object]:
    """What every kernel begins with, in the order of the templates."""
    streams = (batch.logits, *batch.streams)
    by_kind: dict[str, list[Tensor]] = {"vocab": [], "row": []}
    for value, kind in zip(batch.inputs, batch.kinds, strict=True):
        by_kind[kind].append(value)
    target = batch.target
    labels = [] if target is None else [target, target.stride(0), batch.ignore_index]
    return [
        *streams,
        *(s.stride(0) for s in streams),
        *by_kind["vocab"],
        *by_kind["row"],
        *(r.stride(0) for r in by_kind["row"]),
        *(float(p) for p in batch.parameters),
        *labels,
    ]


def _slopes(batch: Batch, grad_rows: Tensor) -> list[object]:
    strides = [grad_rows.stride(-1), *([grad_rows.stride(0)] if batch.outputs else [])]
    return [grad_rows, *strides]


def _targets(
    batch: Batch, outs: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[int], dict[str, int]]:
    """Pointers, row strides and the mask of the gradients; one not wanted has the logits' place."""
    pointers = [batch.logits if out is None else out for out in outs]
    mask = sum(2**k for k, out in enumerate(outs) if out is not None)
    return pointers, [p.stride(0) for p in pointers], {"WANT": mask} if len(outs) > 1 else {}


def forward(variant: Variant, batch: Batch) -> tuple[Tensor, Tensor]:
    """Results [outputs, N], float32, and saved statistics [n_saved, N] of the arithmetic."""
    batch = batch.in_memory()
    return _forward(variant, batch, *_forward_launch(variant, batch))


def _forward(variant: Variant, batch: Batch, chosen: Config, splits: int) -> tuple[Tensor, Tensor]:
    logits = batch.logits
    rows, classes = logits.shape
    loss = torch.empty(batch.n_out, rows, dtype=torch.float32, device=logits.device)
    real = arithmetic(variant, logits.dtype)
    saved = torch.empty(variant.n_saved, rows, dtype=real, device=logits.device)
    if rows == 0:
        return loss, saved
    state = saved
    if splits > 1:
        shape = (variant.n_state, splits, rows)
        state = torch.empty(shape, dtype=real, device=logits.device)
    args = [*_given(batch), loss, saved, state, rows, classes]
    with running_on(logits):
        variant.forward_kernel[(-(-rows // chosen.rows), splits)](
            *args, SPLITS=splits, **_shape(chosen, batch), num_warps=chosen.warps
        )
        if splits > 1:
            variant.merge_kernel[(rows,)](*args, SPLITS=splits, num_warps=1)
    return loss, saved


def backward(
    variant: Variant, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients [N, V] in the dtype of the logits: of the logits and of each differentiable
    stream, where ``wanted``; ``grad_rows`` is [outputs, N] float32, any stride."""
    batch, grad_rows = batch.in_memory(), in_memory(grad_rows)
    logits = batch.logits
    outs = tuple(empty_like(logits) if want else None for want in wanted)
    if len(logits):
        _backward_into(variant, batch, saved, grad_rows, outs)
    return outs


def _backward_into(
    variant: Variant,
    batch: Batch,
    saved: Tensor,
    grad_rows: Tensor,
    outs: Sequence[Tensor | None],
) -> None:
    rows, classes = batch.logits.shape
    chosen = _config("backward", variant, batch)
    pointers, strides, want = _targets(batch, outs)
    splits = -(-classes // (chosen.block * _TILES)) if chosen.rows == 1 else 1
    with running_on(batch.logits):
        variant.backward_kernel[(-(-rows // chosen.rows), splits)](
            *_given(batch),
            saved,
            *_slopes(batch, grad_rows),
            *pointers,
            *strides,
            rows,
            classes,
            **want,
            SPLITS=splits,
            **_shape(chosen, batch, pointers),
            num_warps=chosen.warps,
        )


def fused(
    variant: Variant, batch: Batch, grad_rows: Tensor, outs: Sequence[Tensor | None]
) -> Tensor:
    """Results [outputs, N] float32; the gradients go to ``outs`` [N, V] each, the first of which
    may be the logits; None: not wanted."""
    batch = batch.in_memory()
    logits = batch.logits
    rows, classes = logits.shape
    loss = torch.empty(batch.n_out, rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return loss
    chosen = _config("fused", variant, batch)
    if not chosen.one_tile and not _overwrites(logits, outs):
        first, splits = _forward_launch(variant, batch)
        if splits > 1:
            loss, saved = _forward(variant, batch, first, splits)
            _backward_into(variant, batch, saved, grad_rows, outs)
            return loss
    pointers, strides, want = _targets(batch, outs)
    with running_on(logits):
        variant.fused_kernel[(-(-rows // chosen.rows),)](
            *_given(batch),
            loss,
            *_slopes(batch, grad_rows),
            *pointers,
            *strides,
            rows,
            classes,
            ONE_TILE=chosen.one_tile,
            **want,
            **_shape(chosen, batch, pointers),
            num_warps=chosen.warps,
        )
    return loss
