"""How the Triton kernels are launched: tile sizes and warps, in one table.

Nothing here is tuned on silicon.  A thread holds 8 values of a tile, 16 in the elementwise
backward, 4 in the fused loop of a loss with class inputs and in the forward of one that takes
several sweeps: with more the heaviest losses spill on sm_90, as the ahead-of-time gate shows.  AMD
has 64 threads to a warp, so its warps are halved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic
from lossgen.runtime.device import HAS_TRITON, jit, tl, triton
from lossgen.runtime.memory import empty_like
from lossgen.runtime.tensors import in_memory

__all__ = [
    "backend_of",
    "Config",
    "backward",
    "config",
    "forward",
    "fused",
    "interpreting",
    "n_splits",
    "processors",
    "running_on",
    "scale_in_place",
    "sharers",
]

ROLES = ("forward", "merge", "backward", "fused")
_LARGEST_TILE = {"forward": 2048, "merge": 1024, "backward": 4096, "fused": 2048}
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


def config(
    role: str, n_classes: int, hip: bool = False, streams: int = 0, many: bool = False
) -> Config:
    """The launch of kernel ``role`` for rows of ``n_classes``; ``streams``: class inputs beside
    the logits, which share the registers (see ``sharers``); ``many``: it takes several sweeps."""
    width = max(16, 1 << max(0, n_classes - 1).bit_length())
    share = streams.bit_length()  # halve for one, quarter for two or three
    one_tile = role == "fused" and width <= _ONE_TILE >> share
    block = width if one_tile else min(width, _LARGEST_TILE[role] >> share)
    # A fused loop keeps the row's scalars too, and so does a second sweep.
    halved = role == "fused" and streams > 0 and not one_tile
    halved |= role == "forward" and many
    warps = max(1, min(32, block // (32 * (_VALUES[role] >> halved))))
    return Config(block, max(1, warps // 2) if hip else warps, one_tile)


def sharers(variant: Variant) -> int:
    """How many share the registers with the logits, as ``config`` counts them: the class inputs;
    where there is none, more than four numbers that several sweeps keep of a row count as one; and
    float64 takes twice as many for everything."""
    many = variant.merge_kernel is None and variant.n_saved > 4
    found = len(variant.streams) or int(many)
    return found if variant.arithmetic == "float32" else 2 * found + 1


def _config(role: str, variant: Variant, batch: Batch) -> Config:
    hip = torch.version.hip is not None
    many = variant.merge_kernel is None
    return config(role, batch.logits.shape[1], hip, sharers(variant), many)


def n_splits(n_rows: int, n_classes: int, block: int, processors: int) -> int:
    """Programs per row: more than one when the rows alone leave processors idle."""
    if n_rows == 0 or n_rows >= processors:
        return 1
    wanted = -(-2 * processors // n_rows)
    most = min(_MAX_SPLITS, max(1, -(-n_classes // block)))
    return 1 << (min(wanted, most).bit_length() - 1)


def processors(logits: Tensor) -> int:
    """Of its device; 1 on a CPU."""
    if logits.is_cuda:
        return int(torch.cuda.get_device_properties(logits.device).multi_processor_count)
    return 1


def running_on(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels are launched on the current device: make it that of ``tensor``."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _pointers(batch: Batch) -> list[object]:
    head: list[object] = [batch.logits] if batch.target is None else [batch.logits, batch.target]
    return [*head, *batch.streams, *batch.inputs, *(float(p) for p in batch.parameters)]


def _row_strides(batch: Batch) -> list[int]:
    return [batch.logits.stride(0), *(s.stride(0) for s in batch.streams)]


def _strides(batch: Batch) -> list[int]:
    head = [] if batch.target is None else [batch.ignore_index, batch.target.stride(0)]
    pairs = zip(batch.inputs, batch.kinds, strict=True)
    return [*head, *(i.stride(0) for i, kind in pairs if kind == "row")]


def _grad_strides(batch: Batch, grad_rows: Tensor) -> list[int]:
    return [grad_rows.stride(-1), *([grad_rows.stride(0)] if batch.outputs else [])]


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
    logits = batch.logits
    rows, classes = logits.shape
    loss = torch.empty(batch.n_out, rows, dtype=torch.float32, device=logits.device)
    real = arithmetic(variant, logits.dtype)
    saved = torch.empty(variant.n_saved, rows, dtype=real, device=logits.device)
    if rows == 0:
        return loss, saved
    chosen = _config("forward", variant, batch)
    splits = 1
    if variant.merge_kernel is not None:
        splits = n_splits(rows, classes, chosen.block, processors(logits))
    state = saved
    if splits > 1:
        shape = (variant.n_state, splits, rows)
        state = torch.empty(shape, dtype=real, device=logits.device)
    args = [
        *_pointers(batch),
        loss,
        saved,
        state,
        *_row_strides(batch),
        rows,
        classes,
        *_strides(batch),
    ]
    with running_on(logits):
        variant.forward_kernel[(rows, splits)](
            *args, SPLITS=splits, BLOCK=chosen.block, num_warps=chosen.warps
        )
        if splits > 1:
            variant.merge_kernel[(rows,)](*args, SPLITS=splits, BLOCK=chosen.block, num_warps=1)
    return loss, saved


def backward(
    variant: Variant, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients [N, V] in the dtype of the logits: of the logits and of each differentiable
    stream, where ``wanted``; ``grad_rows`` is [outputs, N] float32, any stride."""
    batch, grad_rows = batch.in_memory(), in_memory(grad_rows)
    logits = batch.logits
    rows, classes = logits.shape
    outs = tuple(empty_like(logits) if want else None for want in wanted)
    if rows == 0:
        return outs
    chosen = _config("backward", variant, batch)
    pointers, strides, want = _targets(batch, outs)
    with running_on(logits):
        variant.backward_kernel[(rows, -(-classes // chosen.block))](
            *_pointers(batch),
            saved,
            grad_rows,
            *pointers,
            *_row_strides(batch),
            *strides,
            rows,
            classes,
            *_strides(batch),
            *_grad_strides(batch, grad_rows),
            **want,
            BLOCK=chosen.block,
            num_warps=chosen.warps,
        )
    return outs


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
    pointers, strides, want = _targets(batch, outs)
    with running_on(logits):
        variant.fused_kernel[(rows,)](
            *_pointers(batch),
            loss,
            grad_rows,
            *pointers,
            *_row_strides(batch),
            *strides,
            rows,
            classes,
            *_strides(batch),
            *_grad_strides(batch, grad_rows),
            ONE_TILE=chosen.one_tile,
            **want,
            BLOCK=chosen.block,
            num_warps=chosen.warps,
        )
    return loss


def interpreting() -> bool:
    """Was triton imported with TRITON_INTERPRET=1?"""
    return _INTERPRETING


@jit
def _scale_kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202
    grad,  # noqa: ANN001
    factor,  # noqa: ANN001
    target,  # noqa: ANN001
    target_stride,  # noqa: ANN001
    ignore_index,  # noqa: ANN001
    n_classes,  # noqa: ANN001
    n_elements,  # noqa: ANN001
    HAS_TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # grad *= factor, and nothing at all where factor is 1: no host synchronisation.
    scale = tl.load(factor)
    if scale != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n_elements
        value = tl.load(grad + at, mask=inside).to(tl.float32) * scale
        if HAS_TARGET:  # noqa: SIM102
            if (scale != scale) | (tl.abs(scale) == float("inf")):
                y = tl.load(target + at // n_classes * target_stride, mask=inside)
                value = tl.where(y == ignore_index, 0.0, value)
        tl.store(grad + at, value.to(grad.dtype.element_ty), mask=inside)


def scale_in_place(
    grad: Tensor, factor: Tensor, ignored: tuple[Tensor, int] | None = None
) -> Tensor:
    """``grad`` [N, V] *= ``factor`` (a scalar tensor), free of traffic where it is 1; rows that
    ``ignored`` (target [N], ignore_index) leaves out stay 0 where it is infinite or NaN."""
    if grad.is_cuda and HAS_TRITON and grad.dtype is not torch.float64 and grad.is_contiguous():
        block = 4096
        if grad.numel():
            target, index = (grad, 0) if ignored is None else ignored
            with running_on(grad):
                _scale_kernel[(-(-grad.numel() // block),)](
                    grad,
                    factor.to(torch.float32),
                    target,
                    target.stride(0),
                    index,
                    grad.shape[-1],
                    grad.numel(),
                    HAS_TARGET=ignored is not None,
                    BLOCK=block,
                    num_warps=8,
                )
        return grad
    if not grad.is_cuda and float(factor) == 1.0:
        return grad
    grad.mul_(factor)
    if ignored is not None and (grad.is_cuda or not math.isfinite(factor)):
        grad.masked_fill_((ignored[0] == ignored[1]).unsqueeze(1), 0.0)
    return grad


def backend_of(function: str, logits: Tensor, backend: str) -> str:
    """The backend that ``backend`` stands for. Raises ValueError."""
    if backend == "torch" or logits.is_meta:  # nothing runs where there is no data
        return "torch"
    on_cpu = logits.device.type == "cpu"
    if backend == "c":
        if not on_cpu:
            raise ValueError(
                f"{function}: backend 'c' needs CPU tensors, but logits are on {logits.device}"
            )
        return "c"
    usable = HAS_TRITON and logits.dtype is not torch.float64
    if backend == "auto":
        on_gpu = "triton" if logits.is_cuda and usable else "torch"
        return "c" if on_cpu else on_gpu
    if not HAS_TRITON:
        raise ValueError(f"{function}: backend 'triton' needs the package triton")
    if logits.dtype is torch.float64:
        raise ValueError(f"{function}: backend 'triton' computes in float32, not float64")
    if not logits.is_cuda and not interpreting():
        raise ValueError(
            f"{function}: backend 'triton' needs CUDA tensors, but logits are on "
            f"{logits.device} (set TRITON_INTERPRET=1 before importing triton to debug on CPU)"
        )
    return "triton"
