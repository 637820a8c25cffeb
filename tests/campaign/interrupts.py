"""Ctrl-C at random moments of threaded losses, and forks between them, each in a new process."""

from __future__ import annotations

import random
import time

from tests.campaign.outcome import Outcome
from tests.runtime.interrupts import forked, interrupted

__all__ = ["case"]


def case(seed: int, index: int) -> Outcome:
    draw = random.Random(f"{seed} interrupts {index}")
    began = time.monotonic()
    if draw.random() < 0.25:
        times = draw.randint(1, 8)
        kind, ran, wanted = f"{times} forks", forked(times), "done\n"
    else:
        delays = [draw.uniform(0, 0.1) for _ in range(5)]
        threads, rows, classes = (
            draw.randint(2, 16),
            draw.randint(16, 2048),
            draw.randint(500, 9000),
        )
        kind = f"{threads} threads, {rows} x {classes}"
        ran, wanted = interrupted(delays, threads, rows, classes), f"{len(delays)}\n"
    detail = f"case {index} (seed {seed}): {kind}: exit {ran.returncode}\n{ran.stderr[-2000:]}"
    if (ran.returncode, ran.stdout) != (0, wanted):
        return Outcome("crash", "interrupts", detail)
    return Outcome("right", "interrupts", "", time.monotonic() - began)
