"""What the digit examples share: data and networks."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

__all__ = ["CLASSES", "Digits", "accuracy", "network"]

CLASSES = 10


class Digits:
    """scikit-learn's handwritten digits (1797 images, 8 × 8), pixels in [0, 1], split in half; the
    training labels are wrong with probability ``noise``."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        digits = load_digits()
        parts = train_test_split(
            digits.data, digits.target, test_size=0.5, stratify=digits.target, random_state=seed
        )
        self.images, self.test_images = (torch.tensor(a / 16).float() for a in parts[:2])
        clean, self.test_labels = (torch.tensor(a).long() for a in parts[2:])
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(clean), generator=generator) < noise
        shift = torch.randint(1, CLASSES, clean.shape, generator=generator)
        self.labels = torch.where(wrong, (clean + shift) % CLASSES, clean)


def network(width: int) -> nn.Module:
    """Two hidden layers of ``width``."""
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, CLASSES),
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """In percent."""
    return 100 * (model(images).argmax(-1) == labels).float().mean()
