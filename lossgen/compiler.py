"""The driver: a spec through the pipeline, one variant at a time, every pass timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from lossgen.budget import spending
from lossgen.errors import Location
from lossgen.ir.check import check
from lossgen.ir.plan import KernelPlan
from lossgen.ir.stages import SymbolicLoss
from lossgen.passes.certify import certify
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.spec.model import LossSpec
from lossgen.spec.size import Sizes

__all__ = ["PIPELINE", "Compiled", "compile_loss", "dearest"]

PIPELINE: tuple[Callable[[Any], Any], ...] = (differentiate, stabilize, certify, schedule)


@dataclass(frozen=True)
class Compiled:
    """A compiled loss: one plan per variant, smallest first."""

    spec: LossSpec
    variants: tuple[KernelPlan, ...]
    stages: dict[str, Any]  # of the base variant, by pass name, in pipeline order
    timings: dict[str, float]  # seconds per pass, all variants together


def compile_loss(spec: LossSpec) -> Compiled:
    """Compile every variant of ``spec``.

    Raises:
        SpecError, CompileError: with the place in the spec.
        OverBudget: it takes more seconds or memory than it may.
    """
    with spending(spec.name, partial(dearest, spec)):
        return _compiled(spec)


def dearest(spec: LossSpec) -> Location:
    """Where the largest formula of a spec stands."""
    sizes = Sizes(spec.let)
    formulas = [(t.name or t.role, t.expr) for t in spec.terms]
    formulas += [(o.name, o.expr) for o in spec.outputs]
    label, expr = max(formulas, key=lambda entry: sizes.of(entry[1]).nodes)
    return spec.location_of(label, expr.span)


def _compiled(spec: LossSpec) -> Compiled:
    stages: dict[str, Any] = {}
    timings: dict[str, float] = {}
    plans: list[KernelPlan] = []
    for uses in spec.variants:
        stage: Any = spec
        passes: list[Callable[[Any], Any]] = [partial(parse, uses=uses), *PIPELINE]
        for run in passes:
            began = perf_counter()
            stage = run(stage)
            if isinstance(stage, SymbolicLoss):
                check(stage)
            name = getattr(run, "__name__", parse.__name__)
            timings[name] = timings.get(name, 0.0) + perf_counter() - began
            if not plans:
                stages[name] = stage
        plans.append(stage)
    return Compiled(spec, tuple(plans), stages, timings)
