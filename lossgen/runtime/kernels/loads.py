"""What a row kernel reads: of its row, and of a tile of classes."""

from __future__ import annotations

from lossgen.runtime.primitives import jit, tl

__all__ = [
    "load_at",
    "load_constants",
    "load_label",
    "load_tile",
    "row_begin",
    "row_begins",
    "row_index",
    "tiles_of",
    "whole_lanes",
]

# ruff: noqa: ANN001, ANN201, RUF005, SIM108
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def row_index(n_rows, ROWS: tl.constexpr):
    """The row of a program, or ROWS of them [ROWS, 1]; and which of these there are."""
    row = tl.program_id(0).to(tl.int64)
    if ROWS > 1:
        row = (row * ROWS + tl.arange(0, ROWS))[:, None]
    live = row < n_rows
    return tl.where(live, row, 0), live


@jit
def row_begin(stream, stride, row, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a row begins, or the last 16 bytes before it, and how much too early that is."""
    skip = tl.full((), 0, tl.int32)
    if ALIGNED == 2:
        at = row * (stride // LANE * LANE)
    else:
        at = row * stride
    if ALIGNED == 1:
        skip = (at % LANE).to(tl.int32)
        at = at // LANE * LANE
    return stream + at, skip


@jit
def row_begins(streams, strides, row, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    """Those of all streams."""
    found = ()
    for k in tl.static_range(len(streams)):
        base, _ = row_begin(streams[k], strides[k], row, LANE, ALIGNED)
        found = found + (base,)
    return found


@jit
def load_label(target, stride, ignore_index, row, n_classes):
    """The class of a row as int32, 0 where there is none; is the row ignored; is it in order?"""
    label = tl.load(target + row * stride).to(tl.int64)
    ignored = label == ignore_index
    in_range = (label >= 0) & (label < n_classes)
    y = tl.where(in_range & (label != ignore_index), label, 0).to(tl.int32)
    return y, ignored, in_range | ignored


@jit
def load_constants(
    rows, strides, parameters, row, n_classes, COUNTED: tl.constexpr, REAL: tl.constexpr
):
    """Row inputs, parameters, and the number of classes where a loss reads it (COUNTED)."""
    found = ()
    for k in tl.static_range(len(rows)):
        found = found + (tl.load(rows[k] + row * strides[k]).to(REAL),)
    for k in tl.static_range(len(parameters)):
        found = found + (tl.full((), 0.0, REAL) + parameters[k],)
    if COUNTED:
        found = found + (tl.full((), 0.0, REAL) + n_classes,)
    return found


@jit
def load_at(CONTEXT: tl.constexpr, bases, vocab, y, skip, REAL: tl.constexpr):
    """The values at class ``y``, as the functions of the loss read them."""
    found = ()
    for k in tl.static_range(len(bases)):
        found = found + (tl.load(bases[k] + (y + skip)).to(REAL),)
    for k in tl.static_range(len(vocab)):
        found = found + (tl.load(vocab[k] + y).to(REAL),)
    if CONTEXT is not None:
        found = CONTEXT(y, *found)
    return found


@jit
def load_tile(bases, vocab, at, cols, inside, REAL: tl.constexpr):
    """All that is read by class; ``inside``: what of it is there, or None for all of it."""
    found = ()
    for k in tl.static_range(len(bases)):
        if inside is None:
            found = found + (tl.load(bases[k] + at).to(REAL),)
        else:
            found = found + (tl.load(bases[k] + at, mask=inside, other=0.0).to(REAL),)
    for k in tl.static_range(len(vocab)):
        if inside is None:
            found = found + (tl.load(vocab[k] + cols).to(REAL),)
        else:
            found = found + (tl.load(vocab[k] + cols, mask=inside, other=0.0).to(REAL),)
    return found


@jit
def whole_lanes(n_classes, LANE: tl.constexpr, ALIGNED: tl.constexpr):
    """The number of classes; the compiler then knows that it is a multiple, if it is."""
    if ALIGNED == 2:
        n_classes = n_classes // LANE * LANE
    return n_classes


@jit
def tiles_of(skip, n_classes, marks, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The tiles of a row that are read: an ignored row has none."""
    tiles = tl.cdiv(skip + n_classes, BLOCK)
    if len(marks) > 0 and ROWS == 1:
        tiles = tl.where(marks[0], 0, tiles)
    return tiles
