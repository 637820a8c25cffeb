"""What a tiled kernel reads: products of factors by the tile, and the numbers of its rows."""

from __future__ import annotations

from lossgen.runtime import tiles
from lossgen.runtime.primitives import jit, tl

__all__ = [
    "at_pivot",
    "before",
    "load_row",
    "load_rows",
    "load_tile",
    "products",
    "store_rows",
    "taken",
]

# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"


@jit
def product_of(
    K: tl.constexpr, factors, row_at, cols, n_classes,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """hidden · weightᵀ of one tile, of stream K."""
    return tiles.product(
        factors[0][K], factors[1][K], row_at, tl.minimum(cols, n_classes - 1), factors[3][K],
        factors[4][K], factors[5][K], (EVEN & (1 << K)) != 0, PRECISION, BK,
    )  # fmt: skip


@jit
def products(
    factors, row_at, first, n_classes, stash, MADE: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
    PART: tl.constexpr,
):  # fmt: skip
    """The products of the streams that are made, for BV classes from the ``first``-th on; () where
    they are put aside: only one of them at a time takes registers then."""
    found = ()
    cols = first + tl.arange(0, BV)
    for k in tl.static_range(len(factors[0])):
        if MADE & (1 << k):
            made = product_of(k, factors, row_at, cols, n_classes, EVEN, PRECISION, BK)
            if PART == BV:
                found = found + (made,)
            else:
                at = tl.arange(0, BM)[:, None] * BV + tl.arange(0, BV)[None, :]
                tl.store(stash + k * (BM * BV) + at, made)
                tl.debug_barrier()  # other threads read it; and the next product has to wait
    return found


@jit
def taken(
    made, stash, part, STREAMS: tl.constexpr, MADE: tl.constexpr, BM: tl.constexpr,
    BV: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Of the products, PART classes from the ``part``-th of the tile on."""
    if PART == BV:
        return made
    found = ()
    at = tl.arange(0, BM)[:, None] * BV + (part + tl.arange(0, PART))[None, :]
    for k in tl.static_range(STREAMS):
        if MADE & (1 << k):
            found = found + (tl.load(stash + k * (BM * BV) + at),)
    return found


@jit
def load_tile(
    made, factors, vocab, row_at, cols, cap, scale, n_classes,
    MADE: tl.constexpr, BIASED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Everything that is read by class, for classes ``cols``, of which ``made`` are the products;
    and the slope of the logits' softcap."""
    cols = tl.minimum(cols, n_classes - 1)
    found = ()
    used = ()  # as many as there are products so far
    slope = 1.0
    for k in tl.static_range(len(factors[0])):
        if MADE & (1 << k):
            tile = made[len(used)]
            used = used + (k,)
            if BIASED & (1 << k):
                tile += tl.load(factors[2][k] + cols).to(tl.float32)[None, :]
        else:
            at = factors[0][k] + row_at * factors[3][k] + cols[None, :]
            tile = tl.load(at).to(tl.float32)
        if k == 0:
            tile, slope = tiles.bent(tile, cap, scale, CAPPED)
        found = found + (tile,)
    for k in tl.static_range(len(vocab)):
        found = found + (tl.load(vocab[k] + cols).to(tl.float32)[None, :],)
    return found, slope


@jit
def load_row(
    given, at_y, row, n_rows, n_classes,
    CONTEXT: tl.constexpr, STREAMS: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """The values at the target, the other values of a row, the target, and marks: is it in order?
    None without a target."""
    at_target = ()
    marks = ()
    y = tl.full((), -1, tl.int32)
    if len(given[3]) > 0:
        label = tl.load(given[3][0] + row)
        in_order = (label >= 0) & (label < n_classes)
        y = tl.where(in_order, label, 0).to(tl.int32)
        marks = (in_order,)
        for k in tl.static_range(STREAMS):
            at_target = at_target + (tl.load(at_y + k * n_rows + row),)
        for k in tl.static_range(len(given[0])):
            at_target = at_target + (tl.load(given[0][k] + y).to(tl.float32),)
        if CONTEXT is not None:
            at_target = CONTEXT(y, *at_target)
    constants = ()
    for k in tl.static_range(len(given[1])):
        constants = constants + (tl.load(given[1][k] + row).to(tl.float32),)
    for k in tl.static_range(len(given[2])):
        constants = constants + (tl.full((), 0.0, tl.float32) + given[2][k],)
    if COUNTED:
        constants = constants + (tl.full((), 0.0, tl.float32) + n_classes,)
    return at_target, constants, y, marks


@jit
def load_rows(place, row, n_rows, FIRST: tl.constexpr, STOP: tl.constexpr):
    """Numbers FIRST to STOP - 1 of each row."""
    found = ()
    for k in tl.static_range(FIRST, STOP):
        found = found + (tl.load(place + k * n_rows + row),)
    return found


@jit
def store_rows(place, values, row, n_rows, FIRST: tl.constexpr):
    """The same, from number FIRST on."""
    for k in tl.static_range(len(values)):
        tl.store(place + (FIRST + k) * n_rows + row, values[k])


@jit
def before(
    LEVEL: tl.constexpr, BETWEENS: tl.constexpr, STARTS: tl.constexpr, PIVOT: tl.constexpr,
    CARRIED: tl.constexpr, merged, at_target, constants, y, row, n_rows,
):  # fmt: skip
    """What sweep LEVEL (of 0, 1, ...) knows: the values before the sweeps, those of the sweeps
    before it, the class that stands apart and the values at it."""
    known = ()
    given = at_target + constants
    if LEVEL > 0:
        states = load_rows(merged, row, n_rows, 0, STARTS[LEVEL])
        known = BETWEENS[LEVEL - 1](*given, *states)
        if PIVOT >= 0:
            y = states[PIVOT].to(tl.int32)
            for n in tl.static_range(CARRIED):
                at_target = at_target + (states[PIVOT + 1 + n],)
    return given, at_target + constants + known, y


@jit
def at_pivot(PIVOT: tl.constexpr, CARRIED: tl.constexpr, merged, at_target, y, row, n_rows):
    """The class that stands apart, and the values at it."""
    if PIVOT >= 0:
        carried = load_rows(merged, row, n_rows, PIVOT, PIVOT + 1 + CARRIED)
        y = carried[0].to(tl.int32)
        for n in tl.static_range(CARRIED):
            at_target = at_target + (carried[1 + n],)
    return at_target, y
