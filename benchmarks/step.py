"""The loss as a training step meets it: once a step, after other work that allocates.

    OMP_NUM_THREADS=2 python benchmarks/step.py [--seconds 60] [--out FOLDER] [LOSS ...]

A small network makes the logits, the loss and its gradient on the logits are timed, the rest of
the backward and an optimizer step follow, with their own tensors.  All candidates take turns in
one process; each line is a median, the worst call, and the ratio of medians to the best of what
torch offers.  With ``--out`` the lines are also written there as step.json and step.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cpu import LOSSES
from cpu_report import about
from torch import Tensor, nn

from lossgen import losses
from lossgen.bench.report import markdown

#: × that lossgen must be faster than the best of what torch offers.
BARS = {"cross_entropy": 6.0, "gce": 4.0, "focal": 4.0, "comp_sum": 4.0, "kd_forward_kl": 4.0}
WORST = 2.0  # of the median, that no call may take
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


def candidates(name: str, compiled: bool) -> dict[str, Loss]:
    """Ours in C and in torch, and what people write, eager and compiled."""
    ours, eager, *_ = LOSSES[name]
    function = getattr(losses, f"{name}_loss")
    second = name == "kd_forward_kl"
    found: dict[str, Loss] = {"lossgen": ours, "eager": eager}
    found["torch backend"] = lambda x, y, u: function(x, u if second else y, backend="torch")
    if compiled:
        found["compile"] = torch.compile(eager, dynamic=False)
    return found


def measure(name: str, options: argparse.Namespace, batch: Batch) -> dict[str, Any]:
    """Milliseconds of every candidate, and how many times faster ours is."""
    network = Network(options.classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    runs = candidates(name, not options.no_compile)
    samples: dict[str, list[float]] = {key: [] for key in runs}
    for loss in runs.values():  # compile, and fill the pools of both
        for _ in range(2):
            step(network, optimizer, batch, loss)
    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until or len(samples["lossgen"]) < 5:
        for key, loss in runs.items():
            samples[key].append(step(network, optimizer, batch, loss))
    medians = {key: median(values) for key, values in samples.items()}
    best = min(medians[key] for key in medians if key in ("eager", "compile"))
    return {
        "loss": name,
        "rounds": len(samples["lossgen"]),
        "ms": {key: 1e3 * value for key, value in medians.items()},
        "worst_ms": {key: 1e3 * max(values) for key, values in samples.items()},
        "faster": best / medians["lossgen"],
        "bar": BARS[name],
        "worst_of_median": max(samples["lossgen"]) / medians["lossgen"],
        "torch_backend_faster": medians["eager"] / medians["torch backend"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each loss")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for step.json and step.md")
    parser.add_argument("losses", nargs="*", default=list(BARS))
    options = parser.parse_args()
    torch.manual_seed(0)
    batch = Batch(options.rows, options.classes)
    load = os.getloadavg()
    threads = torch.get_num_threads()
    results: dict[str, Any] = about(threads, rows=options.rows, classes=options.classes)
    found = results["steps"] = []
    columns = ["ms", "lossgen", "worst", "eager", "compile", "faster", "bar", "torch backend", "×"]
    lines = []
    print(f"{options.rows} x {options.classes}, float32, {threads} threads")
    for name in options.losses:
        entry = measure(name, options, batch)
        found.append(entry)
        ms = entry["ms"]
        numbers = (ms["lossgen"], entry["worst_ms"]["lossgen"], ms["eager"], ms.get("compile", 0.0))
        line = [name, *(f"{n:.1f}" for n in numbers), f"{entry['faster']:.2f}"]
        line += [f"≥ {entry['bar']:.0f}", f"{ms['torch backend']:.1f}"]
        lines.append([*line, f"{entry['torch_backend_faster']:.2f}"])
        print(
            "  ".join(f"{c} {cell}" for c, cell in zip(columns, lines[-1], strict=True)), flush=True
        )
    results["load_average"] = {"before": load[:2], "after": os.getloadavg()[:2]}
    if options.out:
        head = (
            f"# The loss of a training step\n\n{results['date']}; {results['processor']}; "
            f"{threads} threads; torch {torch.__version__}; N = {options.rows}, "
            f"V = {options.classes}, float32; load average {load[0]:.1f} before.\n\n"
            f"worst: the slowest call, which may take {WORST:.0f} medians; the last column: times "
            "that lossgen's torch backend is faster than eager.\n\n"
        )
        (options.out / "step.md").write_text(head + markdown(columns, lines), encoding="utf-8")
        text = json.dumps(results, indent=1) + "\n"
        (options.out / "step.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
