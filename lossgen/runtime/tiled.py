"""The loss of a linear layer whose logits exist on chip only, on a GPU (or Triton's interpreter).

Forward: a program reduces the logits of one tile of rows and a part of the classes to the state of
the loss's sweep; the states [SPLITS, N] are merged in order.  Backward: one kernel owns rows and
sums gradient · weight, another owns classes and sums gradientᵀ · hidden; both make the logits
again.  That is 2·N·V·D operations forward and up to 8 backward (a chunk needs 6 for both), without
a lock or an atomic, so that results are the same bit for bit from run to run.  Where the compiler
has shown that a gradient falls with the probabilities, tiles of gradients below eps/32 are left
out: the first kernel notes which, and the second does not make their logits at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import tiles
from lossgen.runtime.arguments import Tiled
from lossgen.runtime.autograd import once
from lossgen.runtime.batch import unit_stride
from lossgen.runtime.launch import processors, running_on
from lossgen.runtime.linear_call import LinearCall, present
from lossgen.runtime.projected import Existing, Projected
from lossgen.runtime.tile_shapes import STRIPE, Launch, family_of, launch_of

__all__ = ["STRIPE", "Launch", "Rows", "launch_of", "run"]  # shapes: to be replaced in tests

_MAX_SPLITS = 64


def n_splits(row_tiles: int, class_tiles: int, processors: int) -> int:
    """Programs to a tile of rows, to keep all processors busy."""
    return max(1, min(_MAX_SPLITS, -(-2 * processors // row_tiles), class_tiles))


def programs(tensor: Tensor) -> int:
    """Of a persistent kernel: one to a processor."""
    return processors(tensor)


@dataclass(frozen=True)
class _Statistics:
    """What the forward leaves for the backward, by row."""

    saved: Tensor  # [n_saved, n_rows] float32
    merged: Tensor  # [n_state, n_rows] float32
    at_y: Tensor  # [1 + streams, n_rows] float32: logits and streams at the target


class _Kernels:
    """One call with its tensors: everything that its kernels take."""

    def __init__(self, call: LinearCall, tensors: Sequence[Any], count: int) -> None:
        self.call, self.batch, self.count = call, call.batch, count
        contiguous = [None if t is None else unit_stride(t) for t in tensors]
        self.sources = call.sources(contiguous)
        assert call.variant.tiled is not None
        self.kernels: Tiled = call.variant.tiled
        first = self.sources[0].tensors[0]
        vectors = len(self.sources) + call.batch.kinds.count("vocab")
        key = first.element_size(), vectors, self.kernels.work, family_of(first)
        self.sweep, self.gradient = (launch_of(role, *key) for role in ("sweep", "gradient"))
        tile = max(self.sweep.rows, self.gradient.rows)  # powers of two
        self.n_rows = -(-count // tile) * tile
        self.n_classes = self.batch.logits.shape[1]
        self.taken = self._padded(call.results(first.device))
        positions = call.positions
        self.source_row = self.taken if positions is None else positions[self.taken]
        target, kinds = self.batch.target, self.batch.kinds
        self.target = None if target is None else target[self.taken].contiguous()
        self.inputs = [
            value[self.taken].contiguous() if kind == "row" else value
            for value, kind in zip(self.batch.inputs, kinds, strict=True)
        ]
        self.constants = self._constants(first)

    def _padded(self, rows: Tensor) -> Tensor:
        """Up to whole tiles by repeating the last."""
        more = self.n_rows - self.count
        return torch.cat([rows, rows[-1:].expand(more)]) if more else rows.contiguous()

    def _constants(self, first: Tensor) -> dict[str, Any]:
        bias = 0
        for k, source in enumerate(self.sources):
            bias |= (isinstance(source, Projected) and source.tensors[2] is not None) << k
        exact = first.dtype is not torch.float32 or not torch.backends.cuda.matmul.allow_tf32
        return {
            "MADE": sum(flag << k for k, flag in enumerate(self.call.projected)),
            "BIASED": bias,
            "CAPPED": self.call.options.softcap is not None,
            "PRECISION": "ieee" if exact else "tf32",
        }

    def _meta(self, launch: Launch) -> dict[str, Any]:
        """Every compile-time constant of a kernel that makes logits."""
        even = 0
        for k, source in enumerate(self.sources):
            if isinstance(source, Projected):
                even |= (source.tensors[0].shape[1] % launch.features == 0) << k
        return {
            **self.constants,
            "EVEN": even,
            "BM": launch.rows,
            "BV": launch.classes,
            "BK": launch.features,
            "num_warps": launch.warps,
            "num_stages": launch.stages,
        }

    # ------------------------------------------------------------------ arguments
    def _scaling(self) -> tuple[float, float]:
        logits = self.sources[0]
        assert isinstance(logits, Projected)
        return (1.0 if logits.cap is None else float(logits.cap)), float(logits.scale)

    def arguments(self, at_y: Tensor) -> list[Any]:
        """What every kernel begins with."""
        pointers: list[Any] = []
        strides: list[int] = []
        for source in self.sources:
            first, *rest = source.tensors
            weight, bias = rest if rest else (first, None)
            pointers += [first, weight, first if bias is None else bias]
            width = 0 if isinstance(source, Existing) else first.shape[1]
            strides += [first.stride(0), weight.stride(0), width]
        target = [] if self.target is None else [self.target]
        parameters = [float(p) for p in self.batch.parameters]
        head = [*pointers, self.source_row, *target, *self.inputs, *parameters, at_y]
        return [*head, *self._scaling(), *strides, self.n_rows, self.n_classes]

    def empty(self, *shape: int) -> Tensor:
        like = self.sources[0].tensors[0]
        return torch.empty(shape, dtype=torch.float32, device=like.device)

    def tiles(self, launch: Launch) -> tuple[int, int]:
        """Of rows, and of classes."""
        return self.n_rows // launch.rows, -(-self.n_classes // launch.classes)

    def _by_row(self) -> tuple[tuple[int], dict[str, Any]]:
        """Grid and constants of a kernel of row scalars."""
        rows = self.sweep.rows
        return (self.n_rows // rows,), {"BM": rows, "num_warps": max(1, rows // 32)}

    # ------------------------------------------------------------------ forward
    def at_target(self) -> Tensor:
        """Logits and streams at the target [1 + streams, n_rows]."""
        found = self.empty(len(self.sources), self.n_rows)
        if self.target is None:
            return found
        column = self.target.clamp(0, self.n_classes - 1)
        for k, source in enumerate(self.sources):
            if isinstance(source, Existing):
                found[k] = source.tensors[0][self.source_row, column].float()
                continue
            hidden, weight, bias = source.tensors
            cap, scale = self._scaling() if k == 0 else (1.0, 1.0)
            tiles.gather_kernel[(self.n_rows // self.gradient.rows,)](
                hidden,
                weight,
                hidden if bias is None else bias,
                self.source_row,
                column,
                found[k],
                cap,
                scale,
                hidden.stride(0),
                weight.stride(0),
                hidden.shape[1],
                BIASED=bias is not None,
                CAPPED=k == 0 and self.constants["CAPPED"],
                BM=self.gradient.rows,
                BK=self.gradient.features,
                num_warps=4,
            )
        return found

    def forward(self) -> tuple[Tensor, _Statistics]:
        """Results [outputs, n_rows], and the statistics."""
        variant = self.call.variant
        row_tiles, class_tiles = self.tiles(self.sweep)
        splits = n_splits(row_tiles, class_tiles, processors(self.source_row))
        meta, (grid, small) = self._meta(self.sweep), self._by_row()
        at_y = self.at_target()
        head = self.arguments(at_y)
        loss = self.empty(self.batch.n_out, self.n_rows)
        saved = self.empty(variant.n_saved, self.n_rows)
        merged = self.empty(variant.n_state, self.n_rows)
        for k, (reduce, merge, n_state) in enumerate(self.kernels.sweeps):
            state = self.empty(n_state, splits, self.n_rows)
            reduce[row_tiles, splits](*head, merged, state, SPLITS=splits, **meta)
            last = [loss, saved] if k == len(self.kernels.sweeps) - 1 else []
            merge[grid](*head, merged, state, *last, SPLITS=splits, **small)
        return loss, _Statistics(saved, merged, at_y)

    # ------------------------------------------------------------------ backward
    def backward(
        self, found: _Statistics, grad_rows: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of the tensors, three of each source, where ``wanted``; ``grad_rows`` is
        [outputs, N]."""
        weights = self.empty(self.batch.n_out, self.n_rows).zero_()
        weights[:, : self.count] = grad_rows[:, self.taken[: self.count]]
        head = self.arguments(found.at_y)
        coefficients = self.empty(self.kernels.n_coefficients, self.n_rows)
        if self.kernels.row is not None:
            grid, small = self._by_row()
            self.kernels.row[grid](*head, found.merged, found.saved, weights, coefficients, **small)
        head += [found.merged, coefficients, weights]
        gradients: list[Tensor | None] = []
        place = 0
        for k, source in enumerate(self.sources):
            flags = wanted[3 * k : 3 * k + 3]
            gets_one = k == 0 or self.batch.differentiable[k - 1]
            if not gets_one or not any(flags):
                gradients += [None] * 3
            elif isinstance(source, Existing):
                gradients += [self._rows(head, place, source), None, None]
            else:
                gradients += self._factors(head, place, source, flags)
            place += gets_one
        return gradients

    def _rows(self, head: list[Any], place: int, source: Existing) -> Tensor:
        rows = source.tensors[0]
        out = torch.zeros_like(rows, memory_format=torch.contiguous_format)
        self.kernels.rows[self.tiles(self.gradient)](
            *head, 0.0, out, out.stride(0), self.count, SOURCE=place, **self._meta(self.gradient)
        )
        return out

    def _factors(
        self, head: list[Any], place: int, source: Projected, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        hidden, weight, bias = source.tensors
        launch, (row_tiles, class_tiles) = self.gradient, self.tiles(self.gradient)
        filtered = self.kernels.sparse[place] and self.call.options.filter
        tiny = torch.finfo(hidden.dtype).eps / 32
        constants = {"SOURCE": place, "STRIPE": STRIPE, "BD": launch.outputs, **self._meta(launch)}
        alive = self.source_row.new_empty(row_tiles * class_tiles, dtype=torch.int32)
        grad_hidden = grad_weight = grad_bias = None
        workspace = self._workspace(hidden)
        if wanted[0]:
            splits = max(1, min(programs(hidden) // row_tiles, class_tiles))
            n = min(programs(hidden), row_tiles * splits)
            total = self.empty(splits, self.n_rows, hidden.shape[1]).zero_()
            self.kernels.hidden[(n,)](
                *head,
                tiny,
                total,
                alive,
                *workspace,
                n,
                FILTER=filtered,
                SPLITS=splits,
                **constants,
            )
            grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
            rows = self.source_row[: self.count]
            grad_hidden.index_copy_(0, rows, total.sum(0)[: self.count].to(hidden.dtype))
        asked = wanted[1] + 2 * (wanted[2] and bias is not None)
        if asked:
            n = min(programs(hidden), class_tiles)
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            grad_bias = hidden.new_empty(self.n_classes)
            sums = self.empty(n, launch.classes, hidden.shape[1]) if wanted[1] else alive
            self.kernels.weight[(n,)](
                *head,
                tiny,
                grad_weight,
                grad_bias,
                alive,
                sums,
                *workspace,
                n,
                FILTER=filtered,
                KNOWN=filtered and wanted[0],
                WANT=asked,
                **constants,
            )
        return [
            grad_hidden,
            grad_weight if wanted[1] else None,
            grad_bias if asked & 2 else None,
        ]

    def _workspace(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of each program: the gradients of a stripe of tiles, and where they begin."""
        slots = programs(hidden) * STRIPE
        scratch = hidden.new_empty(slots * self.gradient.rows * self.gradient.classes)
        return scratch, self.source_row.new_empty(slots, dtype=torch.int32)


def run(
    call: LinearCall, tensors: Sequence[Any], grad_rows: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Results [outputs, N], and with ``grad_rows`` [outputs, N] the gradients of ``tensors``
    where ``wanted``."""
    results, kernels, found = _forward(call, tensors)
    if grad_rows is None:
        return results, []
    return results, _backward(call, tensors, kernels, found, grad_rows, wanted)


def _forward(
    call: LinearCall, tensors: Sequence[Any]
) -> tuple[Tensor, _Kernels | None, _Statistics | None]:
    logits = call.batch.logits
    results = logits.new_zeros((call.batch.n_out, logits.shape[0]), dtype=torch.float32)
    count = logits.shape[0] if call.kept is None else len(call.kept)
    if not count:
        return results, None, None
    with running_on(logits):
        kernels = _Kernels(call, tensors, count)
        loss, found = kernels.forward()
        results[:, kernels.taken[:count]] = loss[:, :count]
    return results, kernels, found


def _backward(
    call: LinearCall,
    tensors: Sequence[Any],
    kernels: _Kernels | None,
    found: _Statistics | None,
    grad_rows: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    if kernels is None or found is None:  # no row counts
        pairs = zip(tensors, wanted, strict=True)
        return [torch.zeros_like(t) if want and t is not None else None for t, want in pairs]
    with torch.no_grad(), running_on(call.batch.logits):
        return kernels.backward(found, grad_rows.float(), wanted)


class Rows(torch.autograd.Function):
    """Results per row [outputs, N]; the backward makes the logits again, tile by tile."""

    @staticmethod
    def forward(ctx: Any, call: LinearCall, *tensors: Tensor | None) -> Tensor:
        results, kernels, ctx.found = _forward(call, tensors)
        ctx.call, ctx.count = call, 0 if kernels is None else kernels.count
        ctx.save_for_backward(*tensors)
        return results

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:
        tensors, call = ctx.saved_tensors, ctx.call
        kernels = _Kernels(call, tensors, ctx.count) if ctx.count else None
        wanted = ctx.needs_input_grad[1:]
        found = _backward(call, tensors, kernels, ctx.found, grad_rows, wanted)
        return None, *once(tuple(found), present(tensors), call.loss)
