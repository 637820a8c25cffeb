"""A loss over classes that are spread over the ranks of a process group.

A rank reduces its classes to the state of a sweep, by the chunk of rows; one all_gather of the
states later every rank merges them in the order of the ranks, so that all have the same bits.  What
stands at the target travels with the first sweep.  The gradient of a rank's logits needs no other
rank; that of hidden is one all_reduce of a sum over all classes.

Of a linear layer the logits of a chunk exist on the rank that has the weight for them, and are made
again for each sweep and for the gradient: memory for the state of all rows and one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import Variant
from lossgen.runtime.batch import Batch, arithmetic
from lossgen.runtime.linear_call import LinearCall, without_autocast
from lossgen.runtime.projected import Existing, Gradients, Projected, Take, pick
from lossgen.runtime.shards import ClassShards, gathered, summed
from lossgen.runtime.tile_program import Values, program_of

__all__ = ["gradients", "kept_like", "rows_of_a_chunk", "statistics"]

#: Logits of a chunk: a dozen tensors of its size are alive at once, on a CPU in its caches.
_CHUNK = {"cpu": 1 << 20}
_CHUNK_ON_GPU = 1 << 24
_BYTES = 64  # of a logit: a dozen float32, and some in half precision
_FEWEST = 64  # rows of a product: of 32 it takes 1.1 times as long, of 8 twice


def rows_of_a_chunk(
    loss: str, classes: int, sources: int, device: str, budget: int | None, made: bool
) -> int:
    """Of a shard of ``classes``, in ``budget`` bytes; ``made`` by a product. Raises ValueError."""
    if budget is not None:
        row = _BYTES * max(1, classes) * sources
        if budget < row:
            raise ValueError(f"{loss}: memory_budget = {budget} bytes, but one row takes {row}")
        return budget // row
    size = _CHUNK.get(device, _CHUNK_ON_GPU)
    return max(_FEWEST if made else 1, size // max(1, classes))


def kept_like(variant: Variant, batch: Batch) -> list[Tensor]:
    """Empty, of the shapes and dtypes of what ``statistics`` keeps for the backward."""
    program, like = program_of(variant), batch.logits
    at = len(program.blank) if program.has_target else program.carried
    real, rows = arithmetic(variant, like.dtype), like.shape[0]
    found = [like.new_empty((size, rows), dtype=real) for size in (variant.n_saved, at)]
    return [*found, like.new_empty((rows, int(program.pivot > -2)), dtype=torch.long)]


def statistics(call: LinearCall, tensors: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Results [outputs, N], and what the backward reads: what the program saves, what stands at the
    target or the largest class, and the number of that class, each [*, N]."""
    with torch.no_grad(), without_autocast(call.batch.logits):
        return _Run(call, tensors).forward()


