"""Calls of a C program that differ in addresses and numbers alone.

What else C is told is written once, into a frame; a call then sets a few fields of it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype
from lossgen.runtime.c_backend import NO_MEMORY, STORAGE, Struct, integers
from lossgen.runtime.c_build import library
from lossgen.runtime.remedies import out_of_bounds
from lossgen.runtime.tensors import in_memory
from lossgen.runtime.threads import is_one_share, shares

__all__ = ["Frames"]

_ROLES = ("forward", "backward", "fused")


class Job(Structure):
    """``Job`` of c/row.h."""

    _fields_ = (
        ("call", Struct),
        ("rows", c_void_p),
        ("team", c_void_p),
        ("step", c_int64),
        ("threads", c_int64),
        ("weight_of", c_void_p),
        ("weight", c_double),
        ("divisor", c_double),
        ("divided", c_int64),
        ("n_saved", c_int64),
        ("scale", c_void_p),
        ("total", c_void_p),
        ("total_is_double", c_int64),
    )


class Frames:
    """Of calls like that of ``batch``, in the dtypes that C reads; gradients are contiguous but for
    one that has the place of the logits.

    ``weight`` is what a row counts for in a mean, 0 where the rows are summed; None: as the program
    says of each row.
    """

    def __init__(self, variant: Variant, batch: Batch, weight: float | None) -> None:
        self.dtype = arithmetic(variant, batch.logits.dtype)
        self.total_dtype = compute_dtype(batch.logits)
        self.source = variant.c_source, self.dtype is torch.float64
        program = self.program = library(*self.source)
        assert program is not None  # ``available`` has said so
        self.batch = batch.without_tensors()
        self.rows, self.classes = batch.logits.shape
        self.scalar = torch.empty((), dtype=self.total_dtype, device="cpu")
        self.width = self.classes * (1 + len(batch.streams))
        self.alone = is_one_share(self.rows, self.width)
        self.results, self.n_saved = (batch.n_out, self.rows), variant.n_saved
        self.call = {
            "rows": self.rows,
            "classes": self.classes,
            "ignore_index": batch.ignore_index,
            "target_stride": 0 if batch.target is None else batch.target.stride(0),
            "storage": 0 if batch.logits.dtype is self.dtype else STORAGE[batch.logits.dtype],
        }
        self.job = {
            "step": self.rows,
            "threads": 1,
            "weight_of": _address(program, "row_weight") if weight is None else None,
            "weight": weight or 0.0,
            "total_is_double": self.total_dtype is torch.float64,
        }
        self.strides = [t.stride(0) for t in (batch.logits, *batch.streams)]
        self.input_strides = [t.stride(0) for t in batch.inputs]
        self.n_parameters = len(batch.parameters)
        self.no_outs = (None,) * len(self.strides)
        self.forward_rows, self.backward_rows, self.fused_rows = (
            _address(program, role) for role in _ROLES
        )
        # By number of its own: functions that are asked for by name are shared.
        self.run, self.sum = program["run_rows"], program["sum_rows"]
        for function in (self.run, self.sum):
            function.argtypes, function.restype = (c_void_p,), c_int64
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
        job, total = frame.job, torch.empty_like(self.scalar)
        job.total = total.data_ptr()
        if count is not None:
            job.divisor, job.divided = count.item(), True
        if outs:
            job.rows, job.n_saved = self.fused_rows, 0
        else:
            job.rows, job.n_saved = self.forward_rows, self.n_saved
        failed = self.sum(frame.address)
        scale: float = frame.scale.value
        self.free.append(frame)
        if failed:
            self.refuse(failed, tensors[1])
        return total, scale

    def forward(
        self, tensors: Sequence[Tensor | None], parameters: Sequence[float], shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Results, outputs · N in a ``shape`` (a view could not be changed in place by the caller),
        and what the backward reads. Raises IndexError as ``total``."""
        frame = self.filled(tensors, parameters, self.no_outs)
        result = torch.empty(shape, dtype=self.dtype, device="cpu")
        saved = torch.empty((self.n_saved, self.rows), dtype=self.dtype, device="cpu")
        frame.call.result, frame.call.saved = result.data_ptr(), saved.data_ptr()
        frame.job.rows = self.forward_rows
        self.finish(frame, tensors[1])
        return result.to(self.total_dtype), saved

    def backward(
        self,
        tensors: Sequence[Tensor | None],
        parameters: Sequence[float],
        saved: Tensor,
        grad_rows: Tensor,
        outs: Sequence[Tensor | None],
    ) -> None:
        """The gradients of the rows, of results weighted by ``grad_rows``, to ``outs``."""
        slopes = in_memory(grad_rows.reshape(self.results).to(self.dtype))
        frame = self.filled(tensors, parameters, outs)
        call = frame.call
        call.saved, call.grad_rows = saved.data_ptr(), slopes.data_ptr()
        call.grad_outputs_stride, call.grad_rows_stride = slopes.stride()
        frame.job.rows = self.backward_rows
        self.finish(frame, tensors[1])

    def finish(self, frame: Frame, target: Tensor | None) -> None:
        """Run the rows of a filled frame. Raises IndexError, MemoryError."""
        failed = self.run(frame.address)
        frame.call.grad_outputs_stride = frame.call.grad_rows_stride = 0  # of a total: one for all
        self.free.append(frame)
        if failed:
            self.refuse(failed, target)

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
        if target is not None:
            frame.call.target = target.data_ptr() or _memory(target)
        for k, tensor in enumerate((logits, *rest)):
            assert tensor is not None
            frame.sources[k] = tensor.data_ptr() or _memory(tensor)
        for k, value in enumerate(parameters):
            frame.parameters[k] = value
        for k, out in enumerate(outs):
            frame.grads[k] = None if out is None else out.data_ptr()
        if outs[0] is not None:
            frame.grad_strides[0] = outs[0].stride(0)
        if not self.alone:
            job = frame.job
            job.step, job.threads, job.team = shares(self.rows, self.width)
        return frame

    def refuse(self, failed: int, target: Tensor | None) -> None:
        """Raises MemoryError, or IndexError as torch does."""
        if failed > 0 or target is None:
            raise MemoryError(NO_MEMORY)
        label, ignored = int(target[-1 - failed]), self.batch.ignore_index
        raise out_of_bounds(label, self.classes, ignored)


