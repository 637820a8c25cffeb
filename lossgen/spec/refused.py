"""What a spec with several outputs, or with a formula of the batch, must not have."""

from __future__ import annotations

from lossgen.errors import SpecError

__all__ = ["OF_BATCHES", "OF_OUTPUTS", "Beside", "ConstantOutput", "NotOfTheBatch"]

OF_OUTPUTS = "a spec gives either outputs, each a result per row, or the terms of one loss"
OF_BATCHES = "the loss of a batch is the mean of its terms over the rows, plus `batch`"


class Beside(SpecError):
    id = "LG131"
    template = "'{name}' has no place beside {what}"


class ConstantOutput(SpecError):
    id = "LG155"
    template = "the output '{name}' uses neither the logits nor an input of kind class"
    advice = "an output is computed from a row of V classes"


class NotOfTheBatch(SpecError):
    id = "LG157"
    template = "{what} in the formula of a batch"
    advice = "what belongs to a row stands in batch_sum(e) or batch_mean(e)"
