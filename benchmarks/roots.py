"""sparsemax and entmax15, loss and gradient on the CPU, against torch with a sort.

    python benchmarks/roots.py

The sort finds the threshold without autograd; the gradient is then q - e, as the papers have it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import lossgen
from lossgen.bench.report import paired, ratio

ROWS, CLASSES, ROUNDS = 64, 32000, 5


def sparsemax(x: Tensor) -> Tensor:
    apart = x - x.amax(1, keepdim=True)
    ordered, _ = apart.sort(1, descending=True)
    sums = ordered.cumsum(1) - 1
    size = (torch.arange(1, x.shape[1] + 1) * ordered > sums).sum(1, keepdim=True)
    return (apart - sums.gather(1, size - 1) / size).clamp_min(0)


def entmax15(x: Tensor) -> Tensor:
    apart = (x - x.amax(1, keepdim=True)) / 2
    ordered, _ = apart.sort(1, descending=True)
    count = torch.arange(1, x.shape[1] + 1)
    mean = ordered.cumsum(1) / count
    spread = (ordered**2).cumsum(1) - count * mean**2
    t = mean - ((1 - spread) / count).clamp_min(0).sqrt()
    size = ((t <= ordered) & (spread <= 1)).sum(1, keepdim=True)
    return (apart - t.gather(1, size - 1)).clamp_min(0) ** 2


def sorted_loss(name: str, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        q = sparsemax(x) if name == "sparsemax" else entmax15(x)
    power, scale = (2.0, 0.5) if name == "sparsemax" else (1.5, 4 / 3)
    lead = x - x.gather(1, y[:, None])
    return (q * lead).sum(1) + scale * (1 - (q**power).sum(1))


def step(x: Tensor, loss: Callable[..., Tensor], *given: object) -> None:
    """Loss and gradient."""
    x.grad = None
    loss(x, *given).mean().backward()


def main() -> None:
    torch.set_num_threads(1)
    for name in ("sparsemax", "entmax15"):
        loss = getattr(lossgen.load(name), f"{name}_loss")
        for scale in (0.01, 1.0, 3.0):
            x = (torch.randn(ROWS, CLASSES) * scale).requires_grad_()
            y = torch.randint(CLASSES, (ROWS,))
            candidates = {"sort": partial(step, x, partial(sorted_loss, name), y)}
            for backend in ("c", "torch"):
                ours = partial(loss, reduction="none", backend=backend)
                candidates[backend] = partial(step, x, ours, y)
            times = paired(candidates, ROUNDS)
            found = [
                f"{b} {1e3 * t.median:.1f} ms, {ratio(times['sort'], t):.1f} x"
                for b, t in times.items()
            ]
            print(f"{name}, logits of deviation {scale}: {'; '.join(found)}")


if __name__ == "__main__":
    main()
