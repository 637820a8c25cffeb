"""What a model does to its logits between its head and its loss: nothing, a scale, a cap.

Models call it by many names and in either direction, so it is not read but measured: at known
numbers in place of logits, once, and the logits of two tokens are then compared with what lossgen
would make of the head.  A model that does anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["POINTS", "Scores", "agree", "as_evaluated", "scores_of"]

#: The slope at 0, the limit at infinity, and where the two are judged.
POINTS = (2.0**-40, 2.0**100, 0.5, -3.0, 17.0, -60.0)
_SAME = 1e-4  # of float32 numbers that go the same way
_SAME_BY_DTYPE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of logits; else half precision
_SAME_IN_HALF = 0.05


@dataclass(frozen=True)
class Scores:
    """cap · tanh(scale · x / cap), or scale · x."""

    scale: float = 1.0
    cap: float = math.inf

    def __call__(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return x if self.cap == math.inf else self.cap * torch.tanh(x / self.cap)

    @property
    def options(self) -> dict[str, Any]:
        """As the linear losses take them, which cap before they scale."""
        cap = None if self.cap == math.inf else self.cap / self.scale
        return {"softcap": cap, "temperature": 1 / self.scale}


def scores_of(seen: Tensor) -> Scores | None:
    """From what became of ``POINTS`` [*, 6]; None where it is neither a scale nor a cap."""
    first, *rest = seen.detach().double().reshape(-1, seen.shape[-1]).cpu()
    if any(not torch.equal(first, other) for other in rest):
        return None
    small, large, *_ = map(float, first)
    digits = 12 if seen.dtype is torch.float64 else 7  # what arithmetic left of a config's number
    scale, cap = (float(f"{x:.{digits}g}") for x in (small / POINTS[0], large))
    found = Scores(scale, math.inf if large > 1e20 else cap)
    if not (scale > 0 and found.cap > 0):
        return None
    wanted = found(torch.tensor(POINTS, dtype=torch.float64))
    return found if torch.allclose(first, wanted, rtol=_SAME, atol=1e-9) else None


def agree(scores: Scores, factors: tuple[Tensor, Tensor, Tensor | None], logits: Tensor) -> bool:
    """Are ``logits`` what the loss would make of the factors?"""
    hidden, weight, bias = (None if t is None else t.float() for t in factors)
    made = scores(F.linear(hidden, weight, bias))
    if made.shape != logits.shape:
        return False
    bound = _SAME_BY_DTYPE.get(factors[1].dtype, _SAME_IN_HALF)
    return bool((made - logits.float()).abs().max() <= bound * made.abs().max().clamp_min(1e-3))


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """No dropout, no gradient; every module is afterwards as it was."""
    before: dict[Any, bool] = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training
