"""The backward of the tiled schedule: gradients of a panel of classes at a time.

One kernel makes the logits of all rows and of a panel of classes, and leaves their gradients, in
the dtype of the factors; one product takes them to hidden, whose float32 sums go on from panel to
panel, and one to the rows of the weight that the panel is about, which are then done.  The logits
are made once for both, and the memory is a panel and the sums for hidden, whatever V is.  Where the
compiler has shown that a gradient falls with the probabilities, the products leave out tiles of
gradients below eps/32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.runtime import tiles
from lossgen.runtime.launch import processors
from lossgen.runtime.projected import Existing, Projected
from lossgen.runtime.tile_shapes import GROUP
from lossgen.runtime.waves import Panel, Work, panel_of

if TYPE_CHECKING:
    from lossgen.runtime.tiled import Kernels

__all__ = ["Statistics", "gradients", "panel_of"]  # the last to be replaced in tests


class Statistics(NamedTuple):
    """What the forward leaves for the backward, by row."""

    saved: Tensor  # [n_saved, n_rows] float32
    merged: Tensor  # [n_state, n_rows] float32
    at_y: Tensor  # [1 + streams, n_rows] float32: logits and streams at the target


def gradients(
    kernels: Kernels, found: Statistics, grad_rows: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Of the factors, three of each source, where ``wanted``; ``grad_rows`` is [outputs, N]."""
    weights = kernels.empty(kernels.batch.n_out, kernels.n_rows).zero_()
    weights[:, : kernels.count] = kernels.counted(grad_rows[:, kernels.results])
    head = kernels.arguments(found.at_y)
    coefficients = kernels.empty(kernels.kernels.n_coefficients, kernels.n_rows)
    if kernels.kernels.row is not None:
        grid, small = kernels.by_row()
        rows = (found.merged, found.saved, weights, coefficients)
        kernels.kernels.row[grid](*head, *rows, **small)
    head += [found.merged, coefficients, weights]
    every: list[Tensor | None] = []
    place = 0
    for k, source in enumerate(kernels.sources):
        flags = wanted[3 * k : 3 * k + 3]
        gets_one = k == 0 or kernels.batch.differentiable[k - 1]
        if not gets_one or not any(flags):
            every += [None] * 3
        elif isinstance(source, Existing):
            every += [_of_rows(kernels, head, place, source), None, None]
        else:
            every += _Factors(kernels, head, place, source, flags).gradients()
        place += gets_one
    return every


def _of_rows(kernels: Kernels, head: list[Any], place: int, source: Existing) -> Tensor:
    """Of rows that exist: each row writes its own."""
    rows, own = source.tensors[0], kernels.at(kernels.results)
    out = torch.zeros_like(rows, memory_format=torch.contiguous_format)
    row_tiles, class_tiles = kernels.tiles(kernels.gradient)
    stash, programs = kernels.programs(kernels.gradient, row_tiles * class_tiles)
    kernels.kernels.gradient[(programs,)](
        *(*head, 0.0, out, kernels.padded(own), out.stride(0), kernels.count, kernels.n_classes),
        *(kernels.source_row, stash, 0, class_tiles, stash, programs),
        **{"SOURCE": place, "FILTER": False, "BIAS": False},
        **kernels.meta(kernels.gradient),
    )
    if kernels.alive is not None:
        dead = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        out.masked_fill_(dead.index_copy(0, own, ~kernels.alive).unsqueeze(1), 0.0)
    return out


