"""The identities that a spec declares, checked on its literal formula at 60 digits."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np

from lossgen import paths
from lossgen.errors import VerificationError
from lossgen.spec.expr import Expr
from lossgen.spec.load import load_spec
from lossgen.spec.model import Limit, LossSpec, Term
from lossgen.verify.reference import literal_mpmath
from lossgen.verify.streams import onto

__all__ = ["check_limits", "replace_formula"]

_NEAR = 1e-25  # how close to the limit a formula is evaluated that is 0/0 at it


def check_limits(spec: LossSpec) -> int:
    """Check every declared limit; returns how many there are.

    Raises:
        VerificationError: one does not hold.
    """
    for limit in spec.limits:
        other, values = _other(spec, limit)
        rng = np.random.default_rng(5)
        for _ in range(3):
            classes = int(rng.integers(max(3, spec.min_classes), 7))
            logits = [float(v) for v in rng.normal(0, 2, classes)]
            target = int(rng.integers(classes)) if spec.has_target else None
            inputs = _inputs(spec, rng, classes)
            with mp.workdps(80):
                here = _near(spec, limit, logits, target, inputs)
                other_inputs = inputs | _inputs(other, rng, classes, inputs)
                there, _ = literal_mpmath(other, logits, target, values, other_inputs, False)
                if abs(here - there) > 1e-12 * (1 + abs(there)):
                    raise VerificationError(
                        f"{spec.name} at {_text(limit.when)} is {mp.nstr(here, 12)}, but "
                        f"{limit.source} is {mp.nstr(there, 12)}"
                    )
    return len(spec.limits)


def _text(when: dict[str, float]) -> str:
    return ", ".join(f"{k} = {v:g}" for k, v in when.items()) or "all parameters"


def _defaults(spec: LossSpec) -> dict[str, Any]:
    return {n: float(p.default) for n, p in spec.parameters.items()}


def _inputs(spec: LossSpec, rng: Any, classes: int, known: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in spec.inputs.items():
        if known and name in known:
            continue
        if entry.kind == "class":
            drawn = onto(entry, rng.normal(0, 2, (1, classes)), rng)
            found[name] = [float(v) for v in drawn[0]]
            continue
        if entry.off is not None:
            found[name] = [entry.off] * classes if entry.kind == "vocab" else entry.off
            continue
        low, high = entry.range or (0.1, 2.0)
        size = classes if entry.kind == "vocab" else None
        drawn = rng.uniform(low, high, size)
        found[name] = [float(v) for v in drawn] if size else float(drawn)
    return found


def _near(spec: LossSpec, limit: Limit, logits: Any, target: Any, inputs: Any) -> Any:
    """The loss at the limit, or just beside it where the formula is 0/0."""
    exact = _defaults(spec) | dict(limit.when)
    try:
        value, _ = literal_mpmath(spec, logits, target, exact, inputs, False)
        if mp.isfinite(value):
            return value
    except (ZeroDivisionError, ValueError):
        pass
    moved = dict(exact)
    for name, at in limit.when.items():
        domain = spec.parameters[name].domain
        sign = -1 if at >= domain.hi else 1
        moved[name] = mp.mpf(at) + sign * mp.mpf(_NEAR)
    value, _ = literal_mpmath(spec, logits, target, moved, inputs, False)
    return value


def _other(spec: LossSpec, limit: Limit) -> tuple[LossSpec, dict[str, Any]]:
    """The right-hand side as a spec with its parameter values."""
    if isinstance(limit.equals, str):
        other = load_spec(paths.require_spec(limit.equals))
        return other, _defaults(other) | dict(limit.with_)
    values = _defaults(spec) | dict(limit.when) | dict(limit.with_)
    return replace_formula(spec, limit.equals), values


def replace_formula(spec: LossSpec, formula: Expr) -> LossSpec:
    """``spec`` with one formula in place of its own."""
    term = Term(role="transform", name=None, weight=None, expr=formula, source="")
    return spec.model_copy(update={"terms": (term,)})
