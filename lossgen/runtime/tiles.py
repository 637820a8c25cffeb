"""Tiles of logits that exist on chip only, as Triton device functions: products and their sums.

A tile is [R, C] float32: rows ``row`` [R, 1] of hidden against classes ``cols`` [C] of a weight.
Indices past the end are clamped by the caller, so that loads of rows need no mask.  A gradient
tile goes to a scratch buffer of its program, in the dtype of the factors; once a few of them are
there, one product takes them to hidden or to weight: the sums, which are float32 in memory, are
read and written once for all of them.  One program owns each sum: no atomics, no locks.
"""

from __future__ import annotations

from lossgen.runtime.device import sech2, tanh
from lossgen.runtime.primitives import jit, tl

__all__ = [
    "add_to_classes",
    "add_to_rows",
    "bent",
    "gather_kernel",
    "keep_tile",
    "product",
    "write_classes",
]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def product(
    hidden,
    weight,
    bias,
    at,
    cols,
    stride_hidden,
    stride_weight,
    features,
    BIASED: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
):
    """hidden[at] · weight[cols]ᵀ + bias[cols]; EVEN: ``features`` is a multiple of BK."""
    k = tl.arange(0, BK)
    left = hidden + at * stride_hidden + k[None, :]
    right = weight + cols.to(tl.int64)[None, :] * stride_weight + k[:, None]
    total = tl.zeros([at.shape[0], cols.shape[0]], tl.float32)
    for first in range(0, features, BK):
        if EVEN:
            a = tl.load(left)
            b = tl.load(right)
        else:
            a = tl.load(left, mask=(first + k < features)[None, :], other=0.0)
            b = tl.load(right, mask=(first + k < features)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += BK
        right += BK
    if BIASED:
        total += tl.load(bias + cols).to(tl.float32)[None, :]
    return total


@jit
def bent(total, cap, scale, CAPPED: tl.constexpr):
    """scale · cap · tanh(total / cap), and its derivative over ``scale``."""
    if CAPPED:
        inner = total / cap
        value = (scale * cap) * tanh(inner)
        slope = sech2(inner)
    else:
        value = scale * total
        slope = 1.0
    return value, slope


@jit
def keep_tile(scratch, slot, tile):
    """The ``slot``-th tile of a program's scratch buffer."""
    R: tl.constexpr = tile.shape[0]
    C: tl.constexpr = tile.shape[1]
    at = slot * (R * C) + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(scratch + at, tile.to(scratch.dtype.element_ty))


@jit
def add_to_rows(
    total,
    row,
    scratch,
    slots,
    n_slots,
    weight,
    stride_weight,
    features,
    n_classes,
    scale,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BD: tl.constexpr,
):
    """total[row] += scale · Σ over kept tiles: tile · weight[classes of the tile]."""
    r = tl.arange(0, BM)[:, None]
    c = tl.arange(0, BV)
    for first in range(0, features, BD):
        d = (first + tl.arange(0, BD))[None, :]
        inside = d < features
        part = tl.zeros([BM, BD], tl.float32)
        for slot in range(n_slots):
            cols = tl.minimum(tl.load(slots + slot) + c, n_classes - 1).to(tl.int64)
            tile = tl.load(scratch + slot * (BM * BV) + r * BV + c[None, :])
            right = tl.load(weight + cols[:, None] * stride_weight + d, mask=inside, other=0.0)
            part = tl.dot(tile, right, part, input_precision=PRECISION)
        at = total + row * features + d
        tl.store(at, tl.load(at, mask=inside, other=0.0) + scale * part, mask=inside)


@jit
def add_to_classes(
    total,
    begun,
    scratch,
    slots,
    n_slots,
    hidden,
    source_row,
    stride_hidden,
    features,
    scale,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BD: tl.constexpr,
):
    """total [BV, features] (+)= scale · Σ over kept tiles: tileᵀ · hidden[rows of the tile]; what
    ``total`` held counts where ``begun``."""
    r = tl.arange(0, BM)
    c = tl.arange(0, BV)
    for first in range(0, features, BD):
        d = (first + tl.arange(0, BD))[None, :]
        inside = d < features
        part = tl.zeros([BV, BD], tl.float32)
        for slot in range(n_slots):
            at = tl.load(source_row + tl.load(slots + slot) + r)
            tile = tl.load(scratch + slot * (BM * BV) + r[:, None] * BV + c[None, :])
            right = tl.load(hidden + at[:, None] * stride_hidden + d, mask=inside, other=0.0)
            part = tl.dot(tl.trans(tile), right, part, input_precision=PRECISION)
        to = total + c[:, None].to(tl.int64) * features + d
        old = tl.load(to, mask=inside & (begun != 0), other=0.0)
        tl.store(to, old + scale * part, mask=inside)


@jit
def write_classes(
    out, total, begun, first_col, features, n_classes, BV: tl.constexpr, BD: tl.constexpr
):
    """out[first_col:][:BV] = total [BV, features], in the dtype of ``out``; 0 unless ``begun``."""
    c = tl.arange(0, BV)[:, None].to(tl.int64)
    for first in range(0, features, BD):
        d = (first + tl.arange(0, BD))[None, :]
        inside = (d < features) & (first_col + c < n_classes)
        value = tl.load(total + c * features + d, mask=inside & (begun != 0), other=0.0)
        at = out + (first_col + c) * features + d
        tl.store(at, value.to(out.dtype.element_ty), mask=inside)


@jit
def gather_kernel(
    hidden,
    weight,
    bias,
    source_row,
    column,
    out,
    cap,
    scale,
    stride_hidden,
    stride_weight,
    features,
    BIASED: tl.constexpr,
    CAPPED: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    # Grid (row tiles,). One logit of each row: out[row] = hidden[source_row] · weight[column].
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    at = tl.load(source_row + row)
    y = tl.load(column + row)
    k = tl.arange(0, BK)
    left = hidden + at[:, None] * stride_hidden + k[None, :]
    right = weight + y[:, None] * stride_weight + k[None, :]
    total = tl.zeros([BM], tl.float32)
    for first in range(0, features, BK):
        inside = (first + k < features)[None, :]
        a = tl.load(left, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(right, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(a * b, axis=1)
        left += BK
        right += BK
    if BIASED:
        total += tl.load(bias + y).to(tl.float32)
    value, _ = bent(total, cap, scale, CAPPED)
    tl.store(out + row, value)
