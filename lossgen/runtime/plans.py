"""Calls like one that was checked before: the same shapes, strides, dtypes and options.

What a call is refused for, and how it is computed, follows from facts about its tensors and from
its options; a plan is what follows.  Numbers, labels and the values of inputs are looked at in
every call.  Anything unusual has no facts (another device, a subclass, a transform, a mode, logits
to be overwritten), and is checked and computed as if for the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lossgen.runtime import c_backend
from lossgen.runtime.arguments import Input, check_input_values, check_stream_range, numbers
from lossgen.runtime.autograd import Call, once
from lossgen.runtime.batch import arithmetic, compute_dtype
from lossgen.runtime.frames import Frames
from lossgen.runtime.launch import scale_in_place
from lossgen.runtime.memory import empty_like
from lossgen.runtime.tensors import PLAIN, transformed, watched

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["Plans"]

_KEPT = 64  # plans of a loss: shapes that never come again must not pile up
Key = tuple[Any, ...]
Tensors = Sequence[Tensor | None]


def _facts(tensors: Sequence[Any], options: Sequence[Any]) -> list[Any] | None:
    """What decides how a call is computed; None where more may decide."""
    ignore_index, reduction, backend, inplace_grad, class_dim = options
    plain = type(ignore_index) is int and type(reduction) is str and type(backend) is str
    if not plain or inplace_grad is not False or type(class_dim) not in (int, type(None)):
        return None
    if watched() or transformed() or forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return None
    found: list[Any] = [torch.is_grad_enabled(), ignore_index, reduction, backend, class_dim]
    for tensor in tensors:
        if tensor is None:
            found.append(None)
            continue
        if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout is not torch.strided:
            return None
        if tensor.is_neg() or tensor._is_zerotensor() or tensor.is_nested:
            return None
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return None
        found += (tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad)
    return found


class Plans:
    """The plans of one loss, by the facts of their calls."""

    def __init__(self, loss: RowLoss) -> None:
        self.loss = loss
        self.kept: dict[Key, Plan] = {}
        optional = enumerate(p.off for p in loss.parameters)
        self.optional = tuple((i, off) for i, off in optional if off is not None)

    def find(
        self, tensors: Sequence[Any], parameters: Sequence[Any], options: Sequence[Any]
    ) -> tuple[Key | None, Plan | None, Sequence[float]]:
        """The key of a call, its plan if there is one, and its numbers.

        ``tensors`` are the logits, the target, the streams, and the other inputs.

        Raises TypeError, ValueError for a number.
        """
        facts = _facts(tensors, options)
        if facts is None:
            return None, None, ()
        values = numbers(self.loss.function, self.loss.parameters, parameters)
        facts += [values[i] != off for i, off in self.optional]
        key = tuple(facts)
        plan = self.kept.get(key)
        return key, plan if plan is not None and plan.frames.current else None, values

    def learn(
        self, key: Key, tensors: Tensors, call: Call, lead: torch.Size, wants_grad: bool
    ) -> Plan | None:
        """Keep a plan of a checked call, if C can read its tensors where they are."""
        loss, batch, reduction, class_dim = self.loss, call.batch, key[2], key[4]
        first = 2 + len(loss.streams)
        names = [i.name for i in loss.others]
        read = (*range(first), *(first + names.index(name) for name in call.variant.inputs))
        logits = batch.logits
        last = class_dim is None or class_dim in (-1, len(key[6]) - 1)
        if call.backend != "c" or not last or not logits.numel():
            return None
        if not all(_same(tensors[k], t) for k, t in zip(read, batch.tensors, strict=True)):
            return None
        if not c_backend.available(call.variant, logits.dtype):
            return None
        if any(t.dtype is not arithmetic(call.variant, logits.dtype) for t in batch.inputs):
            return None
        weight = 0.0
        if reduction == "mean":
            weight = self._weight(logits, dict(zip(names, tensors[first:], strict=True)))
            if not weight:
                return None
        if len(self.kept) >= _KEPT:
            self.kept.clear()
        frames = Frames(call.variant, batch, "fused" if wants_grad else "forward", weight)
        shape = lead if reduction == "none" else None
        plan = self.kept[key] = Plan(loss, call, frames, read, shape, wants_grad)
        return plan

    def _weight(self, logits: Tensor, given: dict[str, Tensor | None]) -> float:
        """What each row counts for in a mean, if that is the same for all; else 0."""
        if self.loss.normalizer is None:
            return 1.0
        if any(value is not None for value in given.values()):
            return 0.0
        classes = torch.arange(logits.shape[1], device=logits.device)
        low, high = self.loss.normalizer(classes, given, compute_dtype(logits)).aminmax()
        return float(low) if low == high else 0.0


def _same(given: Tensor | None, read: Tensor | None) -> bool:
    """Are these the same numbers in the same memory?"""
    if given is None or read is None:
        return given is read
    return given.data_ptr() == read.data_ptr() and given.dtype is read.dtype


def _is_narrow(declared: Input) -> bool:
    """Are there numbers that it may not hold?"""
    return bool(declared.values) or declared.integer or not declared.domain.everything


class Plan:
    """How calls with the same facts are computed.

    ``read`` says which tensors of a call the variant takes; ``shape`` is that of one number per
    row, where nothing is reduced.
    """

    def __init__(
        self,
        loss: RowLoss,
        call: Call,
        frames: Frames,
        read: tuple[int, ...],
        shape: torch.Size | None,
        wants_grad: bool,
    ) -> None:
        batch = call.batch
        self.call, self.frames, self.read = call.detached(), frames, read
        self.shape, self.wants_grad = shape, wants_grad
        names = [p.name for p in loss.parameters]
        self.numbers = tuple(names.index(name) for name in call.variant.parameters)
        self.narrow = tuple(
            (2 + k, i) for k, i in enumerate((*loss.streams, *loss.others)) if _is_narrow(i)
        )
        self.flat = tuple(None if t is None else t.shape for t in batch.tensors)
        self.sources = (0, *(2 + k for k, flag in enumerate(batch.differentiable) if flag))
        self.requires = tuple(t is not None and t.requires_grad for t in batch.tensors)
        self.wanted = tuple(self.requires[k] for k in self.sources)

    def __call__(self, tensors: Tensors, values: Sequence[float]) -> Tensor:
        """The result. Raises ValueError, IndexError for what the tensors hold."""
        for k, declared in self.narrow:
            value = tensors[k]
            if value is not None:
                look = check_stream_range if declared.kind == "class" else check_input_values
                look(self.call.loss, declared, value)
        read = [tensors[k] for k in self.read]
        for k, flat in enumerate(self.flat):
            tensor = read[k]
            if tensor is None:
                continue
            if tensor.requires_grad and not self.requires[k]:
                tensor = tensor.detach()
            read[k] = tensor if tensor.shape == flat else tensor.reshape(flat)
        values = [values[k] for k in self.numbers]
        if self.wants_grad:
            loss: Tensor = Planned.apply((self, values), *read)
            return loss
        if self.shape is None:
            return self.frames.total(read, values)[0]
        return self.frames.results(read, values).reshape(self.shape)

    def room(self, tensors: Tensors) -> list[Tensor | None]:
        """For the gradients that are wanted."""
        found: list[Tensor | None] = []
        for k, want in zip(self.sources, self.wanted, strict=True):
            source = tensors[k]
            found.append(empty_like(source) if want and source is not None else None)
        return found

    def again(
        self, values: Sequence[float], scale: float, grad: Tensor, tensors: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The gradients once more, [N, V] each."""
        call = self.call
        batch = replace(call.batch.with_tensors(tensors), parameters=tuple(values))
        _, rows = call.rows(batch)
        grad_rows = (grad * scale).expand(1, batch.logits.shape[0])
        return call.gradients(batch, rows, grad_rows, self.wanted)


