"""Calls like one that was checked before: the same shapes, strides, dtypes and options.

What a call is refused for, and how it is computed, follows from facts about its tensors and from
its options; a plan is what follows.  Numbers, labels and the values of inputs are looked at in
every call.  Anything unusual has no facts (another device, a subclass, a transform, a mode), and
is checked and computed as if for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lossgen.runtime import c_backend
from lossgen.runtime.arguments import Input, Variant, numbers
from lossgen.runtime.autograd import Call
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype, reduced, rows_of, scaled
from lossgen.runtime.divisor import divisor, is_counted
from lossgen.runtime.frames import Frames
from lossgen.runtime.memory import maker_of
from lossgen.runtime.planned import planned_rows, planned_total
from lossgen.runtime.recent import Guard, Recent, guard_of
from lossgen.runtime.tensors import PLAIN, transformed, watched
from lossgen.runtime.values import check_input_values, check_stream_range

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["Plan", "Plans"]

_KEPT = 64  # plans of a loss: shapes that never come again must not pile up
Key = tuple[Any, ...]
Tensors = Sequence[Tensor | None]
Change = Callable[[Tensor], Tensor]


#: Of ignore_index, reduction, backend, inplace_grad and class_dim.
_KINDS = {(int, str, str, bool, kind) for kind in (int, type(None))}
#: What torch dispatches on: where the memory is, and what wraps it or is put off.
_dispatch_keys = torch._C._dispatch_keys


def _dense() -> frozenset[int]:
    """Of tensors on the CPU with rows in memory, made under each mode of autograd."""
    plain = torch.empty(0, device="cpu")
    with torch.inference_mode():
        both = (plain, torch.empty(0, device="cpu"))
    return frozenset(_dispatch_keys(tensor).raw_repr() for tensor in both)


_DENSE = _dense()


def _facts(tensors: Sequence[Any], options: Sequence[Any]) -> list[Any] | None:
    """What decides how a call is computed; None where more may decide."""
    if tuple(map(type, options)) not in _KINDS:
        return None
    if watched() or transformed() or forward_ad._current_level >= 0 or torch._C._is_tracing():
        return None
    found: list[Any] = [torch.is_grad_enabled(), *options]
    for tensor in tensors:
        if tensor is None:
            found.append(None)
            continue
        if type(tensor) not in PLAIN or _dispatch_keys(tensor).raw_repr() not in _DENSE:
            return None
        found += (tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad)
    if options[3]:
        found.append(tensors[0].is_leaf)
    return found


class Plans:
    """The plans of one loss, by the facts of their calls."""

    def __init__(self, loss: RowLoss) -> None:
        self.loss = loss
        self.kept: dict[Key, Plan] = {}
        self.recent: Recent | None = None
        optional = enumerate(p.off for p in loss.parameters)
        self.optional = tuple((i, off) for i, off in optional if off is not None)

    def find(
        self, tensors: Sequence[Any], parameters: Sequence[Any], options: Sequence[Any]
    ) -> tuple[Key | None, Plan | None, Sequence[float]]:
        """The key of a call, its plan if there is one, and its numbers.

        ``tensors`` are the logits, the target, the streams, and the other inputs.

        Raises TypeError, ValueError for a number.
        """
        facts = None if torch.compiler.is_compiling() else _facts(tensors, options)
        if facts is None:
            return None, None, ()
        values = numbers(self.loss.function, self.loss.parameters, parameters)
        for i, off in self.optional:
            facts.append(values[i] != off)
        key = tuple(facts)
        plan = self.kept.get(key)
        return key, plan if plan is not None and plan.frames.current else None, values

    def learn(
        self,
        key: Key | None,
        tensors: Tensors,
        call: Call,
        lead: torch.Size,
        options: Sequence[Any],
    ) -> Plan | None:
        """Keep a plan of a checked call, if it has a key and C computes it."""
        if key is None or call.backend != "c" or not call.batch.logits.numel():
            return None
        if not c_backend.available(call.variant, call.batch.logits.dtype):
            return None
        _, reduction, _, inplace, class_dim = options
        reads = _reads(self.loss, tensors, call, class_dim)
        if len(self.kept) >= _KEPT:
            self.kept.clear()
        names = (i.name for i in self.loss.others)
        others = dict(zip(names, tensors[2 + len(self.loss.streams) :], strict=True))
        wants_grad = torch.is_grad_enabled() and any(s.requires_grad for s in call.batch.sources)
        how = (lead, reduction, inplace, wants_grad, others, guard_of(tensors))
        plan = self.kept[key] = Plan(self.loss, call, reads, *how)
        return plan


# ---------------------------------------------------------------------------- what is read
@dataclass(frozen=True)
class _Read:
    """One tensor of a batch: which of a call it is, or what stands for one that was not given; and
    what is done to it first, if anything."""

    place: int
    held: Tensor | None = None
    change: Change | None = None


def _reads(loss: RowLoss, tensors: Tensors, call: Call, class_dim: int | None) -> list[_Read]:
    """How the tensors of ``call.batch`` come from those that were given."""
    batch, variant = call.batch, call.variant
    logits = tensors[0]
    assert logits is not None
    axis = logits.dim() - 1 if class_dim is None else class_dim % logits.dim()
    first = 2 + len(loss.streams)
    names = [i.name for i in loss.others]
    places = [*range(first), *(first + names.index(name) for name in variant.inputs)]
    real = arithmetic(variant, batch.logits.dtype)
    found = []
    for k, (place, read) in enumerate(zip(places, batch.tensors, strict=True)):
        given = tensors[place]
        if read is None:
            found.append(_Read(place))
        elif given is None or (k == 1 and variant.from_first):
            found.append(_Read(-1, _constant(read if k < first else read.to(real))))
        elif k == 1:
            found.append(_Read(place, change=_flat(given, torch.int64)))
        elif k < first:
            found.append(_Read(place, change=_rows(given, read, axis)))
        else:
            whole = batch.kinds[k - first] == "vocab"
            found.append(_Read(place, change=_flat(given, real, whole)))
    return found


def _constant(read: Tensor) -> Tensor:
    """One number for all classes or rows, in little memory where strides may be 0."""
    return read.clone() if read.dtype.is_floating_point else read[:1].clone().expand(read.shape)


def _flat(given: Tensor, dtype: torch.dtype, whole: bool = False) -> Change | None:
    """One number per row or class."""
    if given.dim() == 1 and given.dtype is dtype and (not whole or given.is_contiguous()):
        return Tensor.detach if given.requires_grad else None

    def change(tensor: Tensor) -> Tensor:
        flat = tensor.detach().reshape(-1).to(dtype)
        return flat.contiguous() if whole else flat

    return change


def _rows(given: Tensor, read: Tensor, axis: int) -> Change | None:
    """[N, V]."""
    constant = given.requires_grad and not read.requires_grad
    dtype, classes = read.dtype, read.shape[1]
    last = axis == given.dim() - 1
    alike = given.dtype is dtype and given.shape == read.shape and given.stride() == read.stride()
    if last and alike:
        return Tensor.detach if constant else None

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.detach() if constant else tensor
        return rows_of(tensor.to(dtype), axis, classes)

    return change


def _is_narrow(declared: Input) -> bool:
    """Are there numbers that it may not hold?"""
    return bool(declared.values) or declared.integer or not declared.domain.everything


# ---------------------------------------------------------------------------- the plan
class Plan:
    """How calls with the same facts are computed.

    Their sum or mean is taken in C together with the gradients, unless a row needs its own slope.
    """

    def __init__(
        self,
        loss: RowLoss,
        call: Call,
        reads: Sequence[_Read],
        lead: torch.Size,
        reduction: str,
        inplace: bool,
        wants_grad: bool,
        others: Mapping[str, Tensor | None],
        guard: Guard | None,
    ) -> None:
        self.loss, self.wants_grad, self.guard = loss, wants_grad, guard
        self.held = tuple(r.held for r in reads if r.held is not None)
        given = 2 + len(loss.streams) + len(loss.others)
        places = iter(range(given, given + len(self.held)))
        self.places = tuple(next(places) if r.held is not None else r.place for r in reads)
        self.changes = tuple((k, r.change) for k, r in enumerate(reads) if r.change is not None)
        names = [p.name for p in loss.parameters]
        self.numbers = tuple(names.index(name) for name in call.variant.parameters)
        self.narrow = tuple(
            (2 + k, i) for k, i in enumerate((*loss.streams, *loss.others)) if _is_narrow(i)
        )
        # float16 cannot hold a gradient before the caller's scale (a GradScaler's) is known.
        late = wants_grad and call.batch.logits.dtype is torch.float16
        self.kind = "rows" if reduction == "none" else "reduced" if late else "total"
        batch = call.batch
        requires = tuple(t is not None and t.requires_grad for t in batch.tensors)
        self.sources = (0, *(2 + k for k, flag in enumerate(batch.differentiable) if flag))
        order = {place: k for k, place in enumerate(self.sources)}
        self.slopes = tuple(order.get(place) for place in range(len(reads)))
        self.wanted = tuple(wants_grad and requires[k] for k in self.sources)
        pairs = zip(self.sources, batch.sources, self.wanted, strict=True)
        self.makers: Any = [(k, maker_of(source) if want else None) for k, source, want in pairs]
        self.inplace = inplace and self.wanted[0] and self.kind == "total"
        # What else there is may lie in the logits in one call and not in another.
        self.crowded = bool(batch.streams or batch.inputs) or not batch.disjoint
        self.shape = (batch.n_out, *lead) if batch.outputs else lead
        mean = reduction == "mean"
        weight: float | None = _weight(loss, call, others) if mean else 0.0
        if mean and not weight and _in_c(loss, call, others):
            weight = None
        self.divided = mean and (weight == 0.0 or self.kind == "reduced")
        self.call = call.detached()
        self.frames = Frames(call.variant, _arithmetic(call.variant, batch, reads), weight)

    def __call__(self, tensors: tuple[Tensor | None, ...], values: Sequence[float]) -> Tensor:
        """The result. Raises ValueError, IndexError for what the tensors hold."""
        for place, declared in self.narrow:
            value = tensors[place]
            if value is not None:
                look = check_stream_range if declared.kind == "class" else check_input_values
                look(self.call.loss, declared, value)
        given = tensors + self.held
        read: list[Any] = [given[place] for place in self.places]
        for k, change in self.changes:
            read[k] = change(read[k])
        values = [values[k] for k in self.numbers]
        count = self.divide(read, values, tensors) if self.divided else None
        if self.kind == "total":
            if self.wants_grad:
                return planned_total(self, values, count, read)
            return self.frames.total(read, values, count)[0]
        rows = planned_rows(self, values, read) if self.wants_grad else self.rows(read, values)[0]
        return reduced(rows, count) if self.kind == "reduced" else rows

    def rows(self, read: Tensors, values: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Results in the shape of a call's, and what the backward reads."""
        return self.frames.forward(read, values, self.shape)

    def is_free(self, logits: Tensor, others: Tensors) -> bool:
        """May the logits be overwritten in this call?"""
        return not self.crowded or self.call.batch.with_tensors((logits, None, *others)).disjoint

    def divide(self, read: list[Any], values: Sequence[float], tensors: Tensors) -> Tensor:
        """What the mean divides the sum by; scales the weights in ``read`` where that is part."""
        call, loss = self.call, self.loss
        batch = self.batch(values, read)
        others = tensors[2 + len(loss.streams) :]
        count, ratio = divisor(loss, call.index, batch, others)
        if ratio is not None:
            first = len(read) - len(batch.inputs)
            held = scaled(loss.shared, call.variant.inputs, batch.inputs, ratio)
            read[first:] = (value.to(self.frames.dtype) for value in held)
        return count

    def room(self, tensors: Tensors, first: int = 0) -> list[Tensor | None]:
        """For the gradients that are wanted, from the ``first`` on."""
        return [make and make(tensors[k]) for k, make in self.makers[first:]]

    def spread(self, gradients: Tensors) -> list[Tensor | None]:
        """One entry for each tensor of a call."""
        return [None if k is None else gradients[k] for k in self.slopes]

    def batch(self, values: Sequence[float], tensors: Tensors) -> Batch:
        """The call as any backend takes it."""
        return replace(self.call.batch.with_tensors(tensors), parameters=tuple(values))