def gradients(
    call: LinearCall,
    tensors: Sequence[Any],
    kept: Sequence[Tensor],
    grad_rows: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Of the factors, three of each source, where ``wanted``; ``kept`` as of ``statistics``."""
    with torch.no_grad(), without_autocast(call.batch.logits):
        return _Run(call, tensors).backward(kept, grad_rows, wanted)


@dataclass(frozen=True)
class _Part:
    """Some rows of one source, this rank's classes of them."""

    source: Existing | Projected
    rows: Tensor  # [R, V of the rank]
    hidden: Tensor | None  # [R, D], of which they are made
    slope: Tensor | None  # of the cap

    @classmethod
    def of(cls, source: Any, at: Take, n: int, dead: Tensor | None, capped: bool) -> _Part:
        if isinstance(source, Existing):
            return cls(source, source.rows(at, n), None, None)
        hidden, size = source.taken(at, dead), (n, source.tensors[1].shape[0])
        buffer = hidden.new_empty(size, dtype=source.dtype)
        slope = torch.empty_like(buffer) if capped and source.cap is not None else None
        return cls(source, source.make(hidden, buffer, slope), hidden, slope)

    def add(self, sink: Gradients, at: Take, gradient: Tensor) -> None:
        """Take the ``gradient`` of the rows to what they were made from."""
        if self.slope is not None:
            gradient = gradient * self.slope
        if isinstance(self.source, Projected):
            gradient = gradient.to(self.source.product.narrow or self.source.dtype)
        sink.add(at, gradient, self.hidden)


class _Run:
    """One call with its tensors: values of rows are [N, 1] each, or [1, 1] where all are alike."""

    def __init__(self, call: LinearCall, tensors: Sequence[Any]) -> None:
        self.call, self.batch = call, call.opened(tensors)
        assert isinstance(call.options.group, ClassShards)
        self.shards: ClassShards = call.options.group
        self.own = self.shards.own
        self.program = program_of(call.variant)
        self.sources = call.sources(tensors)
        self.real = arithmetic(call.variant, call.dtype)
        self.count = self.batch.logits.shape[0]
        self.vocab = self._inputs("vocab")
        self.constants = self._constants()
        self.ignored = self.batch.ignored
        self.y = self.wrong = None
        target = self.batch.target
        if target is not None and self.ignored is not None and self.program.has_target:
            inside = (target >= 0) & (target < self.shards.classes) & ~self.ignored
            self.y = torch.where(inside, target, 0).unsqueeze(1)
            self.wrong = ~(inside | self.ignored)
        classes = torch.arange(self.own.start, self.own.stop, device=self.batch.logits.device)
        self.cols = classes.unsqueeze(0)

    def _inputs(self, kind: str) -> list[Tensor]:
        pairs = zip(self.batch.inputs, self.batch.kinds, strict=True)
        return [value.to(self.real) for value, own in pairs if own == kind]

    def _constants(self) -> Values:
        """Row inputs, parameters, and the number of classes where it is read."""
        numbers = [*self.batch.parameters, *([self.shards.classes] if self.program.counted else [])]
        device = self.batch.logits.device
        found = (torch.full((1, 1), float(n), dtype=self.real, device=device) for n in numbers)
        return (*(value.unsqueeze(1) for value in self._inputs("row")), *found)

    def chunks(self, capped: bool = False) -> Iterator[tuple[Take, Take, list[_Part], Values]]:
        """Their results, their rows of the sources, those rows, and all that a tile is made of."""
        dead = self.ignored if self.call.kept is None else None
        vocab = [value[self.own].unsqueeze(0) for value in self.vocab]
        for taken, at in self.call.spans():
            n = taken.stop - taken.start if isinstance(taken, slice) else len(taken)
            left = None if dead is None else pick(dead, taken)
            parts = [_Part.of(source, at, n, left, capped) for source in self.sources]
            yield taken, at, parts, (*(part.rows.to(self.real) for part in parts), *vocab)

    # ------------------------------------------------------------------ forward
    def forward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        program, y = self.program, self.y
        at: Values = ()  # what stands at the class apart
        known: Values = ()
        states: Values = ()
        late = y is not None and not program.reads_target  # it travels with the first sweep
        if y is not None and not late:
            at = self._at_target(self._gathered(None, (), y, True))
        given = at
        for k, sweep in enumerate(program.sweeps):
            held = program.blank if late else at
            if late and sweep.start is not None:  # an equation reads it from the first
                given = at = held = self._at_target(self._gathered(None, (), y, True))
                late = False
            values = (*held, *self.constants, *known)
            if sweep.start is not None:
                states += self._repeated(k, values, given, states, y)
                known = self._between(k, given, states)
                continue
            whole = self._gathered(k, values, y, late)
            size = len(sweep.empty)
            if late:
                given = at = self._at_target(whole[:, size:])
                late = False
            values = (*at, *self.constants, *known)
            states += sweep.joined(values, [_columns(part[:size]) for part in whole])
            known = self._between(k, given, states)
            if program.pivot >= 0 and k == 0:
                y = states[program.pivot].long()
                at = states[program.pivot + 1 :][: program.carried]
        found = program.finish(*given, *self.constants, *states)
        results, saved = found[: program.results], found[program.results :]
        place = self.cols.new_empty((self.count, 0)) if y is None else y
        kept = (self._stacked(saved), self._stacked(at), place)
        return self._finished(self._stacked(results)), kept

    def _between(self, k: int, given: Values, states: Values) -> Values:
        """What the sweep after ``k`` knows of the rows."""
        between = (*self.program.betweens, None)[k]
        return between(*given, *self.constants, *states) if between is not None else ()

    def _repeated(
        self, k: int, values: Values, given: Values, states: Values, y: Tensor | None
    ) -> Values:
        """The state of a sweep at its roots, and the roots: the same trials on every rank."""
        sweep, known, state = self.program.sweeps[k], (*given, *self.constants, *states), Values()
        assert sweep.start is not None
        assert sweep.step is not None
        nothing = torch.zeros((self.count, 1), dtype=self.real, device=self.cols.device)
        trial: Values = tuple(nothing + value for value in sweep.start(*known))
        size = len(trial) // sweep.roots
        for _ in range(sweep.most):
            parts = self._gathered(k, (*values, *trial), y, False)
            state = sweep.joined(values, [_columns(part) for part in parts])
            trial = sweep.step(*known, *state, *trial)
            if not any(moving.any().item() for moving in trial[size - 1 :: size]):
                break
        return (*state, *trial[::size])

    def _gathered(
        self, k: int | None, values: tuple[Any, ...], y: Tensor | None, at_target: bool
    ) -> Tensor:
        """The states of sweep ``k`` (None: of none) of all ranks, and with ``at_target`` what they
        have at the target behind them [ranks, *, N]."""
        empty = () if k is None else self.program.sweeps[k].empty
        size = len(empty) + (len(self.sources) if at_target else 0)
        device = self.batch.logits.device
        part = torch.zeros((size, self.count), dtype=self.real, device=device)
        for row, number in zip(part, empty, strict=False):
            row.fill_(number)
        if self.own.stop > self.own.start:
            for taken, _, parts, tile in self.chunks():
                if k is not None:
                    state = self._lifted(k, taken, tile, values, y)
                    part[: len(empty), taken] = _stack(state, tile[0].shape[0])
                if at_target and y is not None:
                    part[len(empty) :, taken] = self._owned(y[taken], parts)
        return gathered(part, self.shards.group)

    def _lifted(
        self, k: int, taken: Take, tile: Values, values: tuple[Any, ...], y: Tensor | None
    ) -> Values:
        """The state of the classes of this rank, of some rows."""
        counts = torch.ones_like(tile[0], dtype=torch.bool)
        if y is not None and self.program.apart(k):
            counts = self.cols != y[taken]
        sweep = self.program.sweeps[k]
        found: Values = sweep.lift(self.cols, counts, *tile, *_cut(values, taken))
        return found

    def _owned(self, y: Tensor, parts: Sequence[_Part]) -> Tensor:
        """The rows of the sources at ``y`` [R, 1], where this rank has that class, else 0."""
        here = (y >= self.own.start) & (y < self.own.stop)
        at = torch.where(here, y - self.own.start, 0)
        found = [part.rows.gather(1, at).to(self.real).where(here, 0.0) for part in parts]
        return torch.cat(found, 1).t()

    def _at_target(self, whole: Tensor) -> Values:
        """Of [ranks, sources, N]: from the rank that has the target; with the vocab inputs there,
        as the functions read them."""
        assert self.y is not None
        owner = torch.zeros_like(self.y.squeeze(1))
        for end in self.shards.ends[:-1]:
            owner += self.y.squeeze(1) >= end
        own = whole.gather(0, owner.expand(1, *whole.shape[1:])).squeeze(0)
        found = (*_columns(own), *(value[self.y] for value in self.vocab))
        if self.program.context is not None:
            found = self.program.context(self.y, *found)
        return found

    def _stacked(self, values: Values) -> Tensor:
        """[*, N] of [N, 1] each."""
        if not values:
            return self.cols.new_zeros((0, self.count), dtype=self.real)
        return _stack(values, self.count)

    def _finished(self, results: Tensor) -> Tensor:
        """0 for ignored rows, NaN for targets out of range (checked before on a CPU)."""
        results = results.to(self.call.dtype)
        if self.ignored is None or self.wrong is None:
            return results
        return results.masked_fill(self.ignored, 0.0).masked_fill(self.wrong, math.nan)

    # ------------------------------------------------------------------ backward
    def backward(
        self, kept: Sequence[Tensor], grad_rows: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        program, (saved, at, y) = self.program, kept
        values = (*_columns(at), *self.constants)
        grads = grad_rows.to(self.real)
        if self.wrong is not None:
            grads = grads.masked_fill(self.wrong, math.nan)
        slopes = _columns(grads)
        if program.coefficients is not None:
            within = slopes if program.within else ()
            values += program.coefficients(*values, *within, *_columns(saved))
        gets = (True, *self.batch.differentiable)
        any_class = self.own.stop > self.own.start
        whole = any_class and self.call.kept is None and self.call.positions is None
        sinks = [
            source.gradients(tuple(wanted[3 * k : 3 * k + 3]), whole) if gets[k] else None
            for k, source in enumerate(self.sources)
        ]
        if any_class:
            for taken, at_rows, parts, tile in self.chunks(capped=True):
                own = self.cols == y[taken] if program.pivot > -2 else self.cols < 0
                found = program.gradient(self.cols, own, *tile, *_cut(values, taken))
                streams = iter(found)
                for part, sink, gets_one in zip(parts, sinks, gets, strict=True):
                    gradient = next(streams) if gets_one else None
                    if sink is not None and gradient is not None:
                        gradient = self._weighed(gradient, slopes, taken, tile[0])
                        part.add(sink, at_rows, gradient)
        found = [list(sink.finish()) if sink is not None else [] for sink in sinks]
        every = [g for part in found for g in (*part, *[None] * (3 - len(part)))]
        hidden = [every[3 * k] for k, s in enumerate(self.sources) if isinstance(s, Projected)]
        summed([g for g in hidden if g is not None], self.shards.group)
        return every

    def _weighed(self, gradient: Tensor, slopes: Values, taken: Take, like: Tensor) -> Tensor:
        """Times the slope of the row where that is not in it already; 0 for ignored rows."""
        if not self.program.within:
            gradient = gradient * slopes[0][taken]
        gradient = gradient.expand_as(like)
        if self.ignored is None:
            return gradient
        return gradient.masked_fill(pick(self.ignored, taken).unsqueeze(1), 0.0)


def _columns(rows: Tensor) -> Values:
    """[N, 1] each of [*, N]."""
    return tuple(row.unsqueeze(1) for row in rows)


def _stack(columns: Values, rows: int) -> Tensor:
    """[*, N] of [N, 1] each, or [1, 1]."""
    return torch.cat([column.expand(rows, 1) for column in columns], 1).t()


def _cut(values: tuple[Any, ...], taken: Take) -> tuple[Any, ...]:
    """Some rows of values [N, 1]; of [1, 1] there is one row for all."""
    return tuple(v[taken] if isinstance(v, Tensor) and v.shape[0] > 1 else v for v in values)
