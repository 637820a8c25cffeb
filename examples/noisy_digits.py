"""Train on real images with 40 % wrong labels: cross-entropy against three generated losses.

scikit-learn's handwritten digits (1797 images, 8 × 8), a small network, and labels of the training
half of which 40 % are replaced by a digit drawn at random from the other nine.  The test labels
are clean.  Every loss gets the same data, the same initial network, the same optimiser, learning
rate and number of epochs (Adam's default rate; the number of epochs was set for running time), and
the accuracy that counts is that of the last epoch.

    python examples/noisy_digits.py [--seeds 5] [--epochs 80] [--plot noisy_digits.png]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from digits import Digits, accuracy, network
from report import curves, figure, parser, progress, session, spread, table
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


def shown(results: dict[str, Tensor], noise: float) -> Table:
    seeds, epochs = next(iter(results.values())).shape
    title = f"Clean test accuracy (%), {noise:.0%} wrong training labels"
    view = table(title, seeds, "loss", f"after {epochs} epochs", "best epoch of the mean")
    for name, percent in results.items():
        mean = percent.mean(0)
        best = f"{mean.max():.1f} (epoch {int(mean.argmax()) + 1})"
        view.add_row(name, spread(percent[:, -1]), best)
    return view


def plot(results: dict[str, Tensor], epochs: int, noise: float, path: Path) -> None:
    title = f"Handwritten digits, {noise:.0%} of the training labels wrong"
    with figure(path, title, "epoch", "clean test accuracy (%)") as axes:
        curves(axes, range(1, epochs + 1), results)
        axes.set_xlim(1, epochs)
        axes.set_ylim(60, 100)
        axes.legend(frameon=False, loc="lower center")


def main() -> None:
    options_of = parser(__doc__, "noisy_digits.png")
    options_of.add_argument("--epochs", type=int, default=80)
    options_of.add_argument("--noise", type=float, default=0.4)
    options = options_of.parse_args()
    with session(options.plot) as console:
        results = run(options.seeds, options.epochs, options.noise, console)
        console.print(shown(results, options.noise))
        plot(results, options.epochs, options.noise, options.plot)


if __name__ == "__main__":
    main()
