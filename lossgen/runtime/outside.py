"""Calls that torch.compile leaves out of its graphs; imported while one is being compiled, as the
decorators import torch._dynamo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from lossgen.runtime.tensors import transformed

__all__ = ["in_transform", "transform_outside_the_graph"]


@torch.compiler.assume_constant_result
def in_transform() -> bool:
    """Is a transform or a forward-mode level at work around a call that is being compiled? The
    registered operators have no rules for these: torch takes their tangents for zero."""
    return transformed() or forward_ad._current_level >= 0


@torch.compiler.disable
def transform_outside_the_graph(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call as without torch.compile, which knows no transform of a loss: a break in the graph.

    With ``fullgraph=True`` torch's error shows this name; compile the function before it is
    transformed, as in ``grad(torch.compile(f))``.
    """
    return function(*arguments)
