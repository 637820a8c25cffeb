"""What a spec with several outputs must not have."""

from __future__ import annotations

from lossgen.errors import SpecError

__all__ = ["BesideOutputs", "ConstantOutput"]


class BesideOutputs(SpecError):
    id = "LG131"
    template = "'{name}' has no place beside outputs"
    advice = "a spec gives either outputs, each a result per row, or the terms of one loss"


class ConstantOutput(SpecError):
    id = "LG155"
    template = "the output '{name}' uses neither the logits nor an input of kind class"
    advice = "an output is computed from a row of V classes"