class Planned(torch.autograd.Function):
    """As ``Fused``, of a call that has a plan."""

    @staticmethod
    def forward(ctx: Any, planned: tuple[Plan, Sequence[float]], *tensors: Tensor | None) -> Tensor:
        plan, values = planned
        outs = plan.room(tensors)
        total, scale = plan.frames.total(tensors, values, outs)
        ctx.save_for_backward(*tensors)
        ctx.plan, ctx.values, ctx.scale, ctx.gradients = plan, values, scale, outs
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        found, ctx.gradients = ctx.gradients, None
        tensors = ctx.saved_tensors  # unpacked once: a checkpoint recomputes it
        if found is None or grad.item() != 1.0:
            with torch.no_grad():
                if found is None:
                    found = plan.again(ctx.values, ctx.scale, grad, tensors)
                else:
                    ignored = (
                        None if tensors[1] is None else (tensors[1], plan.call.batch.ignore_index)
                    )
                    for gradient in found:
                        if gradient is not None:
                            scale_in_place(gradient, grad, ignored)
        if torch.is_grad_enabled():
            found = once(tuple(found), tuple(tensors[k] for k in plan.sources), plan.call.loss)
        slopes: list[Tensor | None] = [None] * (1 + len(tensors))
        for k, gradient in zip(plan.sources, found, strict=True):
            slopes[1 + k] = gradient
        return tuple(slopes)
