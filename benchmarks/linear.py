"""Speed and memory of losses of a linear layer on the CPU, against what torch offers.

Forward and backward of hidden [N, D], weight [V, D], float32; all candidates interleaved in one
process.  The floor is the three products that no such loss can avoid:

    OMP_NUM_THREADS=2 python benchmarks/linear.py [--rows 1024] [--features 512] [--classes 32768]
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.report import paired, ratio, rich_table
from lossgen.losses import linear_cross_entropy_loss, linear_focal_loss, linear_gce_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def products(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    h, w = hidden.detach(), weight.detach()
    logits = h @ w.t()
    return logits @ w, logits.t() @ h


def materialised(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def chunked_of_torch() -> dict[str, Loss]:
    """Torch's own, from 2.13 on."""
    try:
        from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions
    except ImportError:
        return {}
    options = LinearCrossEntropyOptions()
    return {"torch, chunked": partial(F.linear_cross_entropy, options=options)}


def step(loss: Loss, hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(hidden, weight, target), (hidden, weight))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    hidden = torch.randn(options.rows, options.features).requires_grad_()
    weight = torch.randn(options.classes, options.features)
    weight = (weight / options.features**0.5).requires_grad_()
    target = torch.randint(options.classes, (options.rows,))
    data = (hidden, weight, target)
    losses: dict[str, Loss] = {
        "cross_entropy": linear_cross_entropy_loss,
        "gce": linear_gce_loss,
        "focal": linear_focal_loss,
        "torch, logits exist": materialised,
        **chunked_of_torch(),
    }
    for name in ("torch, logits exist", "torch, chunked"):
        if name in losses:  # the candidates must compute the same thing before they are timed
            pairs = zip(
                step(losses["cross_entropy"], *data), step(losses[name], *data), strict=True
            )
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)
    runs: dict[str, Callable[[], object]] = {
        name: partial(step, loss, *data) for name, loss in losses.items()
    }
    runs["floor: three products"] = partial(products, *data)
    timings = paired(runs, options.rounds)
    rows = []
    for name, timing in timings.items():
        low, high = (f"{1e3 * t:.0f}" for t in timing.quartiles)
        times = ratio(timing, timings["floor: three products"])
        rows.append((name, f"{1e3 * timing.median:.0f}", f"{low} to {high}", f"{times:.2f}"))
    sizes = f"N = {options.rows}, D = {options.features}, V = {options.classes}"
    columns = ("forward + backward", "median ms", "quartiles ms", "÷ floor")
    console = Console()
    console.print(rich_table(f"{sizes}, float32, {options.threads} threads", columns, rows))
    console.print(f"torch {torch.__version__}, {platform.machine()}, {options.rounds} rounds")


if __name__ == "__main__":
    main()
