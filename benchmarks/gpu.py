"""One command on a machine with a GPU: correct first, then fast, then written down.

    python benchmarks/gpu.py --quick           # eight minutes at most, one table (gpu_quick.py)
    python benchmarks/gpu.py --tune            # four minutes: the fastest launches (gpu_tune.py)
    python benchmarks/gpu.py [linear] [--losses gce,focal] [--minutes 9] [--resume]

1. Every loss against float64 on the device, in float32, bfloat16 and float16, at V = 32000, 128256
   and 256000, and once with N·V > 2^31.
2. Forward + backward of every loss against its composite in eager PyTorch, under torch.compile,
   and against the time that a copy of as many bytes takes on this device.
3. ``linear``, alone if named: losses of a linear layer (benchmarks/gpu_linear.py).
4. benchmarks/results/<gpu>.json (everything) and .md (the tables).

Needs torch, triton, numpy and this checkout with its generated/; ``--dry-run`` shows on a CPU, in
small, that the command works.  ``--minutes`` stops in time and ``--resume`` goes on from there.
Where the compiler's own libraries are there too, `lossgen verify NAME --device cuda` draws more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lossgen.bench.device import CHECKS, Shape, Subject, check_huge, run_check
from lossgen.bench.report import markdown, paired, ratio

HERE = Path(__file__).resolve().parent
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COLUMNS = (
    "loss",
    "ms",
    "of copy",
    "forward ms",
    "of copy",
    "eager ms",
    "× faster",
    "compiled ms",
    "× faster",
)


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks functions up by their module
    spec.loader.exec_module(module)
    return module


class Bench:
    """One run: the device, its measured copy rate, and the results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.device = torch.device("cpu" if options.dry_run else "cuda")
        self.name = "dry-run" if options.dry_run else torch.cuda.get_device_name()
        stem = self.name.lower().replace(" ", "-")
        self.path = options.out / f"{stem}.json"
        self.results: dict[str, Any] = {"checks": [], "timings": [], "linear": []}
        if options.resume and self.path.is_file():
            self.results = json.loads(self.path.read_text(encoding="utf-8"))
        self.results |= self.about()

    def about(self) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        for package in ("triton", "numpy"):
            found = importlib.util.find_spec(package)
            versions[package] = getattr(__import__(package), "__version__", "") if found else ""
        versions["cuda"] = torch.version.cuda or ""
        versions["hip"] = getattr(torch.version, "hip", None) or ""
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        return {"device": self.name, "versions": versions, "date": date}

    @property
    def late(self) -> bool:
        return time.perf_counter() - self.began > 60 * self.options.minutes

    @staticmethod
    def now() -> float:
        return time.perf_counter()

    def module(self, name: str) -> ModuleType:
        """A generated module."""
        path = HERE.parent / "generated" / f"{name}.py"
        return sys.modules.get(f"benchmark_{name}") or import_file(path)

    def subjects(self) -> list[Subject]:
        composites = import_file(HERE / "composites.py")
        found = []
        for path in sorted((HERE.parent / "generated").glob("[!_]*.py")):
            if self.options.losses and path.stem not in self.options.losses.split(","):
                continue
            composite = getattr(composites, path.stem, None)
            if composite is None:
                print(f"{path.stem}: no composite; benchmarks/composites.py says how")
                continue
            backend = self.options.backend
            found.append(Subject(path.stem, import_file(path), composite, self.device, backend))
        return found

    # ------------------------------------------------------------------ correctness
    def check(self, subjects: list[Subject]) -> None:
        done = {(r["loss"], r["check"], r["shape"]) for r in self.results["checks"]}
        for subject in subjects:
            for check, shape in self.cases(subject):
                key = (subject.name, check.__name__, str(shape))
                if key in done or self.late:
                    continue
                outcome = run_check(subject, check, shape)
                self.results["checks"].append(asdict(outcome))
                if outcome.detail:
                    print(f"FAILED {' '.join(key)}: {outcome.detail}", flush=True)
            self.write()
            self.free()

    def cases(self, subject: Subject) -> list[tuple[Callable[[Subject, Shape], str], Shape]]:
        small = self.options.dry_run
        found = []
        for classes in (61, 128, 257) if small else (32000, 128256, 256000):
            for dtype in DTYPES:
                shape = Shape(7 if small else 33, classes, dtype)
                # Compilation takes seconds: one dtype and vocabulary show what it can break.
                slow = dtype != torch.bfloat16 or classes != (128 if small else 32000)
                names = [n for n in CHECKS if n != "compiled" or not slow]
                if small:
                    names = [n for n in names if n != "compiled"]
                found += [(CHECKS[n], shape) for n in names]
        tiny = (1, 2, 17) if small else (1, 2, 17, 32001, 50257)
        sizes = [v for v in tiny if v >= subject.loss.min_classes]
        found += [(CHECKS["values"], Shape(5, classes, torch.float32)) for classes in sizes]
        huge = Shape(40, 500, torch.bfloat16) if small else Shape(8704, 256000, torch.bfloat16)
        return [*found, (check_huge, huge)]

    # ------------------------------------------------------------------ time
    def measure(self, run: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        from triton.testing import do_bench

        milliseconds = do_bench(run, warmup=20, rep=self.options.milliseconds, return_mode="median")
        return float(milliseconds) / 1e3

    def copy_rate(self) -> float:
        """Bytes per second of a device copy, read and written counted."""
        size = 2**22 if self.device.type == "cpu" else 2**31
        source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=self.device)
        out = torch.empty_like(source)
        return 2 * size / min(self.measure(partial(out.copy_, source)) for _ in range(3))

    def time(self, subjects: list[Subject]) -> None:
        self.results["copy_bytes_per_second"] = self.copy_rate()
        self.free()
        sizes = [(64, 1000)] if self.options.dry_run else [(8192, 32000), (8192, 128256)]
        done = {(r["loss"], r["shape"]) for r in self.results["timings"]}
        for rows, classes in sizes:
            for dtype in (torch.bfloat16, torch.float32)[: 2 if self.options.float32 else 1]:
                for subject in subjects:
                    shape = Shape(rows, classes, dtype)
                    if (subject.name, str(shape)) in done or self.late:
                        continue
                    self.results["timings"].append(self.time_one(subject, shape))
                    self.write()
                    self.free()

    def candidates(
        self, subject: Subject, shape: Shape
    ) -> tuple[dict[str, Any], dict[str, Callable[[], object]]]:
        """What is timed of a loss, and the entry that takes the times."""
        (logits, target), inputs = subject.draw(shape), subject.inputs(shape)
        leaf = logits.requires_grad_()

        def generated() -> object:
            return torch.autograd.grad(subject.call(leaf, target, inputs), leaf)

        def forward() -> object:
            with torch.no_grad():
                return subject.call(leaf, target, inputs)

        def mean(x: torch.Tensor) -> torch.Tensor:
            return subject.plain(x.float(), target, inputs).mean()

        def composite(objective: Callable[[torch.Tensor], torch.Tensor]) -> object:
            return torch.autograd.grad(objective(leaf), leaf)

        candidates = {"lossgen": generated, "forward": forward, "eager": partial(composite, mean)}
        if not self.options.no_compile:
            torch.compiler.reset()
            candidates["compiled"] = partial(composite, torch.compile(mean))
        entry: dict[str, Any] = {"loss": subject.name, "shape": str(shape)}
        entry["bytes"] = logits.numel() * logits.element_size()
        return entry, candidates

    def time_one(self, subject: Subject, shape: Shape) -> dict[str, Any]:
        entry, candidates = self.candidates(subject, shape)
        for name in list(candidates):
            try:
                candidates[name]()
            except Exception as error:
                entry.setdefault("errors", {})[name] = str(error).splitlines()[0][:300]
                del candidates[name]
        timings = paired(candidates, self.options.rounds, measure=self.measure)
        for name, timing in timings.items():
            entry[name] = {"ms": 1e3 * timing.median, "samples": timing.samples}
            if "lossgen" in timings:
                entry[name]["times"] = ratio(timing, timings["lossgen"])
        return entry

    def linear(self) -> None:
        """Losses of a linear layer, candidates interleaved."""
        part = import_file(HERE / "gpu_linear.py")
        modules = {name: self.module(name) for name in ("cross_entropy", "gce")}
        small = self.options.dry_run
        done = {entry["case"] for entry in self.results["linear"]}
        for case in part.SMALL if small else part.CASES:
            if str(case) in done or self.late:
                continue
            compiled = not self.options.no_compile
            runs, data = part.candidates(modules, case, self.device, compiled, not small)
            entry: dict[str, Any] = {"case": str(case), "runs": {}, "errors": {}}
            for name in list(runs):
                try:
                    found: dict[str, float] = {"bytes": part.peak(runs[name], self.device)}
                    if name != next(iter(runs)) and "gce" not in name:
                        found["off"] = part.compared(case, data, runs[name])
                    entry["runs"][name] = found
                except Exception as error:
                    entry["errors"][name] = f"{type(error).__name__}: {str(error)[:300]}"
                    del runs[name]
                self.free()
            for name, timing in paired(runs, self.options.rounds, measure=self.measure).items():
                entry["runs"][name] |= {"ms": 1e3 * timing.median, "samples": timing.samples}
            self.results["linear"].append(entry)
            self.write()
            self.free()

    def linear_table(self, entry: dict[str, Any]) -> list[list[str]]:
        floor = next(iter(entry["runs"].values()))["ms"]
        return [
            [
                name,
                f"{run['ms']:.2f}",
                f"{run['ms'] / floor:.2f}",
                f"{run['bytes'] / 2**20:.0f}",
                f"{run['off']:.1e}" if "off" in run else "–",
            ]
            for name, run in entry["runs"].items()
        ]

    # ------------------------------------------------------------------ results
    def free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def table(self, shape: str) -> list[list[str]]:
        rate = self.results["copy_bytes_per_second"]
        rows = []
        for entry in self.results["timings"]:
            if entry["shape"] != shape:
                continue
            cells = [entry["loss"]]
            for name, moved in (("lossgen", 2), ("forward", 1)):
                ms = entry.get(name, {}).get("ms")
                floor = 1e3 * moved * entry["bytes"] / rate
                cells += [f"{ms:.3f}", f"{floor / ms:.0%}"] if ms else ["–", "–"]
            for name in ("eager", "compiled"):
                one = entry.get(name, {})
                cells += [f"{one['ms']:.3f}", f"{one.get('times', 0):.2f}"] if one else ["–", "–"]
            rows.append(cells)
        return rows

    def summary(self) -> str:
        checks = self.results["checks"]
        failed = [c for c in checks if c["detail"]]
        versions = ", ".join(f"{k} {v}" for k, v in self.results["versions"].items() if v)
        lines = [f"# {self.name}", "", f"{self.results['date']}; {versions}.", ""]
        lines.append(f"Checks on the device: {len(checks)} run, {len(failed)} failed.")
        lines += [f"- {c['loss']} {c['check']} {c['shape']}: {c['detail']}" for c in failed]
        if "copy_bytes_per_second" in self.results:
            gigabytes = self.results["copy_bytes_per_second"] / 1e9
            lines += ["", f"Copy: {gigabytes:.0f} GB/s, bytes read and written counted.", ""]
            lines.append(
                "ms: forward + backward of the mean; of copy: time of copying the least bytes "
                "(logits read, gradient written once) over it. Eager and compiled: the composite "
                "of benchmarks/composites.py on logits.float(). Medians of interleaved rounds."
            )
            for shape in dict.fromkeys(entry["shape"] for entry in self.results["timings"]):
                lines += ["", f"## {shape}", "", markdown(COLUMNS, self.table(shape)).rstrip()]
        columns = import_file(HERE / "gpu_linear.py").COLUMNS
        for entry in self.results["linear"]:
            lines += ["", f"## {entry['case']}", ""]
            lines.append(markdown(columns, self.linear_table(entry)).rstrip())
            lines += [f"- {name}: {text}" for name, text in entry["errors"].items()]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        self.path.with_suffix(".md").write_text(self.summary(), encoding="utf-8")


