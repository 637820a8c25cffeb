"""The programs of a loss's derivatives along rows, and what they take of a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lossgen.runtime.batch import unit_stride

if TYPE_CHECKING:
    from lossgen.runtime.autograd import Call

__all__ = ["programs"]

Tensors = Sequence[Tensor | None]
_LEARNED = (
    "the gradient cannot be differentiated a second time in a call that asks for gradients to "
    "parameters or inputs; detach those"
)


def programs(call: Call, tensors: Tensors, tangents: Tensors) -> Iterator[tuple[Call, Tensors]]:
    """For each source that is moved, the program of its derivative and what that takes.

    Raises NotImplementedError where there is none.
    """
    moved = [(k, tangent) for k, tangent in enumerate(tangents) if tangent is not None]
    if moved and call.learned:
        raise NotImplementedError(f"{call.loss}: {_LEARNED}")
    loss: Any = call.programs.loss
    batch = call.batch.with_tensors(tensors)
    names = ["x", *(i.name for i in loss.streams if i.differentiable)]
    numbers = dict(zip(call.variant.parameters, batch.parameters, strict=True))
    inputs = dict(zip(call.variant.inputs, batch.inputs, strict=True))
    for k, tangent in moved:
        program = call.programs.along(names[k], call.variant.uses)
        index, bound = program.bind(
            batch.logits,
            batch.target if loss.has_target else None,
            (*batch.streams, unit_stride(tangent.to(batch.logits.dtype))),
            [numbers.get(p.name, p.off) for p in program.parameters],
            [inputs.get(i.name) for i in program.others],
            batch.ignore_index,
        )
        own = {
            "variant": program.variants[index],
            "batch": bound.without_tensors(),
            "operators": program.operators,
            "index": index,
            "check": None,
            "programs": program.programs,
            "origin": call,
            "by": k,
        }
        yield replace(call, **own), bound.tensors