def _arithmetic(variant: Variant, batch: Batch, reads: Sequence[_Read]) -> Batch:
    """The batch as C reads it."""
    real = arithmetic(variant, batch.logits.dtype)
    found: list[Tensor | None] = []
    inputs = len(reads) - len(batch.inputs)
    for k, (read, tensor) in enumerate(zip(reads, batch.tensors, strict=True)):
        value = tensor if read.held is None else read.held
        found.append(value.to(real) if k >= inputs and value is not None else value)
    return batch.with_tensors(found)


def _weight(loss: RowLoss, call: Call, given: Mapping[str, Tensor | None]) -> float:
    """What each row counts for in a mean, if that is the same in every call; else 0."""
    if loss.normalizer is None:
        return 1.0
    if any(value is not None for value in given.values()):
        return 0.0
    logits = call.batch.logits
    classes = torch.arange(logits.shape[1], device=logits.device)
    low, high = loss.normalizer(classes, dict(given), compute_dtype(logits)).aminmax()
    return float(low) if low == high else 0.0


def _in_c(loss: RowLoss, call: Call, given: Mapping[str, Tensor | None]) -> bool:
    """Can C add up what the rows count for?"""
    inputs = [given[i.name] for i in loss.others]
    has = c_backend.has_weights(call.variant, call.batch.logits.dtype)
    return has and not is_counted(loss, call.index, call.batch, inputs)
