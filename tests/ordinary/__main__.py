"""``python -m tests.ordinary [NAMES]``: build the formulas of the table, and compare rungs."""

from __future__ import annotations

import argparse
import sys
from multiprocessing import get_context

from tests.ordinary import RUNGS, formulas, timed, warm

SLOW = 3.0  # seconds of processor time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ordinary", description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [f for f in formulas() if not options.names or f.name in options.names]
    tally, slow, worse = dict.fromkeys(RUNGS, 0), [], []
    with get_context("spawn").Pool(options.jobs, warm) as pool:
        for formula, rung, words, seconds in pool.imap(timed, chosen):
            tally[rung] += 1
            print(f"{rung:<4}{seconds:5.1f} s  {formula.name:<16} {words}", flush=True)
            if seconds > SLOW:
                slow.append(f"{formula.name} {seconds:.1f}")
            if RUNGS.index(rung) > RUNGS.index(formula.rung):
                worse.append(formula.name)
    print(", ".join(f"{rung}: {count}" for rung, count in tally.items() if count))
    print(f"above {SLOW:g} s: {', '.join(slow) or 'none'}")
    print(f"dearer than in the table: {', '.join(worse) or 'none'}")
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
