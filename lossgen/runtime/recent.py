"""The last call of a loss: another like it takes its plan without a search.

A search asks Python for every fact of every tensor, which takes as long as a small loss.  Here one
function of torch, by which torch.compile guards its graphs, compares them all.  What it cannot
tell apart, and what it does not look at, is searched for: nothing is decided here that
``plans`` would decide otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lossgen.runtime.tensors import transformed, watched

if TYPE_CHECKING:
    from lossgen.runtime.plans import Plan

__all__ = ["Guard", "Recent", "guard_of"]

Guard = Callable[..., bool]


def guard_of(tensors: Sequence[Tensor | None]) -> Guard | None:
    """Are tensors of the same class, dtype, shape and strides, alike in requires_grad and in what
    wraps them? Asked of those that are not None."""
    given = [t for t in tensors if t is not None]
    sizes = {
        "dynamic_dims_sizes": [list(t.shape) for t in given],
        "dynamic_dims_strides": [list(t.stride()) for t in given],
    }
    try:
        guard: Guard = torch._C._dynamo.guards.TensorGuards(*given, **sizes).check
        return guard if guard(*given) else None
    except (AttributeError, TypeError):  # torch has another one
        return None


class Recent:
    """A call, and the plan that was found for it."""

    __slots__ = ("absent", "grad", "guard", "options", "parameters", "plan", "present", "values")

    def __init__(
        self,
        plan: Plan,
        tensors: Sequence[Any],
        parameters: Sequence[Any],
        values: Sequence[float],
        options: Sequence[Any],
    ) -> None:
        self.plan, self.values = plan, values
        held = any(isinstance(p, Tensor) for p in parameters)  # the same, of another number by then
        self.guard = None if held else plan.guard
        self.parameters, self.options = parameters, options
        self.absent = [k for k, tensor in enumerate(tensors) if tensor is None]
        self.present = [k for k, tensor in enumerate(tensors) if tensor is not None]
        self.grad = torch.is_grad_enabled()

    def is_like(
        self, tensors: Sequence[Any], parameters: Sequence[Any], options: Sequence[Any]
    ) -> bool:
        """Does another call have the same facts? Numbers and options must be the same objects:
        1, 1.0 and True are equal, and not all of them are accepted."""
        if self.guard is None or watched() or transformed() or forward_ad._current_level >= 0:
            return False
        for mine, other in zip(self.options, options, strict=True):
            if mine is not other:
                return False
        for mine, other in zip(self.parameters, parameters, strict=True):
            if mine is not other:
                return False
        for k in self.absent:
            if tensors[k] is not None:
                return False
        inplace_grad = options[3]
        given = [tensors[k] for k in self.present] if self.absent else tensors
        return (
            self.guard(*given)
            and torch.is_grad_enabled() is self.grad
            and self.plan.frames.current
            and not (inplace_grad and tensors[0].is_leaf)
        )
