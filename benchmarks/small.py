"""Small calls and every size: what a call costs beside its logits, forward and backward.

    OMP_NUM_THREADS=2 python benchmarks/small.py [calls] [ways] [sizes] [--quick] [--out FOLDER]

``calls``: the losses at two sizes; ``ways``: the options of a call at the smaller one; ``sizes``:
N·V from 10² to 10⁸, at several V.  float32, C backend; lossgen and what people write take turns
in one process, and a sample is the mean of as many calls as take half a millisecond.  With
``--out`` the tables are also written there as small.json and small.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import log10
from pathlib import Path
from typing import Any

import torch
from cpu import LOSSES, agree, log_p
from cpu_report import about
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.report import markdown, paired, ratio, rich_table
from lossgen.losses import cross_entropy_loss, gce_loss

Run = Callable[[], Any]
SAMPLE = 5e-4  # seconds
OURS = ("cross_entropy", "gce", "focal")
CALLS = ((32, 10), (128, 1000))
#: × that lossgen must be faster: than F.cross_entropy for cross_entropy, else than eager.
BARS = {(32, 10): {"cross_entropy": 1 / 1.5, "gce": 1.0, "focal": 1.0}}
BARS[(128, 1000)] = dict.fromkeys(OURS, 1.5)
CLASSES = (10, 31, 100, 1000, 10_000, 100_000)
SIZES = tuple(10**k for k in range(2, 9))


def gce_rows(logits: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    return (1 - (q * log_p(logits, target)).exp()) / q


def _backward(loss: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """One forward and backward, to the gradient of the logits."""
    logits = given[0]
    logits.grad = None
    loss(*given).backward()
    assert logits.grad is not None
    return logits.grad


def _backward_of_rows(loss: Callable[..., Tensor], slopes: Tensor, *given: Tensor) -> Tensor:
    logits = given[0]
    logits.grad = None
    loss(*given).backward(slopes)
    assert logits.grad is not None
    return logits.grad


def _of_a_layer(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """The same of logits that a layer made, which may be overwritten."""
    logits.grad = None
    loss(logits * 1.0, target).backward()
    assert logits.grad is not None
    return logits.grad


def _each(run: Run) -> float:
    """Seconds of one call, the mean of as many as a sample takes."""
    began = time.perf_counter()
    calls = 0
    while True:
        run()
        calls += 1
        taken = time.perf_counter() - began
        if taken > SAMPLE:
            return taken / calls


def calls(rounds: int) -> Iterator[dict[str, Any]]:
    """Every loss at the sizes that have a bar."""
    for rows, classes in CALLS:
        logits = torch.randn(rows, classes).requires_grad_()
        target = torch.randint(classes, (rows,))
        for name in OURS:
            ours, eager, *_ = LOSSES[name]
            runs = {"lossgen": ours, "eager": eager}
            if name != "cross_entropy":
                runs["F.cross_entropy"] = LOSSES["cross_entropy"][1]
            bound = {k: partial(_backward, run, logits, target, target) for k, run in runs.items()}
            if name != "cross_entropy":
                agree({key: bound[key] for key in ("lossgen", "eager")})
            timings = paired(bound, rounds, warmup=2, seconds=20.0, measure=_each)
            faster = {key: ratio(t, timings["lossgen"]) for key, t in timings.items()}
            bar = BARS[rows, classes][name]
            against = [key for key in faster if key != "lossgen"]
            against = against if rows > 32 else against[:1]
            yield {
                "what": f"{name}, {rows} x {classes}",
                "us": {key: 1e6 * t.median for key, t in timings.items()},
                "faster": min(faster[key] for key in against),
                "bar": bar,
            }


def ways(rounds: int) -> Iterator[dict[str, Any]]:
    """Options of a call, each against the same of torch."""
    rows, classes = CALLS[0]
    logits = torch.randn(rows, classes).requires_grad_()
    target = torch.randint(classes, (rows,))
    some = target.clone()
    some[::3] = -100
    ours, theirs = partial(cross_entropy_loss, backend="c"), F.cross_entropy
    options: dict[str, dict[str, Any]] = {
        "mean": {},
        "sum": {"reduction": "sum"},
        "class weights": {"weight": torch.rand(classes) + 0.5},
        "label smoothing": {"label_smoothing": 0.1},
    }
    pairs: dict[str, tuple[Run, Run]] = {
        what: (
            partial(_backward, partial(ours, **given), logits, target),
            partial(_backward, partial(theirs, **given), logits, target),
        )
        for what, given in options.items()
    }
    pairs["ignored rows"] = tuple(partial(_backward, f, logits, some) for f in (ours, theirs))
    slopes, none = torch.rand(rows), {"reduction": "none"}
    of_rows = (partial(ours, **none), partial(theirs, **none))
    gce_of_rows = (partial(gce_loss, backend="c", **none), gce_rows)
    for what, (mine, other) in {"none": of_rows, "none, gce": gce_of_rows}.items():
        pairs[what] = tuple(
            partial(_backward_of_rows, f, slopes, logits, target) for f in (mine, other)
        )
    overwriting = partial(ours, inplace_grad=True)
    pairs["in place"] = tuple(
        partial(_of_a_layer, f, logits, target) for f in (overwriting, theirs)
    )
    held = logits.detach()
    pairs["no gradient"] = tuple(partial(f, held, target) for f in (ours, theirs))
    for what, (mine, other) in pairs.items():
        runs = {"lossgen": mine, "eager": other}
        agree(runs)
        timings = paired(runs, rounds, warmup=2, seconds=20.0, measure=_each)
        us = {key: 1e6 * t.median for key, t in timings.items()}
        yield {"what": what, "us": us, "faster": ratio(timings["eager"], timings["lossgen"])}


def sizes(rounds: int, most: int) -> Iterator[dict[str, Any]]:
    """N·V from 10² on, at several V."""
    for size in (s for s in SIZES if s <= most):
        for classes in (v for v in CLASSES if v <= size):
            rows = size // classes
            logits = torch.randn(rows, classes).requires_grad_()
            target = torch.randint(classes, (rows,))
            for name in OURS:
                ours, eager, *_ = LOSSES[name]
                runs = {
                    key: partial(_backward, loss, logits, target, target)
                    for key, loss in (("lossgen", ours), ("eager", eager))
                }
                timings = paired(runs, rounds, warmup=1, seconds=1.5, measure=_each)
                yield {
                    "loss": name,
                    "rows": rows,
                    "classes": classes,
                    "us": {key: 1e6 * t.median for key, t in timings.items()},
                    "faster": ratio(timings["eager"], timings["lossgen"]),
                }


def _power_of_ten(point: dict[str, Any]) -> int:
    """The N·V that was asked for: N is whole."""
    return 10 ** round(log10(point["rows"] * point["classes"]))


def _sizes_table(found: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """× faster than eager, a line for each loss and V, a column for each N·V."""
    totals = sorted({_power_of_ten(p) for p in found})
    columns = ["loss", "V", *(f"{total:.0e}" for total in totals)]
    lines = []
    for name in OURS:
        for classes in CLASSES:
            points = [p for p in found if p["loss"] == name and p["classes"] == classes]
            by_total = {_power_of_ten(p): p["faster"] for p in points}
            cells = (f"{by_total[t]:.2f}" if t in by_total else "" for t in totals)
            lines.append([name, str(classes), *cells])
    return columns, lines


def _calls_table(found: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(key for entry in found for key in entry["us"]))
    columns = ["forward + backward, µs", *names, "faster", "bar"]
    lines = []
    for entry in found:
        times = (f"{entry['us'][key]:.0f}" if key in entry["us"] else "" for key in names)
        bar = f"≥ {entry['bar']:.2f}" if "bar" in entry else ""
        lines.append([entry["what"], *times, f"{entry['faster']:.2f}", bar])
    return columns, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help="calls, ways, sizes; default all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, N·V up to 10⁵")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest N·V")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for small.json and small.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.most = min(options.rounds, 5), min(options.most, 10**5)
    parts = options.parts or ["calls", "ways", "sizes"]
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    before = os.getloadavg()
    results: dict[str, Any] = about(options.threads, rounds=options.rounds)
    tables: dict[str, tuple[list[str], list[list[str]]]] = {}
    if "calls" in parts:
        results["calls"] = list(calls(options.rounds))
        tables["Calls"] = _calls_table(results["calls"])
    if "ways" in parts:
        results["ways"] = list(ways(options.rounds))
        tables["Options of a call, 32 x 10"] = _calls_table(results["ways"])
    if "sizes" in parts:
        results["sizes"] = list(sizes(max(3, options.rounds // 8), options.most))
        tables["Times faster than eager, by N·V"] = _sizes_table(results["sizes"])
    results["load_average"] = {"before": before[:2], "after": os.getloadavg()[:2]}
    for title, (columns, lines) in tables.items():
        Console(width=160).print(rich_table(title, columns, lines))
    if options.out:
        head = f"# Small calls\n\n{results['date']}; load average {before[0]:.1f} before\n"
        text = "\n".join([head, *(f"## {t}\n\n{markdown(*table)}" for t, table in tables.items())])
        (options.out / "small.md").write_text(text, encoding="utf-8")
        (options.out / "small.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
