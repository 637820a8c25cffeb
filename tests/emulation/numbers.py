"""Numbers in registers: their types, rounding, and what approximate instructions may be off by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "approximate", "flushed", "from_bfloat16", "to_bfloat16"]

Array = NDArray[Any]
KINDS: dict[str, Any] = {
    "pred": np.bool_,
    "f32": np.float32,
    "f64": np.float64,
    "bf16": np.uint16,  # bits
    "bf16x2": np.uint32,
    **{f"u{n}": np.dtype(f"u{n // 8}").type for n in (8, 16, 32, 64)},
    **{f"b{n}": np.dtype(f"u{n // 8}").type for n in (8, 16, 32, 64)},
    **{f"s{n}": np.dtype(f"i{n // 8}").type for n in (8, 16, 32, 64)},
}

# The largest errors that NVIDIA states, relative (PTX ISA 8.7); lg2 between 1/2 and 2: absolute.
_ERRORS = {
    "ex2": 2.0**-22,
    "lg2": 2.0**-22,
    "rcp": 2.0**-23,
    "div": 2.0**-22,
    "sqrt": 2.0**-23,
    "rsqrt": 2.0**-22.4,
}


def flushed(value: Array) -> Array:
    """Subnormal numbers as zeros."""
    tiny = np.abs(value) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0.0), value), value)


def from_bfloat16(bits: Array) -> Array:
    """As float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(value: Array) -> Array:
    """The bits of the nearest, ties to even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), rounded.astype(np.uint16))


def approximate(name: str, function: Callable[..., Array], *values: Array) -> Array:
    """``function`` in float64, as far off as the instruction may be; up or down by the last bit
    of the first value.  Powers of two are exact where the hardware has them exact."""
    exact = function(*(value.astype(np.float64) for value in values))
    bits = np.ascontiguousarray(values[0]).view(np.uint32)
    sign = 1.0 - 2.0 * (bits & np.uint32(1))
    size = np.abs(exact)
    if name == "lg2":
        near = (values[0] >= 0.5) & (values[0] <= 2.0)
        size = np.where(near, np.where(exact == 0.0, 0.0, 1.0), size)
    elif name == "ex2":
        size = np.where(values[0] == np.floor(values[0]), 0.0, size)
    error = np.where(np.isfinite(exact), sign * size * _ERRORS[name], 0.0)
    return (exact + error).astype(np.float32)
