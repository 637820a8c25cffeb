"""The kernels of every loss over logits that exist on chip only: hidden · weightᵀ by the tile.

A loss brings the same functions as to :mod:`lossgen.runtime.kernels.rows`, where their arguments
are described.  A row is [BM, 1] here and a tile [BM, BV].

  factors    of the logits and of each class stream: hiddens [*, D], weights [V, D], biases [V],
             their row strides, and D; where bit k of MADE is not set, stream k is rows [*, V] in
             place of hidden
  given      vectors over the classes, row inputs, parameters, the target if there is one
  source_row [n_rows] int64: the row of hidden of each row here; n_rows is a multiple of BM, and the
             rows past the last repeat it, with grad_rows 0
  at_y [1 + streams, n_rows], state [n, n_splits, n_rows], merged [n, n_rows], saved, loss,
             row_coef, grad_rows: by row, float32

BIASED, EVEN: bit k: stream k has a bias; its D is a multiple of BK.  CAPPED: the logits are
softcapped.  SOURCE: which gradient.  GROUP: tiles of rows that share the tiles of classes.  PART:
classes of a tile that are worked on at once; where that is not all of them, the products of a
program are put aside in its part of ``stash`` [n_programs, streams, BM, BV], as in registers they
would leave no room for what a heavy loss does with them.
``least_slope``: with FILTER, tiles of gradients below it (for a grad_output of 1) do not count.
"""

from __future__ import annotations

from lossgen.runtime import tiles
from lossgen.runtime.kernels.factors import (
    at_pivot,
    before,
    load_row,
    load_rows,
    load_tile,
    products,
    store_rows,
    taken,
)
from lossgen.runtime.kernels.sweeps import identity, picked
from lossgen.runtime.primitives import jit, tl

