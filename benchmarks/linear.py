"""Speed and memory of losses of a linear layer on the CPU, against what torch offers.

Forward and backward of hidden [N, D], weight [V, D], float32; all candidates interleaved in one
process.  The floor is the three products that no such loss can avoid:

    OMP_NUM_THREADS=2 python benchmarks/linear.py [--rows 1024] [--features 512] [--classes 32768]
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.report import paired, ratio, rich_table
from lossgen.losses import linear_cross_entropy_loss, linear_focal_loss, linear_gce_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
FLOOR = "floor: three products"


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
    return {"F.linear_cross_entropy, chunked": partial(F.linear_cross_entropy, options=options)}


def step(loss: Loss, hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(hidden, weight, target), (hidden, weight))


def measure(
    rows: int, features: int, classes: int, rounds: int, seconds: float = math.inf
) -> dict[str, Any]:
    """Milliseconds of each candidate, and how many times the floor that is."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, features).requires_grad_()
    weight = (torch.randn(classes, features) / features**0.5).requires_grad_()
    data = (hidden, weight, torch.randint(classes, (rows,)))
    losses: dict[str, Loss] = {
        "linear_cross_entropy": linear_cross_entropy_loss,
        "linear_gce": linear_gce_loss,
        "linear_focal": linear_focal_loss,
        "F.cross_entropy of logits that exist": materialised,
        **chunked_of_torch(),
    }
    gold = step(materialised, *data)
    for name, loss in losses.items():
        if "cross_entropy" in name:  # they must compute the same thing before they are timed
            for ours, theirs in zip(gold, step(loss, *data), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)
    runs: dict[str, Callable[[], object]] = {
        name: partial(step, loss, *data) for name, loss in losses.items()
    }
    runs[FLOOR] = partial(products, *data)
    timings = paired(runs, rounds, seconds=seconds)
    return {
        "sizes": {"rows": rows, "features": features, "classes": classes},
        "rounds": len(timings[FLOOR].samples),
        "candidates": [
            {
                "name": name,
                "ms": 1e3 * timing.median,
                "quartiles_ms": [1e3 * t for t in timing.quartiles],
                "times_floor": ratio(timing, timings[FLOOR]),
            }
            for name, timing in timings.items()
        ],
    }


def cells(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rows of the table."""
    return [
        (
            entry["name"],
            f"{entry['ms']:.0f}",
            " to ".join(f"{t:.0f}" for t in entry["quartiles_ms"]),
            f"{entry['times_floor']:.2f}",
        )
        for entry in found["candidates"]
    ]


COLUMNS = ("linear layer, forward + backward", "median ms", "quartiles ms", "÷ floor")


def title(found: dict[str, Any]) -> str:
    sizes = found["sizes"]
    return f"N = {sizes['rows']}, D = {sizes['features']}, V = {sizes['classes']}, float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.rows, options.features, options.classes, options.rounds)
    console = Console()
    heading = f"{title(found)}, {options.threads} threads"
    console.print(rich_table(heading, COLUMNS, cells(found)))
    console.print(f"torch {torch.__version__}, {platform.machine()}, {options.rounds} rounds")


if __name__ == "__main__":
    main()
