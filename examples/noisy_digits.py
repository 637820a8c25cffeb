"""Train on real images with 40 % wrong labels: cross-entropy against three generated losses.

scikit-learn's handwritten digits (1797 images, 8 × 8), a small network, and labels of the training
half of which 40 % are replaced by a digit drawn at random from the other nine.  The test labels
are clean.  Every loss gets the same data, the same initial network, the same optimiser, learning
rate and number of epochs (Adam's default rate; the number of epochs was set for running time), and
the accuracy that counts is that of the last epoch.

    python examples/noisy_digits.py [--seeds 5] [--epochs 80] [--plot noisy_digits.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from digits import Digits, accuracy, network, progress, spread
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from lossgen.losses import comp_sum_loss, gce_loss, sce_loss

Loss = Callable[[Tensor, Tensor], Tensor]

BATCH = 64
HIDDEN = 256
LEARNING_RATE = 1e-3

# The parameters of the losses are those of their papers.
LOSSES: dict[str, Loss] = {
    "cross-entropy (torch)": F.cross_entropy,
    "GCE, q = 0.7": partial(gce_loss, q=0.7),
    "SCE, α = 0.1, β = 1": partial(sce_loss, alpha=0.1, beta=1.0),
    "comp-sum, τ = 1.5": partial(comp_sum_loss, tau=1.5),
}


def train(loss: Loss, data: Digits, epochs: int, seed: int, advance: Callable[[], None]) -> Tensor:
    """Test accuracy in percent after each epoch [epochs]."""
    torch.manual_seed(seed)  # the same initial network and the same batches for every loss
    model = network(HIDDEN)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    found = torch.zeros(epochs)
    for epoch in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(BATCH):
            optimiser.zero_grad()
            loss(model(data.images[batch]), data.labels[batch]).backward()
            optimiser.step()
        found[epoch] = accuracy(model, data.test_images, data.test_labels)
        advance()
    return found


def run(seeds: int, epochs: int, noise: float, console: Console) -> dict[str, Tensor]:
    """Accuracy in percent by loss [seeds, epochs]."""
    draws = [Digits(seed, noise) for seed in range(seeds)]
    results = {}
    with progress(console, "epochs") as bar:
        for name, loss in LOSSES.items():
            task = bar.add_task(name, total=seeds * epochs)
            results[name] = torch.stack(
                [
                    train(loss, data, epochs, seed, partial(bar.advance, task))
                    for seed, data in enumerate(draws)
                ]
            )
    return results


def table(results: dict[str, Tensor], noise: float) -> Table:
    seeds, epochs = next(iter(results.values())).shape
    view = Table(
        title=f"Clean test accuracy (%), {noise:.0%} wrong training labels",
        caption=f"mean ± standard deviation of {seeds} seeds",
    )
    view.add_column("loss")
    view.add_column(f"after {epochs} epochs", justify="right")
    view.add_column("best epoch of the mean", justify="right")
    for name, percent in results.items():
        mean = percent.mean(0)
        best = f"{mean.max():.1f} (epoch {int(mean.argmax()) + 1})"
        view.add_row(name, spread(percent[:, -1]), best)
    return view


def plot(results: dict[str, Tensor], noise: float, path: Path) -> None:
    """Mean over the seeds, with a band of one standard deviation."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colours = ("#777777", "#0072b2", "#d55e00", "#009e73")
    for (name, percent), colour in zip(results.items(), colours, strict=True):
        epochs = range(1, percent.shape[1] + 1)
        mean = percent.mean(0)
        band = percent.std(0) if len(percent) > 1 else torch.zeros_like(mean)
        dashed = "--" if name.startswith("cross-entropy") else "-"
        axes.plot(epochs, mean, dashed, color=colour, label=name, linewidth=1.8)
        axes.fill_between(epochs, mean - band, mean + band, color=colour, alpha=0.18, lw=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("clean test accuracy (%)")
    axes.set_title(f"Handwritten digits, {noise:.0%} of the training labels wrong", fontsize=11)
    axes.set_xlim(1, percent.shape[1])
    axes.set_ylim(60, 100)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--plot", type=Path, default=Path("noisy_digits.png"))
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)  # threads only get in the way of matrices this small
    console = Console()
    results = run(options.seeds, options.epochs, options.noise, console)
    console.print(table(results, options.noise))
    plot(results, options.noise, options.plot)
    console.print(f"{options.plot} written, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
