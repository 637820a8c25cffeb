"""``python -m tests.campaign.worker KIND SEED START STOP``: cases in turn, a line each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from tests.campaign.outcome import Outcome

__all__ = ["KINDS", "function_of"]

#: What there is to attack; each is a module here with ``case(seed, index)``.
KINDS = ("texts", "identifiers", "specs", "calls", "faults", "interrupts")


def function_of(kind: str) -> Callable[[int, int], Outcome]:
    return import_module(f"tests.campaign.{kind}").case


def main() -> None:
    kind, seed, start, stop = sys.argv[1], *map(int, sys.argv[2:5])
    os.environ.setdefault("TRITON_INTERPRET", "1")
    run = function_of(kind)
    for index in range(start, stop):
        print(run(seed, index).line(), flush=True)


if __name__ == "__main__":
    main()
