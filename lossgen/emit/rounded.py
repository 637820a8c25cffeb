"""torch in an arithmetic that is the same everywhere: each operation is done in float64, and its
result is rounded to float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["EveryOperation"]


class EveryOperation(TorchDispatchMode):
    """Inside it, what would compute in float32 computes in float64 and rounds once."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, Tensor)]
        kinds = {t.dtype for t in tensors if t.dtype.is_floating_point and t.dim() > 0}
        aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
        view = any(not a.is_write for a in aliases)
        exact = func.overloadpacket in _EXACT
        if view or exact or kinds != {torch.float32}:
            return func(*args, **kwargs)
        wide = tree_map(_widened, (args, kwargs))
        found = func(*wide[0], **wide[1])
        if aliases:  # in place: written into a copy, and from there where it belongs
            args[0].copy_(found)
            return args[0]
        return tree_map(_narrowed, found)


_EXACT = {torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.copy_}


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def _narrowed(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float64:
        return value.float()
    return value