class _Factors:
    """The gradients of hidden, weight and bias of one source."""

    def __init__(
        self,
        kernels: Kernels,
        head: list[Any],
        place: int,
        source: Projected,
        wanted: Sequence[bool],
    ) -> None:
        self.kernels, self.head, self.place = kernels, head, place
        self.hidden, self.weight, bias = source.tensors
        self.scale = float(source.scale)
        self.filtered = kernels.kernels.sparse[place] and kernels.call.options.filter
        self.panel = self._panel()
        rows, features = kernels.n_rows, self.hidden.shape[1]
        width = self.panel.tiles * kernels.gradient.classes
        width = -(-width // kernels.product.rows) * kernels.product.rows
        self.slopes = self.hidden.new_empty(rows, width)
        self.own_row = torch.arange(rows, device=self.hidden.device)
        self.sums = kernels.empty(self.panel.sums, rows, features) if wanted[0] else None
        whole = {"memory_format": torch.contiguous_format}
        self.grad_weight = torch.empty_like(self.weight, **whole) if wanted[1] else None
        self.grad_bias = torch.empty_like(bias) if wanted[2] and bias is not None else None

    def _panel(self) -> Panel:
        """Of the classes."""
        kernels, hidden = self.kernels, self.hidden
        work = Work(
            rows=kernels.n_rows,
            classes=kernels.n_classes,
            features=hidden.shape[1],
            itemsize=hidden.element_size(),
            gradient=kernels.gradient,
            product=kernels.product,
            products=sum(kernels.call.projected),
        )
        budget = kernels.call.options.memory_budget
        return panel_of(work, budget, processors(hidden))

    def gradients(self) -> list[Tensor | None]:
        _, class_tiles = self.kernels.tiles(self.kernels.gradient)
        for first in range(0, class_tiles, self.panel.tiles):
            self._add(first, min(self.panel.tiles, class_tiles - first))
        grad_hidden = None
        if self.sums is not None:
            kernels, hidden = self.kernels, self.hidden
            grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
            total = self.sums.sum(0) if len(self.sums) > 1 else self.sums[0]
            total = total.mul_(self.scale)[: kernels.count].to(hidden.dtype)
            grad_hidden.index_copy_(0, kernels.at(kernels.results), total)
        return [grad_hidden, self.grad_weight, self.grad_bias]

    def _add(self, first: int, n_tiles: int) -> None:
        """The panel of ``n_tiles`` tiles of classes from the ``first``-th on."""
        kernels, launch = self.kernels, self.kernels.gradient
        row_tiles = kernels.n_rows // launch.rows
        width, first_class = n_tiles * launch.classes, first * launch.classes
        alive = self.own_row.new_empty(row_tiles, n_tiles, dtype=torch.int32)
        bias_sums = kernels.empty(row_tiles, width if self.grad_bias is not None else 0)
        stash, programs = kernels.programs(launch, row_tiles * n_tiles)
        tiny = torch.finfo(self.hidden.dtype).eps / 32
        kernels.kernels.gradient[(programs,)](
            *(*self.head, tiny, self.slopes, self.own_row, self.slopes.stride(0)),
            *(kernels.n_rows, self.slopes.shape[1], alive, bias_sums, first, n_tiles),
            *(stash, programs),
            **{"SOURCE": self.place, "FILTER": self.filtered},
            BIAS=self.grad_bias is not None,
            **kernels.meta(launch),
        )
        if self.sums is not None:
            self._to_hidden(width, first_class, alive, begun=first > 0)
        part = slice(first_class, min(first_class + width, kernels.n_classes))
        if self.grad_weight is not None:
            self._to_weight(self.grad_weight[part], alive)
        if self.grad_bias is not None:
            total = bias_sums.sum(0)[: part.stop - part.start]
            self.grad_bias[part] = total * self.scale

    def _to_hidden(self, width: int, first_class: int, alive: Tensor, begun: bool) -> None:
        """sums (+)= gradient · weight[first_class:][:width], which are not scaled yet."""
        assert self.sums is not None
        launch = self.kernels.gradient
        self._multiply(
            (self.slopes, self.slopes.stride(0), 1, width),
            self.weight,
            self.sums,
            _listed(alive, launch.rows, self.kernels.product.rows) if self.filtered else None,
            launch.classes,
            1.0,
            first_class=first_class,
            added=begun,
        )

    def _to_weight(self, out: Tensor, alive: Tensor) -> None:
        """out = gradientᵀ · hidden."""
        kernels, launch = self.kernels, self.kernels.gradient
        self._multiply(
            (self.slopes, 1, self.slopes.stride(0), kernels.n_rows),
            self.hidden,
            out.unsqueeze(0),
            _listed(alive.t(), launch.classes, kernels.product.rows) if self.filtered else None,
            launch.rows,
            self.scale,
            index=kernels.source_row,
        )

    def _multiply(
        self,
        left: tuple[Tensor, int, int, int],
        right: Tensor,
        out: Tensor,
        listed: tuple[Tensor, Tensor] | None,
        tile: int,
        scale: float,
        index: Tensor | None = None,
        first_class: int = 0,
        added: bool = False,
    ) -> None:
        """out [n, M, D] = scale · left · rows of ``right``; see ``tiles.product_kernel``."""
        kernels, launch = self.kernels, self.kernels.product
        values, by_row, by_k, n_k = left
        n_splits, out_rows, features = out.shape
        row_tiles, wide = -(-out_rows // launch.rows), -(-features // launch.classes)
        launch = replace(launch, features=min(launch.features, tile))
        slots, n_slots = (self.own_row, self.own_row) if listed is None else listed
        looked_up = index is not None or listed is not None  # which takes a stage of its own
        tiles.product_kernel[(row_tiles * wide * n_splits,)](
            *(values, right, self.own_row if index is None else index, slots, n_slots, out),
            *(scale, by_row, by_k, right.stride(0), out.stride(1), out_rows, n_k),
            *(first_class, right.shape[0] - 1, features, n_splits),
            **{"GATHERED": index is not None, "LISTED": listed is not None, "ADDED": added},
            **{"EVEN": features % launch.classes == 0, "TILE": tile, "GROUP": GROUP},
            **{"PRECISION": kernels.constants["PRECISION"], "BM": launch.rows},
            **{"BV": launch.classes, "BK": launch.features},
            **{"num_warps": launch.warps, "num_stages": launch.stages + looked_up},
        )


def _listed(alive: Tensor, tile: int, rows: int) -> tuple[Tensor, Tensor]:
    """Of each ``rows`` rows of ``alive`` [row tiles, n], tiles of ``tile``: those of n that count,
    in order and first of n, and how many there are."""
    if rows > tile:
        per = rows // tile
        padded = F.pad(alive, (0, 0, 0, -len(alive) % per))
        alive = padded.reshape(-1, per, padded.shape[1]).amax(1)
    else:
        alive = alive.repeat_interleave(tile // rows, 0)
    order = torch.argsort(alive, dim=1, descending=True, stable=True)
    return order.to(torch.int32), alive.sum(1, dtype=torch.int32)
