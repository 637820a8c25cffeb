"""torch in an arithmetic that is the same everywhere: each operation is done in float64, and its
result is rounded to float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EveryOperation"]


class EveryOperation(TorchDispatchMode):
    """Inside it, what would compute in float32 computes in float64 and rounds once."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing here is compiled, and importing torch's compiler takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        as_it_is, in_place = _kind(func)
        if as_it_is or _real(args, kwargs) is not torch.float32:
            return func(*args, **kwargs)
        wide = {key: _each(_widened, value) for key, value in kwargs.items()}
        found = func(*_each(_widened, args), **wide)
        if in_place:  # written into a copy, and from there where it belongs
            args[0].copy_(found)
            return args[0]
        return _each(_narrowed, found)


_EXACT = {torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.copy_}


@lru_cache
def _kind(func: Any) -> tuple[bool, bool]:
    """Does an operation compute nothing, and does it write into its first argument?"""
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    view = any(not a.is_write for a in aliases)
    return view or func.overloadpacket in _EXACT, bool(aliases)


def _real(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    """The one floating-point dtype of the tensors that are more than a number, if it is one."""
    found: set[torch.dtype] = set()

    def see(value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() > 0 and value.dtype.is_floating_point:
            found.add(value.dtype)

    _each(see, args)
    for value in kwargs.values():
        _each(see, value)
    return found.pop() if len(found) == 1 else None


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Every leaf of nested tuples and lists, changed."""
    if isinstance(value, (tuple, list)):
        return type(value)([_each(change, part) for part in value])
    return change(value)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def _narrowed(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float64:
        return value.float()
    return value
