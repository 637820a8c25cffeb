"""Counts of the kernels' machine code, recorded and compared.  No timing, and no GPU.

    found = measure(["gce"], "sm_90")          # compile, disassemble, count
    worse(found, Record.read(path))            # lines, [] where no loop got worse
    Record.of(found, "sm_90").write(folder)    # counts_sm90.json and .md

See :mod:`lossgen.bench.counts` for what is counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lossgen.aot import compile_jobs, list_jobs, named_config
from lossgen.bench.assembly import parse
from lossgen.bench.classes import CLASSES
from lossgen.bench.counts import MACHINES, Launch, counts_of, pressure
from lossgen.bench.report import markdown
from lossgen.errors import BuildError

__all__ = ["LAUNCHES", "Record", "changes", "file_of", "measure", "tables", "worse"]

#: Kernel and classes of a row: Llama 3's vocabulary, read twice by the fused kernel; the longest
#: row that stays on chip; and one that is not a power of two, nor aligned to 16 elements.
LAUNCHES = (
    ("forward", 128256),
    ("backward", 128256),
    ("fused", 128256),
    ("fused", 8192),
    ("fused", 1000),
)
SLACK = 0.03  # by which a count may grow: compilers move a few instructions about

_ITEMSIZE = {"bf16": 2, "fp32": 4}


def file_of(folder: Path, target: str) -> Path:
    """The record of a target in a folder."""
    return folder / f"counts_{target.replace('_', '')}.json"


@dataclass(frozen=True)
class Record:
    """Counted kernels of one target, and the compiler that made them."""

    target: str
    triton: str
    kernels: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, kernels: Iterable[dict[str, Any]], target: str) -> Record:
        return cls(target, version("triton"), tuple(kernels))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises BuildError where there is none."""
        if not path.is_file():
            raise BuildError(f"no record {path}", hint="make counts writes it")
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(found["target"], found["triton"], tuple(found["kernels"]))

    @property
    def comparable(self) -> bool:
        """Was it made by the compiler that is installed?  Another one counts otherwise."""
        return self.triton == version("triton")

    def write(self, folder: Path) -> None:
        """Write the numbers as JSON, and as tables in Markdown."""
        path = file_of(folder, self.target)
        head = {"target": self.target, "triton": self.triton}
        lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
        kernels = ",\n".join(_laid_out(kernel) for kernel in self.kernels)
        text = "{\n" + ",\n".join([*lines, f'"kernels": [\n{kernels}\n]']) + "\n}\n"
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        parts = [
            f"# Instructions per logit, {self.target}",
            "Counted in the machine code of kernels compiled ahead of time (bfloat16, Triton "
            f"{self.triton}). Nothing here was run or timed. `make counts` writes this file; "
            "docs/verification.md says what the columns mean.",
        ]
        for title, columns, rows in tables(self.kernels):
            parts += [f"## {title}", markdown(columns, rows).rstrip()]
        return "\n\n".join(parts) + "\n"


def _laid_out(kernel: dict[str, Any]) -> str:
    """JSON with a line for a kernel, one for its sums and one for each of its loops."""
    rest = {k: v for k, v in kernel.items() if k not in ("loops", "per_logit")}
    loops = ",\n  ".join(json.dumps(loop) for loop in kernel["loops"])
    loops = f"[\n  {loops}]" if loops else "[]"
    text = json.dumps(rest)[:-1]
    return f'{text},\n "per_logit": {json.dumps(kernel["per_logit"])},\n "loops": {loops}}}'


# ---------------------------------------------------------------------------------- counting
def measure(
    names: Sequence[str | Path] | None,
    target: str,
    *,
    launches: Sequence[tuple[str, int]] = LAUNCHES,
    jobs: int = 2,
) -> list[dict[str, Any]]:
    """The records of the row kernels of generated modules: of each loss, the variant of a call
    without options and the one with the most.

    Args:
        names: catalogue names or paths of generated modules; None for all of ``generated/``.
        target: ``sm_<number>`` or ``gfx<id>``.
        launches: kernels, and the classes of a row.
        jobs: compiling processes.

    Raises:
        BuildError: unknown loss or target; a kernel that does not compile.
    """
    wanted = [
        job
        for _, group in _by_module(list_jobs(names, [target], launches=list(launches)))
        for job in _first_and_last(group)
    ]
    answers = compile_jobs(wanted, jobs)
    return [_record(job, answer) for job, answer in zip(wanted, answers, strict=True)]


