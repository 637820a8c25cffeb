"""How the Triton kernels are launched: tile sizes and warps, in one table.

Nothing here is tuned on silicon.  A thread holds 8 values of a tile, 16 in the elementwise
backward: at 16 the sweeps of the heaviest losses spill on sm_90, as the ahead-of-time gate shows.
AMD has 64 threads to a warp, so its warps are halved.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.device import HAS_TRITON, jit, tl, triton

__all__ = [
    "Config",
    "backward",
    "config",
    "forward",
    "fused",
    "interpreting",
    "n_splits",
    "scale_in_place",
]

ROLES = ("forward", "merge", "backward", "fused")
_LARGEST_TILE = {"forward": 2048, "merge": 1024, "backward": 4096, "fused": 4096}
_VALUES = {"forward": 8, "merge": 8, "backward": 16, "fused": 8}  # of a tile, per thread
_ONE_TILE = 8192  # the longest row that the fused kernel keeps on chip
_MAX_SPLITS = 64
# Read once, as triton does when it decorates a kernel; and the compiler cannot trace the question.
_INTERPRETING = bool(HAS_TRITON and triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Config:
    """Launch constants of one kernel."""

    block: int
    warps: int
    one_tile: bool = False


def config(role: str, n_classes: int, hip: bool = False) -> Config:
    """The launch of kernel ``role`` for rows of ``n_classes``."""
    width = max(16, 1 << max(0, n_classes - 1).bit_length())
    one_tile = role == "fused" and width <= _ONE_TILE
    block = width if one_tile else min(width, _LARGEST_TILE[role])
    warps = max(1, min(32, block // (32 * _VALUES[role])))
    return Config(block, max(1, warps // 2) if hip else warps, one_tile)


def n_splits(n_rows: int, n_classes: int, block: int, processors: int) -> int:
    """Programs per row: more than one when the rows alone leave processors idle."""
    if n_rows == 0 or n_rows >= processors:
        return 1
    wanted = -(-2 * processors // n_rows)
    most = min(_MAX_SPLITS, max(1, -(-n_classes // block)))
    return 1 << (min(wanted, most).bit_length() - 1)


def _processors(logits: Tensor) -> int:
    if logits.is_cuda:
        return int(torch.cuda.get_device_properties(logits.device).multi_processor_count)
    return 1


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels are launched on the current device: make it that of ``tensor``."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _pointers(
    logits: Tensor, target: Tensor | None, inputs: Sequence[Tensor], parameters: Sequence[float]
) -> list[object]:
    head: list[object] = [logits] if target is None else [logits, target]
    return [*head, *inputs, *(float(p) for p in parameters)]


def _strides(
    target: Tensor | None, ignore_index: int, inputs: Sequence[Tensor], kinds: Sequence[str]
) -> list[int]:
    head = [] if target is None else [ignore_index, target.stride(0)]
    return [*head, *(i.stride(0) for i, k in zip(inputs, kinds, strict=True) if k == "row")]


def forward(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Loss [N] and saved statistics [n_saved, N], float32."""
    rows, classes = logits.shape
    loss = torch.empty(rows, dtype=torch.float32, device=logits.device)
    saved = torch.empty(variant.n_saved, rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return loss, saved
    chosen = config("forward", classes, torch.version.hip is not None)
    splits = n_splits(rows, classes, chosen.block, _processors(logits))
    state = saved
    if splits > 1:
        shape = (variant.n_state, splits, rows)
        state = torch.empty(shape, dtype=torch.float32, device=logits.device)
    args = [
        *_pointers(logits, target, inputs, parameters),
        loss,
        saved,
        state,
        logits.stride(0),
        rows,
        classes,
        *_strides(target, ignore_index, inputs, kinds),
    ]
    with _on(logits):
        variant.forward_kernel[(rows, splits)](
            *args, SPLITS=splits, BLOCK=chosen.block, num_warps=chosen.warps
        )
        if splits > 1:
            variant.merge_kernel[(rows,)](*args, SPLITS=splits, BLOCK=chosen.block, num_warps=1)
    return loss, saved


def backward(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    saved: Tensor,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
    grad_rows: Tensor,
) -> Tensor:
    """Gradient [N, V] in the dtype of the logits; ``grad_rows`` is [N] float32, any stride."""
    rows, classes = logits.shape
    grad = torch.empty((rows, classes), dtype=logits.dtype, device=logits.device)
    if rows == 0:
        return grad
    chosen = config("backward", classes, torch.version.hip is not None)
    with _on(logits):
        variant.backward_kernel[(rows, -(-classes // chosen.block))](
            *_pointers(logits, target, inputs, parameters),
            saved,
            grad_rows,
            grad,
            logits.stride(0),
            grad.stride(0),
            rows,
            classes,
            *_strides(target, ignore_index, inputs, kinds),
            grad_rows.stride(0),
            BLOCK=chosen.block,
            num_warps=chosen.warps,
        )
    return grad


def fused(
    variant: Variant,
    logits: Tensor,
    target: Tensor | None,
    inputs: Sequence[Tensor],
    kinds: Sequence[str],
    parameters: Sequence[float],
    ignore_index: int,
    grad_rows: Tensor,
    out: Tensor,
) -> Tensor:
    """Loss [N] float32; the gradient goes to ``out`` [N, V], which may be the logits."""
    rows, classes = logits.shape
    loss = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return loss
    chosen = config("fused", classes, torch.version.hip is not None)
    with _on(logits):
        variant.fused_kernel[(rows,)](
            *_pointers(logits, target, inputs, parameters),
            loss,
            grad_rows,
            out,
            logits.stride(0),
            out.stride(0),
            rows,
            classes,
            *_strides(target, ignore_index, inputs, kinds),
            grad_rows.stride(0),
            ONE_TILE=chosen.one_tile,
            BLOCK=chosen.block,
            num_warps=chosen.warps,
        )
    return loss


def interpreting() -> bool:
    """Was triton imported with TRITON_INTERPRET=1?"""
    return _INTERPRETING


@jit
def _scale_kernel(grad, factor, n_elements, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # grad *= factor, and nothing at all where factor is 1: no host synchronisation.
    scale = tl.load(factor)
    if scale != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n_elements
        value = tl.load(grad + at, mask=inside).to(tl.float32) * scale
        tl.store(grad + at, value.to(grad.dtype.element_ty), mask=inside)


def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """``grad`` *= ``factor`` (a scalar tensor), free of traffic where it is 1."""
    if grad.is_cuda and HAS_TRITON and grad.dtype is not torch.float64 and grad.is_contiguous():
        block = 4096
        if grad.numel():
            with _on(grad):
                _scale_kernel[(-(-grad.numel() // block),)](
                    grad, factor.to(torch.float32), grad.numel(), BLOCK=block, num_warps=8
                )
        return grad
    if not grad.is_cuda and float(factor) == 1.0:
        return grad
    return grad.mul_(factor)
