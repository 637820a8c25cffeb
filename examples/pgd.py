"""Projected gradient descent inside an ℓ∞ ball (Madry et al. 2018), for any loss to be raised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["perturb"]


def perturb(
    images: Tensor,
    objective: Callable[[Tensor], Tensor],
    radius: float,
    steps: int = 10,
    rate: float | None = None,
) -> Tensor:
    """Images [N, …] in [0, 1], each moved by at most ``radius`` per pixel to raise ``objective``.

    Args:
        images: where to start from; not modified.
        objective: images → a scalar, the sum over the rows (a mean would do as well: only the sign
            of its gradient counts).
        radius: of the ball, in the unit of the pixels.
        steps: of gradient ascent, from a random point of the ball.
        rate: how far a pixel moves in one step, by default 2.5 · radius / steps.
    """
    rate = 2.5 * radius / steps if rate is None else rate
    low, high = (images - radius).clamp_min(0.0), (images + radius).clamp_max(1.0)
    moved = torch.empty_like(images).uniform_(-radius, radius).add_(images)
    for _ in range(steps):
        moved = moved.clamp(low, high).requires_grad_()
        (gradient,) = torch.autograd.grad(objective(moved), moved)
        moved = moved.detach() + rate * gradient.sign()
    return moved.clamp(low, high)
