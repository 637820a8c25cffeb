"""Ctrl-C and forks in the midst of threaded losses, each in processes of their own."""

from __future__ import annotations

from random import Random

from tests.campaign.outcome import Outcome
from tests.runtime.interrupts import forked, interrupted

__all__ = ["case"]


def case(seed: int, index: int) -> Outcome:
    """One process with a few interruptions at random moments, or one with a few forks."""
    random = Random(f"processes-{seed}-{index}")
    if index % 4 == 3:
        ran, what = forked(3), "fork"
    else:
        delays = [random.uniform(0.005, 0.2) for _ in range(10)]
        threads, classes = random.choice([1, 2, 4, 16]), random.choice([300, 8192, 50000])
        ran = interrupted(delays, threads=threads, rows=random.choice([64, 2048]), classes=classes)
        what = f"interrupt, {threads} threads, {classes} classes, {delays}"
    if ran.returncode:
        return Outcome("crash", what.partition(",")[0], f"{what}: {ran.returncode}\n{ran.stderr}")
    return Outcome("right", what.partition(",")[0], what)