def quick(bench: Bench) -> int:
    """One table; or, as one of its processes, a loss's checks."""
    part = import_file(HERE / "gpu_quick.py")
    if not bench.options.one:
        status: int = part.run(bench, Path(__file__), import_file(HERE / "gpu_linear.py"))
        return status
    bench.options.losses = bench.options.one
    part.worker(bench, *bench.subjects())
    return 0


def tune(bench: Bench) -> int:
    """Write ``lossgen/runtime/tuned.py``, and a copy beside the results."""
    part = import_file(HERE / "gpu_tune.py")
    bench.options.minutes = min(bench.options.minutes, 4.0)
    names = {*part.TILES.values(), *part.ROWS}
    path = bench.options.out / "tuned.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    small = bench.options.dry_run
    print(part.tune({name: bench.module(name) for name in names}, bench, path, small))
    if not small:
        table = HERE.parent / "lossgen" / "runtime" / "tuned.py"
        table.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "part", nargs="?", choices=("all", "check", "time", "linear"), default="all"
    )
    parser.add_argument("--losses", default="", help="comma-separated names; default all")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after these")
    parser.add_argument("--resume", action="store_true", help="keep what the results file has")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--milliseconds", type=int, default=60, help="of each measurement")
    parser.add_argument("--float32", action="store_true", help="time float32 logits too")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--backend", default="auto", help="of the generated losses")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small sizes")
    parser.add_argument("--quick", action="store_true", help="eight minutes at most, one table")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # a process of --quick
    parser.add_argument("--tune", action="store_true", help="write the fastest launches")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("no GPU here; --dry-run shows on the CPU that the command works", file=sys.stderr)
        return 2
    # Sizes vary from loss to loss: let the allocator grow its segments instead of keeping holes.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    bench = Bench(options)
    if options.quick:
        return quick(bench)
    if options.tune:
        return tune(bench)
    subjects = bench.subjects() if options.part != "linear" else []
    if options.part in ("all", "check"):
        bench.check(subjects)
    if options.part in ("all", "time"):
        bench.time(subjects)
    if options.part in ("all", "linear"):
        bench.linear()
    bench.write()
    print(bench.summary())
    if bench.late:
        print("out of time: run again with --resume for the rest")
    return int(any(c["detail"] for c in bench.results["checks"]))


if __name__ == "__main__":
    raise SystemExit(main())
