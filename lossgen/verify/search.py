"""``lossgen verify --search``: the certificate's search goes on, on the real backends.

Every variant is tried on the certificate's rows, then on others like them, and from the worst of
them the search climbs until the time is up.  The truth is the literal formula in mpmath.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.ir.plan import KernelPlan
from lossgen.ir.rows import COTANGENTS, Row
from lossgen.passes.certify import Trial
from lossgen.passes.samples import sample_rows
from lossgen.passes.worst import Worst
from lossgen.spec.load import load_spec
from lossgen.spec.model import LossSpec
from lossgen.verify.reproduce import Called, python
from lossgen.verify.runner import Runner
from lossgen.verify.streams import LOGITS, vectors

__all__ = ["Found", "search"]

Array = NDArray[np.float32]
_SEED = 20230711


@dataclass(frozen=True)
class Found:
    """The worst of one backend and variant."""

    backend: str
    uses: frozenset[str]
    which: str  # loss or gradient
    kappa: float  # ulp / (1 + condition number)
    bound: float
    where: str
    points: int
    reproducer: str

    @property
    def ok(self) -> bool:
        return self.kappa <= self.bound


def search(
    name_or_path: str | Path,
    seconds: float,
    backends: Sequence[str] = ("torch", "c"),
    device: str = "cpu",
) -> list[Found]:
    """Search for the worst rows of a loss, for about so many seconds.

    Returns:
        The worst loss and the worst gradient of every variant and backend.

    Raises:
        BuildError, SpecError, CompileError: the loss cannot be built.
    """
    from lossgen.cache import load

    spec = load_spec(paths.require_spec(name_or_path))
    module = load(name_or_path)
    compiled = compile_loss(spec, arithmetic=module.LOSS.variants[0].arithmetic)
    jobs = [
        _Search(plan, Runner(module, spec, backend, device), str(name_or_path))
        for backend in backends
        for plan in compiled.variants
    ]
    began = monotonic()
    for k, job in enumerate(jobs):
        job.run(began + seconds * (k + 1) / len(jobs))
    return [found for job in jobs for found in job.found()]


@dataclass
class _Search:
    plan: KernelPlan
    run_on: Runner
    name: str
    last: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        stable = self.plan.stable
        self.trial = Trial(
            stable, Worst(stable.spec, stable.arithmetic, stable.masks, stable.bound), self.evaluate
        )

    def run(self, until: float) -> None:
        """The certificate's rows, then others, climbing after each set, until the time is up."""
        seed = 0
        while seed == 0 or monotonic() < until:
            self.trial.take(sample_rows(self.plan.stable, _SEED + seed))
            for step in range(8):
                if monotonic() >= until:
                    return
                self.trial.climb(seed=8 * seed + step)
            self.trial.forget(64)
            seed += 1

    def found(self) -> list[Found]:
        worst, backend = self.trial.worst, self.run_on.backend
        results = []
        for which in ("loss", "gradient"):
            _, kappa, where = getattr(worst, which)
            row = worst.rows.get(which)
            code = "" if row is None else reproducer(self.plan, row, backend, self.name)
            results.append(
                Found(
                    backend,
                    self.plan.stable.uses,
                    which,
                    kappa,
                    worst.bound,
                    where,
                    worst.points,
                    code,
                )
            )
        return results

    # ------------------------------------------------------------------ the backend
    def evaluate(self, rows: Sequence[Row]) -> tuple[Array, list[Array]]:
        """Results [N, n] and gradients [N, V] of rows of one number of classes."""
        plan, size, classes = self.plan, len(rows), len(rows[0].x)
        values = np.zeros((size, len(plan.stable.results)), np.float32)
        slopes = [np.zeros((size, classes), np.float32) for _ in plan.gradients]
        groups: dict[Any, list[int]] = {}
        for k, row in enumerate(rows):
            key = (tuple(row.parameters.items()), tuple(row.vocab.items()))
            groups.setdefault(key, []).append(k)
        for group in groups.values():
            loss, grads = self._called([rows[k] for k in group])
            values[group] = loss
            for slope, gradient in zip(slopes, plan.gradients, strict=True):
                slope[group] = grads[LOGITS if gradient.stream == "x" else gradient.stream]
        return values, slopes

    def _called(self, rows: Sequence[Row]) -> tuple[Array, dict[str, Array]]:
        spec, first = self.run_on.spec, rows[0]
        logits = torch.tensor([row.x for row in rows])
        target = torch.tensor([row.y for row in rows]) if spec.has_target else None
        options: dict[str, Any] = _parameters(spec, first)
        options |= {n: torch.tensor(v) for n, v in first.vocab.items()}
        options |= {n: torch.tensor([row.rows[n] for row in rows]) for n in first.rows}
        options |= {n: torch.tensor([row.streams[n] for row in rows]) for n in first.streams}
        weight = None
        if spec.outputs:
            count = len(spec.outputs)
            cotangents = [COTANGENTS[k % len(COTANGENTS)] for k in range(count)]
            weight = torch.tensor([cotangents] * len(rows))
        wanted = [LOGITS if g.stream == "x" else g.stream for g in self.plan.gradients]
        wanted = [n for n in wanted if n in vectors(spec)]
        loss, grads = self.run_on.slopes(logits, target, options, weight, wanted)
        values = loss.detach().cpu().numpy().reshape(len(rows), -1)
        return values, {n: g.cpu().numpy() for n, g in grads.items()}


def _parameters(spec: LossSpec, row: Row) -> dict[str, float]:
    """Every parameter of a call: as the row has it, or off."""
    found = {}
    for name, entry in spec.parameters.items():
        value = entry.off if entry.off is not None else entry.default
        found[name] = row.parameters.get(name, float(value))
    return {n: int(v) if spec.parameters[n].integer else v for n, v in found.items()}


def reproducer(plan: KernelPlan, row: Row, backend: str, name: str) -> str:
    """Python that makes the same call."""
    spec = plan.stable.spec
    given = [torch.tensor([row.x], requires_grad=True)]
    given += [torch.tensor([row.y])] if spec.has_target else []
    given += [torch.tensor([values]) for values in row.streams.values()]
    keywords: dict[str, Any] = _parameters(spec, row)
    keywords |= {n: torch.tensor(values) for n, values in row.vocab.items()}
    keywords |= {n: torch.tensor([value]) for n, value in row.rows.items()}
    function = spec.function
    return python(name, Called(function, tuple(given), {**keywords, "backend": backend}))
