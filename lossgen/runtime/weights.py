"""What the rows of any loss count for beside its formula, and what a mean divides by.

    sum     Σ w_i·loss_i                       w_i = weight[target_i]·row_weight_i
    mean    Σ w_i·loss_i / Σ w_i·n_i           n_i: what the formula lets a row count for, mostly 1
            Σ w_i·loss_i / normalizer          where that is given

These are arguments of every loss, so that no spec declares them; one that has an input or a
parameter of such a name keeps it.  A row of weight 0 is left out, as an ignored one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lossgen.runtime.arguments import Input, check_input, is_scalar
from lossgen.runtime.batch import Batch, compute_dtype
from lossgen.runtime.divisor import divisor
from lossgen.runtime.tensors import admitted, symbolic, transformed, watched
from lossgen.runtime.values import check_input_values

if TYPE_CHECKING:
    from lossgen.runtime.loss import RowLoss

__all__ = ["Weights", "left_out"]

_WEIGHT = Input("weight", "vocab", off=1.0, differentiable=True, lo=0.0, lo_open=False)
_ROW_WEIGHT = Input("row_weight", "row", off=1.0, differentiable=True)


class Weights(NamedTuple):
    """As a call gives them."""

    weight: Tensor | None = None  # [V]
    row_weight: Tensor | None = None  # [*], bool too
    normalizer: Tensor | float | None = None

    @property
    def even(self) -> bool:
        """Does every row count for 1, and a mean divide by their number?"""
        return self.weight is None and self.row_weight is None and self.normalizer is None

    def checked(
        self, name: str, logits: Tensor, lead: torch.Size, classes: int, reduction: str
    ) -> Weights:
        """As tensors of real numbers; what the mean divides by, of ``batchmean`` too.

        Raises:
            TypeError, ValueError: as the generated function says.
        """
        normalizer = self.normalizer
        if normalizer is not None and reduction != "mean":
            raise ValueError(
                f"{name}: normalizer is what a mean divides by, but reduction is {reduction!r}; "
                "leave it 'mean'"
            )
        if not (normalizer is None or _is_number(normalizer)):
            raise TypeError(
                f"{name}: normalizer must be a number or a scalar tensor, not "
                f"{type(normalizer).__name__}"
            )
        if reduction == "batchmean":
            normalizer = lead[0] if lead else 1
        return Weights(
            _checked(name, _WEIGHT, self.weight, logits, lead, classes),
            _checked(name, _ROW_WEIGHT, self.row_weight, logits, lead, classes),
            normalizer,
        )

    def of_rows(
        self, logits: Tensor, target: Tensor | None, lead: Sequence[int] | int
    ) -> Tensor | None:
        """What each row counts for [*], of the dtype of the results; None: 1."""
        dtype, found = compute_dtype(logits), self.row_weight
        found = None if found is None else found.to(dtype).reshape(lead)
        if self.weight is None or target is None:
            return found
        inside = target.long().clamp(0, self.weight.shape[0] - 1)  # an ignored row counts nothing
        own = self.weight.to(dtype)[inside]
        return own if found is None else own * found

    def divisor(
        self,
        loss: RowLoss,
        index: int,
        batch: Batch,
        inputs: Sequence[Tensor | None],
        wanted: Any,
        each: Tensor | None,
        reduction: str,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the sum is divided by, and what scales the formula's own weights first; see
        :func:`divisor`."""
        if self.normalizer is not None:
            like = batch.logits
            if isinstance(self.normalizer, Tensor):
                return self.normalizer.to(like.device, compute_dtype(like)).reshape(()), None
            return like.new_full((), self.normalizer, dtype=compute_dtype(like)), None
        if reduction != "mean":
            return None, None
        return divisor(loss, index, batch, inputs, wanted, each)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_scalar(value)
    kinds = (int, float, torch.SymInt, torch.SymFloat)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _checked(
    name: str,
    declared: Input,
    value: Any,
    logits: Tensor,
    lead: torch.Size,
    classes: int,
) -> Tensor | None:
    if value is None:
        return None
    if not torch.compiler.is_compiling():
        value = admitted(name, declared.name, value)
    if isinstance(value, Tensor) and value.dtype is torch.bool:
        value = value.to(compute_dtype(logits))
    if declared is _WEIGHT and isinstance(value, Tensor) and value.dim() == 2:
        layer = "; the layer is linear_weight" if name.startswith("linear_") else ""
        raise ValueError(f"{name}: weight is one number per class, [{classes}]{layer}")
    check_input(name, logits, lead, classes, declared, value)
    hidden = torch.compiler.is_compiling() or transformed() or watched() or symbolic(value)
    if not hidden and value.device.type == "cpu":
        check_input_values(name, declared, value)
    found: Tensor = value
    return found


def left_out(target: Tensor | None, each: Tensor | None, ignore_index: int) -> Tensor | None:
    """The target with the rows that count nothing ignored: no kernel reads their logits."""
    if target is None or each is None:
        return target
    return torch.where(each.detach() == 0, ignore_index, target)