def _by_module(jobs: Iterable[dict[str, Any]]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        groups.setdefault(job["path"], []).append(job)
    return groups.items()


def _first_and_last(group: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of the variants of a loss, that with the fewest options and that with the most."""
    fewest = min(len(job["uses"]) for job in group)
    most = max(len(job["uses"]) for job in group)
    return (job for job in group if len(job["uses"]) in (fewest, most))


def _record(job: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    loss, amd = Path(job["path"]).stem, job["target"].startswith("gfx")
    named = {"loss": loss, "uses": job["uses"], "kernel": job["role"], "classes": job["classes"]}
    if "error" in answer:
        raise BuildError(f"{_name(named)} does not compile: {answer['error']}")
    launch = Launch(
        classes=job["classes"],
        block=job["constants"]["BLOCK"],
        threads=job["warps"] * (64 if amd else 32),
        itemsize=_ITEMSIZE[job["dtype"]],
        streams=job["streams"],
        vectors=job["vectors"],
        gradients=0 if job["role"] == "forward" else job["gradients"],
    )
    found = counts_of(parse(answer["assembly"]), launch)
    used = {k: answer[k] for k in ("registers", "spill_stores", "spill_loads", "shared")}
    machine = MACHINES.get(job["target"])
    times = {} if machine is None else {"pressure": pressure(found, machine)}
    return {**named, "config": named_config(job), **used, **times, **found}


def _name(kernel: dict[str, Any]) -> str:
    uses = f" [{', '.join(kernel['uses'])}]" if kernel["uses"] else ""
    return f"{kernel['loss']}{uses} {kernel['kernel']} V={kernel['classes']}"


# ---------------------------------------------------------------------------------- comparing
_COMPARED = ("instructions", "special", "shuffle")


def worse(found: Iterable[dict[str, Any]], recorded: Record, slack: float = SLACK) -> list[str]:
    """Where kernels do more per logit than the recorded ones, a line each; new ones are not."""
    return [line for line, by in changes(found, recorded, slack) if by > 0]


def changes(
    found: Iterable[dict[str, Any]], recorded: Record, slack: float = SLACK
) -> Iterator[tuple[str, float]]:
    """Counts that differ by more than ``slack``: a line, and a number above 0 if it is worse."""
    known = {_name(kernel): kernel for kernel in recorded.kernels}
    for kernel in found:
        name = _name(kernel)
        if name not in known:
            continue
        old = known[name]
        for what in _COMPARED:
            was, now = (k["per_logit"].get(what, 0.0) for k in (old, kernel))
            # Half an instruction for every hundred logits is a row's, not a loop's.
            if abs(now - was) > max(slack * was, 0.005):
                share = f" ({100 * (now / was - 1):+.0f} %)" if was else ""
                yield f"{name}: {was:g} → {now:g} {what} per logit{share}", now - was
        was, now = old["barriers_per_tile"], kernel["barriers_per_tile"]
        if was != now:
            yield f"{name}: {was:g} → {now:g} barriers per tile", now - was
        for what in ("loads", "stores"):
            was, now = old["widths"][what], kernel["widths"][what]
            if was != now:
                yield f"{name}: {what} of {was} → {now} bits", was - now
        was, now = (k["spill_stores"] + k["spill_loads"] for k in (old, kernel))
        if was != now:
            yield f"{name}: {was} → {now} bytes spilled", now - was


# ---------------------------------------------------------------------------------- tables
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def tables(kernels: Sequence[dict[str, Any]]) -> list[Table]:
    """Title, columns and rows of: the sums, their classes, and the loops beside the main ones."""
    classes = [c for c in CLASSES if any(c in kernel["per_logit"] for kernel in kernels)]
    found: list[Table] = [
        ("Per logit", _COLUMNS, [_row(kernel) for kernel in kernels]),
        (
            "Instructions per logit by class",
            ("kernel", *classes),
            [(_name(k), *(_rounded(k["per_logit"].get(c, 0)) for c in classes)) for k in kernels],
        ),
    ]
    loops = [
        (_name(k), loop["role"], loop["kind"] or "–", *(_of_loop(loop, k)))
        for k in kernels
        for loop in k["loops"]
        if loop["role"] != "main"
    ]
    if loops:
        head = ("kernel", "loop", "kind", "instructions", "per logit", "loads", "stores")
        found.append(("Other loops, which a row passes a few times at most", head, loops))
    return found


_COLUMNS = (
    *("kernel", "launch", "registers", "spilled", "loops", "instructions", "ex2", "special"),
    *("shuffles", "barriers per tile", "loads", "stores", "bytes"),
    *("issue ÷ bandwidth", "special ÷ bandwidth"),
)


def _row(kernel: dict[str, Any]) -> tuple[str, ...]:
    counts, times = kernel["per_logit"], kernel.get("pressure", {})
    main = [loop for loop in kernel["loops"] if loop["role"] == "main"]
    moved = kernel["bytes_read"], kernel["bytes_written"]
    return (
        _name(kernel),
        kernel["config"],
        str(kernel["registers"]),
        str(kernel["spill_stores"] + kernel["spill_loads"]),
        "+".join(_length(loop) for loop in main) or f"none, {kernel['whole']}",
        *(_rounded(counts.get(c, 0)) for c in ("instructions", "ex2", "special", "shuffle")),
        f"{kernel['barriers_per_tile']:g}",
        *(f"{kernel['widths'][what]} bits" for what in ("loads", "stores")),
        f"{moved[0]} + {moved[1]}",
        *(_rounded(times[what]) if what in times else "" for what in ("issue", "special")),
    )


def _length(loop: dict[str, Any]) -> str:
    branched = f" ({loop['branched']} more behind a branch)" if loop["branched"] else ""
    return f"{loop['instructions']}{branched}"


def _of_loop(loop: dict[str, Any], kernel: dict[str, Any]) -> tuple[str, ...]:
    accesses = (
        " + ".join(f"{count} × {bits}" for bits, count in loop[what].items()) or "–"
        for what in ("loads", "stores")
    )
    per_logit = loop["instructions"] / (loop["tiles"] * kernel["elements"])
    return (str(loop["instructions"]), _rounded(per_logit), *accesses)


def _rounded(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
