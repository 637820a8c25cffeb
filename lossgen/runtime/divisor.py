"""What the mean of a loss divides by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossgen.runtime.arguments import differs
from lossgen.runtime.batch import Batch, compute_dtype

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["divisor", "is_counted"]


def _weights(loss: RowLoss, batch: Batch, inputs: Sequence[Tensor | None]) -> Tensor:
    """What each row counts for in the mean [N]; 0 for ignored rows."""
    target, dtype = batch.target, compute_dtype(batch.logits)
    rows = batch.logits.shape[0]
    if target is None:
        if loss.normalizer is None:
            return batch.logits.new_ones(rows, dtype=dtype)
        target = batch.logits.new_zeros(rows, dtype=torch.long)
    if loss.normalizer is None:
        return (target != batch.ignore_index).to(dtype)
    pairs = zip(loss.others, inputs, strict=True)
    given = {i.name: None if value is None else value.reshape(-1) for i, value in pairs}
    inside = target.clamp(0, batch.logits.shape[1] - 1)  # what is no class is refused, or NaN
    weight = loss.normalizer(inside, given, dtype)
    return weight.masked_fill(target == batch.ignore_index, 0.0)


def divisor(
    loss: RowLoss,
    index: int,
    batch: Batch,
    inputs: Sequence[Tensor | None],
    wanted: Collection[str] = (),
    each: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What a mean divides the sum by, and what scales its weights first, if anything does; of
    the parameters ``wanted`` there is a term even where they are off.  Rows count for ``each`` [N]
    beside that, if it is given.

    Σ A / Σ w + Σ B / N is Σ (A N / Σ w + B) / N, and A grows with each input of ``shared``.
    """
    weights = _weights(loss, batch, inputs)
    weights = weights if each is None else weights * each
    # On a CPU rounded once, as ``sum_rows`` of C does: compare ``reduced``.
    wide = torch.float64 if weights.device.type == "cpu" else weights.dtype
    total = weights.sum(dtype=wide).to(weights.dtype)
    if not is_counted(loss, index, batch, inputs, wanted):
        return total, None
    ignored = batch.ignored
    rows = total.new_ones(batch.logits.shape[0]) if each is None else each
    count = (rows if ignored is None else rows.masked_fill(ignored, 0.0)).sum()
    return count, count / total


def is_counted(
    loss: RowLoss,
    index: int,
    batch: Batch,
    inputs: Sequence[Tensor | None],
    wanted: Collection[str] = (),
) -> bool:
    """Has the loss terms that count as one per row, beside others that have weights?"""
    pairs = zip(loss.others, inputs, strict=True)
    if not any(i.name in loss.shared and value is not None for i, value in pairs):
        return False
    off = {p.name: p.off for p in loss.parameters}
    numbers = zip(loss.variants[index].parameters, batch.parameters, strict=True)
    on = {name for name, value in numbers if differs(value, off[name])}.union(wanted)
    return not loss.counted or not on.isdisjoint(loss.counted)
