"""The loss as a training step meets it: once a step, after other work that allocates.

    OMP_NUM_THREADS=2 python benchmarks/step.py [--rows 2048] [--classes 32768] [--seconds 60]

A small network makes the logits, the loss and its gradient on the logits are timed, the rest of
the backward and an optimizer step follow, with their own tensors.  All candidates take turns in
one process; each line is a median, the worst call, and the ratio of medians to the best of what
torch offers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from cpu import LOSSES
from torch import Tensor, nn

LOSSES_OF_A_STEP = ("cross_entropy", "gce", "focal", "comp_sum", "kd_forward_kl")
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Network(nn.Module):
    """Just enough of one to allocate as a model does between two losses."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(self.body(hidden))


def step(network: Network, optimizer: torch.optim.Optimizer, batch: Batch, loss: Loss) -> float:
    """Seconds of the loss, forward and backward to the logits, within one training step."""
    logits = network(batch.hidden)
    leaf = logits.detach().requires_grad_()
    began = time.perf_counter()
    value = loss(leaf, batch.target, batch.teacher)
    (grad,) = torch.autograd.grad(value, leaf)
    seconds = time.perf_counter() - began
    logits.backward(grad)
    optimizer.step()
    optimizer.zero_grad()
    return seconds


class Batch:
    def __init__(self, rows: int, classes: int, width: int = 64) -> None:
        self.hidden = torch.randn(rows, width)
        self.target = torch.randint(classes, (rows,))
        self.teacher = torch.randn(rows, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each loss")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("losses", nargs="*", default=LOSSES_OF_A_STEP)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = Network(options.classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = Batch(options.rows, options.classes)
    print(f"{options.rows} x {options.classes}, float32, {torch.get_num_threads()} threads")
    print(f"{'loss':15}{'candidate':>10}{'median ms':>11}{'worst':>8}{'ratio':>8}")
    for name in options.losses:
        ours, eager, *_ = LOSSES[name]
        candidates: dict[str, Loss] = {"lossgen": ours, "eager": eager}
        if not options.no_compile:
            candidates["compile"] = torch.compile(eager, dynamic=False)
        samples: dict[str, list[float]] = {key: [] for key in candidates}
        for loss in candidates.values():  # compile, and fill the pools of both
            for _ in range(2):
                step(network, optimizer, batch, loss)
        until = time.perf_counter() + options.seconds
        while time.perf_counter() < until or len(samples["lossgen"]) < 5:
            for key, loss in candidates.items():
                samples[key].append(step(network, optimizer, batch, loss))
        best = min(median(v) for key, v in samples.items() if key != "lossgen")
        for key, values in samples.items():
            print(
                f"{name:15}{key:>10}{1e3 * median(values):11.1f}{1e3 * max(values):8.0f}"
                f"{best / median(values):8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
