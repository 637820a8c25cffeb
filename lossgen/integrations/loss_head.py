"""What trainers make their losses of: per token, from hidden states, in one pass over the head.

Sums over sequences, clipping and what they are divided by stay with the trainer: this is the part
that needs the vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lossgen import losses
from lossgen.integrations.errors import UnfitLoss
from lossgen.integrations.heads import factors_of
from lossgen.integrations.scores import Scores

__all__ = ["DivergenceHead", "LossHead", "Tokens", "divergence_of"]

_IGNORED = -100
_TEACHER_ROWS = 512  # whose logits exist at a time, where they are scaled or capped


class Tokens(NamedTuple):
    """One number per token [*], float32; 0 where the mask is False."""

    logp: Tensor  # of the target
    entropy: Tensor
    hit: Tensor  # 1 where the target is the first of the largest logits; no gradient
    lse: Tensor
    mean_logit: Tensor
    sum_p2: Tensor


class LossHead(nn.Module):
    """Results per token of a head and the hidden states before it, without their logits::

        tokens = LossHead(temperature=0.9)(hidden, model.lm_head, target, mask)
        loss = -(advantage * tokens.logp * mask).sum() / mask.sum()

    All results but ``hit`` are differentiable, in hidden states and head; the logits are made a
    chunk of rows at a time, once in the forward and once in the backward.

    Args:
        temperature: logits are divided by it, last.
        scale: logits are multiplied by it, first.
        softcap: then they become ``softcap * tanh(logits / softcap)``.
        options: of the linear functions: ``memory_budget``, ``schedule``, ``filter``,
            ``skip_ignored``, ``backend``.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        scale: float = 1.0,
        softcap: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.scores = _scores(scale, softcap, temperature)
        self.options = options

    def forward(
        self, hidden: Tensor, head: Any, target: Tensor, mask: Tensor | None = None
    ) -> Tokens:
        """
        Args:
            hidden: [*, D].
            head: a linear layer, PEFT's wrapper of one, or (weight [V, D], bias [V] or None).
            target: [*], the class of each row, shifted already; -100 counts as masked.
            mask: [*], which rows count; None: all.

        Raises:
            UnfitHead: the head is no linear layer, or is quantised.
        """
        hidden, weight, bias = _factors(head, hidden)
        if mask is not None:
            target = target.masked_fill(~mask.bool(), _IGNORED)
        found = losses.linear_token_head(
            hidden, weight, target, linear_bias=bias, **self.scores, **self.options
        )
        return Tokens(*found)


class DivergenceHead(nn.Module):
    """The generalised Jensen-Shannon divergence of teacher and student per token, of hidden states.

    beta·KL(t ‖ m) + (1 − beta)·KL(p ‖ m) with m = beta·t + (1 − beta)·p; KL(t ‖ p) at beta = 0 and
    KL(p ‖ t) at beta = 1, as trainers have it, not the limits, which are 0.

    Args:
        beta: in [0, 1].
        temperature: of both; ``teacher_temperature``: of the teacher, where it is another.
        scale, softcap, teacher_scale, teacher_softcap: see :class:`LossHead`.
        options: of the linear functions.
    """

    def __init__(
        self,
        beta: float = 0.5,
        *,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
        teacher_scale: float = 1.0,
        teacher_softcap: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise UnfitLoss(loss="the divergence", problem=f"has no beta = {beta:g}: [0, 1]")
        self.beta, self.options = float(beta), options
        self.scores = _scores(scale, softcap, temperature)
        cooled = temperature if teacher_temperature is None else teacher_temperature
        self.teacher = _scores(teacher_scale, teacher_softcap, cooled)

    def forward(
        self,
        hidden: Tensor,
        head: Any,
        teacher_hidden: Tensor,
        teacher_head: Any,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[*], 0 where ``mask`` [*] is False, of hidden states [*, D] and [*, E]; heads as
        :class:`LossHead` takes them, with the same classes. The teacher gets no gradient."""
        lead = hidden.shape[:-1]
        kept = None if mask is None else mask.reshape(-1).nonzero().squeeze(1)
        student = _factors(head, hidden)
        with torch.no_grad():
            teacher = _factors(teacher_head, teacher_hidden)
        rows, taught = (_rows(factors[0], kept) for factors in (student, teacher))
        if self.scores == self.teacher == _scores(1.0, None, 1.0):
            factors = [t.detach() for t in (taught, *teacher[1:]) if t is not None]
            found = self._divergence(rows, tuple(factors), student[1:])
        else:  # linear losses scale and cap the logits of hidden alone
            pieces = zip(rows.split(_TEACHER_ROWS), taught.split(_TEACHER_ROWS), strict=True)
            others = (student[1:], teacher[1:])
            found = torch.cat(
                [checkpoint(self._piece, *p, *others, use_reentrant=False) for p in pieces]
            )
        if kept is not None:
            found = found.new_zeros(lead.numel()).index_copy(0, kept, found)
        return found.reshape(lead)

    def _piece(self, rows: Tensor, taught: Tensor, student: Any, teacher: Any) -> Tensor:
        """Of the teacher's logits as they are, which are made again in the backward."""
        cap, temperature = self.teacher["softcap"], self.teacher["temperature"]
        with torch.no_grad():
            logits = F.linear(taught, *teacher).float()
            if cap is not None:
                logits = logits.div_(cap).tanh_().mul_(cap)
            logits = logits.div_(temperature)
        return self._divergence(rows, logits, student)

    def _divergence(self, rows: Tensor, teacher: Any, student: Any) -> Tensor:
        weight, bias = student
        name, parameters = divergence_of(self.beta)
        function = getattr(losses, f"linear_{name}")
        given = {**parameters, **self.scores, **self.options}
        result: Tensor = function(
            rows, weight, teacher, linear_bias=bias, reduction="none", **given
        )
        return result


def divergence_of(beta: float) -> tuple[str, dict[str, float]]:
    """The loss, as trainers have it at the ends, where the divergence itself tends to 0."""
    if beta == 0:
        return "kd_forward_kl_loss", {"T": 1.0}
    if beta == 1:
        return "reverse_kl_loss", {}
    return "jsd_beta_loss", {"beta": beta}


def _scores(scale: float, softcap: float | None, temperature: float) -> dict[str, Any]:
    """cap · tanh(scale · x / cap) / temperature, as linear losses take it."""
    found = Scores(scale, math.inf if softcap is None else softcap).options
    return {**found, "temperature": found["temperature"] * temperature}


def _factors(head: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    if isinstance(head, tuple):
        weight, bias = head
        return hidden, weight, bias
    return factors_of(head, hidden)


def _rows(hidden: Tensor, kept: Tensor | None) -> Tensor:
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat if kept is None else flat.index_select(0, kept)
