"""Calls of a C program that differ in addresses and numbers alone.

What else C is told is written once, into a frame; a call then sets a few fields of it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_float, c_int, c_int64, c_uint, c_void_p
from functools import partial

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype
from lossgen.runtime.c_backend import NO_MEMORY, STORAGE, Struct, integers, shares
from lossgen.runtime.c_build import library
from lossgen.runtime.remedies import out_of_bounds
from lossgen.runtime.tensors import in_memory

__all__ = ["Frames"]

_ROLES = ("forward", "backward", "fused")


class Frames:
    """Of calls like that of ``batch``, in the dtypes that C reads; gradients are contiguous but for
    one that has the place of the logits.

    ``weight`` is what a row counts for in a mean, 0 where the rows are summed.
    """

    def __init__(self, variant: Variant, batch: Batch, weight: float) -> None:
        self.dtype = arithmetic(variant, batch.logits.dtype)
        self.total_dtype = compute_dtype(batch.logits)
        self.source = variant.c_source, self.dtype is torch.float64
        program = self.program = library(*self.source)
        assert program is not None  # ``available`` has said so
        self.batch, self.weight = batch.without_tensors(), weight
        self.rows, self.classes = batch.logits.shape
        self.scalar = torch.empty((), dtype=self.total_dtype, device="cpu")
        self.shares = partial(shares, self.rows, self.classes * (1 + len(batch.streams)))
        self.n_saved = variant.n_saved
        self.fields = {
            "rows": self.rows,
            "classes": self.classes,
            "ignore_index": batch.ignore_index,
            "target_stride": 0 if batch.target is None else batch.target.stride(0),
            "storage": 0 if batch.logits.dtype is self.dtype else STORAGE[batch.logits.dtype],
        }
        self.strides = [t.stride(0) for t in (batch.logits, *batch.streams)]
        self.input_strides = [t.stride(0) for t in batch.inputs]
        self.n_parameters = len(batch.parameters)
        self.no_outs = (None,) * len(self.strides)
        # By number of its own: functions that are asked for by name are shared.
        self.roles = {role: ctypes.cast(program[role], c_void_p).value for role in _ROLES}
        self.run = program["in_shares"]
        self.run.argtypes = (c_void_p, c_void_p, c_int64, c_uint)
        self.count = program["count_rows"]
        self.count.argtypes = (c_void_p, c_int64, c_int64, c_int64, c_int64)
        self.sum = program["sum_rows"]
        self.sum.argtypes = (
            *self.run.argtypes,
            c_int64,
            c_double,
            c_void_p,
            c_void_p,
            c_void_p,
            c_int,
        )
        self.count.restype = self.sum.restype = c_int64
        self.free: deque[Frame] = deque()  # each is filled by one thread at a time

    @property
    def current(self) -> bool:
        """Is the program still the one that is loaded for this source?"""
        return library(*self.source) is self.program

    def total(
        self,
        tensors: Sequence[Tensor | None],
        parameters: Sequence[float],
        count: Tensor | None = None,
        outs: Sequence[Tensor | None] = (),
    ) -> tuple[Tensor, float]:
        """The sum over the rows of logits, target, streams and inputs, divided by ``count`` or what
        the rows count for, and what gradients of rows are multiplied by in it; those go to
        ``outs``.

        Raises:
            IndexError: a target that is neither a class nor ignored; nothing was written.
        """
        frame = self.filled(tensors, parameters, outs or self.no_outs)
        total = torch.empty_like(self.scalar)
        if count is not None:
            frame.count.value = count.item()
        failed = self.sum(
            frame.address,
            self.roles["fused" if outs else "forward"],
            *self.shares(),
            0 if outs else self.n_saved,
            self.weight,
            None if count is None else frame.count_address,
            frame.scale_address,
            total.data_ptr(),
            self.total_dtype is torch.float64,
        )
        scale: float = frame.scale.value
        self.free.append(frame)
        self.check(failed, tensors[1])
        return total, scale

    def forward(
        self, tensors: Sequence[Tensor | None], parameters: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Results [outputs, N], and what the backward reads. Raises IndexError as ``total``."""
        frame = self.filled(tensors, parameters, self.no_outs)
        target = tensors[1]
        if target is not None:
            place = (frame.call.target, self.fields["target_stride"], self.rows, self.classes)
            self.check(min(0, self.count(*place, self.batch.ignore_index)), target)
        size = (self.batch.n_out, self.rows)
        result = torch.empty(size, dtype=self.dtype, device="cpu")
        saved = torch.empty((self.n_saved, self.rows), dtype=self.dtype, device="cpu")
        frame.call.result, frame.call.saved = result.data_ptr(), saved.data_ptr()
        failed = self.run(frame.address, self.roles["forward"], *self.shares())
        self.free.append(frame)
        self.check(failed, None)
        return result.to(self.total_dtype), saved

    def backward(
        self,
        tensors: Sequence[Tensor | None],
        parameters: Sequence[float],
        saved: Tensor,
        grad_rows: Tensor,
        outs: Sequence[Tensor | None],
    ) -> None:
        """The gradients of the rows, weighted by ``grad_rows`` [outputs, N], to ``outs``."""
        frame, slopes = self.filled(tensors, parameters, outs), in_memory(grad_rows.to(self.dtype))
        call = frame.call
        call.saved, call.grad_rows = saved.data_ptr(), slopes.data_ptr()
        call.grad_outputs_stride, call.grad_rows_stride = slopes.stride()
        failed = self.run(frame.address, self.roles["backward"], *self.shares())
        call.grad_outputs_stride = call.grad_rows_stride = 0  # of a total there is one for all
        self.free.append(frame)
        self.check(failed, None)

    def filled(
        self,
        tensors: Sequence[Tensor | None],
        parameters: Sequence[float],
        outs: Sequence[Tensor | None],
    ) -> Frame:
        """A frame that nobody else has."""
        try:
            frame = self.free.pop()
        except IndexError:
            frame = Frame(self)
        logits, target, *rest = tensors
        frame.call.target = None if target is None else _address(target)
        for k, tensor in enumerate((logits, *rest)):
            frame.sources[k] = _address(tensor)
        for k, value in enumerate(parameters):
            frame.parameters[k] = value
        for k, out in enumerate(outs):
            frame.grads[k] = None if out is None else out.data_ptr()
        if outs[0] is not None:
            frame.grad_strides[0] = outs[0].stride(0)
        return frame

    def check(self, failed: int, target: Tensor | None) -> None:
        """Raises MemoryError, and IndexError as torch does."""
        if not failed:
            return
        if failed > 0 or target is None:
            raise MemoryError(NO_MEMORY)
        label, ignored = int(target[-1 - failed]), self.fields["ignore_index"]
        raise out_of_bounds(label, self.classes, ignored)


