"""Calls of rows that exist where a class input is given by its entries, or the classes are spread
over ranks: by the chunk, as the loss of a linear layer is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossgen.runtime.arguments import no_tensor
from lossgen.runtime.dtensors import is_dtensor, local_rest, local_rows
from lossgen.runtime.entries import Entries
from lossgen.runtime.layout import class_axis, classes_last
from lossgen.runtime.linear import linear_loss, linear_rows
from lossgen.runtime.linear_arguments import LinearOptions
from lossgen.runtime.linear_bind import Arguments
from lossgen.runtime.tensors import admitted
from lossgen.runtime.weights import Weights

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["moved", "results", "total"]


def total(
    loss: RowLoss,
    given: tuple[Any, ...],
    reduction: str,
    backend: str,
    class_dim: int | None,
    weights: Weights,
    group: Any,
) -> Tensor:
    """The reduced loss of what ``RowLoss`` was called with."""
    logits, arguments, group = _arguments(loss, given, backend, class_dim, group)
    return linear_loss(loss, logits, arguments, reduction, LinearOptions(group=group), weights)


def results(
    loss: RowLoss, given: tuple[Any, ...], backend: str, class_dim: int | None, group: Any
) -> tuple[Tensor, ...]:
    """The results of a program with several outputs."""
    logits, arguments, group = _arguments(loss, given, backend, class_dim, group)
    return linear_rows(loss, logits, arguments, LinearOptions(group=group))


def _arguments(
    loss: RowLoss, given: tuple[Any, ...], backend: str, class_dim: int | None, group: Any
) -> tuple[Tensor, Arguments, Any]:
    logits, target, streams, parameters, inputs, ignore_index = given
    if any(map(is_dtensor, (logits, *streams))):
        axis = -1 if class_dim is None else class_dim
        names = ("logits", *(i.name for i in loss.streams))
        own = []
        for name, value in zip(names, (logits, *streams), strict=True):
            found, group = local_rows(loss.function, name, value, axis, group)
            own.append(found)
        logits, streams = own[0], own[1:]
        target = local_rest(target, "row", group)
        kinds = (declared.kind for declared in loss.others)
        inputs = tuple(local_rest(v, k, group) for v, k in zip(inputs, kinds, strict=True))
    pairs = zip(loss.others, inputs, strict=True)
    rows = (*([target] if loss.has_target else []), *(v for i, v in pairs if i.kind == "row"))
    logits, streams = moved(loss.function, logits, streams, rows, class_dim)
    rest = (tuple(parameters), tuple(inputs), ignore_index, backend)
    return logits, Arguments(target if loss.has_target else None, streams, *rest), group


def _dim(value: Any) -> int | None:
    return value.dim() if isinstance(value, Tensor) else None


def moved(
    name: str, logits: Any, streams: Sequence[Any], rows: Sequence[Any], class_dim: int | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """Logits and class inputs with their classes last; ``rows``: tensors with one value per row."""
    if not isinstance(logits, Tensor):
        raise no_tensor(name, "logits", logits)
    if not torch.compiler.is_compiling():
        logits = admitted(name, "logits", logits)
    axis, shape = class_axis(name, logits, rows, class_dim), logits.shape
    if axis < 0:
        return logits, tuple(streams)

    def last(source: Any) -> Any:
        if isinstance(source, Entries):
            return source.mapped(lambda t: classes_last(t, axis) if _dim(t) == len(shape) else t)
        alike = isinstance(source, Tensor) and source.shape == shape
        return classes_last(source, axis) if alike else source

    return classes_last(logits, axis), tuple(map(last, streams))
