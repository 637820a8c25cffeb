"""The loss of a linear layer whose logits exist on chip only, on a GPU (or interpreted).

Forward: a program reduces the logits of one tile of rows and a part of the classes to the state of
the loss's sweep; the states [n_splits, N] are merged in order.  Backward
(:mod:`lossgen.runtime.tiled_gradients`): a kernel makes the logits of a panel of classes again and
leaves their gradients, which two products take to hidden and to weight.  That is 2·N·V·D operations
forward and 6 backward (a chunk needs 6 for both), without a lock or an atomic, so that results are
the same bit for bit from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import tiled_gradients, tiles
from lossgen.runtime.architectures import architecture_of
from lossgen.runtime.arguments import Tiled
from lossgen.runtime.batch import unit_stride
from lossgen.runtime.launch import processors, running_on
from lossgen.runtime.linear_call import LinearCall, without_autocast
from lossgen.runtime.projected import Existing, Projected
from lossgen.runtime.tensors import in_memory
from lossgen.runtime.tile_shapes import GROUP, Launch, launch_of
from lossgen.runtime.tiled_gradients import Statistics
from lossgen.runtime.waves import n_splits

# Shapes, to be replaced in tests.
__all__ = ["Launch", "gradients", "launch_of", "n_splits", "statistics"]

_RESIDENT = 2  # programs of a processor: one multiplies while the other works on its products


def tf32_allowed() -> bool:
    """For products of float32 on an NVIDIA GPU. From torch 2.9 on ``allow_tf32`` cannot be read
    once the newer setting has been used, and the newer one says what either has set."""
    settings = torch.backends.cuda.matmul
    if hasattr(settings, "fp32_precision"):
        return bool(settings.fp32_precision == "tf32")
    return bool(settings.allow_tf32)


class Kernels:
    """One call with its tensors: everything that its kernels take."""

    def __init__(self, call: LinearCall, tensors: Sequence[Any]) -> None:
        self.call, self.batch = call, call.opened(tensors)
        factors = tensors[: call.n_factors]
        whole = [t.flatten(0, 1) if t is not None and t.dim() == 3 else t for t in factors]
        contiguous = [None if t is None else unit_stride(in_memory(t)) for t in whole]
        self.sources = call.sources(contiguous)
        assert call.variant.tiled is not None
        self.kernels: Tiled = call.variant.tiled
        self.count = _counted(call)
        first = self.sources[0].tensors[0]
        vectors = len(self.sources) + call.batch.kinds.count("vocab")
        itemsize = max(source.tensors[0].element_size() for source in self.sources)
        work = sum(call.projected), self.kernels.work
        launches = [
            launch_of(role, itemsize, vectors, *work, architecture_of(first.device))
            for role in ("sweep", "gradient", "product")
        ]
        self.sweep, self.gradient, self.product = launches
        tile = max(launch.rows for launch in launches)  # powers of two
        self.n_rows = -(-self.count // tile) * tile
        self.n_classes = self.batch.logits.shape[1]
        self.results, self.alive = self._order()
        taken = self.padded(self._read())
        self.source_row = self.at(taken)
        target, kinds = self.batch.target, self.batch.kinds
        self.target = None
        if target is not None:
            found = target[taken]
            # Where no row counts, an ignored one stands for all of them.
            self.target = torch.where(found == self.batch.ignore_index, 0, found).contiguous()
        self.inputs = [
            in_memory(value[taken].contiguous() if kind == "row" else value)
            for value, kind in zip(self.batch.inputs, kinds, strict=True)
        ]
        self.constants = self._constants(first)

    def _order(self) -> tuple[Tensor, Tensor | None]:
        """The results that the rows here belong to [count], each once; and which of them count
        [count], where that was not asked: those come first then, and nothing waits for a GPU."""
        call, device = self.call, self.batch.logits.device
        if call.kept is not None:
            return call.kept, None
        if self.batch.ignored is None:
            return torch.arange(self.count, device=device), None
        ignored = self.batch.ignored
        order = torch.argsort(ignored.to(torch.uint8), stable=True)
        return order, ~ignored[order]

    def _read(self) -> Tensor:
        """The results whose rows are read [count]: the last that counts stands for the ignored
        ones, with a gradient of 0, so that nothing they hold can reach a sum."""
        if self.alive is None:
            return self.results
        last = (self.alive.sum() - 1).clamp_min(0)
        return self.results[torch.arange(self.count, device=last.device).minimum(last)]

    def padded(self, rows: Tensor) -> Tensor:
        """Up to whole tiles by repeating the last."""
        more = self.n_rows - self.count
        return torch.cat([rows, rows[-1:].expand(more)]) if more else rows.contiguous()

    def at(self, results: Tensor) -> Tensor:
        """The rows of the sources."""
        return results if self.call.positions is None else self.call.positions[results]

    def _constants(self, first: Tensor) -> dict[str, Any]:
        bias = 0
        for k, source in enumerate(self.sources):
            bias |= (isinstance(source, Projected) and source.tensors[2] is not None) << k
        exact = first.dtype is not torch.float32 or not tf32_allowed()
        return {
            "MADE": sum(flag << k for k, flag in enumerate(self.call.projected)),
            "BIASED": bias,
            "CAPPED": self.call.options.softcap is not None,
            "PRECISION": "ieee" if exact else "tf32",
        }

    def meta(self, launch: Launch) -> dict[str, Any]:
        """Every compile-time constant of a kernel that makes logits."""
        even = 0
        for k, source in enumerate(self.sources):
            if isinstance(source, Projected):
                even |= (source.tensors[0].shape[1] % launch.features == 0) << k
        return {
            **self.constants,
            "GROUP": GROUP,
            "EVEN": even,
            "BM": launch.rows,
            "BV": launch.classes,
            "BK": launch.features,
            "PART": launch.part or launch.classes,
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
        """Float32 on the device."""
        like = self.sources[0].tensors[0]
        return torch.empty(shape, dtype=torch.float32, device=like.device)

    def tiles(self, launch: Launch) -> tuple[int, int]:
        """Of rows, and of classes."""
        return self.n_rows // launch.rows, -(-self.n_classes // launch.classes)

    def programs(self, launch: Launch, units: int) -> tuple[Tensor, int]:
        """Programs that do ``units`` pieces of work, and where they put products aside."""
        if not launch.part:
            return self.empty(0), units
        count = min(units, _RESIDENT * processors(self.source_row))
        return self.empty(count, len(self.sources), launch.rows, launch.classes), count

    def by_row(self) -> tuple[tuple[int], dict[str, Any]]:
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

    def forward(self) -> tuple[Tensor, Statistics]:
        """Results [outputs, n_rows], and the statistics."""
        variant = self.call.variant
        row_tiles, class_tiles = self.tiles(self.sweep)
        splits = n_splits(row_tiles, class_tiles, processors(self.source_row))
        meta, (grid, small) = self.meta(self.sweep), self.by_row()
        at_y = self.at_target()
        head = self.arguments(at_y)
        loss = self.empty(self.batch.n_out, self.n_rows)
        saved = self.empty(variant.n_saved, self.n_rows)
        merged = self.empty(variant.n_state, self.n_rows)
        for k, (reduce, merge, n_state) in enumerate(self.kernels.sweeps):
            state = self.empty(n_state, splits, self.n_rows)
            stash, programs = self.programs(self.sweep, row_tiles * splits)
            reduce[(programs,)](*head, merged, state, splits, stash, programs, **meta)
            last = [loss, saved] if k == len(self.kernels.sweeps) - 1 else []
            merge[grid](*head, merged, state, *last, splits, **small)
        return loss, Statistics(saved, merged, at_y)

    def counted(self, values: Tensor) -> Tensor:
        """``values`` [outputs, count], 0 for rows that do not count."""
        return values if self.alive is None else values.masked_fill(~self.alive, 0.0)


def statistics(call: LinearCall, tensors: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Results [outputs, N], and what the backward reads of each row."""
    logits = call.batch.logits
    shape, device = (call.batch.n_out, logits.shape[0]), logits.device
    results = torch.zeros(shape, dtype=torch.float32, device=device)
    if not _counted(call):
        return results, ()
    with torch.no_grad(), running_on(logits), without_autocast(logits):
        kernels = Kernels(call, tensors)
        loss, found = kernels.forward()
        results[:, kernels.results] = kernels.counted(loss[:, : kernels.count])
    return results, found


def gradients(
    call: LinearCall,
    tensors: Sequence[Any],
    kept: Sequence[Tensor],
    grad_rows: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Of the factors, three of each source, where ``wanted``; ``kept`` as of ``statistics``."""
    if not _counted(call):
        pairs = zip(tensors[: call.n_factors], wanted, strict=True)
        return [torch.zeros_like(t) if want and t is not None else None for t, want in pairs]
    logits = call.batch.logits
    with torch.no_grad(), running_on(logits), without_autocast(logits):
        kernels = Kernels(call, tensors)
        found = tiled_gradients.gradients(kernels, Statistics(*kept), grad_rows.float(), wanted)
    pairs = zip(found, tensors, strict=False)
    return [None if g is None else g.view_as(t) for g, t in pairs]


def _counted(call: LinearCall) -> int:
    """Rows to run."""
    return call.batch.logits.shape[0] if call.kept is None else len(call.kept)
