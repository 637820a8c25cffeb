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

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from digits import progress, spread
from matplotlib import pyplot as plt
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


def table(results: dict[str, Tensor]) -> Table:
    view = Table(
        title="Root mean squared error against the clean function",
        caption="mean ± standard deviation of the seeds",
    )
    view.add_column("loss")
    view.add_column("last step", justify="right")
    for name, error in results.items():
        view.add_row(name, spread(error[:, -1], digits=4))
    return view


def plot(results: dict[str, Tensor], path: Path) -> None:
    """Mean over the seeds, with a band of one standard deviation."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, error), colour in zip(
        results.items(), ("#777777", "#0072b2", "#d55e00"), strict=True
    ):
        steps, mean = range(50, 50 * error.shape[1] + 1, 50), error.mean(0)
        band = error.std(0) if len(error) > 1 else torch.zeros_like(mean)
        axes.plot(steps, mean, color=colour, label=name, linewidth=1.8)
        axes.fill_between(steps, mean - band, mean + band, color=colour, alpha=0.18, lw=0)
    axes.set_xlabel("step")
    axes.set_ylabel("error on clean values")
    axes.set_yscale("log")
    axes.set_title("A regression with a tenth of the targets at random", fontsize=11)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--plot", type=Path, default=Path("value_hl_gauss.png"))
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)  # threads only get in the way of matrices this small
    console = Console()
    results = run(options.seeds, options.steps, console)
    console.print(table(results))
    plot(results, options.plot)
    console.print(f"{options.plot} written, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
