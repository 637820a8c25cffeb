"""What a row kernel writes: results, states, and gradients tile by tile."""

from __future__ import annotations

from lossgen.runtime.kernels.loads import load_tile
from lossgen.runtime.kernels.sweeps import lanes, masked_tile, middle
from lossgen.runtime.primitives import jit, tl

__all__ = [
    "load_slopes",
    "part",
    "store_gradient",
    "store_gradients",
    "store_results",
    "store_rows",
]

# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def part(found, FIRST: tl.constexpr, STOP: tl.constexpr):
    """``found[FIRST:STOP]``."""
    some = ()
    for k in tl.static_range(FIRST, STOP):
        some = some + (found[k],)
    return some


@jit
def store_results(loss, results, row, n_rows, live, marks):
    """0 where a row is ignored, NaN where its target is out of range."""
    for k in tl.static_range(len(results)):
        value = results[k]
        if len(marks) > 0:
            value = tl.where(marks[0], 0.0, tl.where(marks[1], value, float("nan")))
        tl.store(loss + k * n_rows + row, value, mask=live)


@jit
def store_rows(place, values, row, n_rows, live):
    """One number after the other, by row."""
    for k in tl.static_range(len(values)):
        tl.store(place + k * n_rows + row, values[k], mask=live)


@jit
def load_slopes(grad_rows, stride_out, stride_rows, row, marks, SLOPES: tl.constexpr):
    """By result; NaN where the target of a row is out of range, which is loud."""
    found = ()
    for k in tl.static_range(SLOPES):
        value = tl.load(grad_rows + k * stride_out + row * stride_rows)
        if len(marks) > 0:
            value = tl.where(marks[1], value, float("nan"))
        found = found + (value,)
    return found


@jit
def store_gradients(grads, places, at, found, slopes, inside, marks, WANT: tl.constexpr):
    """Of a tile, times the slope of the row where it is not in them already (no ``slopes``)."""
    for k in tl.static_range(len(grads)):
        if WANT & (1 << k):
            value = found[k]
            if len(slopes) > 0:
                value = value * slopes[0]
            if len(marks) > 0:
                value = tl.where(marks[0], 0.0, value)
            value = value.to(grads[k].dtype.element_ty)
            if inside is None:
                tl.store(places[k] + at, value)
            else:
                tl.store(places[k] + at, value, mask=inside)


@jit
def long_gradient(
    GRADIENT: tl.constexpr,
    bases,
    vocab,
    values,
    grads,
    places,
    slopes,
    y,
    skip,
    first,
    stop,
    n_classes,
    APART: tl.constexpr,
    WANT: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The tiles ``first`` to ``stop`` - 1: each class is read once, its gradient written once."""
    place = lanes(BLOCK, LANE)
    end = skip + n_classes
    y_tile = first - 1
    if APART:
        y_tile = (y + skip) // BLOCK
    low, high, passed = middle(y_tile, first, stop, skip, end, BLOCK)
    nowhere = tl.full([BLOCK // LANE, LANE], False, tl.int1)
    for i in range(low, high - passed):
        at = (i + passed * (i >= y_tile).to(tl.int32)) * BLOCK + place
        tile = load_tile(bases, vocab, at, at - skip, None, REAL)
        found = GRADIENT(at - skip, nowhere, *tile, *values)
        tl.debug_barrier()  # the gradient may overwrite the logits: all of the tile is read
        store_gradients(grads, places, at, found, slopes, None, (), WANT)
    for k in range(0, 3):
        tile_at, there = masked_tile(k, y_tile, first, stop, skip, end, BLOCK)
        if there:
            at = tile_at * BLOCK + place
            cols = at - skip
            inside = (cols >= 0) & (cols < n_classes)
            tile = load_tile(bases, vocab, at, cols, inside, REAL)
            own = nowhere
            if APART:
                own = cols == y
            found = GRADIENT(cols, own, *tile, *values)
            tl.debug_barrier()
            store_gradients(grads, places, at, found, slopes, inside, (), WANT)


@jit
def short_gradient(
    GRADIENT: tl.constexpr,
    bases,
    vocab,
    values,
    grads,
    places,
    slopes,
    y,
    marks,
    live,
    n_classes,
    APART: tl.constexpr,
    WANT: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Whole rows [ROWS, 1], class by class."""
    for col in range(0, n_classes):
        cols = col + tl.zeros([ROWS, 1], tl.int32)
        tile = load_tile(bases, vocab, cols, cols, live, REAL)
        own = tl.full([ROWS, 1], False, tl.int1)
        if APART:
            own = cols == y
        found = GRADIENT(cols, own, *tile, *values)
        store_gradients(grads, places, cols, found, slopes, live, marks, WANT)


@jit
def store_zeros(
    grads, places, skip, first, stop, n_classes, WANT: tl.constexpr, BLOCK: tl.constexpr
):
    """The gradient of an ignored row, whatever its logits are."""
    for tile_at in range(first, stop):
        at = tile_at * BLOCK + tl.arange(0, BLOCK)
        inside = (at >= skip) & (at < skip + n_classes)
        for k in tl.static_range(len(grads)):
            if WANT & (1 << k):
                zero = tl.zeros([BLOCK], grads[k].dtype.element_ty)
                tl.store(places[k] + at, zero, mask=inside)


@jit
def store_gradient(
    GRADIENT: tl.constexpr,
    bases,
    vocab,
    values,
    grads,
    places,
    slopes,
    y,
    marks,
    skip,
    live,
    first,
    stop,
    n_classes,
    APART: tl.constexpr,
    WANT: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The tiles ``first`` to ``stop`` - 1 of a long row, or short rows as a whole."""
    if ROWS > 1:
        short_gradient(
            GRADIENT, bases, vocab, values, grads, places, slopes, y, marks, live, n_classes,
            APART, WANT, REAL, ROWS,
        )  # fmt: skip
    else:
        counted = stop
        if len(marks) > 0:
            counted = tl.where(marks[0], first, stop)
            zeros = tl.where(marks[0], first, stop)
            store_zeros(grads, places, skip, zeros, stop, n_classes, WANT, BLOCK)
        long_gradient(
            GRADIENT, bases, vocab, values, grads, places, slopes, y, skip, first, counted,
            n_classes, APART, WANT, REAL, BLOCK, LANE,
        )  # fmt: skip
