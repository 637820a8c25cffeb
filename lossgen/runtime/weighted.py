"""A call whose rows do not count the same; see :mod:`lossgen.runtime.weights`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lossgen.runtime.batch import reduced, scaled, weighed
from lossgen.runtime.slopes import asked, learned
from lossgen.runtime.tensors import in_transform, outside_the_graph
from lossgen.runtime.weights import Weights, left_out

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["weighted"]


def weighted(
    loss: RowLoss,
    given: tuple[Any, ...],
    reduction: str,
    backend: str,
    inplace_grad: bool,
    class_dim: int | None,
    weights: Weights,
) -> Tensor:
    """The reduced loss of rows that do not count the same; see :mod:`lossgen.runtime.weights`."""
    logits, target, streams, parameters, inputs, ignore_index = given
    wanted, compiling = asked(loss, parameters, inputs), torch.compiler.is_compiling()
    rest = (reduction, backend, inplace_grad, class_dim)
    if compiling and (wanted or in_transform()):
        return cast(Tensor, outside_the_graph(loss.__call__, *given, *rest, *weights))
    checked: Any = loss._call
    call, inputs, lead = checked(*given, *rest)
    batch, classes = call.batch, call.batch.logits.shape[1]
    weights = weights.checked(loss.function, logits, lead, classes, reduction)
    own = batch.target if loss.has_target else None
    each = weights.of_rows(batch.logits, own, lead.numel())
    left = left_out(own, each, batch.ignore_index)
    batch = batch if left is None else replace(batch, target=left)
    count, ratio = weights.divisor(loss, call.index, batch, inputs, wanted, each, reduction)
    if ratio is not None:
        held = scaled(loss.shared, call.variant.inputs, batch.inputs, ratio)
        batch = replace(batch, inputs=held)
        inputs = scaled(loss.shared, [i.name for i in loss.others], inputs, ratio)
    if wanted:
        target = target if left is None else left.reshape(lead)
        given = (logits, target, streams, parameters, inputs, ignore_index)
        rows = weighed(learned(loss, wanted, given, "none", backend, class_dim)[0], each)
        return rows.reshape(lead) if reduction == "none" else reduced(rows, count)
    call = replace(call, batch=batch)
    return loss.finished(call, reduction, inplace_grad, count, each, lead)
