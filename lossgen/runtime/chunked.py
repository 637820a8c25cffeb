"""The loss of a linear layer with the logits of one chunk of rows at a time, on any device.

A chunk of rows is multiplied into a buffer in the dtype of the arithmetic, the row program puts the
gradient in its place (or, where the next products take half precision, rounds it once), and two
products take it to hidden and weight: 6·N·V·D operations, and one chunk of memory beside the
gradients.  Ignored rows are left out before the first product (``skip_ignored``), or multiplied as
zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime.autograd import module_of
from lossgen.runtime.batch import Batch, unit_stride
from lossgen.runtime.linear_call import LinearCall, without_autocast
from lossgen.runtime.projected import Existing, Gradients, Projected, Take, pick

__all__ = ["bytes_per_row", "gradients", "run", "statistics"]


def run(
    call: LinearCall, tensors: Sequence[Any], grad_rows: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Results [outputs, N], and with ``grad_rows`` [outputs, N] the gradients of the factors
    where ``wanted``."""
    batch, dtype = call.opened(tensors), call.dtype
    rows, device = batch.logits.shape[0], batch.logits.device
    results = torch.zeros((batch.n_out, rows), dtype=dtype, device=device)
    module = module_of(call.backend, call.variant, dtype)
    ignored = batch.ignored if call.kept is None else None
    with torch.no_grad(), without_autocast(batch.logits):
        flags = wanted if grad_rows is not None else ()
        parts = [_Part(call, k, source, flags) for k, source in enumerate(call.sources(tensors))]
        for taken, at in call.spans():
            n = len(range(rows)[taken]) if isinstance(taken, slice) else len(taken)
            dead = None if ignored is None else pick(ignored, taken)
            logits, *streams = [part.make(at, n, dead) for part in parts]
            chunk = _chunk(batch, taken, logits, streams)
            if grad_rows is None:
                results[:, taken] = module.forward(call.variant, chunk)[0]
                continue
            pairs = zip(parts, (True, *batch.differentiable), strict=True)
            places = [part.place for part, flag in pairs if flag]
            results[:, taken] = module.fused(call.variant, chunk, grad_rows[:, taken], places)
            for part in parts:
                part.add(at)
        return results, [g for part in parts for g in part.finish()]


def statistics(call: LinearCall, tensors: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Results [outputs, N]; nothing is kept for the backward."""
    return run(call, tensors, None, ())[0], ()


def gradients(
    call: LinearCall,
    tensors: Sequence[Any],
    kept: Sequence[Tensor],
    grad_rows: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Of the factors, three of each source, where ``wanted``; the logits are made again."""
    return run(call, tensors, grad_rows, wanted)[1]


def bytes_per_row(call: LinearCall, tensors: Sequence[Any]) -> int:
    """Of the buffers of a chunk, where every factor wants its gradient."""
    gets = (True, *call.batch.differentiable)
    pairs = zip(call.sources(tensors), gets, strict=True)
    kinds = [_buffers(source, k == 0, flag, call.dtype) for k, (source, flag) in enumerate(pairs)]
    width = sum(dtype.itemsize for kind in kinds for dtype in kind.values())
    return max(1, call.batch.logits.shape[1] * width)


def _buffers(
    source: Existing | Projected, first: bool, gets_one: bool, dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """What a chunk of one source takes beside its factors; ``gets_one``: a gradient."""
    if isinstance(source, Existing):
        found = {"copy": dtype} if source.copies(dtype) else {}
        return found | ({"gradient": dtype} if gets_one else {})
    narrow = source.product.narrow
    found = {"rows": dtype}
    if gets_one and source.cap is not None:
        found["slope"] = dtype
    if gets_one and not (first and narrow is None):  # else it overwrites the logits
        found["gradient"] = narrow or dtype
    return found


class _Part:
    """The logits, or one class input: the rows of a chunk and their gradient, in buffers."""

    def __init__(
        self, call: LinearCall, k: int, source: Existing | Projected, wanted: Sequence[bool]
    ) -> None:
        self.call, self.source = call, source
        rows, classes = call.batch.logits.shape
        flags = tuple(wanted[3 * k : 3 * k + 3])
        self.sink: Gradients | None = None
        if any(flags) and (k == 0 or call.batch.differentiable[k - 1]):
            self.sink = source.gradients(flags, call.kept is None and call.positions is None)
        self.buffers = {
            name: torch.empty(
                (min(call.step, rows), classes), dtype=dtype, device=call.batch.logits.device
            )
            for name, dtype in _buffers(source, k == 0, self.sink is not None, call.dtype).items()
            if name != "copy"
        }
        self.n = 0  # rows of the chunk that was made last
        self.hidden: Tensor | None = None  # its rows of hidden

    def _cut(self, name: str) -> Tensor | None:
        return self.buffers[name][: self.n] if name in self.buffers else None

    def make(self, at: Take, n: int, dead: Tensor | None) -> Tensor:
        """Rows [n, V]; zeros for hidden where ``dead`` [n]."""
        self.n = n
        if isinstance(self.source, Existing):
            found = self.source.rows(at, n)
            # Only the C program wants all rows in one dtype.
            found = found if self.call.backend == "triton" else found.to(self.call.dtype)
            return unit_stride(found)
        rows = self._cut("rows")
        assert rows is not None
        self.hidden = self.source.taken(at, dead)
        return self.source.make(self.hidden, rows, self._cut("slope"))

    @property
    def place(self) -> Tensor | None:
        """Where the row program writes the gradient of the rows."""
        if self.sink is None:
            return None
        beside = self._cut("gradient")
        return self._cut("rows") if beside is None or "slope" in self.buffers else beside

    def add(self, at: Take) -> None:
        """Take the gradient of the chunk to the factors, or to the rows that were given."""
        gradient, slope, narrow = self.place, self._cut("slope"), self._cut("gradient")
        if self.sink is None or gradient is None:
            return
        if slope is not None:
            gradient = torch.mul(gradient, slope, out=gradient if narrow is None else narrow)
        self.sink.add(at, gradient, self.hidden)

    def finish(self) -> list[Tensor | None]:
        """Gradients of three factors."""
        found = () if self.sink is None else self.sink.finish()
        return [*found, *[None] * (3 - len(found))]


def _chunk(batch: Batch, taken: Take, logits: Tensor, streams: Sequence[Tensor]) -> Batch:
    pairs = zip(batch.inputs, batch.kinds, strict=True)
    return replace(
        batch,
        logits=logits,
        streams=tuple(streams),
        target=None if batch.target is None else pick(batch.target, taken),
        inputs=tuple(pick(i, taken) if kind == "row" else i for i, kind in pairs),
    )
