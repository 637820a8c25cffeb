"""A generated loss as a callable: checks, choice of variant and backend, autograd, reduction.

Eager calls with a scalar reduction compute the gradients together with the loss (``Fused``): the
logits are read once while they are on chip.  Everything else computes rows (``Rows``) and
reduces them with torch.  Under ``torch.compile`` the rows are a registered custom operator, which
the compiler sees as one node.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lossgen.runtime import choice
from lossgen.runtime.arguments import (
    Input,
    Parameter,
    Variant,
    check_call,
    differs,
    integer,
    numbers,
)
from lossgen.runtime.autograd import Call, Fused, Rows, seen
from lossgen.runtime.batch import Batch, reduced, rows_of, scaled, weighed, wider
from lossgen.runtime.divisor import divisor
from lossgen.runtime.dtensors import is_apart
from lossgen.runtime.layout import class_axis, lead_of
from lossgen.runtime.operators import as_tensor, register
from lossgen.runtime.plans import Plans
from lossgen.runtime.recent import Recent
from lossgen.runtime.slopes import Programs, asked, learned
from lossgen.runtime.tensors import (
    admitted,
    check_tangent,
    check_tracing,
    in_transform,
    outside_the_graph,
    symbolic,
    transformed,
    watched,
)
from lossgen.runtime.values import check_held
from lossgen.runtime.weighted import weighted
from lossgen.runtime.weights import Weights

__all__ = ["RowLoss"]

Normalizer = Callable[[Tensor, dict[str, Tensor | None], torch.dtype], Tensor]


@dataclass(frozen=True)
class RowLoss:
    """One loss: its declared arguments and its compiled variants, smallest first.

    ``key`` names the operators ``lossgen::<key>_forward`` and ``lossgen::<key>_backward``.
    ``normalizer(target, inputs, dtype)`` is what the mean divides by the sum of, default one per
    row.  Where some terms count as one per row all the same, every other is proportional to each
    input of ``shared``, and ``counted`` holds the parameters without which there is no such term
    (empty: there always is).  ``outputs`` names the results of a program that has several and is
    not reduced.
    A ``draft`` was compiled without its checks, and says so whenever it is imported.
    ``spec`` is the text that it was compiled from, unless the catalogue has it.
    """

    name: str
    key: str
    parameters: tuple[Parameter, ...]
    inputs: tuple[Input, ...]
    has_target: bool
    min_classes: int
    normalizer: Normalizer | None
    variants: tuple[Variant, ...]
    outputs: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    draft: bool = False
    spec: str = ""
    batched: bool = False  # are the outputs the parts of a loss of the batch?
    operators: Any = field(init=False, repr=False, compare=False)
    #: The class inputs, and the vocab and row inputs.
    streams: tuple[Input, ...] = field(init=False, repr=False, compare=False)
    others: tuple[Input, ...] = field(init=False, repr=False, compare=False)
    plans: Plans = field(init=False, repr=False, compare=False)
    programs: Programs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        streams = tuple(i for i in self.inputs if i.kind == "class")
        others = tuple(i for i in self.inputs if i.kind != "class")
        object.__setattr__(self, "streams", streams)
        object.__setattr__(self, "others", others)
        object.__setattr__(self, "operators", register(self))
        object.__setattr__(self, "plans", Plans(self))
        object.__setattr__(self, "programs", Programs(self))
        if self.draft:
            warnings.warn(
                f"{self.function} is a draft: neither its accuracy nor its limits were checked",
                stacklevel=3,  # the module that is imported
            )

    @property
    def function(self) -> str:
        """The name of the generated function."""
        return self.name + ("_parts" if self.batched else "" if self.outputs else "_loss")

    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float | None],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
        class_dim: int | None = None,
        weight: Tensor | None = None,
        row_weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
        group: Any = None,
    ) -> Tensor:
        """The reduced loss; see the generated function for the contract."""
        given = (logits, target, streams, parameters, inputs, ignore_index)
        if group is not None or any(map(is_apart, (logits, *streams))):
            weights = Weights(weight, row_weight, normalizer)
            from lossgen.runtime import listed  # which stands on this module

            return listed.total(self, given, reduction, backend, class_dim, weights, group)
        even = weight is None and row_weight is None and normalizer is None
        if not even or reduction == "batchmean":
            rest = (reduction, backend, inplace_grad, class_dim)
            return weighted(self, given, *rest, Weights(weight, row_weight, normalizer))
        compiling = torch.compiler.is_compiling()
        tensors = (logits, target, *streams, *inputs)
        options = (ignore_index, reduction, backend, inplace_grad, class_dim)
        recent = None if compiling else self.plans.recent
        if recent is not None and recent.is_like(tensors, parameters, options):
            return recent.plan(tensors, recent.values)
        wanted = asked(self, parameters, inputs)
        if compiling and (wanted or in_transform()):
            rest = (reduction, backend, inplace_grad, class_dim)
            return cast(Tensor, outside_the_graph(self.__call__, *given, *rest))
        if wanted:
            rows, count, lead = learned(self, wanted, given, reduction, backend, class_dim)
            return rows.reshape(lead) if reduction == "none" else reduced(rows, count)
        key, plan, values = self.plans.find(tensors, parameters, options)
        if plan is None:
            call, inputs, lead = self._call(*given, reduction, backend, inplace_grad, class_dim)
            plan = self.plans.learn(key, tensors, call, lead, options)
        if plan is not None:
            self.plans.recent = Recent(plan, tensors, parameters, values, options)
            return plan(tensors, values)
        count = None
        if reduction == "mean":
            count, ratio = divisor(self, call.index, call.batch, inputs)
            if ratio is not None:
                held = scaled(self.shared, call.variant.inputs, call.batch.inputs, ratio)
                call = replace(call, batch=replace(call.batch, inputs=held))
        return self.finished(call, reduction, inplace_grad, count, None, lead)

    def finished(
        self,
        call: Call,
        reduction: str,
        inplace_grad: bool,
        count: Tensor | None,
        each: Tensor | None,
        lead: torch.Size,
    ) -> Tensor:
        """The result of a call whose rows count for ``each`` [N] (None: 1), over ``count``."""
        batch, compiling = call.batch, torch.compiler.is_compiling()
        wants_grad = torch.is_grad_enabled() and any(s.requires_grad for s in batch.sources)
        # float16 cannot hold a gradient before the caller's scale (a GradScaler's) is known.
        plain = not wants_grad or reduction == "none" or batch.logits.dtype is torch.float16
        moved = any(t is not None and t.requires_grad for t in (each, count))
        moved |= forward_ad._current_level >= 0
        if plain or moved or compiling or transformed() or seen(batch):
            rows = weighed(self._rows(call)[0], each)
            return rows.reshape(lead) if reduction == "none" else reduced(rows, count)
        inplace = inplace_grad and batch.disjoint
        return Fused.apply(call.detached(), count, each, inplace, *batch.tensors)

    def rows(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float | None],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        backend: str,
        class_dim: int | None = None,
        group: Any = None,
    ) -> tuple[Tensor, ...]:
        """The results of a program with several outputs, each of the shape of the target."""
        given = (logits, target, streams, parameters, inputs, ignore_index)
        if group is not None or any(map(is_apart, (logits, *streams))):
            from lossgen.runtime import listed

            return listed.results(self, given, backend, class_dim, group)
        wanted = asked(self, parameters, inputs)
        if torch.compiler.is_compiling() and (wanted or in_transform()):
            return tuple(outside_the_graph(self.rows, *given, backend, class_dim))
        if wanted:
            rows, _, lead = learned(self, wanted, given, "none", backend, class_dim)
            return tuple(row.reshape(lead) for row in rows.unbind(0))
        tensors = (logits, target, *streams, *inputs)
        options = (ignore_index, "none", backend, False, class_dim)
        key, plan, values = self.plans.find(tensors, parameters, options)
        if plan is None:
            call, _, lead = self._call(*given, "none", backend, False, class_dim)
            plan = self.plans.learn(key, tensors, call, lead, options)
        if plan is not None:
            return tuple(plan(tensors, values).unbind(0))
        return tuple(row.reshape(lead) for row in self._rows(call).unbind(0))

    def _rows(self, call: Call) -> Tensor:
        """Results [outputs, N]."""
        batch = call.batch
        if not torch.compiler.is_compiling():
            return Rows.apply(call.detached(), *batch.tensors)[0]
        numbers = as_tensor(batch.parameters)
        tensors = batch.logits, batch.target, [*batch.streams], [*batch.inputs]
        rest = batch.ignore_index, call.index, call.backend, numbers
        return self.operators.forward(*tensors, [], *rest)[0]

    def check(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float | None],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
        function: str | None = None,
        axis: int = -1,
        hint: bool = False,
        held: Sequence[Any] | None = None,
    ) -> tuple[list[float], int]:
        """Raises TypeError, ValueError, IndexError before anything is computed, in the name of
        ``function``; the numbers as the operators take them. ``held``: the class inputs, where
        ``streams`` stand for them."""
        name = function or self.function
        values = numbers(name, self.parameters, parameters)
        given = (*zip(self.streams, streams, strict=True), *zip(self.others, inputs, strict=True))
        least = max(1, self.min_classes)
        options = reduction, backend, inplace_grad
        check_call(name, logits, target, given, self.has_target, least, *options, axis, hint)
        if self.has_target:
            ignore_index = integer(name, "ignore_index", ignore_index)
        if not (torch.compiler.is_compiling() or transformed() or watched() or symbolic(logits)):
            sources = zip(self.streams, streams if held is None else held, strict=True)
            others = zip(self.others, inputs, strict=True)
            labels = target if self.has_target else None
            check_held(name, sources, others, labels, ignore_index, logits.shape[axis])
        return values, ignore_index

    def _check_hidden(self, index: int, batch: Batch) -> None:
        """What ``check`` could not see under a transform."""
        declared = {i.name: i for i in self.others}
        names = self.variants[index].inputs
        others = [(declared[n], value) for n, value in zip(names, batch.inputs, strict=True)]
        streams = zip(self.streams, batch.streams, strict=True)
        labels = batch.target if self.has_target else None
        last = (labels, batch.ignore_index, batch.logits.shape[1])
        check_held(self.function, streams, others, *last)

    # ------------------------------------------------------------------ one call
    def _call(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[float | None],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
        reduction: str,
        backend: str,
        inplace_grad: bool,
        class_dim: int | None,
    ) -> tuple[Call, Sequence[Tensor | None], torch.Size]:
        """A checked call, its inputs, and the shape of one number per row."""
        name = self.function
        if not torch.compiler.is_compiling():
            check_tracing(name)
            logits = admitted(name, "logits", logits, moves=True)
            target = admitted(name, "target", target)
            streams, inputs = (
                [
                    admitted(name, i.name, value, i.differentiable and i.kind == "class")
                    for i, value in zip(declared, values, strict=True)
                ]
                for declared, values in ((self.streams, streams), (self.others, inputs))
            )
            for parameter, number in zip(self.parameters, parameters, strict=True):
                if isinstance(number, Tensor):
                    check_tangent(name, parameter.name, number)
        pairs = zip(self.others, inputs, strict=True)
        rows = (*([target] if self.has_target else []), *(v for i, v in pairs if i.kind == "row"))
        axis = class_axis(name, logits, rows, class_dim)
        given = (logits, target, streams, parameters, inputs, ignore_index)
        options = (reduction, backend, inplace_grad)
        hint = class_dim is None
        values, ignore_index = self.check(*given, *options, axis=axis, hint=hint)
        dtype = wider(logits, streams)  # autograd takes the gradients back to each one's own
        logits = logits.to(dtype)
        streams = [
            (s if declared.differentiable else s.detach()).to(dtype)
            for s, declared in zip(streams, self.streams, strict=True)
        ]
        lead, classes = lead_of(logits.shape, axis), logits.shape[axis]
        flat, *others = (rows_of(t, axis, classes) for t in (logits, *streams))
        index, batch = self.bind(
            flat,
            None if target is None else target.reshape(-1),
            tuple(others),
            values,
            inputs,
            ignore_index,
        )
        call = Call(
            name,
            self.variants[index],
            batch,
            self.backend_of(logits, backend),
            self.operators,
            index,
            partial(self._check_hidden, index) if transformed() else None,
            self.programs,
        )
        return call, inputs, lead

    def bind(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: tuple[Tensor, ...],
        parameters: Sequence[float | None],
        inputs: Sequence[Tensor | None],
        ignore_index: int,
    ) -> tuple[int, Batch]:
        """The index of the smallest variant that covers the call, and what it takes: of rows
        [N, V] and a target [N]."""
        pairs = zip(self.parameters, parameters, strict=True)
        values: dict[str, Any] = {p.name: p.off if v is None else v for p, v in pairs}
        given = dict(zip((i.name for i in self.others), inputs, strict=True))
        optional = (p for p in self.parameters if p.off is not None)
        changed = {p.name for p in optional if differs(values[p.name], p.off)}
        changed |= {i.name for i in self.others if i.off is not None and given[i.name] is not None}
        index = next(k for k, v in enumerate(self.variants) if v.uses >= changed)
        variant = self.variants[index]
        if variant.from_first:
            target = logits.new_zeros(logits.shape[0], dtype=torch.long)
        declared = {i.name: i for i in self.others}
        tensors, kinds = [], []
        for name in variant.inputs:
            kind, value = declared[name].kind, given[name]
            if value is None:
                size = logits.shape[1 if kind == "vocab" else 0]
                value = logits.new_full((size,), declared[name].off or 0.0, dtype=torch.float32)
            value = value.detach().reshape(-1)
            tensors.append(value.contiguous() if kind == "vocab" else value)
            kinds.append(kind)
        return index, Batch(
            logits=logits,
            # Narrow types cannot be compared with every V or ignore_index: those would wrap.
            target=None if target is None else target.long(),
            streams=streams,
            differentiable=tuple(i.differentiable for i in self.streams),
            inputs=tuple(tensors),
            kinds=tuple(kinds),
            # A number that the compiler follows stays one: float() would make it a constant.
            parameters=tuple(
                values[n] if torch.compiler.is_compiling() else float(values[n])
                for n in variant.parameters
            ),
            ignore_index=ignore_index,
            outputs=self.outputs,
        )

    def backend_of(self, logits: Tensor, backend: str) -> str:
        """The backend that ``backend`` stands for. Raises ValueError."""
        return choice.backend_of(self.function, logits, backend)