def _address(tensor: Tensor | None) -> int:
    """Of memory that is there."""
    assert tensor is not None
    return tensor.data_ptr() or in_memory(tensor).data_ptr()


class Frame:
    """The struct of a call, with what it points to."""

    __slots__ = (
        "address",
        "call",
        "count",
        "count_address",
        "grad_strides",
        "grads",
        "parameters",
        "scale",
        "scale_address",
        "sources",
    )

    def __init__(self, frames: Frames) -> None:
        n_streams, n_inputs = len(frames.strides), len(frames.input_strides)
        self.sources = (c_void_p * (n_streams + n_inputs + 1))()  # the inputs behind the streams
        self.grads = (c_void_p * n_streams)()
        self.parameters = (c_double * max(1, frames.n_parameters))()
        self.scale = (c_double if frames.dtype is torch.float64 else c_float)(1.0)
        self.scale_address = ctypes.addressof(self.scale)
        self.count = c_double(0.0)
        self.count_address = ctypes.addressof(self.count)
        self.grad_strides = integers([frames.classes] * n_streams)
        inputs = ctypes.addressof(self.sources) + n_streams * ctypes.sizeof(c_void_p)
        self.call = Struct(
            **frames.fields,
            stream=ctypes.cast(self.sources, POINTER(c_void_p)),
            stream_stride=integers(frames.strides),
            input=ctypes.cast(inputs, POINTER(c_void_p)),
            input_stride=integers(frames.input_strides),
            parameter=self.parameters,
            grad=ctypes.cast(self.grads, POINTER(c_void_p)),
            grad_stride=self.grad_strides,
        )
        self.address = ctypes.addressof(self.call)
