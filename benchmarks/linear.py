"""Speed and memory of losses of a linear layer on the CPU, against what torch offers.

Forward and backward of hidden [N, D], weight [V, D], float32; all candidates interleaved in one
process.  The floor is the three products that no such loss can avoid:

    OMP_NUM_THREADS=2 python benchmarks/linear.py [--rows 1024] [--features 512] [--classes 32768]

Memory is of the tensors alive at once, beside what was there before.  ``--every`` times every loss
of the catalogue instead, each beside cross-entropy; class inputs are given as rows.
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
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import lossgen
from lossgen import paths
from lossgen.bench.memory import Peak
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


def drawn(rows: int, features: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, weight, target."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, features).requires_grad_()
    weight = (torch.randn(classes, features) / features**0.5).requires_grad_()
    return hidden, weight, torch.randint(classes, (rows,))


def of_catalogue(name: str, hidden: Tensor, weight: Tensor, target: Tensor) -> Callable[[], object]:
    """Forward and backward of a loss of the catalogue at its default parameters."""
    module = lossgen.load(name)
    declared = module.LOSS
    call = getattr(module, f"linear_{declared.function}")
    generator = torch.Generator().manual_seed(1)
    given: dict[str, Tensor] = {}
    for entry in declared.inputs:
        if entry.kind == "class":
            scores = torch.randn(len(hidden), len(weight), generator=generator)
            given[entry.name] = scores if entry.domain.everything else scores.softmax(-1)
        elif entry.off is None:
            size = len(weight) if entry.kind == "vocab" else len(hidden)
            given[entry.name] = 0.2 + 0.6 * torch.rand(size, generator=generator)
    named = {"hidden": hidden, "linear_weight": weight, **given}
    if declared.has_target:
        named["target"] = target

    def run() -> object:
        found = call(**named)
        total = torch.stack(found).sum() if isinstance(found, tuple) else found
        return torch.autograd.grad(total, (hidden, weight))

    return run


def every(data: tuple[Tensor, Tensor, Tensor], rounds: int) -> list[tuple[str, str, str]]:
    """Each loss of the catalogue over cross-entropy, one pair after the other."""
    rows = []
    base = partial(step, linear_cross_entropy_loss, *data)
    names = sorted(p.stem for p in paths.specs_dir().glob("*.yaml"))
    for name in track(names, "losses"):
        timings = paired({"base": base, name: of_catalogue(name, *data)}, rounds)
        times = ratio(timings[name], timings["base"])
        rows.append((name, f"{1e3 * timings[name].median:.0f}", f"{times:.2f}"))
    return rows


def memory_of(run: Callable[[], object]) -> int:
    """Bytes of the tensors alive at once."""
    with Peak() as peak:
        run()
    return peak.peak


def measure(
    rows: int, features: int, classes: int, rounds: int, seconds: float = math.inf
) -> dict[str, Any]:
    """Milliseconds of each candidate, how many times the floor that is, and bytes."""
    data = drawn(rows, features, classes)
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
                "peak_bytes": memory_of(runs[name]),
            }
            for name, timing in timings.items()
        ],
    }


def cells(found: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The rows of the table."""
    return [
        (
            entry["name"],
            f"{entry['ms']:.0f}",
            " to ".join(f"{t:.0f}" for t in entry["quartiles_ms"]),
            f"{entry['times_floor']:.2f}",
            f"{entry['peak_bytes'] / 2**20:.0f}",
        )
        for entry in found["candidates"]
    ]


COLUMNS = ("linear layer, forward + backward", "median ms", "quartiles ms", "÷ floor", "peak MB")


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
    parser.add_argument("--every", action="store_true", help="all losses, beside cross-entropy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.every:
        data = drawn(options.rows, options.features, options.classes)
        columns = ("linear layer, forward + backward", "median ms", "÷ cross-entropy")
        Console().print(rich_table("the catalogue", columns, every(data, options.rounds)))
        return
    found = measure(options.rows, options.features, options.classes, options.rounds)
    console = Console()
    heading = f"{title(found)}, {options.threads} threads"
    console.print(rich_table(heading, COLUMNS, cells(found)))
    console.print(f"torch {torch.__version__}, {platform.machine()}, {options.rounds} rounds")


if __name__ == "__main__":
    main()
