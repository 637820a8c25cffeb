"""Distillation from the K best classes of a teacher, of a linear layer.

    OMP_NUM_THREADS=2 python benchmarks/entries.py [--rows 2048] [--classes 131072] [--out FOLDER]

Forward and backward to hidden states and weight, once a step after other work that allocates:
topk_kl by its entries, linear cross-entropy (the same layer without a teacher), and what people
write in torch: all logits, their log-softmax, and gathers.  Each line is a median of wall times in
turns in one process, the ratio to linear cross-entropy, and the largest number of bytes of tensors
alive at once beside the factors, in rows of float32 [N, V].  With ``--out`` the lines are written
there as entries.json and entries.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from cpu_report import about
from torch import Tensor

from lossgen import Entries, losses
from lossgen.bench.memory import Peak
from lossgen.bench.report import markdown, paired

Loss = Callable[[Tensor, Tensor], Tensor]


def _gathered(hidden: Tensor, weight: Tensor, indices: Tensor, t: Tensor, rest: Tensor) -> Tensor:
    logp = (hidden @ weight.T).float().log_softmax(-1)
    own = logp.gather(-1, indices)
    inside = (t * (t.log() - own)).sum(-1)
    tail = torch.log1p(-own.exp().sum(-1).clamp(max=1 - 1e-6))
    return (inside + rest * (rest.log() - tail)).mean()


def _step(loss: Loss, hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """The gradients, after work of a size that the allocator must give back."""
    other = torch.randn(hidden.shape[0], 1024)
    del other
    leaves = [t.detach().requires_grad_() for t in (hidden, weight)]
    return torch.autograd.grad(loss(*leaves), leaves)


def measured(options: argparse.Namespace) -> list[list[str]]:
    n, classes, dtype = options.rows, options.classes, getattr(torch, options.dtype)
    hidden = torch.randn(n, options.features).to(dtype)
    weight = (torch.randn(classes, options.features) / options.features**0.5).to(dtype)
    indices = torch.randint(classes, (n, options.listed)).sort(-1).values
    indices += torch.arange(options.listed)  # no class twice
    indices.remainder_(classes)
    t = torch.randn(n, options.listed + 1).mul(2).softmax(-1)
    t, rest = t[:, :-1].contiguous(), t[:, -1].contiguous()
    target = torch.randint(classes, (n,))
    teacher = Entries(indices, t)
    found: dict[str, Loss] = {
        "linear_topk_kl": lambda h, w: losses.linear_topk_kl_loss(h, w, teacher, rest=rest),
        "linear_cross_entropy": lambda h, w: losses.linear_cross_entropy_loss(h, w, target),
        "torch, gathered": lambda h, w: _gathered(h, w, indices, t, rest),
    }
    exact = _step(found["torch, gathered"], hidden, weight)
    for got, wanted in zip(_step(found["linear_topk_kl"], hidden, weight), exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=1e-5)
    del exact
    times = paired({k: partial(_step, f, hidden, weight) for k, f in found.items()}, options.rounds)
    base, rows = times["linear_cross_entropy"].median, []
    for key, timing in times.items():
        with Peak() as seen:
            _step(found[key], hidden, weight)
        size = f"{seen.peak / (4 * n * classes):.2f}"
        rows.append([key, f"{1e3 * timing.median:.0f}", f"{timing.median / base:.2f}", size])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=131072)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--listed", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    head = ["program", "ms", "× linear cross-entropy", "peak, × [N, V] float32"]
    rows = measured(options)
    text = markdown(head, rows)
    print(text)
    if options.out:
        sizes = {k: getattr(options, k) for k in ("rows", "classes", "features", "listed", "dtype")}
        facts = about(torch.get_num_threads(), **sizes)
        facts |= {"measured": [dict(zip(head, row, strict=True)) for row in rows]}
        (options.out / "entries.json").write_text(json.dumps(facts, indent=1) + "\n")
        said = f"{options.rows} rows, {options.classes} classes, {options.listed} of them listed"
        (options.out / "entries.md").write_text(f"# Listed classes: {said}\n\n{text}\n")


if __name__ == "__main__":
    main()
