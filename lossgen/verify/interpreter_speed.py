"""Triton's interpreter, made quicker where it does the same work at every operation.

Nothing that is computed changes: types of equal operands are not promoted again, constants and the
shapes of types are kept, and the language is looked through once per module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["hasten"]


def hasten(interpreter: Any, tl: Any) -> None:
    """Change the interpreter of this process; versions that look otherwise are left as they are."""
    _share_shapes(tl.tensor)
    _skip_promotions(type(interpreter.interpreter_semantic), interpreter.TensorHandle, tl)
    if "scope" in inspect.signature(interpreter._patch_builtin).parameters:
        _look_once(interpreter, tl)


def _share_shapes(tensor: Any) -> None:
    """Tensors of one type have one shape object."""
    stock = tensor.__init__
    known: dict[str, dict[str, Any]] = {}

    def __init__(self: Any, handle: Any, type: Any) -> None:
        held = known.get(type.name)
        if held is None:
            stock(self, handle, type)
            known[type.name] = {k: v for k, v in vars(self).items() if k not in _OWN}
            return
        own = vars(self)
        own.update(held)
        own["handle"], own["type"], own["dtype"] = handle, type, type.scalar

    tensor.__init__ = __init__


_OWN = ("handle", "type", "dtype")


def _skip_promotions(semantic: Any, handle: Any, tl: Any) -> None:
    """Operands of one plain type are what they are; what is beside a block becomes one."""
    stock = semantic.binary_op_type_checking_impl
    single, whole, tensor = tl.float32.name, tl.int32.name, tl.tensor
    constants: dict[tuple[Any, ...], Any] = {}

    def constant(value: float, like: Any) -> Any:
        """A number of Python's as the tensor beside it; None: its type is not the tensor's."""
        key = value, type(value), like.type.name, like.handle.data.shape
        if key not in constants:
            name, made = like.dtype.name, None
            fits = type(value) is int and -(2**31) <= value < 2**31
            if name == single or (name == whole and fits):
                kind = np.float32 if name == single else np.int32
                data = np.full(like.handle.data.shape, value or 0, kind)
                data.flags.writeable = False
                made = tensor(handle(data, like.dtype), like.type)
            constants[key] = made
        return constants[key]

    def beside(scalar: Any, block: Any) -> Any:
        data = np.broadcast_to(scalar.handle.data.reshape(-1)[:1], block.handle.data.shape)
        return tensor(handle(data, block.dtype), block.type)

    def checked(self: Any, lhs: Any, rhs: Any, *allowed: Any, **more: Any) -> tuple[Any, Any]:
        left, right = isinstance(lhs, tensor), isinstance(rhs, tensor)
        if left and right:
            if lhs.dtype.name == rhs.dtype.name and lhs.dtype.name in (single, whole):
                if lhs.type.name == rhs.type.name:
                    return lhs, rhs
                if not rhs.type.is_block():
                    return lhs, beside(rhs, lhs)
                if not lhs.type.is_block():
                    return beside(lhs, rhs), rhs
        elif left and type(rhs) in (int, float):
            if (other := constant(rhs, lhs)) is not None:
                return lhs, other
        elif right and type(lhs) in (int, float) and (other := constant(lhs, rhs)) is not None:
            return other, rhs
        found: tuple[Any, Any] = stock(self, lhs, rhs, *allowed, **more)
        return found

    semantic.binary_op_type_checking_impl = checked


def _look_once(interpreter: Any, tl: Any) -> None:
    """Which functions of a module are the language's, and what stands for them."""
    semantic = interpreter.interpreter_semantic
    members: dict[Any, list[tuple[str, Callable[..., Any]]]] = {}

    def bound(member: Any) -> Callable[..., Any]:
        inner = inspect.unwrap(member, stop=lambda f: not tl.core.is_builtin(f))

        def call(*args: Any, **options: Any) -> Any:
            options["_semantic"] = semantic
            return inner(*args, **options)

        return call

    def patch(package: Any, builder: Any, scope: Any) -> None:
        if package not in members:
            found = inspect.getmembers(package)
            members[package] = [(n, bound(m)) for n, m in found if tl.core.is_builtin(m)]
        for name, call in members[package]:
            scope.set_attr(package, name, call)

    interpreter._patch_builtin = patch
