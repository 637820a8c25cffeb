"""Triton's interpreter, repaired where it differs from a GPU.

Stock Triton (3.4 to 3.9) computes on bfloat16 bit patterns, truncates float32 to bfloat16, lets
maxima propagate NaN, has exponentials off by a few ulp, and looks up the language again at every
call of a device function.  ``install`` mends these; it changes ``triton.runtime.interpreter`` of
this process only, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from lossgen.errors import VerificationError
from lossgen.runtime.primitives import larger
from lossgen.verify.interpreter_speed import hasten

__all__ = ["active", "install", "overflow_checks"]

_installed = False


def active() -> bool:
    """Was Triton imported with TRITON_INTERPRET=1?"""
    try:
        import triton
    except ImportError:
        return False
    return bool(triton.knobs.runtime.interpret)


def install() -> None:
    """Mend the interpreter of this process.

    Raises:
        VerificationError: Triton was imported without TRITON_INTERPRET=1.
    """
    global _installed
    if _installed:
        return
    if not active():
        raise VerificationError(
            "Triton's interpreter is not active",
            hint="set TRITON_INTERPRET=1 before triton is imported",
        )
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    _mend_bfloat16(builder, handle, interpreter, tl)
    _mend_nan(builder, interpreter, tl)
    _mend_exponentials(builder, handle)
    _mend_splat(builder, handle)
    _mend_ranges(interpreter)
    _mend_lookup(interpreter)
    hasten(interpreter, tl)
    _set_overflow(interpreter, False)  # costs time, and says nothing without the assertions
    _installed = True


@contextmanager
def overflow_checks() -> Iterator[None]:
    """An int32 overflow is an error meanwhile; a GPU would wrap, and read somewhere else.

    Does nothing where Triton does not interpret.
    """
    if not active():
        yield
        return
    from triton.runtime import interpreter

    _set_overflow(interpreter, True)
    try:
        yield
    finally:
        _set_overflow(interpreter, False)


def _set_overflow(interpreter: Any, on: bool) -> None:
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, debug=on, sanitize_overflow=on)


def _widen(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(values: Any) -> Any:
    """Round to nearest even; NaN stays NaN."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).reshape(values.shape)


def _mend_bfloat16(builder: Any, handle: Any, interpreter: Any, tl: Any) -> None:
    half = tl.bfloat16
    cast, binary, convert = builder.cast_impl, builder.binary_op, builder.create_fp_to_fp

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        before, after = source.dtype.scalar, to.scalar
        if half not in (before, after):
            return cast(self, source, to)
        values = _widen(source.data) if before == half else source.data
        if after == half:
            return handle(_narrow(values.astype(np.float32)), after)
        return handle(values.astype(interpreter._get_np_dtype(after)), after)

    def fp_to_fp(self: Any, source: Any, to: Any, rounding: Any) -> Any:
        if half in (source.dtype.scalar, to.scalar):
            return cast_impl(self, source, to)
        return convert(self, source, to, rounding)

    def binary_op(self: Any, left: Any, right: Any, op: Callable[..., Any]) -> Any:
        if left.dtype.scalar != half:
            with np.errstate(all="ignore"):  # 0·inf under a mask is no news
                return binary(self, left, right, op)
        result = op(_widen(left.data), _widen(right.data))
        return handle(result if result.dtype == np.bool_ else _narrow(result), half)

    def dot(self: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:
        left, right = (_widen(v.data) if v.dtype.scalar == half else v.data for v in (a, b))
        with np.errstate(all="ignore"):
            product = np.matmul(left, right, dtype=total.data.dtype) + total.data
        return handle(product, total.dtype.scalar)

    builder.cast_impl, builder.create_fp_to_fp, builder.binary_op = cast_impl, fp_to_fp, binary_op
    builder.create_dot = dot


def _mend_nan(builder: Any, interpreter: Any, tl: Any) -> None:
    """Maxima and minima drop NaN, as the hardware's do by default."""
    builder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    builder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)
    reduce = interpreter.ReduceOps
    stock = reduce.apply_impl

    def apply_impl(self: Any, values: Any) -> Any:
        standard = tl.standard
        table = {
            standard._elementwise_max: np.fmax,
            standard._elementwise_min: np.fmin,
            larger: np.maximum,
        }
        function = next((f for k, f in table.items() if k is self.combine_fn), None)
        if function is None:
            return stock(self, values)
        data = values[0].handle.data
        result = function.reduce(data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(result, values[0].dtype)

    reduce.apply_impl = apply_impl


def _mend_exponentials(builder: Any, handle: Any) -> None:
    """Correctly rounded, through float64."""

    def rounded(function: Callable[[Any], Any]) -> Callable[..., Any]:
        def operation(self: Any, value: Any) -> Any:
            with np.errstate(all="ignore"):
                result = function(value.data.astype(np.float64)).astype(value.data.dtype)
            return handle(result, value.dtype.scalar)

        return operation

    table: dict[str, Callable[[Any], Any]] = {
        "exp": np.exp,
        "exp2": np.exp2,
        "log": np.log,
        "log2": np.log2,
        "sqrt": np.sqrt,
        "rsqrt": lambda v: 1.0 / np.sqrt(v),
    }
    for name, function in table.items():
        setattr(builder, f"create_{name}", rounded(function))

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        with np.errstate(all="ignore"):
            total = (x.data.astype(np.float64) * y.data + z.data).astype(z.data.dtype)
        return handle(total, z.dtype.scalar)

    builder.create_fma = fma


def _mend_splat(builder: Any, handle: Any) -> None:
    """A condition of one value, as a block, stays a condition (stock: the type of its operands)."""

    def splat(self: Any, shape: Any, value: Any) -> Any:
        data = np.asarray(value.data).reshape(-1)[0]
        return handle(np.full(shape.shape, data, dtype=data.dtype), value.dtype.scalar)

    builder.create_splat = splat


def _mend_ranges(interpreter: Any) -> None:
    """Loops with bounds known at run time (new numpy refuses int of a one-element array)."""
    stock = interpreter._patch_lang_tensor

    def patch(tensor: Any, *scope: Any) -> None:
        stock(tensor, *scope)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    interpreter._patch_lang_tensor = patch


class _Nothing:
    def restore(self) -> None:
        return


def _mend_lookup(interpreter: Any) -> None:
    """Patch the language once per kernel, not once per call of a device function."""
    types: dict[str, Any] = {}
    type_of = interpreter._get_np_dtype

    def remembered(kind: Any) -> Any:
        name = kind.name
        if name not in types:
            types[name] = type_of(kind)
        return types[name]

    interpreter._get_np_dtype = remembered
    stock = interpreter._patch_lang
    seen: set[int] = set()
    inner: list[Any] = []

    class Outer:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        def restore(self) -> None:
            for scope in reversed(inner):
                scope.restore()
            inner.clear()
            self.scope.restore()
            seen.clear()

    def patch(function: Any) -> Any:
        key = id(function.__globals__)
        if key in seen:
            return _Nothing()
        outermost = not seen
        seen.add(key)
        scope = stock(function)
        if scope is None:  # older Triton never restores
            return None
        if outermost:
            return Outer(scope)
        inner.append(scope)
        return _Nothing()

    interpreter._patch_lang = patch
