"""Run every property of a loss on every backend, and keep the smallest counter-example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings

from lossgen import paths
from lossgen.errors import BuildError, SpecError, VerificationError
from lossgen.passes.limits import check_limits
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec
from lossgen.verify import interpreter
from lossgen.verify.cases import BLOCKS, KINDS, LAYOUTS, Case, cases
from lossgen.verify.properties import PROPERTIES, Property
from lossgen.verify.reproduce import Called, named, python
from lossgen.verify.runner import Runner, tiles
from lossgen.verify.streams import RELATIONS, streams
from lossgen.verify.tolerances import stated

__all__ = ["PropertyResult", "VerificationResult", "check_property", "verify"]


@dataclass(frozen=True)
class PropertyResult:
    """One property on one backend."""

    name: str
    doc: str
    backend: str
    passed: bool
    examples: int
    seconds: float
    message: str = ""  # what was expected, if it failed
    counterexample: str = ""  # the simplest case found
    call: str = ""  # Python that makes the call of that case which failed


@dataclass(frozen=True)
class VerificationResult:
    """All properties of one loss."""

    loss: str
    results: tuple[PropertyResult, ...]

    @property
    def ok(self) -> bool:
        """Did every property hold?"""
        return all(r.passed for r in self.results)

    passed = ok

    @property
    def failures(self) -> tuple[PropertyResult, ...]:
        """The properties that did not hold."""
        return tuple(r for r in self.results if not r.passed)

    def to_json(self) -> str:
        """The result as JSON; ``from_json`` reads it."""
        return json.dumps({"loss": self.loss, "results": [asdict(r) for r in self.results]})

    @classmethod
    def from_json(cls, text: str) -> VerificationResult:
        """The inverse of ``to_json``."""
        data = json.loads(text)
        return cls(data["loss"], tuple(PropertyResult(**r) for r in data["results"]))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.table import Table
        from rich.text import Text

        count = len(self.results)
        for r in self.failures:
            yield Text(f"FAILS  {r.name} on {r.backend}: {r.message}", "red")
            yield Text(f"  {r.doc}")
            yield Text(f"  smallest case: {r.counterexample}")
            if r.call:  # whole lines from the first column, so that it can be pasted
                yield Text(r.call, no_wrap=True, overflow="ignore")
        if self.failures:
            names = ", ".join(dict.fromkeys(r.name for r in self.results if r.passed))
            yield Text(f"{self.loss}: {len(self.failures)} of {count} checks fail", "bold red")
            yield Text(f"the others hold: {names}")
            return
        table = Table(title=f"{self.loss}: {count} checks")
        for column in ("property", "backend", "", "examples", "seconds"):
            number = column in ("examples", "seconds")
            table.add_column(column, justify="right" if number else "left")
        for r in self.results:
            verdict = Text("holds", "green")
            table.add_row(r.doc, r.backend, verdict, str(r.examples), f"{r.seconds:.1f}")
        yield table
        yield Text(f"{self.loss}: all {count} checks hold", "green")


def verify(
    name_or_path: str | Path,
    examples: int = 20,
    device: str = "cpu",
    backends: Sequence[str] = ("torch", "c", "triton"),
    on_result: Callable[[PropertyResult], None] | None = None,
) -> VerificationResult:
    """Test a loss of the catalogue, or of a spec file, against its literal formula.

    Args:
        name_or_path: catalogue name, or path of a spec (which is compiled).
        examples: Hypothesis draws per property and backend, beside fixed adversarial cases.
        device: "cpu" interprets the Triton source, "cuda" on the GPU.
        backends: which backends to test.
        on_result: called after each property.

    Raises:
        BuildError, SpecError, CompileError: the loss cannot be built.
    """
    spec = load_spec(paths.require_spec(name_or_path))
    if device not in ("cpu", "cuda"):
        raise BuildError(f"no device {device!r}", hint="cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise BuildError("no CUDA device is available", hint="--device cpu runs the interpreter")
    if device == "cpu" and "triton" in backends and not interpreter.active():
        result = _in_interpreter(name_or_path, examples, backends)
        if on_result:
            for one in result.results:
                on_result(one)
        return result
    if device == "cpu" and "triton" in backends:
        interpreter.install()
    from lossgen.cache import load

    module = load(name_or_path)
    spec = stated(spec, module.LOSS.variants[0])
    results = []
    for found in _each(module, spec, backends, device, examples):
        results.append(found)
        if on_result:
            on_result(found)
    return VerificationResult(spec.name, tuple(results))


def _each(
    module: ModuleType, spec: LossSpec, backends: Sequence[str], device: str, examples: int
) -> Iterator[PropertyResult]:
    yield _limits(spec)
    tiled = all(variant.tiled is not None for variant in module.LOSS.variants)
    for backend in backends:
        run = Runner(module, spec, backend, device)
        for entry in PROPERTIES:
            if entry.applies(spec, backend, tiled):
                yield check_property(entry, spec, run, examples)


def _in_interpreter(
    name_or_path: str | Path, examples: int, backends: Sequence[str]
) -> VerificationResult:
    """The same in a new process: Triton decides at import whether it interprets."""
    command = [
        sys.executable,
        "-m",
        "lossgen.verify.run",
        str(name_or_path),
        str(examples),
        *backends,
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise VerificationError(f"the interpreter's process failed:\n{done.stderr.strip()}")
    return VerificationResult.from_json(done.stdout.splitlines()[-1])


def _limits(spec: LossSpec) -> PropertyResult:
    began, message = perf_counter(), ""
    try:
        count = check_limits(spec)
    except SpecError as error:
        count, message = len(spec.limits), error.message
    doc = "The declared limits hold (mpmath)."
    return PropertyResult(
        "limits", doc, "formula", not message, count, perf_counter() - began, message, message
    )


def check_property(entry: Property, spec: LossSpec, run: Runner, examples: int) -> PropertyResult:
    """Fixed adversarial cases first, then ``examples``·share draws."""
    began = perf_counter()
    tried = 0
    failed: list[tuple[Case, Exception, list[Called]]] = []

    def attempt(case: Case) -> None:
        nonlocal tried
        tried += 1
        run.calls.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with tiles(run.tile(case)):
                    entry.check(case, run)
        except Exception as error:
            failed.append((case, error, list(run.calls)))
            raise

    count = max(1, round(examples * entry.share))
    search = settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )(given(cases(spec, entry.dtypes, entry.fixed))(attempt))
    try:
        for case in fixed_cases(entry, spec):
            attempt(case)
        search()
    except Exception:  # the last failure is Hypothesis' smallest
        needed = tried
        case, error, calls = _smaller(attempt, failed)
        message = (
            error.message
            if isinstance(error, VerificationError)
            else (f"{type(error).__name__}: {error}")
        )
        return PropertyResult(
            entry.name,
            entry.doc,
            run.backend,
            False,
            needed,
            perf_counter() - began,
            message + _one_class(spec, calls),
            _said(case, calls),
            "\n".join(python(named(spec), call) for call in calls),
        )
    return PropertyResult(entry.name, entry.doc, run.backend, True, tried, perf_counter() - began)


def _smaller(
    attempt: Callable[[Case], None], failed: list[tuple[Case, Exception, list[Called]]]
) -> tuple[Case, Exception, list[Called]]:
    """The last failure, or that of a smaller call that fails in the same way."""
    case, error, _ = found = failed[-1]
    for rows, classes in ((1, 2), (1, 3), (2, 3), (3, 3)):
        if rows * classes < case.rows * case.classes and classes >= case.spec.min_classes:
            with suppress(Exception):
                attempt(case.with_(rows=rows, classes=classes))
            if failed[-1] is not found:
                return failed[-1] if type(failed[-1][1]) is type(error) else found
    return found


def _said(case: Case, calls: Sequence[Called]) -> str:
    """The case, and the shape of the call that failed where the property tries others beside."""
    for call in calls:
        rows = len(call.shape) == 2 and not call.function.startswith("linear_")
        if rows and call.shape != (case.rows, case.classes):
            return f"{call.shape[0]} x {call.shape[1]} logits, tried beside {case}"
    return str(case)


def _one_class(spec: LossSpec, calls: Sequence[Called]) -> str:
    alone = any(call.shape[-1:] == (1,) for call in calls)
    if not alone or spec.min_classes > 1:
        return ""
    return "; if a row of one class makes no sense, say so in the spec: `min_classes: 2`"


def fixed_cases(entry: Property, spec: LossSpec) -> list[Case]:
    """Always tried, whatever Hypothesis draws: every value of each of the property's axes."""
    axes: dict[str, Sequence[Any]] = {
        "kind": KINDS,
        "layout": LAYOUTS,
        "dtype": entry.dtypes,
        "variant": range(len(spec.variants)),
        "relation": RELATIONS if streams(spec) else (),
        # rows of few classes, of one tile, and whose tiles all are full and aligned
        "block": BLOCKS[::3],
        "classes": (32,),
    }
    plain = Case(spec, rows=3, classes=17, dtype=entry.dtypes[0], seed=11)
    drawn = [plain, *(plain.with_(**{axis: v}) for axis in entry.axes for v in axes[axis])]
    return list({str(c): c for c in (d.with_(**entry.fixed) for d in drawn)}.values())


if __name__ == "__main__":
    name, number, *chosen = sys.argv[1:]
    print(verify(name, int(number), backends=chosen).to_json())
