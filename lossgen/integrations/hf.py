"""transformers without patching a model: a loss for ``Trainer`` and for ``model.loss_function``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from lossgen.integrations.errors import UnfitLoss
from lossgen.integrations.losses import Loss, loss_of, next_tokens

__all__ = ["LossFunction", "loss_func"]


def loss_func(
    loss: str | Path | ModuleType | Callable[..., Any] = "gce",
    *,
    shift: bool | None = None,
    **parameters: Any,
) -> LossFunction:
    """The loss of logits, as transformers calls one::

        Trainer(..., compute_loss_func=lossgen.hf.loss_func("gce", q=0.7))
        model.loss_function = lossgen.hf.loss_func("gce", q=0.7)

    Args:
        loss: a name of the catalogue, the path of a spec, or a function of ``lossgen.loss``.
        shift: is a position judged by the label after it? By default so for the outputs of a
            causal language model, and in place of ``model.loss_function`` where that is given
            ``vocab_size``; say False there for a masked language model.
        parameters: of the loss.

    Returns:
        A function of (outputs, labels, num_items_in_batch) and of (logits, labels, vocab_size, …).

    Raises:
        UnfitLoss: a loss that needs more than logits and labels, or an unknown parameter.
    """
    return LossFunction(loss_of(loss, parameters), shift)


class LossFunction:
    """What :func:`loss_func` returns."""

    def __init__(self, loss: Loss, shift: bool | None) -> None:
        self.loss, self.shift = loss, shift

    def __repr__(self) -> str:
        given = [*self.loss.parameters.items(), *self.loss.options.items()]
        arguments = [repr(self.loss.name), *(f"{k}={v!r}" for k, v in given)]
        return f"lossgen.hf.loss_func({', '.join(arguments)})"

    def __call__(
        self,
        outputs: Any = None,
        labels: Tensor | None = None,
        vocab_size: int | None = None,
        num_items_in_batch: Any = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        *,
        logits: Tensor | None = None,
        pooled_logits: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """The mean, or the sum divided by ``num_items_in_batch``."""
        shift = vocab_size is not None
        if pooled_logits is None and logits is None:
            logits, causal = _logits_of(outputs)
            shift = shift or causal
        rows = logits if pooled_logits is None else pooled_logits
        if rows is None:
            problem = "got outputs without logits; the model makes none where it is patched"
            raise UnfitLoss(loss=self.loss.name, problem=problem)
        if labels is None and shift_labels is None:
            raise UnfitLoss(loss=self.loss.name, problem="got no labels")
        if shift_labels is not None:
            target = shift_labels
        elif shift if self.shift is None else self.shift:
            target = next_tokens(labels, ignore_index)
        else:
            target = labels
        target = target.to(rows.device).reshape(rows.shape[:-1])
        return self.loss.rows(rows, target, num_items_in_batch, ignore_index)


def _logits_of(outputs: Any) -> tuple[Tensor | None, bool]:
    """The logits, and whether a causal language model made them."""
    if isinstance(outputs, Tensor):
        return outputs, False
    causal = "CausalLM" in type(outputs).__name__
    if isinstance(outputs, dict):
        return outputs.get("logits"), causal
    return getattr(outputs, "logits", outputs[0] if isinstance(outputs, tuple) else None), causal
