"""CPU speed: generated losses against the composites that people write, eager and compiled.

Forward and backward, float32, C backend of lossgen, all candidates interleaved in one process:

    OMP_NUM_THREADS=2 python benchmarks/cpu.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.report import paired, ratio, rich_table
from lossgen.losses import (
    brier_loss,
    comp_sum_loss,
    cross_entropy_loss,
    focal_loss,
    gce_loss,
    jsd_beta_loss,
    kd_forward_kl_loss,
    trades_loss,
)
from lossgen.runtime.pages import empty_like

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, target, a second row of logits


# The composites: each through log_softmax, the usual way and the fastest eager one.
def log_p(logits: Tensor, target: Tensor) -> Tensor:
    return F.log_softmax(logits, -1).gather(-1, target[:, None]).squeeze(-1)


def gce(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    return ((1 - (q * log_p(logits, target)).exp()) / q).mean()


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    logp = log_p(logits, target)
    return (-((1 - logp.exp()) ** gamma) * logp).mean()


def comp_sum(logits: Tensor, target: Tensor, tau: float = 1.5) -> Tensor:
    return ((1 - ((tau - 1) * log_p(logits, target)).exp()) / (tau - 1)).mean()


def brier(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return ((p * p).sum(-1) - 2 * p.gather(-1, target[:, None]).squeeze(-1) + 1).mean()


def kd_forward_kl(logits: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    student = F.log_softmax(logits / temperature, -1)
    wanted = F.log_softmax(teacher / temperature, -1)
    rows = F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1)
    return temperature**2 * rows.mean()


def jsd(logits: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    p, t = F.log_softmax(logits, -1), F.log_softmax(teacher, -1)
    mixed = torch.lerp(p.exp(), t.exp(), beta).log()
    up = F.kl_div(mixed, t, reduction="none", log_target=True).sum(-1)
    down = F.kl_div(mixed, p, reduction="none", log_target=True).sum(-1)
    return (beta * up + (1 - beta) * down).mean()


def trades(logits: Tensor, target: Tensor, other: Tensor, beta: float = 6.0) -> Tensor:
    clean, adversarial = F.log_softmax(logits, -1), F.log_softmax(other, -1)
    apart = F.kl_div(adversarial, clean, reduction="none", log_target=True).sum(-1)
    return F.nll_loss(clean, target) + beta * apart.mean()


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "cross_entropy": (
        lambda x, y, u: cross_entropy_loss(x, y, backend="c"),
        lambda x, y, u: F.cross_entropy(x, y),
    ),
    "gce": (
        lambda x, y, u: gce_loss(x, y, q=0.7, backend="c"),
        lambda x, y, u: gce(x, y),
    ),
    "focal": (
        lambda x, y, u: focal_loss(x, y, gamma=2.0, backend="c"),
        lambda x, y, u: focal(x, y),
    ),
    "comp_sum": (
        lambda x, y, u: comp_sum_loss(x, y, tau=1.5, backend="c"),
        lambda x, y, u: comp_sum(x, y),
    ),
    "brier": (
        lambda x, y, u: brier_loss(x, y, backend="c"),
        lambda x, y, u: brier(x, y),
    ),
    "kd_forward_kl": (
        lambda x, y, u: kd_forward_kl_loss(x, u.detach(), T=4.0, backend="c"),
        lambda x, y, u: kd_forward_kl(x, u.detach()),
    ),
    "jsd_beta": (
        lambda x, y, u: jsd_beta_loss(x, u.detach(), beta=0.5, backend="c"),
        lambda x, y, u: jsd(x, u.detach()),
    ),
    "trades": (
        lambda x, y, u: trades_loss(x, y, u, beta=6.0, backend="c"),
        trades,
    ),
}


def step(loss: Loss, logits: Tensor, target: Tensor, other: Tensor) -> Tensor:
    """One forward and backward; the gradients are dropped, as an optimiser would use them up."""
    logits.grad = other.grad = None
    loss(logits, target, other).backward()
    assert logits.grad is not None
    return logits.grad


def floor(logits: Tensor, work: Tensor) -> Tensor:
    """What no loss of a softmax can avoid: two exponentials per logit, and a fresh gradient."""
    x = logits.detach()
    for part, rows in zip(work.split(32), x.split(32), strict=True):
        torch.exp(rows, out=part)
    grad = empty_like(x)
    for part, rows in zip(grad.split(32), x.split(32), strict=True):
        torch.exp(rows, out=part)
    return grad


def agree(candidates: dict[str, Callable[[], Tensor]]) -> None:
    """The candidates must compute the same thing before they are timed."""
    gold, *others = (run().clone() for run in candidates.values())
    for other in others:
        worst = (gold - other).norm() / gold.norm()
        assert worst < 1e-4, f"candidates disagree: {worst:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the rows, 5 rounds")
    parser.add_argument("--only", nargs="*", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds = max(1, options.rows // 16), 5
    torch.set_num_threads(options.threads)
    console = Console(width=100)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        console.print("no C++ compiler: torch.compile is left out")

    logits = torch.randn(options.rows, options.classes).requires_grad_()
    target = torch.randint(options.classes, (options.rows,))
    other = (logits.detach() + torch.randn(options.rows, options.classes)).requires_grad_()
    work = torch.empty_like(logits, requires_grad=False)
    rows = []
    for name in options.only:
        generated, composite = LOSSES[name]
        losses = {"lossgen": generated, "eager composite": composite}
        if compiler:
            losses["torch.compile of it"] = torch.compile(composite)
        runs = {key: partial(step, loss, logits, target, other) for key, loss in losses.items()}
        agree(runs)
        runs["floor: two exps, a fresh gradient"] = partial(floor, logits, work)
        timings = paired(runs, options.rounds)
        for key, timing in timings.items():
            low, high = (f"{1e3 * t:.1f}" for t in timing.quartiles)
            against = f"{ratio(timing, timings['lossgen']):.2f}"
            cells = (f"{1e3 * timing.median:.1f}", f"{low} to {high}", against)
            rows.append((f"{name}: {key}", *cells))
    columns = ("forward + backward", "median ms", "quartiles ms", "÷ lossgen")
    title = f"N = {options.rows}, V = {options.classes}, float32, {options.threads} threads"
    console.print(rich_table(title, columns, rows))
    console.print(
        f"torch {torch.__version__}, {platform.machine()}, {options.rounds} interleaved rounds; "
        "÷ lossgen: median of the ratios within a round"
    )


if __name__ == "__main__":
    main()
