"""``lossgen.patch``: a causal language model whose loss is another, taken without the logits.

The model's own forward runs as it is, with its auxiliary losses and all arguments.  Where it asks
for its head and for its loss function, it is given stand-ins: the head's notes the hidden states,
the loss function's takes the loss of them.  For that the model's class becomes a subclass of itself
with two properties; nothing that it holds is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lossgen.errors import LossgenError
from lossgen.integrations.errors import UnfitLoss, UnfitModel
from lossgen.integrations.heads import factors_of
from lossgen.integrations.losses import SCORES, Loss, loss_of, next_tokens
from lossgen.integrations.scores import POINTS, Scores, agree, as_evaluated, scores_of

__all__ = ["Objective", "Request", "inner", "patch", "unpatch"]

_UNFUSED = "pass fused=False, which takes the loss of the logits that the model makes"
_STATE, _REQUEST = "_lossgen", "_lossgen_request"


def patch(
    model: Any,
    loss: str | Path | ModuleType | Callable[..., Any] = "gce",
    *,
    fused: bool = True,
    **parameters: Any,
) -> Any:
    """Give a causal language model of transformers another loss.

    ``model(input_ids, labels=labels).loss`` is then that loss of the next tokens, with all that the
    model adds to its own: auxiliary losses, ``shift_labels``, ``num_items_in_batch``.  While the
    model trains, the logits are not made and ``outputs.logits`` is None, unless it is called with
    ``output_logits=True``; in evaluation they are, unless with ``output_logits=False``.  Without
    labels nothing changes, nor does ``generate``.

    Args:
        model: the model, or PEFT's wrapper of it; not yet compiled, sharded or parallel.
        loss: a name of the catalogue, the path of a spec, or a function of ``lossgen.loss``.
        fused: False: always of the logits that the model makes.
        parameters: of the loss, and ``memory_budget``, ``schedule``, ``filter``,
            ``skip_ignored`` and ``backend`` of its linear twin.

    Returns:
        The same model.

    Raises:
        UnfitLoss: a loss that needs more than logits and labels, or an unknown parameter.
        UnfitModel: not a causal language model, or one whose logits lossgen cannot follow.
        UnfitHead: the model's head is not linear, or is quantised; see ``fused``.
    """
    chosen = loss_of(loss, parameters)
    bare = inner(model)
    unpatch(bare)
    return _patched(model, bare, Objective(chosen, fused))


def unpatch(model: Any) -> Any:
    """The model with the loss that it had; nothing where it was not patched."""
    bare = inner(model)
    if _STATE in vars(bare):
        if "_lossgen_base" not in vars(type(bare)):  # a subclass, as FSDP's, would be lost
            problem = "its class was changed after lossgen did; undo that first"
            raise UnfitModel(model=type(bare).__name__, problem=problem)
        bare.__class__ = type(bare)._lossgen_base
        del vars(bare)[_STATE]
    return model


def inner(model: Any) -> Any:
    """The language model within PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class Objective:
    """What takes the place of the model's loss."""

    loss: Loss
    fused: bool = True
    scores: Scores = field(default_factory=Scores)

    def of_factors(self, factors: Any, labels: Tensor, **given: Any) -> Tensor:
        target, count, ignore_index = _asked(labels, factors[0], **given)
        return self.loss.hidden(factors, target, count, ignore_index, **self.scores.options)

    def of_logits(self, logits: Tensor, labels: Tensor, _size: Any = None, **given: Any) -> Tensor:
        """As the model's own loss function is called."""
        target, count, ignore_index = _asked(labels, logits, **given)
        return self.loss.rows(logits, target, count, ignore_index)

    def measured(self, scores: Scores) -> Objective:
        """For a model that does this to its logits."""
        twice = [k for k in SCORES if k in self.loss.parameters and scores != Scores()]
        if twice:
            problem = f"takes {twice[0]!r}, but the model scales or caps its logits itself"
            raise UnfitLoss(loss=self.loss.name, problem=problem)
        return Objective(self.loss, self.fused, scores)


def _asked(
    labels: Tensor,
    rows: Tensor,
    num_items_in_batch: Any = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Any, int]:
    """The target of each row [*, .], what the sum is divided by, and what does not count."""
    target = next_tokens(labels, ignore_index) if shift_labels is None else shift_labels
    target = target.reshape(rows.shape[:-1]).to(rows.device)
    return target, num_items_in_batch, ignore_index


class Request:
    """One call that asked for a loss: what the stand-ins of head and loss function say."""

    def __init__(self, head: Any, objective: Any) -> None:
        self.head_module, self.objective = head, objective
        self.pending: list[Any] = []
        self.stand_in: tuple[float, ...] = (0.0,)
        self.answered = 0

    def head(self, hidden: Tensor) -> Tensor:
        """A few numbers per row in place of logits."""
        self.pending.append(factors_of(self.head_module, hidden))
        made = hidden.new_zeros((*hidden.shape[:-1], len(self.stand_in)))
        return made

    def loss(self, logits: Tensor, labels: Tensor, _size: Any = None, **given: Any) -> Tensor:
        if len(self.pending) != 1:
            problem = f"its head ran {len(self.pending)} times before one loss"
            raise UnfitModel(model="the model", problem=problem)
        self.answered += 1
        result: Tensor = self.objective.of_factors(self.pending.pop(), labels, **given)
        return result


