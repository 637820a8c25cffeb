"""Knowledge distillation on real images: a small network taught by labels, and by a teacher too.

A wide teacher is trained on all training images with cross-entropy.  The student is small and sees
the labels of 60 images only; the teacher's logits are free for every image.  Compared are
cross-entropy on the 60 labels, and the same plus a divergence to the teacher on all images: forward
KL at temperature 4 (Hinton et al.), reverse KL, and the generalized Jensen-Shannon divergence.
Every student gets the same data, the same initial network, optimiser, learning rate and epochs.

    python examples/distill_digits.py [--seeds 5] [--epochs 150]
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
from torch import Tensor, nn
from torch.nn import functional as F

from lossgen.losses import jsd_beta_loss, kd_forward_kl_loss, reverse_kl_loss

Divergence = Callable[[Tensor, Tensor], Tensor]  # logits of the student, of the teacher

LABELLED = 60
TEACHER, STUDENT = 512, 16
LEARNING_RATE = 5e-3

METHODS: dict[str, Divergence | None] = {
    "labels alone": None,
    "+ forward KL, T = 4": partial(kd_forward_kl_loss, T=4.0),
    "+ reverse KL": reverse_kl_loss,
    "+ JSD, β = 0.5": partial(jsd_beta_loss, beta=0.5),
}


def teacher_logits(data: Digits, seed: int) -> tuple[Tensor, Tensor]:
    """The logits of the training images [N, 10], and the teacher's test accuracy."""
    torch.manual_seed(seed)
    model = network(TEACHER)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(30):
        for batch in torch.randperm(len(data.labels)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        return model(data.images), accuracy(model, data.test_images, data.test_labels)


def student(
    divergence: Divergence | None,
    data: Digits,
    teacher: Tensor,
    epochs: int,
    seed: int,
    advance: Callable[[], None],
) -> Tensor:
    """Test accuracy in percent after each epoch [epochs]."""
    torch.manual_seed(seed)  # the same initial network for every method
    model: nn.Module = network(STUDENT)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    found = torch.zeros(epochs)
    for epoch in range(epochs):
        optimiser.zero_grad()
        logits = model(data.images)
        loss = F.cross_entropy(logits[:LABELLED], data.labels[:LABELLED])
        if divergence is not None:
            loss = loss + divergence(logits, teacher)
        loss.backward()
        optimiser.step()
        found[epoch] = accuracy(model, data.test_images, data.test_labels)
        advance()
    return found


def run(seeds: int, epochs: int, console: Console) -> tuple[dict[str, Tensor], Tensor]:
    """Accuracy of the students by method [seeds, epochs], and of the teachers [seeds]."""
    draws = [Digits(seed) for seed in range(seeds)]
    taught = [teacher_logits(data, seed) for seed, data in enumerate(draws)]
    results = {}
    with progress(console, "epochs") as bar:
        for name, divergence in METHODS.items():
            task = bar.add_task(name, total=seeds * epochs)
            advance = partial(bar.advance, task)
            rows = [
                student(divergence, data, taught[seed][0], epochs, seed, advance)
                for seed, data in enumerate(draws)
            ]
            results[name] = torch.stack(rows)
    return results, torch.stack([found for _, found in taught])


def shown(results: dict[str, Tensor], teachers: Tensor) -> Table:
    title = f"Test accuracy (%) with {LABELLED} labels"
    view = table(title, len(teachers), "student trained on", "last epoch")
    for name, percent in results.items():
        view.add_row(name, spread(percent[:, -1]))
    view.add_section()
    view.add_row("the teacher, all labels", spread(teachers))
    return view


def plot(results: dict[str, Tensor], teachers: Tensor, epochs: int, path: Path) -> None:
    with figure(path, f"Students with {LABELLED} labels", "epoch", "test accuracy (%)") as axes:
        curves(axes, range(1, epochs + 1), results)
        axes.axhline(teachers.mean(), color="k", linewidth=1, linestyle=":", label="the teacher")
        axes.set_ylim(40, 100)
        axes.legend(frameon=False, loc="lower right")


def main() -> None:
    options_of = parser(__doc__, "distill_digits.png")
    options_of.add_argument("--epochs", type=int, default=150)
    options = options_of.parse_args()
    with session(options.plot) as console:
        results, teachers = run(options.seeds, options.epochs, console)
        console.print(shown(results, teachers))
        plot(results, teachers, options.epochs, options.plot)


if __name__ == "__main__":
    main()
