"""The row kernels of every loss, over logits that exist: loops, masks and memory.

A loss brings its mathematics as functions (``lossgen.lower.functions`` says what each is) and its
own entry kernels, which call ``forward``, ``merge``, ``backward`` and ``fused`` here:

  lift         (cols, valid, *tile, *values) → state
  merge        (*kept, *state, *state) → state
  between      (*values, *states) → what the next sweep knows of the row; None: nothing
  start, step  (*values, *states) → a trial of the roots of a sweep; these and a trial → the next
  finish       (*values, *states) → results, saved
  coefficients (*values, *slopes, *saved) → row values of the gradient
  gradient     (cols, own, *tile, *values, *coefficients) → gradients
  context      (y, *values at y) → these as the loss reads them; None: as they are

A tile is of the logits, each class stream, each vector over the classes.  The values of a row are
those at the target or at the largest class, the row inputs, the parameters, the number of classes.

Shapes.  The same functions serve three.  A long row is read in tiles [BLOCK / HELD, HELD]: HELD
classes, 8 or 16, to a thread, LANE of them (16 bytes) at once, which keeps a state of its own until
the row ends, so that no shuffle and no barrier stands in the loop; gradients are written in tiles
[BLOCK / LANE, LANE].  Only tiles that are not full, or hold the class that stands apart, are
masked.  A row that is ONE_TILE [BLOCK] stays in registers.  Short rows are taken ROWS at a time,
[ROWS, 1], a row to a thread.

ALIGNED 2: strides and classes are multiples of 16 bytes; 1: the rows of all streams begin equally
far past such a multiple, and tiles are counted from it; 0: neither.
"""

from __future__ import annotations

from lossgen.runtime.kernels.loads import (
    load_at,
    load_constants,
    load_label,
    load_tile,
    row_begin,
    row_begins,
    row_index,
    tiles_of,
    whole_lanes,
)
from lossgen.runtime.kernels.stores import (
    load_slopes,
    part,
    store_gradient,
    store_gradients,
    store_results,
    store_rows,
)
from lossgen.runtime.kernels.sweeps import joined, picked, settled
from lossgen.runtime.primitives import jit, tl

__all__ = ["backward", "forward", "fused", "merge"]

# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, unreachable, misc"


