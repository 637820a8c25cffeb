"""Reductions over the classes of a row, tile by tile, or class by class for many rows at once.

A sweep is a tuple: lift, merge, across (the merge of all states along an axis), the state of no
class, and which of the row's values the merge reads.
"""

from __future__ import annotations

from lossgen.runtime.kernels.loads import load_tile
from lossgen.runtime.primitives import jit, tl

__all__ = ["joined", "lanes", "masked_tile", "middle", "settled"]

# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def lanes(BLOCK: tl.constexpr, LANE: tl.constexpr):
    """The places [BLOCK / LANE, LANE] of a tile; those of a row of it belong to one thread."""
    return tl.arange(0, BLOCK // LANE)[:, None] * LANE + tl.arange(0, LANE)[None, :]


@jit
def middle(y_tile, first, stop, skip, end, BLOCK: tl.constexpr):
    """The tiles ``low`` to ``high`` - 1 are full; is that of the distinguished class among them?"""
    low = tl.maximum(first, (skip > 0).to(tl.int32))
    high = tl.minimum(stop, end // BLOCK)
    return low, high, ((y_tile >= low) & (y_tile < high)).to(tl.int32)


@jit
def masked_tile(k, y_tile, first, stop, skip, end, BLOCK: tl.constexpr):
    """The k-th tile of three in which a class may not count, and whether there is one: that of the
    distinguished class, the first if the row begins inside of it, the last if it is not full."""
    tile = tl.where(k == 0, y_tile, tl.where(k == 1, 0, end // BLOCK))
    again = ((k > 0) & (tile == y_tile)) | ((k == 2) & (tile == 0) & (skip > 0))
    there = ((k != 1) | (skip > 0)) & (tile >= first) & (tile < stop)
    return tile, there & (again == 0)


@jit
def identity(EMPTY: tl.constexpr, SHAPE: tl.constexpr, REAL: tl.constexpr):
    """The state of no class."""
    state = ()
    for k in tl.static_range(len(EMPTY)):
        state = state + (tl.full(SHAPE, EMPTY[k], REAL),)
    return state


@jit
def picked(values, AT: tl.constexpr):
    """Some of them."""
    found = ()
    for k in tl.static_range(len(AT)):
        found = found + (values[AT[k]],)
    return found


@jit
def joined(ACROSS: tl.constexpr, kept, state):
    """States along an axis, [n] or [n, 1], as one state of numbers."""
    side = ()
    for k in tl.static_range(len(kept)):
        side = side + (kept[k] + tl.zeros_like(state[0]),)
    whole = ACROSS(*side, *state)
    found = ()
    for k in tl.static_range(len(state)):
        value = whole[len(kept) + k]
        if len(value.shape) > 0:
            value = tl.sum(value, axis=0)
        found = found + (value,)
    return found


@jit
def long_sweep(
    SWEEP: tl.constexpr,
    bases,
    vocab,
    values,
    y,
    skip,
    first,
    stop,
    n_classes,
    APART: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The state of the tiles ``first`` to ``stop`` - 1, without class ``y`` if it stands APART."""
    place = lanes(BLOCK, LANE)
    kept = picked(values, SWEEP[4])
    state = identity(SWEEP[3], [BLOCK // LANE, 1], REAL)
    end = skip + n_classes
    y_tile = first - 1
    if APART:
        y_tile = (y + skip) // BLOCK
    low, high, passed = middle(y_tile, first, stop, skip, end, BLOCK)
    all_of_it = tl.full([BLOCK // LANE, LANE], True, tl.int1)
    for i in range(low, high - passed):
        at = (i + passed * (i >= y_tile).to(tl.int32)) * BLOCK + place
        tile = load_tile(bases, vocab, at, at - skip, None, REAL)
        state = SWEEP[1](*kept, *state, *SWEEP[0](at - skip, all_of_it, *tile, *values))
    for k in range(0, 3):
        tile_at, there = masked_tile(k, y_tile, first, stop, skip, end, BLOCK)
        if there:
            at = tile_at * BLOCK + place
            cols = at - skip
            inside = (cols >= 0) & (cols < n_classes)
            tile = load_tile(bases, vocab, at, cols, inside, REAL)
            counts = inside
            if APART:
                counts = inside & (cols != y)
            # what is before the row is called class 0: the first of equal ones may be nothing else
            known = SWEEP[0](tl.maximum(cols, 0), counts, *tile, *values)
            state = SWEEP[1](*kept, *state, *known)
    return joined(SWEEP[2], kept, state)


@jit
def short_sweep(
    SWEEP: tl.constexpr,
    bases,
    vocab,
    values,
    y,
    live,
    n_classes,
    APART: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The states [ROWS, 1] of whole rows, class by class."""
    kept = picked(values, SWEEP[4])
    state = identity(SWEEP[3], [ROWS, 1], REAL)
    for col in range(0, n_classes):
        cols = col + tl.zeros([ROWS, 1], tl.int32)
        tile = load_tile(bases, vocab, cols, cols, live, REAL)
        counts = live
        if APART:
            counts = live & (cols != y)
        state = SWEEP[1](*kept, *state, *SWEEP[0](cols, counts, *tile, *values))
    return state


@jit
def settled(
    SWEEPS: tl.constexpr,
    BETWEENS: tl.constexpr,
    PIVOT: tl.constexpr,
    CARRIED: tl.constexpr,
    bases,
    vocab,
    at_target,
    constants,
    y,
    skip,
    live,
    first,
    stop,
    n_classes,
    held,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The states of all sweeps; then the class that stands apart, and the values at it.

    PIVOT: -2 no class stands apart; -1 the target; else the place of the largest class in the
    state of the first sweep, with the CARRIED values at it behind it.
    ``held``: of a row that is one tile, its classes, those that are there, and the tile; else ().
    """
    states = ()
    known = ()
    given = at_target + constants
    for k in tl.static_range(len(SWEEPS)):
        values = at_target + constants + known
        if len(held) > 0:
            counts = held[1]
            if PIVOT == -1 or (PIVOT >= 0 and k > 0):
                counts = counts & (held[0] != y)
            state = SWEEPS[k][0](tl.maximum(held[0], 0), counts, *held[2], *values)
        elif ROWS > 1:
            state = short_sweep(
                SWEEPS[k], bases, vocab, values, y, live, n_classes,
                PIVOT == -1 or (PIVOT >= 0 and k > 0), REAL, ROWS,
            )  # fmt: skip
        else:
            state = long_sweep(
                SWEEPS[k], bases, vocab, values, y, skip, first, stop, n_classes,
                PIVOT == -1 or (PIVOT >= 0 and k > 0), REAL, BLOCK, LANE,
            )  # fmt: skip
        states = states + state
        if k + 1 < len(SWEEPS):
            known = BETWEENS[k](*given, *states)
        if PIVOT >= 0 and k == 0:
            y = states[PIVOT].to(tl.int32)
            for n in tl.static_range(CARRIED):
                at_target = at_target + (states[PIVOT + 1 + n],)
    return states, y, at_target
