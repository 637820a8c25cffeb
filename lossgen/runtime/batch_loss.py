"""The loss of a whole batch: a formula of sums over its rows.

    value      F(Σ_i r_i·e_i, Σ_i r_i)       rows are read once, a chunk in cache at a time
    gradient   Σ_k dF/dpart_k · de_k/dx      and once more, by the same row program

The row program has a result for each part.  Of class terms e_j it is Σ_j v_j·e_j, whose gradient to
the class input v are the terms themselves: summed over the rows they are the part, and with
v = dF/dpart the gradient of that result is the formula's.  The formula is torch's, of a few numbers
in float64.  Rows of one value of ``by`` are a batch of their own; the result is the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from lossgen.runtime.arguments import Input, Parameter, check_input, is_scalar, numbers
from lossgen.runtime.batch import compute_dtype
from lossgen.runtime.batch_sums import Rows, Sums, wide
from lossgen.runtime.linear_arguments import (
    Factors,
    LinearOptions,
    Source,
    check_linear,
    shifted,
    stand_in,
)
from lossgen.runtime.linear_bind import Arguments, Bound, call_of, checked, rows_in_cache
from lossgen.runtime.linear_call import LinearCall
from lossgen.runtime.listed import moved
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.shards import Ranks, check_ranks, over_ranks
from lossgen.runtime.tensors import admitted, outside_the_graph
from lossgen.runtime.values import check_input_values
from lossgen.runtime.weights import Weights, left_out

__all__ = ["BatchLoss", "Part", "xlogy"]


def xlogy(a: Tensor | float, b: Tensor) -> Tensor:
    """a·log b; 0 where a is, whatever b, with the derivatives 0: a column that no row has.
    (torch.xlogy has there the derivative log b in a.)"""
    if not isinstance(a, Tensor):
        a = b.new_tensor(a)
    return torch.where(a == 0, 0.0, a * torch.log(torch.where(a == 0, 1.0, b)))


@dataclass(frozen=True)
class Part:
    """A sum over the rows: [V] of class terms, made by the input ``vector`` of the row program;
    one number without it."""

    name: str
    vector: str | None = None


@dataclass(frozen=True)
class BatchLoss:
    """A loss of all rows together; ``rows`` has a result for each part, in order.

    ``formula(*parts, n, V, *parameters, *vocab inputs)`` takes parts [G, V] or [G, 1] of G batches
    of n [G, 1] rows, and gives [G, 1].  ``own``: the first part is the loss of the rows, whose mean
    is added.
    """

    rows: RowLoss
    name: str
    parts: tuple[Part, ...]
    own: bool
    formula: Callable[..., Tensor]
    parameters: tuple[Parameter, ...]
    inputs: tuple[Input, ...]

    @property
    def function(self) -> str:
        return f"{self.name}_loss"

    @property
    def others(self) -> tuple[Input, ...]:
        """The vocab and row inputs."""
        return tuple(i for i in self.inputs if i.kind != "class")

    @property
    def streams(self) -> tuple[Input, ...]:
        return tuple(i for i in self.inputs if i.kind == "class")

    # ------------------------------------------------------------------ calls
    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None,
        streams: Sequence[Tensor],
        parameters: Sequence[Any],
        inputs: Sequence[Tensor | None],
        row_weight: Tensor | None,
        by: Tensor | None,
        batch_group: Ranks | None,
        ignore_index: int,
        backend: str,
        class_dim: int | None,
    ) -> Tensor:
        """The loss; see the generated function for the contract."""
        if torch.compiler.is_compiling():
            given = (logits, target, streams, parameters, inputs, row_weight, by, batch_group)
            options = (ignore_index, backend, class_dim)
            return cast(Tensor, outside_the_graph(self.__call__, *given, *options))
        pairs = zip(self.others, inputs, strict=True)
        of_rows = (target, row_weight, by, *(v for i, v in pairs if i.kind == "row"))
        logits, moved_streams = moved(self.function, logits, streams, of_rows, class_dim)
        arguments = Arguments(
            target, moved_streams, tuple(parameters), tuple(inputs), ignore_index, backend
        )
        whole = (row_weight, by, batch_group, LinearOptions())
        return self._loss(self.function, logits, arguments, *whole)

    def linear(
        self,
        factors: Factors,
        given: Arguments,
        row_weight: Tensor | None,
        by: Tensor | None,
        batch_group: Ranks | None,
        options: LinearOptions,
    ) -> Tensor:
        """The same of a linear layer, whose logits exist a chunk at a time."""
        if torch.compiler.is_compiling():
            whole = (factors, given, row_weight, by, batch_group, options)
            return cast(Tensor, outside_the_graph(self.linear, *whole))
        name = f"linear_{self.function}"
        options = check_linear(name, [(None, factors)], options)
        return self._loss(name, factors, given, row_weight, by, batch_group, options)

    def _loss(
        self,
        name: str,
        first: Source,
        given: Arguments,
        row_weight: Tensor | None,
        by: Tensor | None,
        batch_group: Ranks | None,
        options: LinearOptions,
    ) -> Tensor:
        check_ranks(name, batch_group, by)
        values = self._numbers(name, given)
        beside = dict(zip((i.name for i in self.others), given.inputs, strict=True))
        sources, own, options = checked(
            self.rows, first, self._of_rows(first, given, values, beside), "none", options, name
        )
        logits = stand_in(sources[0])
        lead = logits.shape[:-1]
        vocab = self._vocab(name, logits, beside)
        each, own = self._weights(name, logits, own, row_weight)
        call, tensors, found = call_of(self.rows, sources, own, options, name)
        each = self._counts(each, found, lead, options, call)
        groups, size = self._groups(name, logits, by, options.shift)
        vectors = tuple(part.vector is not None for part in self.parts)
        rows = Rows(name, self._chunked(call, options), groups, size, vectors)
        *sums, n = over_ranks((*Sums.apply(rows, each, *tensors), rows.total(each)), batch_group)
        result = self._formula(sums, n, logits.shape[-1], [*values.values()], vocab)
        return result.to(compute_dtype(logits))

    def _formula(
        self,
        sums: Sequence[Tensor],
        n: Tensor,
        classes: int,
        values: Sequence[Any],
        vocab: Sequence[Tensor],
    ) -> Tensor:
        if n.shape[0] > 1 and not bool((n > 0).all()):  # no row of that batch counts
            alive = (n > 0).squeeze(1)
            n, sums = n[alive], [part[alive] for part in sums]
        given = [v.to(n) if isinstance(v, Tensor) else n.new_tensor(v) for v in values]
        found = self.formula(*sums[self.own :], n, float(classes), *given, *vocab)
        found = torch.as_tensor(found).to(n).expand(n.shape)
        return (found + sums[0] / n if self.own else found).mean()

    # ------------------------------------------------------------------ arguments
    def _numbers(self, name: str, given: Arguments) -> dict[str, Any]:
        """The parameters by name, checked; of the formula alone, tensors that learn."""
        plain = numbers(name, self.parameters, given.parameters)
        of_rows = {p.name for p in self.rows.parameters}
        found: dict[str, Any] = {}
        for declared, value, number in zip(self.parameters, given.parameters, plain, strict=True):
            learns = isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
            if learns and (declared.name in of_rows or not is_scalar(value)):
                remedy = f"pass {declared.name}.detach()"
                raise ValueError(f"{name}: no gradient is computed for {declared.name}; {remedy}")
            found[declared.name] = value if learns else number
        return found

    def _of_rows(
        self, first: Source, given: Arguments, values: dict[str, Any], beside: dict[str, Any]
    ) -> Arguments:
        """What the row program takes, with vectors of 0 for the sums of class terms."""
        rows = stand_in(first).detach()
        blank = rows.new_zeros(rows.shape[-1:]).expand(rows.shape)
        vectors = (blank for part in self.parts if part.vector is not None)
        has_target = self.rows.has_target
        return Arguments(
            given.target if has_target else None,
            (*given.streams, *vectors),
            tuple(values[p.name] for p in self.rows.parameters),
            tuple(beside[i.name] for i in self.rows.others),
            given.ignore_index if has_target else -100,
            given.backend,
        )

    def _vocab(self, name: str, logits: Tensor, beside: dict[str, Tensor | None]) -> list[Tensor]:
        """Numbers per class [1, V] as the formula takes them."""
        lead, classes, found = logits.shape[:-1], logits.shape[-1], []
        for declared in (i for i in self.others if i.kind == "vocab"):
            value = admitted(name, declared.name, beside[declared.name])
            check_input(name, logits, lead, classes, declared, value)
            if value is None:
                value = logits.new_full((classes,), declared.off, dtype=compute_dtype(logits))
            elif value.device.type == "cpu":
                check_input_values(name, declared, value)
            found.append(value.to(wide(value))[None])
        return found

    def _weights(
        self, name: str, logits: Tensor, given: Arguments, row_weight: Tensor | None
    ) -> tuple[Tensor | None, Arguments]:
        """What each row counts for, and the arguments with those of 0 left out."""
        if isinstance(row_weight, Tensor) and row_weight.requires_grad:
            remedy = "pass row_weight.detach()"
            raise ValueError(f"{name}: no gradient is computed for row_weight; {remedy}")
        lead, classes = logits.shape[:-1], logits.shape[-1]
        weights = Weights(row_weight=row_weight).checked(name, logits, lead, classes, "sum")
        each = weights.of_rows(logits, None, lead)
        left = left_out(given.target, each, given.ignore_index)
        return each, given if left is None else replace(given, target=left)

    def _counts(
        self,
        each: Tensor | None,
        found: Bound,
        lead: torch.Size,
        options: LinearOptions,
        call: LinearCall,
    ) -> Tensor:
        """The same of each result [N], 0 where it is ignored."""
        if each is None:
            each = call.batch.logits.new_ones(found.lead.numel(), dtype=call.dtype)
        else:
            each = shifted(each.reshape(lead), "row", options.shift).reshape(-1).to(call.dtype)
        ignored = found.batch.ignored
        return each if ignored is None else each.masked_fill(ignored, 0.0)

    def _chunked(self, call: LinearCall, options: LinearOptions) -> LinearCall:
        """In chunks of rows, of few classes more than a linear layer's products want."""
        if options.memory_budget is not None:
            return replace(call, tiled=False)
        return replace(call, tiled=False, step=max(call.step, rows_in_cache(call.batch.logits)))

    def _groups(self, name: str, logits: Tensor, by: Any, shift: int) -> tuple[Tensor | None, int]:
        """The number of each result's batch, from 0 on [N], and how many there are."""
        if by is None:
            return None, 1
        by = admitted(name, "by", by)
        declared = Input("by", "row", off=0.0)
        check_input(name, logits, logits.shape[:-1], logits.shape[-1], declared, by)
        if by.dtype.is_floating_point:
            kind = str(by.dtype).removeprefix("torch.")
            raise TypeError(f"{name}: by must hold integers, not {kind}")
        values, found = torch.unique(shifted(by, "row", shift), return_inverse=True)
        return found.reshape(-1), max(1, len(values))
