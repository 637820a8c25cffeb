"""What an integration refuses: each error names the model, the head or the argument."""

from __future__ import annotations

from lossgen.errors import BuildError

__all__ = ["UnfitHead", "UnfitLoss", "UnfitModel"]


class UnfitLoss(BuildError, TypeError):
    id = "LG330"
    template = "{loss} {problem}"


class UnfitModel(BuildError, TypeError):
    id = "LG331"
    template = "{model} cannot be patched: {problem}"


class UnfitHead(BuildError, TypeError):
    id = "LG332"
    template = "the head {head} cannot be fused with a loss: {problem}"
    advice = "pass fused=False, which takes the loss of the logits that the model makes"