class _Probe(Request):
    """Notes what becomes of ``POINTS``."""

    def head(self, hidden: Tensor) -> Tensor:
        self.factors = factors_of(self.head_module, hidden)
        points = torch.tensor(POINTS, dtype=torch.float64, device=hidden.device)
        return points.expand(*hidden.shape[:-1], -1)

    def loss(self, logits: Tensor, labels: Tensor, _size: Any = None, **given: Any) -> Tensor:
        self.seen = logits
        self.answered += 1
        return labels.new_zeros((), dtype=torch.float32)


# ------------------------------------------------------------------------------- the subclass
def _patched(model: Any, bare: Any, objective: Objective) -> Any:
    name = _head_name(bare)
    kind: Any = type(bare)
    bare.__class__ = _subclass(kind, name)
    setattr(bare, _STATE, objective)
    if objective.fused:
        try:
            setattr(bare, _STATE, objective.measured(_measured(bare, name)))
        except BaseException:
            unpatch(bare)
            raise
    return model


def _head_name(model: Any) -> str:
    kind = type(model).__name__
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None or not hasattr(type(model), "loss_function"):
        problem = "it is not a language model of transformers"
        hint = "patch the model before it is compiled, sharded or wrapped"
        raise UnfitModel(model=kind, problem=problem, hint=hint)
    for name, child in model.named_children():
        if child is head:
            return str(name)
    raise UnfitModel(model=kind, problem="its head is not a child of it")


@cache
def _subclass(base: Any, head_name: str) -> Any:
    """``base``, under its own name, with a forward that may be asked for a loss alone."""

    @wraps(base.forward)  # the arguments are asked for by name: Trainer, PEFT, generate
    def forward(self: Any, *args: Any, output_logits: bool | None = None, **kwargs: Any) -> Any:
        objective = getattr(self, _STATE)
        labels = kwargs.get("labels", args[place] if 0 <= place < len(args) else None)
        if output_logits is None:  # a tuple has a place for them
            output_logits = not self.training or kwargs.get("return_dict") is False
        if labels is None or output_logits or not objective.fused:
            return base.forward(self, *args, **kwargs)
        request = Request(self._modules[head_name], objective)
        outputs = _answered(self, request, *args, **kwargs)
        return type(outputs)(**{k: v for k, v in outputs.items() if k != "logits"})

    names = [*inspect.signature(base.forward).parameters]
    place = names.index("labels") - 1 if "labels" in names else -1

    def head(self: Any) -> Any:
        request = vars(self).get(_REQUEST)
        return self._modules[head_name] if request is None else request.head

    def loss_function(self: Any) -> Any:
        request = vars(self).get(_REQUEST)
        return getattr(self, _STATE).of_logits if request is None else request.loss

    def set_loss_function(self: Any, value: Any) -> None:
        problem = "it already takes its loss from lossgen; unpatch it first"
        raise UnfitModel(model=base.__name__, problem=problem)

    def reduce(self: Any, protocol: int) -> Any:  # pickle knows no class that is made here
        return _restored, (base, head_name), vars(self)

    body = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_lossgen_base": base,
        "forward": forward,
        "loss_function": property(loss_function, set_loss_function),
        head_name: property(head),
    }
    return type(base)(base.__name__, (base,), body)


def _restored(base: Any, head_name: str) -> Any:
    kind = _subclass(base, head_name)
    return kind.__new__(kind)


def _answered(model: Any, request: Request, *args: Any, **kwargs: Any) -> Any:
    """What the model's own forward returns while the stand-ins are in place."""
    setattr(model, _REQUEST, request)
    try:
        outputs = type(model)._lossgen_base.forward(model, *args, **kwargs)
    finally:
        setattr(model, _REQUEST, None)
    if request.answered != 1 or request.pending:
        problem = f"it asked for its loss function {request.answered} times, not once"
        raise UnfitModel(model=type(model).__name__, problem=problem)
    return outputs


def _measured(model: Any, head_name: str) -> Scores:
    """What the model does to its logits, by two tokens."""
    kind = type(model).__name__
    device = next(model.parameters()).device
    if device.type == "meta":
        raise UnfitModel(model=kind, problem="it has no weights yet", hint="patch it when it has")
    tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
    with as_evaluated(model):
        probe = _Probe(model._modules[head_name], None)
        try:
            _answered(model, probe, input_ids=tokens, labels=tokens, use_cache=False)
            logits = model(input_ids=tokens, use_cache=False).logits
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, LossgenError):
                raise
            problem = f"two tokens and their labels are not all it needs: {error}"
            raise UnfitModel(model=kind, problem=problem, hint=_UNFUSED) from error
        scores = scores_of(probe.seen)
        if scores is not None and agree(scores, probe.factors, logits):
            return scores
    problem = "its logits are not those of its head, scaled or capped"
    raise UnfitModel(model=kind, problem=problem, hint=_UNFUSED)
