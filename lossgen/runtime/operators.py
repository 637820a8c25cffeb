"""Each loss as registered torch operators, for ``torch.compile`` and export.

lossgen::<key>_forward   (logits, target, inputs, parameters, …) -> (loss [N], saved [S, N])
lossgen::<key>_backward  (grad_rows, logits, target, saved, …)   -> grad_logits [N, V]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossgen.runtime import launch, torch_backend
from lossgen.runtime.arguments import check_target_range

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["Operators", "register"]

_ARGUMENTS = (
    "Tensor? target, {saved}Tensor[] inputs, float[] parameters, int ignore_index, int variant, "
    "str backend"
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


def _kinds(loss: RowLoss, variant: int) -> tuple[str, ...]:
    declared = {i.name: i.kind for i in loss.inputs}
    return tuple(declared[n] for n in loss.variants[variant].inputs)


def _unit_stride(logits: Tensor) -> Tensor:
    """A compiler may have chosen other strides than the caller's."""
    return logits if logits.stride(-1) == 1 or logits.shape[1] == 1 else logits.contiguous()


def _define(key: str) -> Operators:
    def forward(
        logits: Tensor,
        target: Tensor | None,
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        loss = _LOSSES[key]
        if target is not None and not logits.is_cuda:
            check_target_range(target, target == ignore_index, logits.shape[1])
        module = launch if backend == "triton" else torch_backend
        return module.forward(
            loss.variants[variant],
            _unit_stride(logits),
            target,
            inputs,
            _kinds(loss, variant),
            parameters,
            ignore_index,
        )

    def forward_fake(
        logits: Tensor,
        target: Tensor | None,
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch_backend.compute_dtype(logits)
        rows = logits.shape[0]
        saved = logits.new_empty((_LOSSES[key].variants[variant].n_saved, rows), dtype=dtype)
        return logits.new_empty((rows,), dtype=dtype), saved

    def backward(
        grad_rows: Tensor,
        logits: Tensor,
        target: Tensor | None,
        saved: Tensor,
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
    ) -> Tensor:
        loss = _LOSSES[key]
        module = launch if backend == "triton" else torch_backend
        return module.backward(
            loss.variants[variant],
            _unit_stride(logits),
            target,
            saved,
            inputs,
            _kinds(loss, variant),
            parameters,
            ignore_index,
            grad_rows,
        )

    def backward_fake(
        grad_rows: Tensor,
        logits: Tensor,
        target: Tensor | None,
        saved: Tensor,
        inputs: list[Tensor],
        parameters: list[float],
        ignore_index: int,
        variant: int,
        backend: str,
    ) -> Tensor:
        return logits.new_empty(logits.shape)

    ops = Operators(
        forward=torch.library.custom_op(
            f"lossgen::{key}_forward",
            forward,
            mutates_args=(),
            schema=f"(Tensor logits, {_ARGUMENTS.format(saved='')}) -> (Tensor, Tensor)",
        ),
        backward=torch.library.custom_op(
            f"lossgen::{key}_backward",
            backward,
            mutates_args=(),
            schema="(Tensor grad_rows, Tensor logits, "
            f"{_ARGUMENTS.format(saved='Tensor saved, ')}) -> Tensor",
        ),
    )
    ops.forward.register_fake(forward_fake)
    ops.backward.register_fake(backward_fake)
    ops.forward.register_autograd(_differentiate(ops), setup_context=_save)
    return ops


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, tensors, *rest = inputs
    ctx.save_for_backward(logits, target, output[1], *tensors)
    ctx.rest = rest
    ctx.count = len(tensors)
    ctx.set_materialize_grads(True)


def _differentiate(ops: Operators) -> Any:
    def backward(ctx: Any, grad_rows: Tensor, _: Tensor) -> tuple[Any, ...]:
        logits, target, saved, *tensors = ctx.saved_tensors
        grad = ops.backward(grad_rows, logits, target, saved, list(tensors), *ctx.rest)
        # An empty list is taken for a list of tensors, whatever its type says.
        numbers: list[Any] | None = None if ctx.rest[0] else []
        return grad, None, [None] * ctx.count, numbers, None, None, None

    return backward
