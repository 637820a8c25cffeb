"""The driver: a spec through the pipeline, one variant at a time, every pass timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

from lossgen.budget import spending
from lossgen.errors import CompileError, Location
from lossgen.ir.check import check
from lossgen.ir.plan import KernelPlan
from lossgen.ir.stages import Pivot, SymbolicLoss
from lossgen.passes.certify import certify, dearer_than, unmeasured
from lossgen.passes.differentiate import differentiate
from lossgen.passes.inaccurate import Inaccurate
from lossgen.passes.limits import check_limits
from lossgen.passes.parse import parse
from lossgen.passes.schedule import pivot_is_known, schedule
from lossgen.passes.stabilize import stabilize
from lossgen.passes.worst import BOUND
from lossgen.spec.expr import Expr
from lossgen.spec.model import Accuracy, LossSpec
from lossgen.spec.size import Sizes

__all__ = ["DRAFT", "Compiled", "compile_loss", "dearest"]

_ANYTHING = 1e30  # ulp


class AlgebraFailed(CompileError):
    id = "LG202"
    template = "{library} cannot work out this formula: {kind}"
    advice = "write the part that is unusual in another way"


_Pass = Callable[[Any], Any]
DRAFT: tuple[_Pass, ...] = (differentiate, stabilize, unmeasured, schedule)


@dataclass(frozen=True)
class Compiled:
    """A compiled loss: one plan per variant, smallest first."""

    spec: LossSpec
    variants: tuple[KernelPlan, ...]
    stages: dict[str, Any]  # of the base variant, by pass name, in pipeline order
    timings: dict[str, float]  # seconds per pass, all variants together
    draft: bool = False  # neither limits nor accuracy were checked

    @property
    def arithmetic(self) -> str:
        """Of the operations of every variant: float32 or float64."""
        return self.variants[0].stable.arithmetic

    @property
    def bound(self) -> float:
        """What the certificates allow, in ulp / (1 + kappa)."""
        stated = self.spec.accuracy
        return stated.ulp if stated else max(plan.stable.bound for plan in self.variants)

    def after(self, refused: float) -> Compiled:
        """The same, taken since the best program in float32 is so far off."""
        first, *others = self.variants
        if not first.stable.refused:
            first = replace(first, stable=replace(first.stable, refused=refused))
        return replace(self, variants=(first, *others))


def compile_loss(
    spec: LossSpec, draft: bool = False, arithmetic: str = "float32", bound: float = BOUND
) -> Compiled:
    """Compile every variant of ``spec``; a draft without checking its limits and its accuracy.

    Args:
        arithmetic: the least that is tried: float32 or float64.
        bound: the tightest that is tried in float32, in ulp / (1 + kappa).

    Raises:
        SpecError, CompileError: with the place in the spec.
        OverBudget: it takes more seconds or memory than it may.
    """
    with spending(spec.name, partial(dearest, spec)):
        try:
            return _compiled(spec, draft, arithmetic, bound)
        except CompileError as error:
            error.location = error.location or dearest(spec)
            raise
        except Exception as error:
            if (library := _library(error)) is None:
                raise
            raise AlgebraFailed(
                library=library, kind=type(error).__name__, location=dearest(spec)
            ) from error


def _library(error: Exception) -> str | None:
    """The library of algebra or numbers in whose own code an error was raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    home = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    root = home.partition(".")[0]
    return root if root in ("sympy", "mpmath") else None


def dearest(spec: LossSpec) -> Location:
    """Where the largest formula of a spec stands."""
    sizes = Sizes(spec.let)
    formulas = [(t.name or t.role, t.expr) for t in spec.terms]
    formulas += [(o.name, o.expr) for o in spec.outputs]
    label, expr = max(formulas, key=lambda entry: sizes.of(entry[1]).nodes)
    return spec.location_of(label, expr.span)


def _compiled(spec: LossSpec, draft: bool, arithmetic: str, bound: float) -> Compiled:
    timings: dict[str, float] = {}
    began = perf_counter()
    if not draft:
        check_limits(spec)
        timings["limits"] = perf_counter() - began
    pipeline = DRAFT if draft else _pipeline(arithmetic, bound)
    found = [_tried(spec, uses, timings, pipeline) for uses in spec.variants]
    if len({plan.stable.arithmetic for plan, _ in found}) > 1:  # a module has one
        found = [
            one
            if one[0].stable.arithmetic == "float64"
            else _tried(spec, uses, timings, _pipeline("float64"))
            for uses, one in zip(spec.variants, found, strict=True)
        ]
    plans = tuple(plan for plan, _ in found)
    return Compiled(spec, plans, found[0][1], timings, draft)


