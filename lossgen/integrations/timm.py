"""A loss of the catalogue as timm makes one: by name, a module of (logits, target)."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lossgen.cache import load
from lossgen.integrations.errors import UnfitLoss

__all__ = ["create_classification_loss"]

#: timm's name of an argument, and ours.
_NAMES = {"smoothing": "label_smoothing", "class_weight": "weight"}


def create_classification_loss(loss_type: str | Path, **parameters: Any) -> nn.Module:
    """In place of ``timm.loss.create_classification_loss``, by more names::

        train_loss_fn = lossgen.timm.create_classification_loss("gce", q=0.7)

    Args:
        loss_type: a name of the catalogue or the path of a spec; any other name is timm's own.
        parameters: of the loss. timm's ``smoothing`` and ``class_weight`` are taken where the loss
            has ``label_smoothing`` and ``weight``.

    Returns:
        A module of logits [N, V] and a target: [N] classes, or what the loss takes in place of
        them, as dense targets [N, V] of ``soft_target_ce`` after Mixup.

    Raises:
        UnfitLoss: the loss has no such parameter.
    """
    if _is_timms(loss_type):
        made: nn.Module = import_module("timm.loss").create_classification_loss(
            loss_type, **parameters
        )
        return made
    module = load(loss_type)
    if module.LOSS.outputs and not module.LOSS.batched:
        raise UnfitLoss(loss=module.LOSS.function, problem="has several results, not a loss")
    kind = _class_of(module)
    known = [p for p in inspect.signature(kind).parameters if p != "self"]
    given = {}
    for name, value in parameters.items():
        ours = name if name in known else _NAMES.get(name, name)
        if ours not in known:
            hint = f"it has {', '.join(known)}"
            raise UnfitLoss(loss=module.LOSS.function, problem=f"takes no {name!r}", hint=hint)
        given[ours] = value
    loss: nn.Module = kind(**given)
    return loss


def _is_timms(name: str | Path) -> bool:
    """Only where timm is there: its names are few, and none is one of ours."""
    try:
        return name in import_module("timm.loss").LOSS_TYPES
    except ImportError:
        return False


def _class_of(module: ModuleType) -> Any:
    """The module of logits; its linear twin has a name that says so."""
    kinds = [getattr(module, name) for name in module.__all__ if not name.startswith("Linear")]
    return next(k for k in kinds if isinstance(k, type) and issubclass(k, nn.Module))
