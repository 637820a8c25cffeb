"""Compile every kernel for named GPUs without a GPU, and fail where one spills.

    report = compile_all(["gce", "focal"], ["sm_90", "gfx942"])
    report.ok, report.failed, print(report)

Compilers end the process when one of their assertions fails, so each compiles in a worker process
(:mod:`lossgen.aot.worker`); the kernel at which a worker died is a failed row, not a dead build.
Triton's own cache makes a second run cheap.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Timer
from typing import Any

from lossgen import paths
from lossgen.errors import BuildError
from lossgen.extras import require

require("compiler")

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

__all__ = ["TARGETS", "Report", "Row", "compile_all", "compile_jobs", "list_jobs", "named_config"]

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
_SECONDS = 180  # of one kernel; the slowest seen takes a few


@dataclass(frozen=True)
class Row:
    """One compiled kernel. Spills are bytes per thread; shared memory is bytes per program."""

    loss: str
    uses: tuple[str, ...]  # the options of the variant
    kernel: str  # forward, merge, backward or fused; the tiled ones: see tiled_jobs.py
    target: str
    dtype: str  # of the logits
    config: str  # launch constants, e.g. "BLOCK=4096 warps=8"
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0
    limit: int = 0
    error: str = ""

    @property
    def problem(self) -> str:
        """Why the row fails, "" if it does not."""
        if self.error:
            return self.error
        if self.spill_stores or self.spill_loads:
            return f"spills {self.spill_stores} bytes, reloads {self.spill_loads}"
        if self.shared > self.limit:
            return f"needs {self.shared} bytes of shared memory, {self.target} has {self.limit}"
        return ""

    @property
    def name(self) -> str:
        uses = f" [{', '.join(self.uses)}]" if self.uses else ""
        return f"{self.loss}{uses} {self.kernel} {self.target} {self.dtype} {self.config}"


@dataclass(frozen=True)
class Report:
    """Every compiled kernel; ``str()`` is the table and one line per failure."""

    rows: tuple[Row, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.problem)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and not self.failed

    def table(self, every: bool = False) -> Table:
        """The largest of each column per loss and target, or ``every`` kernel in a line."""
        table = Table("loss", "target", "kernels", title="Ahead-of-time compilation")
        for column in ("registers", "spill st", "spill ld", "shared", "failed"):
            table.add_column(column, justify="right")
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows:
            label = row.name if every else row.loss
            groups[label, row.target].append(row)
        for (label, target), rows in groups.items():
            columns = ("registers", "spill_stores", "spill_loads", "shared")
            numbers = [str(max(getattr(row, c) for row in rows)) for c in columns]
            failed = sum(bool(row.problem) for row in rows)
            style = "red" if failed else None
            cells = (label, target, str(len(rows)), *numbers, str(failed or ""))
            table.add_row(*cells, style=style)
        return table

    def __str__(self) -> str:
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self.table())
        failures = [f"{row.name}: {row.problem}" for row in self.failed]
        total = f"{len(self.rows)} kernels, {len(failures)} failed, {self.seconds:.0f} s"
        return "\n".join([captured.get().rstrip(), *failures, total])


def compile_all(
    names: Sequence[str | Path] | None,
    targets: Sequence[str],
    *,
    jobs: int = 2,
    full: bool = False,
    tiled: bool = False,
) -> Report:
    """Compile the kernels of generated modules.

    Args:
        names: catalogue names or paths of generated modules; None for all of ``generated/``.
        targets: of ``sm_<number>`` (NVIDIA) and ``gfx<id>`` (AMD).
        jobs: worker processes.
        full: float32 logits, smaller and unaligned vocabularies too (about six times the work).
        tiled: the kernels of logits that stay on chip, which must use the tensor cores, instead
            of those of rows.

    Raises:
        BuildError: unknown target, a module that is missing or cannot be imported.
    """
    began = time.perf_counter()
    wanted = list_jobs(names, targets, full=full, tiled=tiled)
    answers = compile_jobs(wanted, jobs)
    rows = tuple(_row(job, answer) for job, answer in zip(wanted, answers, strict=True))
    return Report(rows, time.perf_counter() - began)


def list_jobs(
    names: Sequence[str | Path] | None, targets: Sequence[str], **asked: Any
) -> list[dict[str, Any]]:
    """The kernels of generated modules as jobs of the compiling process.

    Args:
        names: as of :func:`compile_all`.
        targets: likewise.
        asked: ``full`` and ``tiled``, or ``launches``: pairs of a kernel and the classes of a row.

    Raises:
        BuildError: as of :func:`compile_all`.
    """
    modules = _modules(names)
    for target in targets:
        if not target.removeprefix("sm_").isdigit() and not target.startswith("gfx"):
            raise BuildError(f"unknown target {target!r}", hint=f"e.g. {', '.join(TARGETS)}")
    wanted: list[dict[str, Any]] = []
    with _Worker() as worker:
        for module in modules:
            answer = worker.ask({"list": str(module), "targets": list(targets), **asked})
            if "error" in answer:
                raise BuildError(f"cannot import {module}: {answer['error']}")
            wanted += answer["jobs"]
    return wanted


def compile_jobs(wanted: Sequence[dict[str, Any]], jobs: int = 2) -> list[dict[str, Any]]:
    """The answers to jobs, in their order, of ``jobs`` worker processes; a kernel that does not
    compile is answered with ``{"error": reason}``."""
    results: dict[int, dict[str, Any]] = {}
    queue: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
    for item in enumerate(wanted):
        queue.put(item)
    workers = max(1, min(jobs, len(wanted)))
    with ThreadPoolExecutor(workers) as pool:
        for done in pool.map(lambda _: list(_serve(queue)), range(workers)):
            results.update(done)
    return [results[index] for index in range(len(wanted))]


def _modules(names: Iterable[str | Path] | None) -> list[Path]:
    folder = paths.generated_dir()
    if names is None:
        return sorted(folder.glob("[!_]*.py"))
    found = []
    for name in names:
        path = folder / f"{name}.py" if str(name).isidentifier() else Path(name)
        if not path.is_file():
            raise BuildError(f"no generated module {name!s}", hint="see `lossgen build`")
        found.append(path.resolve())
    return found


def _serve(queue: SimpleQueue[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Compile jobs until the queue is empty; a worker that died is replaced."""
    worker = _Worker()
    try:
        while True:
            try:
                index, job = queue.get_nowait()
            except Empty:
                return
            if not worker.alive:
                worker.close()
                worker = _Worker()
            yield index, worker.ask(job)
    finally:
        worker.close()


def _row(job: dict[str, Any], answer: dict[str, Any]) -> Row:
    return Row(
        loss=Path(job["path"]).stem,
        uses=tuple(job["uses"]),
        kernel=job["role"],
        target=job["target"],
        dtype=job["dtype"],
        config=named_config(job),
        **answer,
    )


def named_config(job: dict[str, Any]) -> str:
    """A job's launch constants as text."""
    config = " ".join(f"{k}={v}" for k, v in job["constants"].items())
    return f"{config} warps={job['warps']}{'' if job['aligned'] else ' unaligned'}"


class _Worker:
    """A compiling process, asked one thing at a time. Its errors are answers, its death too."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join([str(paths.PACKAGE.parent), *sys.path[1:]])
        environment["OMP_NUM_THREADS"] = "1"
        # Open as long as the process; close() closes it.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lossgen.aot.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            encoding="utf-8",
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer, or ``{"error": ...}`` if it died or took too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        return {"error": f"the compiler died (exit status {code}): {self._last_words()}"}

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        wanted = [line for line in lines if "Assertion" in line or "rror" in line]
        return (wanted or lines or ["no message"])[-1][:300]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
