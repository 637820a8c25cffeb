"""Functions of tensors that take Python numbers too: the torch vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["numbers_too"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _scalar(value: Any, dtype: torch.dtype) -> Tensor:
    """On the CPU, which goes with every device, whatever torch.set_default_device says."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def numbers_too(function: Function) -> Function:
    """Let ``function``, written for tensors, also take Python numbers."""

    @functools.wraps(function)
    def lifted(*args: Tensor | float) -> Tensor | float:
        dtype = None
        for a in args:
            if isinstance(a, Tensor) and (dtype is None or a.dtype.is_floating_point):
                dtype = a.dtype
        if dtype == torch.bool:
            dtype = torch.get_default_dtype()
        if dtype is None:
            return float(function(*(_scalar(a, torch.float64) for a in args)).item())
        tensors = (a if isinstance(a, Tensor) else _scalar(a, dtype) for a in args)
        return cast(Tensor, function(*tensors))

    return cast(Function, lifted)
