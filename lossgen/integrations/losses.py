"""A loss that was named, with its parameters: of logits, and of a linear layer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.cache import load
from lossgen.integrations.errors import UnfitLoss

__all__ = ["SCORES", "Loss", "divided", "loss_of", "next_tokens"]

#: What a model may do to its logits, as the linear losses call it.
SCORES = ("softcap", "temperature")

#: Arguments of a generated function that the model, the labels or the trainer decide.
_GIVEN = ("ignore_index", "linear_bias", "reduction", "shift", "class_dim", "inplace_grad")


@dataclass(frozen=True)
class Loss:
    """A loss of rows that have a target, and the arguments that are the user's."""

    name: str
    of_logits: Callable[..., Any]
    of_hidden: Callable[..., Any]
    parameters: Mapping[str, Any]  # of the loss
    options: Mapping[str, Any]  # of how a linear loss is computed

    def rows(
        self, logits: Tensor, target: Tensor, count: Any = None, ignore_index: int = -100
    ) -> Tensor:
        """Of logits [*, V] and a target [*]: the mean, or the sum divided by ``count``."""
        backend = {k: v for k, v in self.options.items() if k == "backend"}
        total = self.of_logits(
            logits,
            target,
            ignore_index=ignore_index,
            reduction="mean" if count is None else "sum",
            **self.parameters,
            **backend,
        )
        return divided(total, count)

    def hidden(
        self,
        factors: tuple[Tensor, Tensor, Tensor | None],
        target: Tensor,
        count: Any = None,
        ignore_index: int = -100,
        **scores: float | None,
    ) -> Tensor:
        """As ``rows``, of the factors of the logits; ``scores`` says what becomes of these."""
        hidden, weight, bias = factors
        scores = {k: v for k, v in scores.items() if k not in self.parameters}
        total = self.of_hidden(
            hidden,
            weight,
            target,
            linear_bias=bias,
            ignore_index=ignore_index,
            reduction="mean" if count is None else "sum",
            **self.parameters,
            **self.options,
            **scores,
        )
        return divided(total, count)


def divided(total: Tensor, count: Any) -> Tensor:
    """By the number of tokens of all micro-batches of a step, which the trainer counts."""
    if count is None:
        return total
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


def next_tokens(labels: Tensor, ignore_index: int = -100) -> Tensor:
    """[*, S] → [*, S]: what each position is to predict, nothing at the last."""
    return F.pad(labels, (0, 1), value=ignore_index)[..., 1:]


def loss_of(loss: str | Path | ModuleType | Callable[..., Any], given: Mapping[str, Any]) -> Loss:
    """A loss by its name in the catalogue, the path of a spec, its module or its function.

    Raises:
        UnfitLoss: it has no target or needs more than one, or has no such parameter.
        BuildError, SpecError: there is no such loss.
    """
    module = _module_of(loss)
    row = module.LOSS
    name = module.BATCH.function if row.batched else row.function
    problem = None
    if row.batched:
        problem = "is of a whole batch, and a trainer adds up the losses of its rows"
    elif row.outputs:
        problem = "has several results, not a loss"
    elif not row.has_target:
        problem = "has no target, and labels are all that a trainer gives"
    elif row.streams:
        problem = f"needs {row.streams[0].name} beside the labels, for every class of every row"
    elif rows := [i.name for i in row.others if i.kind == "row" and i.off is None]:
        problem = f"needs {rows[0]} beside the labels, a number per row"
    if problem is not None:
        raise UnfitLoss(loss=name, problem=problem)
    found = Loss(name, getattr(module, name), getattr(module, f"linear_{name}"), {}, {})
    rows = [i.name for i in row.others if i.kind == "row"]
    parameters = inspect.signature(found.of_logits).parameters
    linear = inspect.signature(found.of_hidden).parameters
    allowed = [k for k in linear if linear[k].kind is inspect.Parameter.KEYWORD_ONLY]
    taken = (*_GIVEN, *rows, *(k for k in SCORES if k not in parameters))
    allowed = [k for k in allowed if k not in taken]
    for key in given:
        if key not in allowed:
            close = get_close_matches(key, allowed, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(allowed)}"
            raise UnfitLoss(loss=name, problem=f"takes no {key!r} here", hint=hint)
    own = {k: v for k, v in given.items() if k in parameters and k != "backend"}
    options = {k: v for k, v in given.items() if k not in own}
    # A value outside its domain is refused now, not in the first step.
    numbers = {k: v for k, v in own.items() if not isinstance(v, Tensor)}
    example = torch.zeros(1, max(2, row.min_classes)), torch.zeros(1, dtype=torch.long)
    found.of_logits(*example, **numbers, backend="torch")
    return Loss(name, found.of_logits, found.of_hidden, own, options)


def _module_of(loss: Any) -> ModuleType:
    if isinstance(loss, (str, Path)):
        return load(loss)
    module = (
        loss if isinstance(loss, ModuleType) else sys.modules.get(getattr(loss, "__module__", ""))
    )
    if module is None or not hasattr(module, "LOSS"):
        what = getattr(loss, "__name__", type(loss).__name__)
        hint = "give a name of the catalogue, the path of a spec, or what lossgen.loss returns"
        raise UnfitLoss(loss=what, problem="is not a loss of lossgen's", hint=hint)
    return module