def _address(program: ctypes.CDLL, function: str) -> int | None:
    """Of a function, by number of its own: those that are asked for by name are shared."""
    return ctypes.cast(program[function], c_void_p).value


def _memory(tensor: Tensor) -> int:
    """Of a tensor without an address: an empty one, or one whose memory was freed."""
    return in_memory(tensor).data_ptr()


class Frame:
    """What C is told of a call, and what that points to."""

    __slots__ = (
        "address",
        "call",
        "grad_strides",
        "grads",
        "held",
        "job",
        "parameters",
        "scale",
        "sources",
    )

    def __init__(self, frames: Frames) -> None:
        n_streams, n_inputs = len(frames.strides), len(frames.input_strides)
        self.sources = (c_void_p * (n_streams + n_inputs + 1))()  # the inputs behind the streams
        self.grads = (c_void_p * n_streams)()
        self.parameters = (c_double * max(1, frames.n_parameters))()
        self.scale = (c_double if frames.dtype is torch.float64 else c_float)(1.0)
        self.grad_strides = integers([frames.classes] * n_streams)
        inputs = ctypes.addressof(self.sources) + n_streams * ctypes.sizeof(c_void_p)
        call = Struct(
            **frames.call,
            stream=ctypes.cast(self.sources, POINTER(c_void_p)),
            stream_stride=integers(frames.strides),
            input=ctypes.cast(inputs, POINTER(c_void_p)),
            input_stride=integers(frames.input_strides),
            parameter=self.parameters,
            grad=ctypes.cast(self.grads, POINTER(c_void_p)),
            grad_stride=self.grad_strides,
        )
        self.held = call  # and the strides that it points to
        self.job = Job(call=call, scale=ctypes.addressof(self.scale), **frames.job)
        self.call = self.job.call  # the same memory
        self.address = ctypes.addressof(self.job)
