"""Products of factors in Triton: logits by the tile, and what their gradients are multiplied by.

A tile of logits is [R, C] float32: rows ``row`` [R, 1] of hidden against classes ``cols`` [C] of a
weight.  Indices past the end are clamped by the caller, so that loads of rows need no mask.  One
program owns each sum of a product: no atomics, no locks.
"""

from __future__ import annotations

from lossgen.runtime.device import sech2, tanh
from lossgen.runtime.primitives import jit, kernel, tl

__all__ = [
    "bent",
    "gather_kernel",
    "grouped",
    "product",
    "product_kernel",
]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def product(
    hidden,
    weight,
    at,
    cols,
    stride_hidden,
    stride_weight,
    features,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
):
    """hidden[at] · weight[cols]ᵀ; EVEN: ``features`` is a multiple of BK."""
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
def grouped(program, n_first, n_second, GROUP: tl.constexpr):
    """The tile of two axes that a program has, so that programs side by side share their operands:
    GROUP tiles of the first axis go through all of the second together."""
    per_group = GROUP * n_second
    start = program // per_group * GROUP
    size = tl.minimum(n_first - start, GROUP)
    return start + program % per_group % size, program % per_group // size


@kernel
def product_kernel(
    left, right, index, slots, n_slots, out, scale,
    stride_left, stride_k, stride_right, stride_out, out_rows, n_k, first_class, last_class,
    features, n_splits, GATHERED: tl.constexpr, LISTED: tl.constexpr, ADDED: tl.constexpr,
    EVEN: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # Grid (tiles of rows of out * tiles of features * n_splits,). out = scale * (left @ right), on
    # top of what it holds with ADDED, in float32 until it is stored. left: whole tiles of rows,
    # n_k columns, any strides. right [n_k, features]: the rows ``index`` of a tensor, or those from
    # ``first_class`` to ``last_class``.
    # Each of n_splits programs has a part of n_k, and an ``out`` [n_splits, out_rows, features] of
    # its own. LISTED: of n_k only the tiles of TILE that ``slots`` [tiles of rows, n_k / TILE]
    # names, the first ``n_slots`` of each row. EVEN: ``features`` is a multiple of BV.
    split = tl.program_id(0) % n_splits
    tile, feature_tile = grouped(
        tl.program_id(0) // n_splits, tl.cdiv(out_rows, BM), tl.cdiv(features, BV), GROUP
    )
    row = (tile * BM + tl.arange(0, BM)).to(tl.int64)
    d = feature_tile * BV + tl.arange(0, BV)
    k = tl.arange(0, BK)
    steps = n_k // BK
    if LISTED:
        steps = tl.load(n_slots + tile) * (TILE // BK)
    share = tl.cdiv(steps, n_splits)
    rows = left + row[:, None] * stride_left
    inside = (row < out_rows)[:, None] & (d < features)[None, :]
    to = out + split.to(tl.int64) * out_rows * stride_out + row[:, None] * stride_out + d[None, :]
    total = tl.zeros([BM, BV], tl.float32)
    if ADDED:
        total = tl.load(to, mask=inside, other=0.0)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        at = step * BK
        if LISTED:
            slot = tl.load(slots + tile * (n_k // TILE) + step // (TILE // BK))
            at = slot * TILE + step % (TILE // BK) * BK
        a = tl.load(rows + (at + k).to(tl.int64)[None, :] * stride_k)
        if GATHERED:
            source = tl.load(index + at + k)
        else:
            source = tl.minimum(first_class + at + k, last_class).to(tl.int64)
        from_rows = right + source[:, None] * stride_right + d[None, :]
        if EVEN:
            b = tl.load(from_rows)
        else:
            b = tl.load(from_rows, mask=(d < features)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    tl.store(to, (total * scale).to(out.dtype.element_ty), mask=inside)


@kernel
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