@jit
def begun(
    streams,
    strides,
    vocab,
    rows,
    row_strides,
    parameters,
    labels,
    n_rows,
    n_classes,
    CONTEXT: tl.constexpr,
    COUNTED: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
    LANE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Of a program: its row, where the streams begin, the values that all functions read, the
    target, and marks: is the row ignored, and is the target in order? None without a target."""
    row, live = row_index(n_rows, ROWS)
    bases = row_begins(streams, strides, row, LANE, ALIGNED)
    _, skip = row_begin(streams[0], strides[0], row, LANE, ALIGNED)
    constants = load_constants(rows, row_strides, parameters, row, n_classes, COUNTED, REAL)
    if len(labels) == 0:
        at_target = ()
        y = tl.full((), -1, tl.int32)
        marks = ()
    else:
        y, ignored, in_order = load_label(labels[0], labels[1], labels[2], row, n_classes)
        marks = (ignored, in_order)
        at_target = load_at(CONTEXT, bases, vocab, y, skip, REAL)
    return row, live, bases, skip, constants, at_target, y, marks


@jit
def forward(
    SWEEPS: tl.constexpr,
    BETWEENS: tl.constexpr,
    FINISH: tl.constexpr,
    CONTEXT: tl.constexpr,
    PIVOT: tl.constexpr,
    CARRIED: tl.constexpr,
    COUNTED: tl.constexpr,
    RESULTS: tl.constexpr,
    REAL: tl.constexpr,
    streams,
    strides,
    vocab,
    rows,
    row_strides,
    parameters,
    labels,
    loss,
    saved,
    state,
    n_rows,
    n_classes,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Grid (N / ROWS, SPLITS): results and what is saved; with SPLITS > 1 states [., SPLITS, N]."""
    n_classes = whole_lanes(n_classes, LANE, ALIGNED)
    row, live, bases, skip, constants, at_target, y, marks = begun(
        streams, strides, vocab, rows, row_strides, parameters, labels, n_rows, n_classes,
        CONTEXT, COUNTED, REAL, ROWS, LANE, ALIGNED,
    )  # fmt: skip
    tiles = tiles_of(skip, n_classes, marks, ROWS, BLOCK)
    split = tl.program_id(1)
    share = tl.cdiv(tiles, SPLITS)
    first = split * share
    stop = tl.minimum(first + share, tiles)
    states, _, _ = settled(
        SWEEPS, BETWEENS, PIVOT, CARRIED, bases, vocab, at_target, constants, y, skip, live,
        first, stop, n_classes, (), REAL, ROWS, BLOCK, LANE,
    )  # fmt: skip
    if SPLITS == 1:
        found = FINISH(*at_target, *constants, *states)
        store_results(loss, part(found, 0, RESULTS), row, n_rows, live, marks)
        store_rows(saved, part(found, RESULTS, len(found)), row, n_rows, live)
    else:
        store_rows(state, states, split * n_rows + row, SPLITS * n_rows, live)


@jit
def merge(
    SWEEP: tl.constexpr,
    FINISH: tl.constexpr,
    CONTEXT: tl.constexpr,
    COUNTED: tl.constexpr,
    RESULTS: tl.constexpr,
    REAL: tl.constexpr,
    streams,
    strides,
    vocab,
    rows,
    row_strides,
    parameters,
    labels,
    loss,
    saved,
    state,
    n_rows,
    n_classes,
    SPLITS: tl.constexpr,
):
    """Grid (N,): the SPLITS states of a row as one, and what follows from it."""
    row, live, _, _, constants, at_target, _, marks = begun(
        streams, strides, vocab, rows, row_strides, parameters, labels, n_rows, n_classes,
        CONTEXT, COUNTED, REAL, 1, 1, 0,
    )  # fmt: skip
    at = tl.arange(0, SPLITS) * n_rows + row
    parts = ()
    for k in tl.static_range(len(SWEEP[3])):
        parts = parts + (tl.load(state + k * SPLITS * n_rows + at),)
    merged = joined(SWEEP[2], picked(at_target + constants, SWEEP[4]), parts)
    found = FINISH(*at_target, *constants, *merged)
    store_results(loss, part(found, 0, RESULTS), row, n_rows, live, marks)
    store_rows(saved, part(found, RESULTS, len(found)), row, n_rows, live)


@jit
def backward(
    COEFFICIENTS: tl.constexpr,
    GRADIENT: tl.constexpr,
    CONTEXT: tl.constexpr,
    PIVOT: tl.constexpr,
    COUNTED: tl.constexpr,
    SAVED: tl.constexpr,
    SLOPES: tl.constexpr,
    WITHIN: tl.constexpr,
    REAL: tl.constexpr,
    streams,
    strides,
    vocab,
    rows,
    row_strides,
    parameters,
    labels,
    saved,
    grad_rows,
    stride_out,
    stride_rows,
    grads,
    grad_strides,
    n_rows,
    n_classes,
    WANT: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Grid (N / ROWS, SPLITS): gradients from what was saved; WITHIN: they hold the slopes of the
    results already. PIVOT: -2 none, -1 the target, else its place in what was saved."""
    n_classes = whole_lanes(n_classes, LANE, ALIGNED)
    row, live, bases, skip, constants, at_target, y, marks = begun(
        streams, strides, vocab, rows, row_strides, parameters, labels, n_rows, n_classes,
        CONTEXT, COUNTED, REAL, ROWS, LANE, ALIGNED,
    )  # fmt: skip
    known = ()
    for k in tl.static_range(SAVED):
        known = known + (tl.load(saved + k * n_rows + row),)
    if PIVOT >= 0:
        y = known[PIVOT].to(tl.int32)
        at_target = load_at(CONTEXT, bases, vocab, y, skip, REAL)
    slopes = load_slopes(grad_rows, stride_out, stride_rows, row, marks, SLOPES)
    values = at_target + constants
    if WITHIN:
        values = values + COEFFICIENTS(*values, *slopes, *known)
        slopes = ()
    elif COEFFICIENTS is not None:
        values = values + COEFFICIENTS(*values, *known)
    places = row_begins(grads, grad_strides, row, LANE, ALIGNED)
    tiles = tl.cdiv(skip + n_classes, BLOCK)
    share = tl.cdiv(tiles, SPLITS)
    first = tl.program_id(1) * share
    stop = tl.minimum(first + share, tiles)
    store_gradient(
        GRADIENT, bases, vocab, values, grads, places, slopes, y, marks, skip, live, first, stop,
        n_classes, PIVOT > -2, WANT, REAL, ROWS, BLOCK, LANE,
    )  # fmt: skip


@jit
def fused(
    SWEEPS: tl.constexpr,
    BETWEENS: tl.constexpr,
    FINISH: tl.constexpr,
    COEFFICIENTS: tl.constexpr,
    GRADIENT: tl.constexpr,
    CONTEXT: tl.constexpr,
    PIVOT: tl.constexpr,
    CARRIED: tl.constexpr,
    COUNTED: tl.constexpr,
    RESULTS: tl.constexpr,
    SLOPES: tl.constexpr,
    WITHIN: tl.constexpr,
    REAL: tl.constexpr,
    streams,
    strides,
    vocab,
    rows,
    row_strides,
    parameters,
    labels,
    loss,
    grad_rows,
    stride_out,
    stride_rows,
    grads,
    grad_strides,
    n_rows,
    n_classes,
    ONE_TILE: tl.constexpr,
    WANT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Grid (N / ROWS,): results and gradients. A row that is ONE_TILE is read once, a longer one
    again from the cache; the gradients may overwrite the logits."""
    n_classes = whole_lanes(n_classes, LANE, ALIGNED)
    row, live, bases, skip, constants, at_target, y, marks = begun(
        streams, strides, vocab, rows, row_strides, parameters, labels, n_rows, n_classes,
        CONTEXT, COUNTED, REAL, ROWS, LANE, ALIGNED,
    )  # fmt: skip
    slopes = load_slopes(grad_rows, stride_out, stride_rows, row, marks, SLOPES)
    given = at_target + constants
    held = ()
    if ONE_TILE:
        at = tl.arange(0, BLOCK)
        cols = at - skip
        inside = (cols >= 0) & (cols < n_classes)
        there = inside
        if len(marks) > 0:
            there = inside & (marks[0] == 0)
        tile = load_tile(bases, vocab, at, cols, there, REAL)
        if PIVOT < 0:
            # What does not count is -inf for the gradient too: its exponentials are then those of
            # the sweep.  Its values there are not stored, or written by ``own``.
            counts = inside
            if PIVOT == -1:
                counts = inside & (cols != y)
            shown = ()
            for k in tl.static_range(len(tile)):
                if k < len(bases):
                    shown = shown + (tl.where(counts, tile[k], float("-inf")),)
                else:
                    shown = shown + (tile[k],)
            tile = shown
        held = (cols, inside, tile)
    tiles = tiles_of(skip, n_classes, marks, ROWS, BLOCK)
    states, y, at_target = settled(
        SWEEPS, BETWEENS, PIVOT, CARRIED, bases, vocab, at_target, constants, y, skip, live,
        0, tiles, n_classes, held, REAL, ROWS, BLOCK, LANE,
    )  # fmt: skip
    found = FINISH(*given, *states)
    store_results(loss, part(found, 0, RESULTS), row, n_rows, live, marks)
    values = at_target + constants
    if WITHIN:
        values = values + COEFFICIENTS(*values, *slopes, *part(found, RESULTS, len(found)))
        slopes = ()
    elif COEFFICIENTS is not None:
        values = values + COEFFICIENTS(*values, *part(found, RESULTS, len(found)))
    places = row_begins(grads, grad_strides, row, LANE, ALIGNED)
    if ONE_TILE:
        own = cols < 0
        if PIVOT > -2:
            own = cols == y
        slope = GRADIENT(cols, own, *held[2], *values)
        store_gradients(grads, places, at, slope, slopes, inside, marks, WANT)
    else:
        store_gradient(
            GRADIENT, bases, vocab, values, grads, places, slopes, y, marks, skip, live,
            0, tl.cdiv(skip + n_classes, BLOCK), n_classes, PIVOT > -2, WANT, REAL, ROWS, BLOCK,
            LANE,
        )  # fmt: skip
