"""The row program in C: rows in parallel, each in cache from its first read to its gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_int64, c_uint, c_void_p

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype
from lossgen.runtime.c_build import library
from lossgen.runtime.memory import empty_like
from lossgen.runtime.tensors import in_memory
from lossgen.runtime.threads import shares

__all__ = ["STORAGE", "Struct", "available", "backward", "forward", "fused", "has_weights"]

STORAGE = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}  # 0: of the arithmetic
NO_MEMORY = "a row program could not allocate its scratch rows"


class Struct(Structure):
    """``Call`` of c/row.h."""

    _fields_ = (
        ("rows", c_int64),
        ("classes", c_int64),
        ("ignore_index", c_int64),
        ("target_stride", c_int64),
        ("storage", c_int64),
        ("target", c_void_p),
        ("stream", POINTER(c_void_p)),
        ("stream_stride", POINTER(c_int64)),
        ("input", POINTER(c_void_p)),
        ("input_stride", POINTER(c_int64)),
        ("parameter", POINTER(c_double)),
        ("result", c_void_p),
        ("saved", c_void_p),
        ("grad_rows", c_void_p),
        ("grad_rows_stride", c_int64),
        ("grad_outputs_stride", c_int64),
        ("grad", POINTER(c_void_p)),
        ("grad_stride", POINTER(c_int64)),
    )


def available(variant: Variant, dtype: torch.dtype) -> bool:
    """Can it run here? Compiles the program the first time."""
    wide = arithmetic(variant, dtype) is torch.float64
    return bool(variant.c_source) and library(variant.c_source, wide) is not None


def has_weights(variant: Variant, dtype: torch.dtype) -> bool:
    """Does the program say what a row counts for in a mean?"""
    wide = arithmetic(variant, dtype) is torch.float64
    return hasattr(library(variant.c_source, wide), "row_weight")


def forward(variant: Variant, batch: Batch) -> tuple[Tensor, Tensor]:
    """Results [outputs, N] and saved statistics [n_saved, N], in the dtype of the arithmetic."""
    saved = _rows(variant, batch, variant.n_saved)
    return _run(variant, batch, "forward", saved=saved), saved


def backward(
    variant: Variant, batch: Batch, saved: Tensor, grad_rows: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients [N, V] in the dtype of the logits: of the logits and of each differentiable
    stream, where ``wanted``; ``grad_rows`` is [outputs, N], any stride."""
    outs = tuple(empty_like(batch.logits) if want else None for want in wanted)
    _run(variant, batch, "backward", saved=saved, grad_rows=grad_rows, outs=outs)
    return outs


def fused(
    variant: Variant, batch: Batch, grad_rows: Tensor, outs: Sequence[Tensor | None]
) -> Tensor:
    """Results [outputs, N]; the gradients go to ``outs`` [N, V] each, the first of which may be
    the logits; None: not wanted."""
    return _run(variant, batch, "fused", grad_rows=grad_rows, outs=outs)


def _rows(variant: Variant, batch: Batch, n: int) -> Tensor:
    logits = batch.logits  # its device, whatever torch.set_default_device says
    dtype = arithmetic(variant, logits.dtype)
    return torch.empty(n, logits.shape[0], dtype=dtype, device=logits.device)


def _run(
    variant: Variant,
    batch: Batch,
    role: str,
    saved: Tensor | None = None,
    grad_rows: Tensor | None = None,
    outs: Sequence[Tensor | None] = (),
) -> Tensor:
    batch = batch.in_memory()
    logits, target, dtype = batch.logits, batch.target, arithmetic(variant, batch.logits.dtype)
    program = library(variant.c_source, dtype is torch.float64)
    if program is None:
        raise RuntimeError("the C program of this loss could not be compiled; see the warning")
    rows, classes = logits.shape
    result = _rows(variant, batch, batch.n_out)
    inputs = [value.to(dtype) for value in batch.inputs]
    streams = [logits, *batch.streams]
    grad_rows = None if grad_rows is None else in_memory(grad_rows.to(dtype))
    call = Struct(
        rows=rows,
        classes=classes,
        ignore_index=batch.ignore_index,
        target_stride=0 if target is None else target.stride(0),
        storage=0 if logits.dtype is dtype else STORAGE[logits.dtype],
        target=_address(target),
        stream=_addresses(streams),
        stream_stride=integers([s.stride(0) for s in streams]),
        input=_addresses(inputs),
        input_stride=integers([i.stride(0) for i in inputs]),
        parameter=(c_double * max(1, len(batch.parameters)))(*batch.parameters),
        result=_address(result),
        saved=_address(saved),
        grad_rows=_address(grad_rows),
        grad_rows_stride=0 if grad_rows is None else grad_rows.stride(1),
        grad_outputs_stride=0 if grad_rows is None else grad_rows.stride(0),
        grad=_addresses(outs),
        grad_stride=integers([0 if o is None else o.stride(0) for o in outs]),
    )
    _in_parallel(program, role, call, rows, classes * len(streams))
    return result.to(compute_dtype(logits))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[c_void_p]:
    return (c_void_p * max(1, len(tensors)))(*(_address(t) for t in tensors))


def integers(values: Sequence[int]) -> ctypes.Array[c_int64]:
    return (c_int64 * max(1, len(values)))(*values)


# ---------------------------------------------------------------------------- threads
def _in_parallel(program: ctypes.CDLL, role: str, call: Struct, rows: int, width: int) -> None:
    """All rows in one call of C, which returns when no thread reads or writes them any more; the
    interpreter's lock is free meanwhile, and a signal is handled afterwards."""
    step, threads, team = shares(rows, width)
    given = (c_int64(step), c_uint(threads), c_void_p(team))
    if program.in_shares(ctypes.byref(call), getattr(program, role), *given):
        raise MemoryError(NO_MEMORY)
