"""What the tests of plans compute with."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*lead: int, classes: int = 7, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, classes, generator=generator).to(dtype)


def labels(*lead: int, classes: int = 7) -> Tensor:
    found = torch.randint(classes, lead, generator=torch.Generator().manual_seed(1))
    if found.dim():
        found.view(-1)[0] = -100
    return found


WEIGHT = torch.linspace(0.5, 2.0, 7)
