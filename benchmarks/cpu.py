"""CPU speed: generated losses against what people write, their floor, and how they scale.

Forward and backward, float32, C backend of lossgen, all candidates interleaved in one process, and
a sample is what a training step meets: one call, after other work that allocates:

    OMP_NUM_THREADS=2 python benchmarks/cpu.py [--quick] [--out FOLDER]

With ``--out`` the tables are also written there as cpu.json, cpu.md and cpu.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import linear
import torch
from cpu_report import LONG, about, bars, console_tables, write
from floor import Floor
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.report import Timing, paired, ratio
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
from lossgen.runtime.memory import empty_like

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, target, a second row of logits
SECONDS = {"speed": 200.0, "scaling": 40.0, "linear": 25.0}  # at most, beside warming up
SAMPLE = "one call, after other work that allocates"  # the tables say so
PARTS = 8  # tensors of the other work
CLASSES = (10, 100, 1000, 4096, 10000, 32768, 100000, 262144)


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


#: generated, composite, rows of logits that it reads, gradients that it writes
LOSSES: dict[str, tuple[Loss, Loss, int, int]] = {
    "cross_entropy": (
        lambda x, y, u: cross_entropy_loss(x, y, backend="c"),
        lambda x, y, u: F.cross_entropy(x, y),
        1,
        1,
    ),
    "gce": (
        lambda x, y, u: gce_loss(x, y, q=0.7, backend="c"),
        lambda x, y, u: gce(x, y),
        1,
        1,
    ),
    "focal": (
        lambda x, y, u: focal_loss(x, y, gamma=2.0, backend="c"),
        lambda x, y, u: focal(x, y),
        1,
        1,
    ),
    "comp_sum": (
        lambda x, y, u: comp_sum_loss(x, y, tau=1.5, backend="c"),
        lambda x, y, u: comp_sum(x, y),
        1,
        1,
    ),
    "brier": (
        lambda x, y, u: brier_loss(x, y, backend="c"),
        lambda x, y, u: brier(x, y),
        1,
        1,
    ),
    "kd_forward_kl": (
        lambda x, y, u: kd_forward_kl_loss(x, u.detach(), T=4.0, backend="c"),
        lambda x, y, u: kd_forward_kl(x, u.detach()),
        2,
        1,
    ),
    "jsd_beta": (
        lambda x, y, u: jsd_beta_loss(x, u.detach(), beta=0.5, backend="c"),
        lambda x, y, u: jsd(x, u.detach()),
        2,
        1,
    ),
    "trades": (
        lambda x, y, u: trades_loss(x, y, u, beta=6.0, backend="c"),
        trades,
        2,
        2,
    ),
}
SCALED = {
    "cross_entropy": LOSSES["cross_entropy"][0],
    "gce": LOSSES["gce"][0],
    "jsd_beta": LOSSES["jsd_beta"][0],
    "F.cross_entropy": LOSSES["cross_entropy"][1],
}


def step(loss: Loss, logits: Tensor, target: Tensor, other: Tensor) -> Tensor:
    """One forward and backward; the gradients are dropped, as an optimiser would use them up."""
    logits.grad = other.grad = None
    loss(logits, target, other).backward()
    assert logits.grad is not None
    return logits.grad


def in_a_step(elements: int) -> Callable[[Callable[[], object]], float]:
    """Measures a call as a training step meets it: before it other tensors, of so many elements in
    all, were made, written and dropped.

    Of two calls on end the second finds the memory of the first, which no step does.
    """

    def measure(run: Callable[[], object]) -> float:
        held = [torch.empty(elements // PARTS).fill_(1.0) for _ in range(PARTS)]
        del held
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return measure


def agree(candidates: dict[str, Callable[[], Tensor]]) -> None:
    """The candidates must compute the same thing before they are timed."""
    gold, *others = (run().clone() for run in candidates.values())
    for other in others:
        worst = (gold - other).norm() / gold.norm()
        assert worst < 1e-4, f"candidates disagree: {worst:.1e}"


# ---------------------------------------------------------------------------- what is measured
def speed(options: argparse.Namespace, compiled: bool) -> list[dict[str, Any]]:
    """One row per loss: milliseconds of each candidate, and the ratios that have a bar."""
    logits = torch.randn(options.rows, options.classes).requires_grad_()
    target = torch.randint(options.classes, (options.rows,))
    other = (logits.detach() + torch.randn(options.rows, options.classes)).requires_grad_()
    plain = [logits.detach(), other.detach()]
    floor, huge, found = Floor(options.threads), Floor(options.threads, empty_like), []
    for name in options.only:
        generated, composite, streams, gradients = LOSSES[name]
        losses = {"lossgen": generated, "eager": composite}
        if compiled:
            losses["compiled"] = torch.compile(composite)
        runs: dict[str, Callable[[], Any]] = {
            key: partial(step, loss, logits, target, other) for key, loss in losses.items()
        }
        agree(runs)
        runs["floor"] = partial(floor, plain[:streams], gradients)
        runs["floor_of_huge_pages"] = partial(huge, plain[:streams], gradients)
        if (streams, gradients) != (1, 1):
            runs["floor_of_one"] = partial(floor, plain[:1], 1)
        seconds = SECONDS["speed"] / len(options.only)
        measure = in_a_step(logits.numel())
        timings = paired(runs, options.rounds, seconds=seconds, measure=measure)
        logits.grad = other.grad = None
        rounds = len(timings["lossgen"].samples)
        found.append({"loss": name, "rounds": rounds, **_times(timings), **bars(name, timings)})
    return found


def _times(timings: dict[str, Timing]) -> dict[str, Any]:
    return {
        key: {
            "ms": 1e3 * timing.median,
            "quartiles_ms": [1e3 * t for t in timing.quartiles],
            "times_lossgen": ratio(timing, timings["lossgen"]),
        }
        for key, timing in timings.items()
    }


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Nanoseconds per logit for each number of classes and threads, at the same N·V."""
    size = options.rows * options.classes // 8
    base, second = torch.randn(size), torch.randn(size)
    runs: dict[Any, Callable[[], object]] = {}

    def run(loss: Loss, threads: int, *data: Tensor) -> None:
        torch.set_num_threads(threads)
        step(loss, *data)

    for classes in (v for v in CLASSES if v <= size):
        rows = size // classes
        logits, other = (
            b[: rows * classes].view(rows, classes).requires_grad_() for b in (base, second)
        )
        target = torch.randint(classes, (rows,))
        for name, loss in SCALED.items():
            for threads in sorted({1, options.threads}):
                key = (name, threads, classes, rows)
                runs[key] = partial(run, loss, threads, logits, target, other)
    measure = in_a_step(size)
    timings = paired(runs, options.rounds, seconds=SECONDS["scaling"], measure=measure)
    torch.set_num_threads(options.threads)
    found = []
    for (name, threads, classes, rows), timing in timings.items():
        each = 1e9 * timing.median / (classes * rows)
        found.append(
            {
                "loss": name,
                "threads": threads,
                "classes": classes,
                "rows": rows,
                "rounds": len(timing.samples),
                "ns": each,
            }
        )
    for point in found:
        like = [p for p in found if all(p[k] == point[k] for k in ("loss", "threads"))]
        best = min(p["ns"] for p in like if p["classes"] >= min(LONG, size))
        point["times_best"] = point["ns"] / best
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows, 3 rounds")
    parser.add_argument("--only", nargs="*", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-linear", action="store_true", help="leave the linear layer out")
    parser.add_argument("--out", type=Path, help="folder for cpu.json, cpu.md, cpu.png")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds = max(1, options.rows // 8), 3
    began, loaded = time.perf_counter(), os.getloadavg()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    compiled = bool(compiler) and not options.no_compile
    results: dict[str, Any] = {
        **about(options.threads, rows=options.rows, classes=options.classes, rounds=options.rounds),
        "sample": SAMPLE,
    }
    results["speed"] = speed(options, compiled)
    results["scaling"] = scaling(options)
    if not options.no_linear:
        rows = min(1024, options.rows)
        results["linear"] = linear.measure(rows, 512, options.classes, 5, SECONDS["linear"])
    results["load_average"] = {"before": loaded[:2], "after": os.getloadavg()[:2]}
    results["minutes"] = (time.perf_counter() - began) / 60
    console_tables(results)
    if options.out:
        write(results, options.out)


if __name__ == "__main__":
    main()
