"""The kernels of every loss over logits that exist on chip only: hidden · weightᵀ by the tile.

A loss brings the same functions as to :mod:`lossgen.runtime.kernels.rows`, where their arguments
are described.  A row is [BM, 1] here and a tile [BM, BV].

  factors    of the logits and of each class stream: hiddens [*, D], weights [V, D], biases [V],
             their row strides, and D; where bit k of MADE is not set, stream k is rows [*, V] in
             place of hidden
  given      vectors over the classes, row inputs, parameters, the target if there is one
  source_row [n_rows] int64: the row of hidden of each row here; n_rows is a multiple of BM, and the
             rows past the last repeat it, with grad_rows 0
  at_y [1 + streams, n_rows], state [n, SPLITS, n_rows], merged [n, n_rows], saved, loss, row_coef,
             grad_rows: by row, float32

BIASED, EVEN: bit k: stream k has a bias; its D is a multiple of BK.  CAPPED: the logits are
softcapped.  SOURCE: which gradient, OF: of which stream each is.  ``least_slope``: with FILTER,
tiles of gradients below it (for a grad_output of 1) are left out.
"""

from __future__ import annotations

from lossgen.runtime import tiles
from lossgen.runtime.kernels.factors import (
    at_pivot,
    before,
    load_products,
    load_row,
    load_rows,
    store_rows,
)
from lossgen.runtime.kernels.sweeps import identity, picked
from lossgen.runtime.primitives import jit, tl

__all__ = [
    "coefficients",
    "existing_gradient",
    "hidden_gradient",
    "merge",
    "sweep",
    "weight_gradient",
]

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def sweep(
    SWEEP: tl.constexpr, LEVEL: tl.constexpr, BETWEENS: tl.constexpr, STARTS: tl.constexpr,
    CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr, COUNTED: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, state,
    SPLITS: tl.constexpr, MADE: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles, SPLITS): the state of a part of the classes, tile by tile."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    at_target, constants, y, _marks = load_row(
        given, at_y, row, n_rows, n_classes, CONTEXT, len(factors[0]), COUNTED
    )
    _, values, y = before(
        LEVEL, BETWEENS, STARTS, PIVOT, CARRIED, merged, at_target, constants, y, row, n_rows
    )
    kept = picked(values, SWEEP[4])
    share = tl.cdiv(tl.cdiv(n_classes, BV), SPLITS) * BV
    start = tl.program_id(1) * share
    found = identity(SWEEP[3], [BM, 1], tl.float32)
    for first in range(start, tl.minimum(start + share, n_classes), BV):
        row_at = tl.load(source_row + row)
        cols = first + tl.arange(0, BV)
        tile, _slope = load_products(
            factors, given[0], row_at, cols, cap, scale, n_classes,
            MADE, BIASED, EVEN, CAPPED, PRECISION, BK,
        )  # fmt: skip
        cols = cols[None, :]
        counts = (cols < n_classes) & (row >= 0)
        if PIVOT == -1 or (PIVOT >= 0 and LEVEL > 0):
            counts = counts & (cols != y)
        found = SWEEP[1](*kept, *found, *SWEEP[0](cols, counts, *tile, *values))
    store_rows(state + tl.program_id(1) * n_rows, found, row, SPLITS * n_rows, 0)


