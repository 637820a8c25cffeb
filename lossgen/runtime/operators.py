"""Each loss as registered torch operators, for ``torch.compile`` and export.

lossgen::<key>_forward   (logits, target, streams, …) -> (loss [outputs, N], saved [S, N])
lossgen::<key>_backward  (grad_rows, saved, logits, …) -> gradients [N, V], one per source
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossgen.runtime.autograd import module_of
from lossgen.runtime.batch import Batch, arithmetic, compute_dtype, unit_stride
from lossgen.runtime.tensors import check_tangent
from lossgen.runtime.values import check_target_range

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["Operators", "as_tensor", "loss_of", "register"]

_ARGUMENTS = (
    "Tensor logits, Tensor? target, Tensor[] streams, Tensor[] inputs, float[] parameters, "
    "int ignore_index, int variant, str backend, Tensor? numbers=None"
)
_LOSSES: dict[str, RowLoss] = {}  # by key; a module loaded again replaces its own entry
_OPERATORS: dict[str, Operators] = {}


@dataclass(frozen=True)
class Operators:
    """The two operators of one loss."""

    forward: Any
    backward: Any


def register(loss: RowLoss) -> Operators:
    """Define the operators of ``loss``, once per key and process."""
    key = loss.key
    _LOSSES[key] = loss
    if key not in _OPERATORS:
        _OPERATORS[key] = _define(key)
    return _OPERATORS[key]


def loss_of(key: str) -> RowLoss:
    """The registered loss."""
    return _LOSSES[key]


def _batch(
    loss: RowLoss,
    logits: Tensor,
    target: Tensor | None,
    streams: list[Tensor],
    inputs: list[Tensor],
    parameters: list[float],
    ignore_index: int,
    variant: int,
    numbers: Tensor | None,
) -> Batch:
    """A compiler may have chosen other strides than the caller's."""
    if numbers is not None:
        parameters = numbers.tolist()
    kinds = {i.name: i.kind for i in loss.inputs}
    return Batch(
        logits=unit_stride(logits),
        target=target,
        streams=tuple(unit_stride(s) for s in streams),
        differentiable=tuple(i.differentiable for i in loss.streams),
        inputs=tuple(inputs),
        kinds=tuple(kinds[n] for n in loss.variants[variant].inputs),
        parameters=tuple(parameters),
        ignore_index=ignore_index,
        outputs=loss.outputs,
    )


def as_tensor(parameters: Sequence[float]) -> Tensor | None:
    """The parameters of a call that is being compiled, [P] float64 on the CPU.

    A number among the arguments of an operator is a constant of the graph, so that each new value
    would compile the call again, up to a limit; a product with a tensor is not.
    """
    if not parameters:
        return None
    one = torch.ones((), dtype=torch.float64, device="cpu")
    return torch.stack([one * value for value in parameters])


def _define(key: str) -> Operators:
    def forward(
        logits: Tensor,
        target: Tensor | None,
        streams: list[Tensor],
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        loss = _LOSSES[key]
        check_tangent(loss.function, "logits", logits)  # of a graph that was compiled without any
        if target is not None and not logits.is_cuda:
            check_target_range(target, ignore_index, logits.shape[1])
        batch = _batch(
            loss, logits, target, streams, inputs, parameters, ignore_index, variant, numbers
        )
        plan = loss.variants[variant]
        return module_of(backend, plan, logits.dtype).forward(plan, batch)

    def forward_fake(
        logits: Tensor,
        target: Tensor | None,
        streams: list[Tensor],
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        loss, rows = _LOSSES[key], logits.shape[0]
        plan, size = loss.variants[variant], (max(1, len(loss.outputs)), rows)
        saved = logits.new_empty((plan.n_saved, rows), dtype=arithmetic(plan, logits.dtype))
        return logits.new_empty(size, dtype=compute_dtype(logits)), saved

    def backward(
        grad_rows: Tensor,
        saved: Tensor,
        wanted: list[bool],
        logits: Tensor,
        target: Tensor | None,
        streams: list[Tensor],
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
        numbers: Tensor | None = None,
    ) -> list[Tensor]:
        loss = _LOSSES[key]
        batch = _batch(
            loss, logits, target, streams, inputs, parameters, ignore_index, variant, numbers
        )
        plan = loss.variants[variant]
        found = module_of(backend, plan, logits.dtype).backward(
            plan, batch, saved, grad_rows, tuple(wanted)
        )
        return [g for g in found if g is not None]

    def backward_fake(
        grad_rows: Tensor,
        saved: Tensor,
        wanted: list[bool],
        logits: Tensor,
        target: Tensor | None,
        streams: list[Tensor],
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
        numbers: Tensor | None = None,
    ) -> list[Tensor]:
        return [logits.new_empty(logits.shape) for want in wanted if want]

    ops = Operators(
        forward=torch.library.custom_op(
            f"lossgen::{key}_forward",
            forward,
            mutates_args=(),
            schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)",
        ),
        backward=torch.library.custom_op(
            f"lossgen::{key}_backward",
            backward,
            mutates_args=(),
            schema=f"(Tensor grad_rows, Tensor saved, bool[] wanted, {_ARGUMENTS}) -> Tensor[]",
        ),
    )
    ops.forward.register_fake(forward_fake)
    ops.backward.register_fake(backward_fake)
    ops.forward.register_autograd(_differentiate(ops, key), setup_context=_save)
    return ops


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, streams, tensors, *rest, numbers = inputs
    ctx.save_for_backward(logits, target, output[1], numbers, *streams, *tensors)
    ctx.rest = rest
    ctx.counts = len(streams), len(tensors)
    ctx.needs = [logits.requires_grad, *(s.requires_grad for s in streams)]
    ctx.set_materialize_grads(True)


def _differentiate(ops: Operators, key: str) -> Any:
    def backward(ctx: Any, grad_rows: Tensor, _: Tensor) -> tuple[Any, ...]:
        n_streams, n_inputs = ctx.counts
        logits, target, saved, values, *rest = ctx.saved_tensors
        streams, tensors = rest[:n_streams], rest[n_streams:]
        flags = [i.differentiable for i in _LOSSES[key].streams]
        needs = [ctx.needs[0], *(n and f for n, f in zip(ctx.needs[1:], flags, strict=True))]
        wanted = [needs[0], *(n for n, f in zip(needs[1:], flags, strict=True) if f)]
        given = (logits, target, streams, tensors, *ctx.rest, values)
        found = iter(ops.backward(grad_rows, saved, wanted, *given))
        grads = [next(found) if need else None for need in needs]
        # An empty list is taken for a list of tensors, whatever its type says.
        numbers: list[Any] | None = None if ctx.rest[0] else []
        last = [None] * (3 if values is None else 4)  # the dispatcher drops a default at the end
        return grads[0], None, grads[1:], [None] * n_inputs, numbers, *last

    return backward
