"""Reductions over the classes of a row, tile by tile, or class by class for many rows at once.

A sweep is a tuple: lift, merge, across (the merge of all states along an axis), the state of no
class, and which of the row's values the merge reads; of one that is repeated until its roots are
found, behind these: start, step, how often at most, and how many roots.
"""

from __future__ import annotations

from lossgen.runtime.kernels.loads import load_tile
from lossgen.runtime.primitives import jit, tl

__all__ = ["joined", "lanes", "masked_tile", "middle", "settled"]

# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, misc"


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
def paired(a, b):
    """Two tiles [n, k] as one [n, 2 k]: what a thread has of each is its own still."""
    return tl.reshape(tl.join(a, b), [a.shape[0], 2 * a.shape[1]])


@jit
def beside(parts):
    """Tiles [n, k] as one [n, len · k]."""
    for _ in tl.static_range(3):
        if len(parts) > 1:
            pairs = ()
            for k in tl.static_range(len(parts) // 2):
                pairs = pairs + (paired(parts[2 * k], parts[2 * k + 1]),)
            parts = pairs
    return parts[0]


@jit
def wide_tile(
    bases,
    vocab,
    first,
    skip,
    n_classes,
    MASKED: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The tile that begins ``first`` after the row, [BLOCK / (LANE · PARTS), LANE · PARTS]: its
    classes, which of them are there (if MASKED), and all that is read by class."""
    all_cols = ()
    all_inside = ()
    tiles = ()
    for p in tl.static_range(PARTS):
        at = first + p * (BLOCK // PARTS) + lanes(BLOCK // PARTS, LANE)
        cols = at - skip
        inside = (cols >= 0) & (cols < n_classes)
        if MASKED:
            tiles = tiles + (load_tile(bases, vocab, at, cols, inside, REAL),)
        else:
            tiles = tiles + (load_tile(bases, vocab, at, cols, None, REAL),)
        all_cols = all_cols + (cols,)
        all_inside = all_inside + (inside,)
    tile = ()
    for k in tl.static_range(len(tiles[0])):
        parts = ()
        for p in tl.static_range(PARTS):
            parts = parts + (tiles[p][k],)
        tile = tile + (beside(parts),)
    return beside(all_cols), beside(all_inside), tile


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
    """The state of the tiles ``first`` to ``stop`` - 1, without class ``y`` if it stands APART.

    A thread has HELD classes of a tile, in PARTS loads: merging their state with what it has kept
    costs as much as several classes do."""
    # A state of many numbers needs the registers, and a short row the threads.
    HELD: tl.constexpr = 16 if BLOCK >= 2048 else 8
    PARTS: tl.constexpr = HELD // LANE
    kept = picked(values, SWEEP[4])
    state = identity(SWEEP[3], [BLOCK // HELD, 1], REAL)
    end = skip + n_classes
    y_tile = first - 1
    if APART:
        y_tile = (y + skip) // BLOCK
    low, high, passed = middle(y_tile, first, stop, skip, end, BLOCK)
    all_of_it = tl.full([BLOCK // HELD, HELD], True, tl.int1)
    for i in range(low, high - passed):
        begin = (i + passed * (i >= y_tile).to(tl.int32)) * BLOCK
        cols, _, tile = wide_tile(
            bases, vocab, begin, skip, n_classes, False, REAL, BLOCK, LANE, PARTS
        )
        state = SWEEP[1](*kept, *state, *SWEEP[0](cols, all_of_it, *tile, *values))
    for k in range(0, 3):
        tile_at, there = masked_tile(k, y_tile, first, stop, skip, end, BLOCK)
        if there:
            cols, inside, tile = wide_tile(
                bases, vocab, tile_at * BLOCK, skip, n_classes, True, REAL, BLOCK, LANE, PARTS
            )
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
def swept(
    SWEEP: tl.constexpr,
    bases,
    vocab,
    values,
    y,
    skip,
    live,
    first,
    stop,
    n_classes,
    held,
    APART: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The state of one sweep."""
    if len(held) > 0:
        counts = held[1]
        if APART:
            counts = counts & (held[0] != y)
        state = SWEEP[0](tl.maximum(held[0], 0), counts, *held[2], *values)
    elif ROWS > 1:
        state = short_sweep(SWEEP, bases, vocab, values, y, live, n_classes, APART, REAL, ROWS)
    else:
        state = long_sweep(
            SWEEP, bases, vocab, values, y, skip, first, stop, n_classes, APART, REAL, BLOCK, LANE
        )
    return state


@jit
def unfound(trial, ROOTS: tl.constexpr):
    """How many roots still move: the last number of each trial is 1 until it is found."""
    SIZE: tl.constexpr = len(trial) // ROOTS
    left = trial[SIZE - 1]
    for k in tl.static_range(1, ROOTS):
        left = left + trial[SIZE * k + SIZE - 1]
    if len(left.shape) > 0:
        left = tl.sum(tl.sum(left, axis=1), axis=0)
    return left


@jit
def repeated(
    SWEEP: tl.constexpr,
    bases,
    vocab,
    given,
    known,
    states,
    y,
    skip,
    live,
    first,
    stop,
    n_classes,
    held,
    APART: tl.constexpr,
    REAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LANE: tl.constexpr,
):
    """The state of a sweep at its roots, and the roots: it is run again with better trials, of all
    rows of the program until each has its own."""
    SHAPE: tl.constexpr = [ROWS, 1] if ROWS > 1 else []
    begun = SWEEP[5](*given, *states)
    SIZE: tl.constexpr = len(begun) // SWEEP[8]
    trial = ()
    for k in tl.static_range(len(begun)):
        value = begun[k] + tl.zeros(SHAPE, REAL)
        if k % SIZE == SIZE - 1:
            value = tl.where(live, value, 0.0)
        trial = trial + (value,)
    state = identity(SWEEP[3], SHAPE, REAL)
    times = 0
    left = unfound(trial, SWEEP[8])
    while (times < SWEEP[7]) & (left > 0):
        state = swept(
            SWEEP, bases, vocab, known + trial, y, skip, live, first, stop, n_classes, held,
            APART, REAL, ROWS, BLOCK, LANE,
        )  # fmt: skip
        trial = SWEEP[6](*given, *states, *state, *trial)
        left = unfound(trial, SWEEP[8])
        times += 1
    found = state
    for k in tl.static_range(SWEEP[8]):
        found = found + (trial[SIZE * k],)
    return found


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
        if len(SWEEPS[k]) > 5:
            state = repeated(
                SWEEPS[k], bases, vocab, given, values, states, y, skip, live, first, stop,
                n_classes, held, PIVOT == -1 or (PIVOT >= 0 and k > 0), REAL, ROWS, BLOCK, LANE,
            )  # fmt: skip
        else:
            state = swept(
                SWEEPS[k], bases, vocab, values, y, skip, live, first, stop, n_classes, held,
                PIVOT == -1 or (PIVOT >= 0 and k > 0), REAL, ROWS, BLOCK, LANE,
            )  # fmt: skip
        states = states + state
        if k + 1 < len(SWEEPS):
            known = ()
            if BETWEENS[k] is not None:
                known = BETWEENS[k](*given, *states)
        if PIVOT >= 0 and k == 0:
            y = states[PIVOT].to(tl.int32)
            for n in tl.static_range(CARRIED):
                at_target = at_target + (states[PIVOT + 1 + n],)
    return states, y, at_target
