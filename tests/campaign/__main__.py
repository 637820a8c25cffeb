"""``python -m tests.campaign``: run kinds of cases for some seconds each, resume, report.

Each kind runs in a worker process. A worker that dies or hangs is a finding, told with the case
that it was at; the next worker goes on behind it.  State (next index, tallies, findings) is kept
in a JSON file, so that a run continues where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.campaign.outcome import BAD
from tests.campaign.worker import KINDS

SAVE_EVERY = 20  # cases
EXAMPLES = 5  # of each kind of refusal, kept to be read
PATIENCE = 180.0  # seconds without a word from a worker: it hangs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=120.0, help="per kind (default 120)")
    parser.add_argument("--cases", type=int, help="per kind, in all; default: as time allows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("build/campaign.json"))
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    options = parser.parse_args()
    state: dict[str, dict] = {}
    if options.state.is_file() and not options.fresh:
        state = json.loads(options.state.read_text(encoding="utf-8"))
    for kind in options.kinds or KINDS:
        key = f"{kind}-{options.seed}"
        fresh = {"next": 0, "verdicts": {}, "kinds": {}, "findings": [], "examples": {}}
        entry = state.setdefault(key, fresh)

        def save() -> None:
            options.state.parent.mkdir(parents=True, exist_ok=True)
            options.state.write_text(json.dumps(state, indent=1), encoding="utf-8")

        _run(kind, options.seed, options.seconds, options.cases, entry, save)
        save()
    return _report(state)


def _run(
    kind: str,
    seed: int,
    seconds: float,
    cases: int | None,
    entry: dict,
    save: Callable[[], None],
) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and (cases is None or entry["next"] < cases):
        stop = entry["next"] + 10**9 if cases is None else cases
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.campaign.worker"]
        command += [kind, str(seed), str(entry["next"]), str(stop)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        ) as worker:
            died = _follow(worker, kind, until, entry, save)
        if died:
            finding = f"{kind} case {entry['next']} (seed {seed}): {died}"
            _count(entry, {"verdict": "crash", "kind": "process", "detail": finding})


def _follow(
    worker: subprocess.Popen, kind: str, until: float, entry: dict, save: Callable[[], None]
) -> str | None:
    """Read outcomes until time is up; says how the worker ended if it was not asked to."""
    assert worker.stdout is not None
    assert worker.stderr is not None
    ready = selectors.DefaultSelector()
    ready.register(worker.stdout, selectors.EVENT_READ)
    heard = time.monotonic()
    while time.monotonic() < until:
        if not ready.select(timeout=1.0):
            if time.monotonic() - heard > PATIENCE:
                worker.kill()
                return f"no answer in {PATIENCE:g} s"
            continue
        line = worker.stdout.readline()
        if not line:
            code = worker.wait()
            return None if code == 0 else f"ended with {code}\n{worker.stderr.read()[-3000:]}"
        heard = time.monotonic()
        if line.startswith("{"):
            outcome = json.loads(line)
            _count(entry, outcome)
            if entry["next"] % SAVE_EVERY == 0:
                save()
            if outcome["verdict"] in BAD:
                print(
                    f"{kind} {entry['next'] - 1}: {outcome['verdict']}: {outcome['detail']}\n",
                    flush=True,
                )
    worker.kill()
    return None


def _count(entry: dict, outcome: dict) -> None:
    index = entry["next"]
    entry["next"] += 1
    verdicts = Counter(entry["verdicts"])
    verdicts[outcome["verdict"]] += 1
    entry["verdicts"] = dict(verdicts)
    if outcome["kind"]:
        kinds = Counter(entry["kinds"])
        kinds[f"{outcome['verdict']} {outcome['kind']}"] += 1
        entry["kinds"] = dict(kinds)
    if outcome["verdict"] == "refused":
        examples = entry.setdefault("examples", {}).setdefault(outcome["kind"], [])
        if len(examples) < EXAMPLES:
            examples.append(outcome["detail"])
    if outcome["verdict"] in BAD:
        entry["findings"].append({"index": index, **outcome})


def _report(state: dict[str, dict]) -> int:
    bad = 0
    for key, entry in state.items():
        verdicts = ", ".join(f"{n} {v}" for v, n in sorted(entry["verdicts"].items()))
        print(f"{key}: {entry['next']} cases: {verdicts}")
        for what, count in sorted(entry["kinds"].items(), key=lambda item: -item[1]):
            print(f"    {what}: {count}")
        bad += len(entry["findings"])
    print(f"{bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