def _tried(
    spec: LossSpec, uses: frozenset[str], timings: dict[str, float], pipeline: tuple[_Pass, ...]
) -> tuple[KernelPlan, dict[str, Any]]:
    """One variant and its stages; last with sums as they are written."""
    try:
        return _variant(spec, uses, timings, pipeline)
    except Inaccurate as error:
        written = _as_written(spec, uses, timings, error)
        if written is None:
            raise _blamed(error, spec, uses) from None
        return written


def _pipeline(arithmetic: str, bound: float = BOUND) -> tuple[_Pass, ...]:
    """With the least that is tried."""
    measured = partial(certify, arithmetic=arithmetic, bound=bound)
    return differentiate, stabilize, measured, schedule


def _as_written(
    spec: LossSpec, uses: frozenset[str], timings: dict[str, float], error: Inaccurate
) -> tuple[KernelPlan, dict[str, Any]] | None:
    """The last rung: in float64, with no sum of a difference made of what its terms add up to."""
    if parse(spec, uses).sums == parse(spec, uses, whole=True).sums:
        return None
    try:
        plan, stages = _variant(spec, uses, timings, _pipeline("float64"), whole=True)
    except CompileError:
        return None
    if error.cheapest is None:
        return plan, stages
    stable = dearer_than(plan.stable, error.cheapest, error.narrow)
    plan = replace(plan, stable=stable)
    return plan, {**stages, "certify": stable, "schedule": plan}


def _variant(
    spec: LossSpec,
    uses: frozenset[str],
    timings: dict[str, float],
    pipeline: tuple[_Pass, ...],
    pivot: Pivot | None = None,
    whole: bool = False,
) -> tuple[KernelPlan, dict[str, Any]]:
    """One variant through the pipeline, with its stages by name."""
    stage: Any = spec
    stages: dict[str, Any] = {}
    passes: tuple[_Pass, ...] = (
        partial(parse, uses=uses, pivot=pivot, whole=whole),
        *pipeline,
    )
    for run in passes:
        began = perf_counter()
        stage = run(stage)
        if isinstance(stage, SymbolicLoss):
            check(stage)
            if not pivot_is_known(stage):  # then it is class 0, as a target would be
                return _variant(spec, uses, timings, pipeline, Pivot.TARGET, whole)
        function = run.func if isinstance(run, partial) else run
        name = function.__name__
        timings[name] = timings.get(name, 0.0) + perf_counter() - began
        stages[name] = stage
    return stage, stages


def _blamed(error: Inaccurate, spec: LossSpec, uses: frozenset[str]) -> Inaccurate:
    """``error`` at the term or output that is least accurate alone; at all of them together where
    each of them is accurate."""
    parts: list[tuple[str, Expr, dict[str, Any]]] = []
    parts += [(t.name or t.role, t.expr, {"terms": (t,)}) for t in spec.terms]
    parts += [(o.name, o.expr, {"outputs": (o,)}) for o in spec.outputs]
    enough = _measured(error, spec, uses)
    found: list[tuple[float, str, Expr]] = []
    for name, expr, alone in parts if len(parts) > 1 else ():
        try:
            _variant(spec.model_copy(update=alone), uses, {}, _pipeline("float32"))
        except Inaccurate as own:
            found.append((own.fields["scaled"], f"'{name}'", expr))
        except CompileError:
            continue  # what cannot be compiled alone has no error of its own
    name, expr, _ = parts[0]
    together = "the outputs together" if spec.outputs else "the sum of the terms"
    together = together if len(parts) > 1 else ""
    _, what, expr = max(found, key=lambda entry: entry[0], default=(0.0, together, expr))
    label = what.strip("'") if found else name
    return error.at(spec.location_of(label, expr.span), what, enough)


def _measured(error: Inaccurate, spec: LossSpec, uses: frozenset[str]) -> float:
    """The bound that a variant would keep: the search for bad rows ends where it is exceeded."""
    if error.fields["scaled"] == math.inf:
        return math.inf
    scale = spec.accuracy.scale if spec.accuracy else 0.0
    free = Accuracy(ulp=_ANYTHING, scale=scale, reason="to be measured")
    try:
        plan, _ = _variant(
            spec.model_copy(update={"accuracy": free}), uses, {}, _pipeline("float64")
        )
    except CompileError:
        return math.inf
    trial = plan.stable.trial
    assert trial is not None
    return max(trial.worst.loss[1], trial.worst.gradient[1])