__all__ = [
    "coefficients",
    "gradient",
    "merge",
    "sweep",
]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def sweep(
    SWEEP: tl.constexpr, LEVEL: tl.constexpr, BETWEENS: tl.constexpr, STARTS: tl.constexpr,
    CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr, COUNTED: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, state, n_splits,
    stash, n_programs, MADE: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr,
    BV: tl.constexpr, BK: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Grid (n_programs,): the states of n_splits parts of the classes, tile by tile."""
    APART: tl.constexpr = PIVOT == -1 or (PIVOT >= 0 and LEVEL > 0)
    stash += tl.program_id(0).to(tl.int64) * (len(factors[0]) * BM * BV)
    for unit in range(tl.program_id(0), n_rows // BM * n_splits, n_programs):
        row_tile, split = tiles.grouped(unit, n_rows // BM, n_splits, GROUP)
        row = (row_tile * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
        at_target, constants, y, _marks = load_row(
            given, at_y, row, n_rows, n_classes, CONTEXT, len(factors[0]), COUNTED
        )
        _, values, y = before(
            LEVEL, BETWEENS, STARTS, PIVOT, CARRIED, merged, at_target, constants, y, row, n_rows
        )
        kept = picked(values, SWEEP[4])
        share = tl.cdiv(tl.cdiv(n_classes, BV), n_splits) * BV
        start = split * share
        found = identity(SWEEP[3], [BM, 1], tl.float32)
        for first in range(start, tl.minimum(start + share, n_classes), BV):
            row_at = tl.load(source_row + row)
            made = products(
                factors, row_at, first, n_classes, stash, MADE, EVEN, PRECISION, BM, BV, BK, PART
            )
            for part in range(0, BV, PART):
                cols = first + part + tl.arange(0, PART)
                some = taken(made, stash, part, len(factors[0]), MADE, BM, BV, PART)
                tile, _slope = load_tile(
                    some, factors, given[0], row_at, cols, cap, scale, n_classes,
                    MADE, BIASED, CAPPED,
                )  # fmt: skip
                counts = (cols < n_classes)[None, :] & (row >= 0)
                if APART:
                    counts = counts & (cols[None, :] != y)
                lifted = SWEEP[0](cols[None, :], counts, *tile, *values)
                found = SWEEP[1](*kept, *found, *lifted)
            if PART < BV:
                tl.debug_barrier()  # all have read what the next products overwrite
        store_rows(state + split * n_rows, found, row, n_splits * n_rows, 0)


@jit
def merge(
    SWEEP: tl.constexpr, LEVEL: tl.constexpr, BETWEENS: tl.constexpr, STARTS: tl.constexpr,
    FINISH: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, RESULTS: tl.constexpr, STREAMS: tl.constexpr,
    given, at_y, n_rows, n_classes, merged, state, results, n_splits, BM: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles,): the n_splits states of a row in order as one; after the last sweep
    ``results``, loss and saved, too."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    at_target, constants, y, marks = load_row(
        given, at_y, row, n_rows, n_classes, CONTEXT, STREAMS, COUNTED
    )
    begun, values, _ = before(
        LEVEL, BETWEENS, STARTS, PIVOT, CARRIED, merged, at_target, constants, y, row, n_rows
    )
    kept = picked(values, SWEEP[4])
    found = load_rows(state, row, n_splits * n_rows, 0, len(SWEEP[3]))
    for split in range(1, n_splits):
        other = load_rows(state + split * n_rows, row, n_splits * n_rows, 0, len(SWEEP[3]))
        found = SWEEP[1](*kept, *found, *other)
    store_rows(merged, found, row, n_rows, STARTS[LEVEL])
    if len(results) > 0:
        states = load_rows(merged, row, n_rows, 0, STARTS[LEVEL]) + found
        ends = FINISH(*begun, *states)
        for k in tl.static_range(len(ends)):
            value = ends[k]
            if k < RESULTS:
                if len(marks) > 0:
                    value = tl.where(marks[0], value, float("nan"))
                tl.store(results[0] + k * n_rows + row, value)
            else:
                tl.store(results[1] + (k - RESULTS) * n_rows + row, value)


@jit
def coefficients(
    COEFFICIENTS: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, STREAMS: tl.constexpr, SAVED: tl.constexpr, SLOPES: tl.constexpr,
    given, at_y, n_rows, n_classes, merged, saved, grad_rows, row_coef, BM: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles,): the row values of the gradient; of SLOPES results within them."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    at_target, constants, y, _marks = load_row(
        given, at_y, row, n_rows, n_classes, CONTEXT, STREAMS, COUNTED
    )
    at_target, _ = at_pivot(PIVOT, CARRIED, merged, at_target, y, row, n_rows)
    slopes = load_rows(grad_rows, row, n_rows, 0, SLOPES)
    known = load_rows(saved, row, n_rows, 0, SAVED)
    found = COEFFICIENTS(*at_target, *constants, *slopes, *known)
    store_rows(row_coef, found, row, n_rows, 0)


@jit
def gradient(
    GRADIENT: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, COEFFICIENTS: tl.constexpr, WITHIN: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef, grad_rows,
    least_slope, out, out_row, stride_out, n_counted, n_columns, tiles_alive, bias_sums,
    first_tile, n_tiles, stash, n_programs, SOURCE: tl.constexpr, FILTER: tl.constexpr,
    BIAS: tl.constexpr, MADE: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr,
    BV: tl.constexpr, BK: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Grid (n_programs,): grad_output * dloss/d(hidden * weight) of stream SOURCE, for n_tiles
    tiles of classes from the first_tile-th on, to rows ``out_row`` of out [*, n_columns].

    tiles_alive [row tiles, n_tiles]: does a tile count? bias_sums [row tiles, n_tiles * BV]: the
    sums of its columns, with BIAS.  COEFFICIENTS: how many row values the gradient reads; WITHIN:
    the slopes are in them."""
    stash += tl.program_id(0).to(tl.int64) * (len(factors[0]) * BM * BV)
    for unit in range(tl.program_id(0), n_rows // BM * n_tiles, n_programs):
        row_tile, tile_at = tiles.grouped(unit, n_rows // BM, n_tiles, GROUP)
        row = (row_tile * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
        row_at = tl.load(source_row + row)
        first = (first_tile + tile_at) * BV
        made = products(
            factors, row_at, first, n_classes, stash, MADE, EVEN, PRECISION, BM, BV, BK, PART
        )
        # Numbers of a row would take registers from the products.
        at_target, constants, y, marks = load_row(
            given, at_y, row, n_rows, n_classes, CONTEXT, len(factors[0]), COUNTED
        )
        at_target, y = at_pivot(PIVOT, CARRIED, merged, at_target, y, row, n_rows)
        known = at_target + constants + load_rows(row_coef, row, n_rows, 0, COEFFICIENTS)
        weight = 1.0
        if not WITHIN:
            weight = tl.load(grad_rows + row)
        to = out + tl.load(out_row + row) * stride_out
        sums_at = bias_sums + row_tile * (n_tiles * BV)
        alive = 0
        for part in range(0, BV, PART):
            cols = first + part + tl.arange(0, PART)
            some = taken(made, stash, part, len(factors[0]), MADE, BM, BV, PART)
            tile, slope = load_tile(
                some, factors, given[0], row_at, cols, cap, scale, n_classes,
                MADE, BIASED, CAPPED,
            )  # fmt: skip
            cols = cols[None, :]
            inside = (cols < n_classes) & (row >= 0)
            own = cols < 0
            if PIVOT > -2:
                own = cols == y
            found = GRADIENT(cols, own, *tile, *known)
            grad = tl.where(inside, found[SOURCE], 0.0)
            if FILTER:  # NaN counts, and so does the tile of the class that stands apart
                there = ~(tl.abs(grad) < least_slope)
                if PIVOT > -2:
                    there = there | (inside & own)
                alive = tl.maximum(alive, tl.max(tl.where(there, 1, 0)))
            grad = grad * weight
            if len(marks) > 0:
                grad = tl.where(marks[0], grad, float("nan"))  # a target out of range is loud
            if SOURCE == 0 and CAPPED:
                grad = grad * slope
            place = tile_at * BV + part + tl.arange(0, PART)
            if BIAS:
                tl.store(sums_at + place, tl.sum(grad, axis=0))
            there = (row < n_counted) & (place < n_columns)[None, :]
            tl.store(to + place[None, :], grad.to(out.dtype.element_ty), mask=there)
        if PART < BV:
            tl.debug_barrier()  # all have read what the next products overwrite
        if FILTER:
            tl.store(tiles_alive + row_tile * n_tiles + tile_at, alive)
