"""TRL's fused heads by lossgen: one call before, or after, a trainer is made.

    import lossgen; lossgen.trl.install()

TRL's trainers take what they need of a token from one function of hidden states and head, and
distillation takes its divergence from another.  Those two are replaced; the mathematics of SFT,
DFT, DPO, KTO, GRPO, RLOO and distillation, their metrics and what they divide by stay TRL's.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from lossgen import losses
from lossgen.errors import BuildError
from lossgen.extras import require
from lossgen.integrations.loss_head import DivergenceHead, LossHead, divergence_of

__all__ = ["DivergenceHead", "LossHead", "generalized_jsd_loss", "install", "uninstall"]


class UnknownTrainer(BuildError, ImportError):
    id = "LG333"
    template = "trl {version} has no {name} that lossgen could take the place of"
    advice = "lossgen is tested with trl 1.16"


class _TokenFunction:
    """As ``trl.kernels.ChunkedLogProbFunction``."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        _chunk: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: tuple[str, ...] = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1"),
    ) -> tuple[Tensor | None, ...]:
        """Log-probability and, where asked for, entropy, log Σp², mean logit and top-1 hit."""
        head = LossHead(temperature=temperature, scale=scale, softcap=softcap)
        found = head(hidden, _in(hidden, weight, bias), targets)
        with torch.no_grad():
            results = {
                "log_sum_sq_probs": found.sum_p2.log(),
                "mean_logits": found.mean_logit.detach(),
                "is_top1": found.hit > 0.5,
            }
        return found.logp, *(
            {"entropy": found.entropy, **results}[name] if name in outputs else None
            for name in ("entropy", *results)
        )


class _DivergenceFunction:
    """As ``trl.kernels.chunked_divergence.ChunkedDivergenceFunction``."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None,
        beta: float,
        temperature: float = 1.0,
        scale: float = 1.0,
        softcap: float | None = None,
        teacher_scale: float = 1.0,
        teacher_softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Divergence of each row, and the student's entropy, which has no gradient."""
        student: dict[str, Any] = {"temperature": temperature, "scale": scale, "softcap": softcap}
        divergence = DivergenceHead(
            beta, **student, teacher_scale=teacher_scale, teacher_softcap=teacher_softcap
        )
        head = _in(hidden, weight, bias)
        taught = _in(teacher_hidden, teacher_weight, teacher_bias)
        found = divergence(hidden, head, teacher_hidden, taught)
        with torch.no_grad():
            first = torch.zeros(hidden.shape[:-1], dtype=torch.long, device=hidden.device)
            entropy = LossHead(**student)(hidden, head, first).entropy
        return found, entropy


def _in(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """In the dtype of the hidden states, as TRL multiplies them."""
    return weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)


def generalized_jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: str = "batchmean",
    num_items_in_batch: Any = None,
) -> Tensor:
    """As the static method of TRL's ``GKDTrainer``, of logits; reduction "batchmean" or "sum"::

    GKDTrainer.generalized_jsd_loss = staticmethod(lossgen.trl.generalized_jsd_loss)
    """
    if num_items_in_batch is None and reduction not in ("batchmean", "sum"):
        raise ValueError(f"reduction must be 'batchmean' or 'sum', not {reduction!r}")
    if labels is not None:
        counted = labels != -100
        student_logits, teacher_logits = student_logits[counted], teacher_logits[counted]
    name, parameters = divergence_of(beta)
    total: Tensor = getattr(losses, name)(
        student_logits / temperature, teacher_logits / temperature, reduction="sum", **parameters
    )
    if num_items_in_batch is not None:
        return total / torch.as_tensor(num_items_in_batch, device=total.device)
    rows = student_logits.shape[0] if labels is None else int(counted.sum())
    return total / max(rows, 1) if reduction == "batchmean" else total


#: Where TRL's trainers find their functions, and what takes their places.
_PLACES = (
    ("trl.trainer.utils", "_ChunkedLogProbFunction", _TokenFunction),
    ("trl.trainer.distillation_trainer", "ChunkedDivergenceFunction", _DivergenceFunction),
)
_BEFORE: dict[str, Any] = {}


def install() -> None:
    """From now on, TRL's trainers of this process compute by lossgen.

    Raises:
        MissingExtra: TRL is not installed.
        UnknownTrainer: another version of it, whose functions are elsewhere.
    """
    require("integrations")
    places = [(import_module(module), name, ours) for module, name, ours in _PLACES]
    for module, name, _ in places:
        if not hasattr(module, name):
            raise UnknownTrainer(version=version("trl"), name=f"{module.__name__}.{name}")
    for module, name, ours in places:
        _BEFORE.setdefault(name, getattr(module, name))
        setattr(module, name, ours)


def uninstall() -> None:
    """TRL's own again."""
    for module, name, _ in _PLACES:
        if name in _BEFORE:
            setattr(import_module(module), name, _BEFORE.pop(name))
