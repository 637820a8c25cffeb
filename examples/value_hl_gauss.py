"""Regression by classification: HL-Gauss against the mean squared error, with heavy-tailed noise.

A smooth function of four variables, valued in [0, 1], is seen through noise: a tenth of the targets
is replaced by a number drawn from [-1, 2], the others get a little Gaussian noise.  Two networks of
the same size learn it: one with a single output and the squared error, one with 50 bins and
HL-Gauss, whose prediction is the mean of the bins' centres.  HL-Gauss clamps targets to [0, 1], so
the squared error gets clamped targets as well, in a third run.  The error that counts is against
the clean function, on new points.

    python examples/value_hl_gauss.py [--seeds 5] [--steps 1500]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from report import curves, figure, parser, progress, session, spread, table
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lossgen.losses import hl_gauss_loss

BINS = 50
BATCH = 256
LEARNING_RATE = 1e-3
CENTRES = (torch.arange(BINS) + 0.5) / BINS

# name -> (outputs, loss of outputs and noisy targets, prediction from outputs)
Method = tuple[int, Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]
METHODS: dict[str, Method] = {
    "squared error": (1, lambda out, value: F.mse_loss(out[:, 0], value), lambda out: out[:, 0]),
    "squared error, clamped": (
        1,
        lambda out, value: F.mse_loss(out[:, 0], value.clamp(0, 1)),
        lambda out: out[:, 0],
    ),
    "HL-Gauss": (
        BINS,
        lambda out, value: hl_gauss_loss(out, value=value, low=0.0, high=1.0, sigma=0.75 / BINS),
        lambda out: out.softmax(-1) @ CENTRES,
    ),
}


def clean(x: Tensor) -> Tensor:
    """The function [N] at points [N, 4] of the unit cube."""
    waves = torch.sin(3 * x[:, 0] + 2 * x[:, 1]) * torch.cos(4 * x[:, 2]) + x[:, 3] ** 2
    return (waves + 1) / 3


def draw(rows: int) -> tuple[Tensor, Tensor]:
    """Points and their noisy values."""
    x = torch.rand(rows, 4)
    value = clean(x) + 0.02 * torch.randn(rows)
    return x, torch.where(torch.rand(rows) < 0.1, 3 * torch.rand(rows) - 1, value)


def train(method: Method, steps: int, seed: int, advance: Callable[[], None]) -> Tensor:
    """Root mean squared error on clean values, every 50 steps [steps / 50]."""
    outputs, loss, predict = method
    torch.manual_seed(seed)
    test = torch.rand(4096, 4)
    x, value = draw(8192)
    model = nn.Sequential(
        nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs)
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    found = []
    for step in range(1, steps + 1):
        batch = torch.randint(len(x), (BATCH,))
        optimiser.zero_grad()
        loss(model(x[batch]), value[batch]).backward()
        optimiser.step()
        if step % 50 == 0:
            with torch.no_grad():
                found.append((predict(model(test)) - clean(test)).square().mean().sqrt())
            advance()
    return torch.stack(found)


def run(seeds: int, steps: int, console: Console) -> dict[str, Tensor]:
    """Error by method [seeds, steps / 50]."""
    results = {}
    with progress(console, "× 50 steps") as bar:
        for name, method in METHODS.items():
            task = bar.add_task(name, total=seeds * (steps // 50))
            advance = partial(bar.advance, task)
            results[name] = torch.stack([train(method, steps, s, advance) for s in range(seeds)])
    return results


def shown(results: dict[str, Tensor], seeds: int) -> Table:
    title = "Root mean squared error against the clean function"
    view = table(title, seeds, "loss", "last step")
    for name, error in results.items():
        view.add_row(name, spread(error[:, -1], digits=4))
    return view


def plot(results: dict[str, Tensor], path: Path) -> None:
    title = "A regression with a tenth of the targets at random"
    points = next(iter(results.values())).shape[1]
    with figure(path, title, "step", "error on clean values") as axes:
        curves(axes, range(50, 50 * points + 1, 50), results)
        axes.set_yscale("log")
        axes.legend(frameon=False)


def main() -> None:
    options_of = parser(__doc__, "value_hl_gauss.png")
    options_of.add_argument("--steps", type=int, default=1500)
    options = options_of.parse_args()
    with session(options.plot) as console:
        results = run(options.seeds, options.steps, console)
        console.print(shown(results, options.seeds))
        plot(results, options.plot)


if __name__ == "__main__":
    main()
