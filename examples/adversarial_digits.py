"""Adversarial training on real images: plain cross-entropy, TRADES and ADV-COMP-SUM under attack.

The robust losses read two rows of logits, of the clean images and of images that an attacker moved
by at most ``--radius`` per pixel (``examples/pgd.py``, 10 steps), and send a gradient to both.  For
TRADES the attacker raises the divergence between the two rows; for ADV-COMP-SUM the loss
itself.  Every method gets the same data, the same initial network, optimiser, learning rate and
epochs.  The test images are attacked by raising the cross-entropy, from a random start.  TRADES
has the weight of its paper; ν was chosen among 0.05, 0.15, 0.3 and 0.4 on the first two seeds (at
ν = 1, the paper's, the network collapses to equal logits, where the norm is zero).

    python examples/adversarial_digits.py [--seeds 5] [--epochs 60] [--radius 0.15]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from digits import Digits, accuracy, network
from pgd import perturb
from report import curves, figure, parser, progress, session, spread, table
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lossgen.losses import adv_comp_sum_loss, trades_loss, vat_loss

Step = Callable[[nn.Module, Tensor, Tensor, float], Tensor]

BATCH = 128
HIDDEN = 128
LEARNING_RATE = 2e-3
RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def plain(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    return F.cross_entropy(model(images), labels)


def trades(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    clean = model(images).detach()
    moved = perturb(images, lambda x: vat_loss(clean, model(x), reduction="sum"), radius)
    return trades_loss(model(images), labels, model(moved), beta=6.0)


def adv_comp_sum(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    clean = model(images).detach()
    loss = partial(adv_comp_sum_loss, tau=1.0, rho=1.0, nu=0.3)
    moved = perturb(images, lambda x: loss(clean, labels, model(x), reduction="sum"), radius)
    return loss(model(images), labels, model(moved))


METHODS: dict[str, Step] = {
    "plain cross-entropy": plain,
    "TRADES, β = 6": trades,
    "ADV-COMP-SUM, ν = 0.3": adv_comp_sum,
}


def train(
    step: Step, data: Digits, options: argparse.Namespace, seed: int, advance: Callable[[], None]
) -> nn.Module:
    torch.manual_seed(seed)  # the same initial network and the same batches for every method
    model = network(HIDDEN)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(options.epochs):
        for batch in torch.randperm(len(data.labels)).split(BATCH):
            optimiser.zero_grad()
            step(model, data.images[batch], data.labels[batch], options.radius).backward()
            optimiser.step()
        advance()
    return model


def under_attack(model: nn.Module, data: Digits, radius: float, seed: int) -> Tensor:
    """Accuracy in percent on attacked test images."""
    torch.manual_seed(seed)
    labels = data.test_labels
    raised = lambda x: F.cross_entropy(model(x), labels, reduction="sum")  # noqa: E731
    return accuracy(model, perturb(data.test_images, raised, radius), labels)


def run(options: argparse.Namespace, console: Console) -> dict[str, Tensor]:
    """Accuracy by method [seeds, RADII]."""
    results = {}
    with progress(console, "epochs") as bar:
        for name, step in METHODS.items():
            task = bar.add_task(name, total=options.seeds * options.epochs)
            rows = []
            for seed in range(options.seeds):
                data = Digits(seed)
                model = train(step, data, options, seed, partial(bar.advance, task))
                found = [under_attack(model, data, radius, seed) for radius in RADII]
                rows.append(torch.stack(found))
            results[name] = torch.stack(rows)
    return results


def shown(results: dict[str, Tensor], options: argparse.Namespace) -> Table:
    view = table(
        f"Test accuracy (%), clean and under PGD of radius {options.radius:g}",
        options.seeds,
        *("training", "clean", f"PGD {options.radius:g}"),
    )
    at = RADII.index(options.radius)
    for name, percent in results.items():
        view.add_row(name, spread(percent[:, 0]), spread(percent[:, at]))
    return view


def plot(results: dict[str, Tensor], radius: float, path: Path) -> None:
    """Accuracy against the attacker's radius."""
    title = "Handwritten digits under a PGD attack"
    x, y = "radius of the attack (pixels in [0, 1])", "test accuracy (%)"
    with figure(path, title, x, y) as axes:
        curves(axes, RADII, results, "o-")
        axes.axvline(radius, color="#bbbbbb", linewidth=1, zorder=0)
        label = {"rotation": 90, "ha": "left", "va": "top", "color": "#888888"}
        axes.annotate("radius in training", (radius + 0.002, 98), **label)
        axes.set_ylim(0, 101)
        axes.legend(frameon=False, loc="lower left")


def main() -> None:
    options_of = parser(__doc__, "adversarial_digits.png")
    options_of.add_argument("--epochs", type=int, default=60)
    options_of.add_argument("--radius", type=float, default=0.15, choices=RADII[1:])
    options = options_of.parse_args()
    with session(options.plot) as console:
        results = run(options, console)
        console.print(shown(results, options))
        plot(results, options.radius, options.plot)


if __name__ == "__main__":
    main()
