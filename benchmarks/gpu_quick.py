"""What one call of at most eight minutes says about a GPU: `python benchmarks/gpu.py --quick`.

1. What must hold (lossgen/bench/device.py) of twelve losses at V = 32000 and 128256 in bfloat16, in
   processes side by side, one to a loss: they leave what they compiled in the caches of Triton and
   torch, so that the rest of the call does not wait for compilers.
2. Forward + backward of their rows, against eager, torch.compile and a copy of as many bytes.
3. Cross-entropy, GCE and reverse KL of a linear layer, and token_stats of hidden states, by both
   schedules, against the products alone.

The last thing it prints is one table.  Parts that are late are left out, and the table says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.device import CHECKS, Shape, Subject, run_check
from lossgen.bench.report import markdown, paired

__all__ = ["LOSSES", "run", "worker"]

LOSSES = (
    *("cross_entropy", "gce", "focal", "poly1", "brier", "nfl", "token_stats"),
    *("kd_forward_kl", "reverse_kl", "jsd_beta", "trades", "vat"),
)
#: Seconds from the start at which a part begins nothing new.
DEADLINES = {"properties": 190, "rows": 320, "linear": 440}
SIDE_BY_SIDE = 6
COLUMNS = ("", "ms", "÷ floor", "eager ÷", "compiled ÷", "peak MB")


def run(bench: Any, script: Path, linear: ModuleType) -> int:
    """Everything; the exit status."""
    options = bench.options
    options.losses = options.losses or ",".join(LOSSES)
    options.rounds, options.milliseconds = min(options.rounds, 2), min(options.milliseconds, 40)
    names = options.losses.split(",")
    until(bench, "properties")
    properties(bench, script, names)
    until(bench, "rows")
    bench.results["copy_bytes_per_second"] = bench.copy_rate()
    bench.free()
    for subject in bench.subjects():
        if not bench.late:
            bench.results["timings"].append(bench.time_one(subject, rows_of(bench)))
            bench.write()
            bench.free()
    until(bench, "linear")
    heads(bench, linear)
    bench.write()
    print(table(bench), flush=True)
    return int(any(check["detail"] for check in bench.results["checks"]))


def until(bench: Any, part: str) -> None:
    bench.options.minutes = DEADLINES[part] / 60


def rows_of(bench: Any) -> Shape:
    """What is timed: of a copy's time, no longer the caches'."""
    if bench.options.dry_run:
        return Shape(64, 1000, torch.bfloat16)
    return Shape(4096, 128256, torch.bfloat16)


# ---------------------------------------------------------------------------------- properties
def properties(bench: Any, script: Path, names: list[str]) -> None:
    """Checks of each loss, in a process of its own."""
    options = bench.options
    same = ["--dry-run"] if options.dry_run else []
    same += ["--no-compile"] if options.no_compile else []
    same += ["--backend", options.backend]

    def one(name: str) -> list[dict[str, Any]]:
        left = DEADLINES["properties"] - (time.perf_counter() - bench.began)
        command = [sys.executable, str(script), "--quick", "--one", name, *same]
        command += ["--minutes", str(max(1.0, left) / 60)]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", timeout=max(1.0, left) + 20
            )
            found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            return []  # the machine is slow; the count below says so
        except (IndexError, ValueError):
            text = (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]
            return [{"loss": name, "check": "process", "shape": "", "detail": text, "seconds": 0.0}]
        return found

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for found in pool.map(one, names):
            bench.results["checks"] += found
            for check in found:
                if check["detail"]:
                    print(f"FAILED {check['loss']} {check['check']}: {check['detail']}", flush=True)
    bench.write()


def worker(bench: Any, subject: Subject) -> None:
    """What a process of ``properties`` does: its last line is what it found."""
    vocabularies = (128, 61) if bench.options.dry_run else (128256, 32000)
    found = []
    for classes in vocabularies:
        shape = Shape(7 if bench.options.dry_run else 33, classes, torch.bfloat16)
        for name, check in CHECKS.items():
            if name != "compiled" and not bench.late:
                found.append(asdict(run_check(subject, check, shape)))
                bench.free()
    if not bench.options.dry_run and not bench.late:
        for candidate in bench.candidates(subject, rows_of(bench))[1].values():
            with suppress(Exception):  # for the caches: what is wrong shows when it is timed
                candidate()
    print(json.dumps(found))


# ---------------------------------------------------------------------------------- linear layers
def heads(bench: Any, linear: ModuleType) -> None:
    """Losses of hidden states: each group against the products that it cannot avoid."""
    small = bench.options.dry_run
    case = linear.Case("head", 48, 32, 130) if small else linear.Case("head", 8192, 4096, 128256)
    data = case.draw(bench.device, torch.float32 if small else torch.bfloat16)
    for name, candidates in groups(bench, linear, data):
        entry: dict[str, Any] = {"case": f"{case}: {name}", "runs": {}, "errors": {}}
        runs = dict(candidates)
        for label in list(runs):
            if bench.late:
                entry["errors"][label] = "late"
                del runs[label]
                continue
            try:
                entry["runs"][label] = {"bytes": linear.peak(runs[label], bench.device)}
            except Exception as error:
                entry["errors"][label] = f"{type(error).__name__}: {str(error)[:200]}"
                del runs[label]
            bench.free()
        for label, timing in paired(runs, bench.options.rounds, measure=bench.measure).items():
            entry["runs"][label] |= {"ms": 1e3 * timing.median, "samples": timing.samples}
        if entry["runs"]:
            bench.results["linear"].append(entry)
            bench.write()


Run = Callable[[], object]


def groups(
    bench: Any, linear: ModuleType, data: tuple[Tensor, Tensor, Tensor]
) -> Iterator[tuple[str, Iterator[tuple[str, Run]]]]:
    """Names, and what is timed, the products first."""
    hidden, weight, target = data
    fixed = hidden.detach(), weight.detach()
    teacher = (fixed[0] + 0.1, fixed[1])
    modules = {n: bench.module(n) for n in ("cross_entropy", "gce", "reverse_kl", "token_stats")}
    schedules = ("chunked", "tiled") if bench.device.type == "cuda" else ("chunked",)
    loss = {n: getattr(m, f"linear_{m.LOSS.function}") for n, m in modules.items()}

    def of_labels() -> Iterator[tuple[str, Run]]:
        yield "three products", partial(linear.products, *fixed)
        for name in ("cross_entropy", "gce"):
            for schedule in schedules:
                call = partial(loss[name], schedule=schedule)
                yield f"{name}, {schedule}", partial(linear.step, call, *data)

    def of_teachers() -> Iterator[tuple[str, Run]]:
        yield "four products", lambda: (linear.products(*fixed), teacher[0] @ teacher[1].t())
        for schedule in schedules:

            def call(h: Tensor, w: Tensor, _: Tensor, how: str = schedule) -> Tensor:
                found: Tensor = loss["reverse_kl"](h, w, teacher, schedule=how)
                return found

            yield f"reverse_kl, {schedule}", partial(linear.step, call, *data)

    def of_statistics() -> Iterator[tuple[str, Run]]:
        yield "one product", lambda: fixed[0] @ fixed[1].t()
        for schedule in schedules:
            yield (
                f"token_stats, {schedule}",
                partial(_without_gradient, loss["token_stats"], *fixed, target, schedule=schedule),
            )
        yield "token_stats, eager", partial(_without_gradient, _eager_statistics, *fixed, target)

    yield "forward + backward", of_labels()
    yield "forward + backward, teacher by its hidden states", of_teachers()
    yield "forward", of_statistics()


def _without_gradient(call: Callable[..., object], *given: Any, **options: Any) -> object:
    with torch.no_grad():
        return call(*given, **options)


def _eager_statistics(hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    logp = F.linear(hidden, weight).float().log_softmax(-1)
    picked = logp.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return picked, -(logp.exp() * logp).sum(-1)


# ---------------------------------------------------------------------------------- the table
def table(bench: Any) -> str:
    """All that a reader needs, in one table."""
    results = bench.results
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
    checks, losses = results["checks"], bench.options.losses.split(",")
    failed = sum(bool(check["detail"]) for check in checks)
    wanted = len(losses) * 2 * (len(CHECKS) - 1)
    lines = [
        "",
        f"{bench.name}; {versions}",
        f"properties: {len(checks)} of {wanted} run, {failed} failed; "
        f"copy {results['copy_bytes_per_second'] / 1e9:.0f} GB/s; "
        f"{time.perf_counter() - bench.began:.0f} s",
        f"rows: forward + backward of {rows_of(bench)}; floor: a copy of the logits",
        "",
    ]
    return "\n".join(lines) + "\n" + markdown(COLUMNS, [*_row_lines(bench), *_head_lines(bench)])


def _row_lines(bench: Any) -> Iterator[tuple[str, ...]]:
    rate = bench.results["copy_bytes_per_second"]
    for entry in bench.results["timings"]:
        ms = entry.get("lossgen", {}).get("ms")
        if ms is None:
            yield entry["loss"], str(entry.get("errors", {}).get("lossgen", ""))[:60], *[""] * 4
            continue
        floor = 1e3 * 2 * entry["bytes"] / rate
        others = [entry.get(n, {}).get("times") for n in ("eager", "compiled")]
        times = [f"{t:.2f}" if t else "–" for t in others]
        yield entry["loss"], f"{ms:.3f}", f"{ms / floor:.2f}", *times, ""


def _head_lines(bench: Any) -> Iterator[tuple[str, ...]]:
    for entry in bench.results["linear"]:
        floor = next(iter(entry["runs"].values())).get("ms")
        for name, found in entry["runs"].items():
            if "ms" in found:
                over = f"{found['ms'] / floor:.2f}" if floor else "–"
                peak = f"{found['bytes'] / 2**20:.0f}"
                yield name, f"{found['ms']:.2f}", over, "", "", peak
        for name, text in entry["errors"].items():
            yield name, text[:60], "", "", "", ""
