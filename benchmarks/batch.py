"""Losses of a whole batch as segmentation meets them: many pixels, few classes.

    OMP_NUM_THREADS=2 python benchmarks/batch.py [--pixels 2000000] [--classes 21] [--out FOLDER]

Forward and backward to the logits, once a step after other work that allocates; ours against what
people write in torch and against the least that torch can do (no one-hot).  Each line is a median
of wall times in turns in one process, the ratio of the medians, and the largest number of bytes of
tensors alive at once beside the logits.  With ``--out`` the lines are written there as batch.json
and batch.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from cpu_report import about
from torch import Tensor

from lossgen import losses
from lossgen.bench.memory import Peak
from lossgen.bench.report import markdown, paired

Loss = Callable[[Tensor, Tensor], Tensor]


def _dice(x: Tensor, y: Tensor) -> Tensor:
    p = x.softmax(1)
    t = torch.nn.functional.one_hot(y, x.shape[1]).to(p.dtype)
    return 1 - ((2 * (p * t).sum(0) + 1) / (p.sum(0) + t.sum(0) + 1)).mean()


def _least_dice(x: Tensor, y: Tensor) -> Tensor:
    p = x.softmax(1)
    own = p.gather(1, y[:, None])[:, 0]
    overlap = torch.zeros(x.shape[1]).index_add(0, y, own)
    count = torch.bincount(y, minlength=x.shape[1])
    return 1 - ((2 * overlap + 1) / (p.sum(0) + count + 1)).mean()


def _information(x: Tensor, y: Tensor) -> Tensor:
    logp = x.log_softmax(1)
    p = logp.exp()
    m = p.mean(0)
    return -(p * logp).sum(1).mean() + (m * m.log()).sum()


#: name -> ours, and what torch offers
LOSSES: dict[str, dict[str, Loss]] = {
    "soft_dice": {
        "lossgen": lambda x, y: losses.soft_dice_loss(x, y),
        "eager": _dice,
        "eager without one-hot": _least_dice,
    },
    "information_maximization": {
        "lossgen": lambda x, y: losses.information_maximization_loss(x),
        "eager": _information,
    },
}


def _step(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """The gradient, after work of a size that the allocator must give back."""
    other = torch.randn(len(x))
    del other
    leaf = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf, y), leaf)
    return grad


def _peak(loss: Loss, x: Tensor, y: Tensor) -> int:
    with Peak() as seen:
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(loss(leaf, y), leaf)
    return seen.peak


def measured(name: str, pixels: int, classes: int, rounds: int) -> list[list[str]]:
    x, y = torch.randn(pixels, classes), torch.randint(classes, (pixels,))
    found = LOSSES[name]
    exact = _step(found["eager"], x.double(), y)
    for loss in found.values():
        torch.testing.assert_close(_step(loss, x, y).double(), exact, rtol=1e-3, atol=1e-9)
    del exact
    times = paired({k: lambda f=f: _step(f, x, y) for k, f in found.items()}, rounds)
    ours = times["lossgen"].median
    rows = []
    for key, timing in times.items():
        size = f"{_peak(found[key], x, y) / x.nbytes:.2f}"
        rows.append([name, key, f"{1e3 * timing.median:.0f}", f"{timing.median / ours:.2f}", size])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=2_000_000)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    head = ["loss", "program", "ms", "× lossgen", "peak, × the logits"]
    rows = []
    for name in LOSSES:
        rows += measured(name, options.pixels, options.classes, options.rounds)
    text = markdown(head, rows)
    print(text)
    if options.out:
        facts = about(torch.get_num_threads(), pixels=options.pixels, classes=options.classes)
        facts |= {"rows": [dict(zip(head, row, strict=True)) for row in rows]}
        (options.out / "batch.json").write_text(json.dumps(facts, indent=1) + "\n")
        title = f"# Losses of a batch: {options.pixels} pixels of {options.classes} classes\n\n"
        (options.out / "batch.md").write_text(f"{title}{text}\n")


if __name__ == "__main__":
    main()