@jit
def merge(
    SWEEP: tl.constexpr, LEVEL: tl.constexpr, BETWEENS: tl.constexpr, STARTS: tl.constexpr,
    FINISH: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, RESULTS: tl.constexpr, STREAMS: tl.constexpr,
    given, at_y, n_rows, n_classes, merged, state, results, SPLITS: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles,): the SPLITS states of a row in order as one; after the last sweep
    ``results``, loss and saved, too."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    at_target, constants, y, marks = load_row(
        given, at_y, row, n_rows, n_classes, CONTEXT, STREAMS, COUNTED
    )
    begun, values, _ = before(
        LEVEL, BETWEENS, STARTS, PIVOT, CARRIED, merged, at_target, constants, y, row, n_rows
    )
    kept = picked(values, SWEEP[4])
    found = load_rows(state, row, SPLITS * n_rows, 0, len(SWEEP[3]))
    for split in range(1, SPLITS):
        other = load_rows(state + split * n_rows, row, SPLITS * n_rows, 0, len(SWEEP[3]))
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
def gradient_tile(
    GRADIENT: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, COEFFICIENTS: tl.constexpr, WITHIN: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef, grad_rows,
    least_slope, first_row, first_col, SOURCE: tl.constexpr, FILTER: tl.constexpr,
    MADE: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Of one tile: does it count, and grad_output * dloss/d(hidden * weight) of stream SOURCE.

    COEFFICIENTS: how many row values the gradient reads; WITHIN: the slopes are in them."""
    row = (first_row + tl.arange(0, BM)).to(tl.int64)[:, None]
    at_target, constants, y, marks = load_row(
        given, at_y, row, n_rows, n_classes, CONTEXT, len(factors[0]), COUNTED
    )
    at_target, y = at_pivot(PIVOT, CARRIED, merged, at_target, y, row, n_rows)
    known = load_rows(row_coef, row, n_rows, 0, COEFFICIENTS)
    row_at = tl.load(source_row + row)
    cols = first_col + tl.arange(0, BV)
    tile, slope = load_products(
        factors, given[0], row_at, cols, cap, scale, n_classes,
        MADE, BIASED, EVEN, CAPPED, PRECISION, BK,
    )  # fmt: skip
    cols = cols[None, :]
    inside = (cols < n_classes) & (row >= 0)
    own = cols < 0
    if PIVOT > -2:
        own = cols == y
    found = GRADIENT(cols, own, *tile, *at_target, *constants, *known)
    grad = tl.where(inside, found[SOURCE], 0.0)
    counts = 1
    if FILTER:  # NaN counts, and so does the tile of the class that stands apart, however small
        there = ~(tl.abs(grad) < least_slope)
        if PIVOT > -2:
            there = there | (inside & own)
        counts = tl.max(tl.where(there, 1, 0))
    if not WITHIN:
        grad = grad * tl.load(grad_rows + row)
    if len(marks) > 0:
        grad = tl.where(marks[0], grad, float("nan"))  # a target out of range is loud
    if SOURCE == 0 and CAPPED:
        grad = grad * slope
    return counts, grad


@jit
def hidden_gradient(
    GRADIENT: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, COEFFICIENTS: tl.constexpr, WITHIN: tl.constexpr, OF: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef, grad_rows,
    least_slope, grad_sums, tiles_alive, scratch, tile_slots, n_programs,
    SOURCE: tl.constexpr, FILTER: tl.constexpr, SPLITS: tl.constexpr, STRIPE: tl.constexpr,
    BD: tl.constexpr, MADE: tl.constexpr, BIASED: tl.constexpr, EVEN: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Grid (n_programs,): grad_sums [SPLITS, n_rows, D] += gradient * weight, row tile by row tile;
    tiles_alive [row tiles, class tiles]: which tiles count."""
    program = tl.program_id(0)
    scratch += program.to(tl.int64) * (STRIPE * BM * BV)
    tile_slots += program * STRIPE
    tiles_of_rows = n_rows // BM
    tiles_of_classes = tl.cdiv(n_classes, BV)
    share = tl.cdiv(tiles_of_classes, SPLITS) * BV
    for work_unit in range(program, tiles_of_rows * SPLITS, n_programs):
        first_row = (work_unit % tiles_of_rows) * BM
        split = work_unit // tiles_of_rows
        start = split * share
        stop = tl.minimum(start + share, n_classes)
        for stripe in range(start, stop, STRIPE * BV):
            n_slots = 0
            for first_col in range(stripe, tl.minimum(stripe + STRIPE * BV, stop), BV):
                counts, grad = gradient_tile(
                    GRADIENT, CONTEXT, PIVOT, CARRIED, COUNTED, COEFFICIENTS, WITHIN,
                    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged,
                    row_coef, grad_rows, least_slope, first_row, first_col, SOURCE, FILTER,
                    MADE, BIASED, EVEN, CAPPED, PRECISION, BM, BV, BK,
                )  # fmt: skip
                if FILTER:
                    at = (first_row // BM) * tiles_of_classes + first_col // BV
                    tl.store(tiles_alive + at, counts)
                if counts > 0:
                    tiles.keep_tile(scratch, n_slots, grad)
                    tl.store(tile_slots + n_slots, first_col)
                    n_slots += 1
            tl.debug_barrier()  # the tiles are read by other threads than wrote them
            if n_slots > 0:
                sums_at = split.to(tl.int64) * n_rows + first_row + tl.arange(0, BM)[:, None]
                tiles.add_to_rows(
                    grad_sums, sums_at, scratch, tile_slots, n_slots, factors[1][OF[SOURCE]],
                    factors[4][OF[SOURCE]], factors[5][OF[SOURCE]], n_classes,
                    scale if SOURCE == 0 else 1.0, PRECISION, BM, BV, BD,
                )  # fmt: skip
            tl.debug_barrier()  # and are overwritten when all have read them


@jit
def weight_gradient(
    GRADIENT: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, COEFFICIENTS: tl.constexpr, WITHIN: tl.constexpr, OF: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef, grad_rows,
    least_slope, grad_weight, grad_bias, tiles_alive, grad_sums, scratch, tile_slots, n_programs,
    SOURCE: tl.constexpr, FILTER: tl.constexpr, KNOWN: tl.constexpr, WANT: tl.constexpr,
    STRIPE: tl.constexpr, BD: tl.constexpr, MADE: tl.constexpr, BIASED: tl.constexpr,
    EVEN: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid (n_programs,): gradientᵀ * hidden (WANT & 1) and its sums over rows (WANT & 2), class
    tile by class tile; KNOWN: only where ``tiles_alive``. grad_sums [BV, D] of a program is its
    float32 sum."""
    program = tl.program_id(0)
    scratch += program.to(tl.int64) * (STRIPE * BM * BV)
    tile_slots += program * STRIPE
    tiles_of_classes = tl.cdiv(n_classes, BV)
    features = factors[5][OF[SOURCE]]
    sums = grad_sums + program.to(tl.int64) * BV * features
    for class_tile in range(program, tiles_of_classes, n_programs):
        first_col = class_tile * BV
        begun = 0
        bias_sums = tl.zeros([1, BV], tl.float32)
        for stripe in range(0, n_rows, STRIPE * BM):
            n_slots = 0
            for first_row in range(stripe, tl.minimum(stripe + STRIPE * BM, n_rows), BM):
                lives = 1
                if KNOWN:
                    at = (first_row // BM) * tiles_of_classes + class_tile
                    lives = tl.load(tiles_alive + at)
                if lives > 0:
                    counts, grad = gradient_tile(
                        GRADIENT, CONTEXT, PIVOT, CARRIED, COUNTED, COEFFICIENTS, WITHIN,
                        factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged,
                        row_coef, grad_rows, least_slope, first_row, first_col, SOURCE,
                        FILTER and not KNOWN, MADE, BIASED, EVEN, CAPPED, PRECISION, BM, BV, BK,
                    )  # fmt: skip
                    if counts > 0:
                        bias_sums += tl.sum(grad, axis=0, keep_dims=True)
                        tiles.keep_tile(scratch, n_slots, grad)
                        tl.store(tile_slots + n_slots, first_row)
                        n_slots += 1
            tl.debug_barrier()  # the tiles are read by other threads than wrote them
            if WANT & 1:  # noqa: SIM102
                if n_slots > 0:
                    tiles.add_to_classes(
                        sums, begun, scratch, tile_slots, n_slots, factors[0][OF[SOURCE]],
                        source_row, factors[3][OF[SOURCE]], features,
                        scale if SOURCE == 0 else 1.0, PRECISION, BM, BV, BD,
                    )  # fmt: skip
                    begun = 1
            tl.debug_barrier()  # and are overwritten when all have read them
        if WANT & 1:
            tiles.write_classes(grad_weight, sums, begun, first_col, features, n_classes, BV, BD)
        if WANT & 2:
            cols = first_col + tl.arange(0, BV)[None, :]
            if SOURCE == 0:
                bias_sums = bias_sums * scale
            value = bias_sums.to(grad_bias.dtype.element_ty)
            tl.store(grad_bias + cols, value, mask=cols < n_classes)


@jit
def existing_gradient(
    GRADIENT: tl.constexpr, CONTEXT: tl.constexpr, PIVOT: tl.constexpr, CARRIED: tl.constexpr,
    COUNTED: tl.constexpr, COEFFICIENTS: tl.constexpr, WITHIN: tl.constexpr,
    factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef, grad_rows,
    least_slope, out, stride_out, n_counted, SOURCE: tl.constexpr, MADE: tl.constexpr,
    BIASED: tl.constexpr, EVEN: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles, class tiles): the gradient of a stream whose rows exist."""
    first_row = tl.program_id(0) * BM
    first_col = tl.program_id(1) * BV
    _, grad = gradient_tile(
        GRADIENT, CONTEXT, PIVOT, CARRIED, COUNTED, COEFFICIENTS, WITHIN,
        factors, given, source_row, at_y, cap, scale, n_rows, n_classes, merged, row_coef,
        grad_rows, least_slope, first_row, first_col, SOURCE, False, MADE, BIASED, EVEN, CAPPED,
        PRECISION, BM, BV, BK,
    )  # fmt: skip
    row = (first_row + tl.arange(0, BM)).to(tl.int64)[:, None]
    cols = first_col + tl.arange(0, BV)[None, :]
    at = out + tl.load(source_row + row) * stride_out + cols
    tl.store(at, grad.to(out.dtype.element_ty), mask=(row < n_counted) & (cols < n_classes))
