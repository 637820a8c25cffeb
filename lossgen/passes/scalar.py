"""Losses that depend on the row through one z alone, certified as functions of z."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np

from lossgen.ir.evaluate import evaluated, real_of
from lossgen.ir.literal import literal
from lossgen.ir.stages import Pivot, StableLoss
from lossgen.passes.points import parameter_points
from lossgen.passes.samples import used_symbols
from lossgen.passes.worst import ALIKE, TINY, Worst, off
from lossgen.spec.model import LossSpec

__all__ = ["certify_scalar", "is_scalar"]

_Z = (
    -100.0,
    -60.0,
    -30.0,
    -17.0,
    -12.0,
    -5.0,
    -2.0,
    -1.0,
    -0.3,
    -1e-3,
    0.0,
    1e-3,
    0.4,
    1.0,
    2.5,
    5.0,
    9.0,
    17.0,
    30.0,
    60.0,
    100.0,
)
_FAR = (-1e4, -300.0, 300.0, 1e4)


def is_scalar(stable: StableLoss) -> bool:
    """Does the row matter through one z alone?"""
    names = stable.vocabulary
    if any(entry.off is None for entry in stable.spec.inputs.values()):
        return False  # that cancels here, and stands in the formula
    terms = [t for g in stable.gradients for t in g.terms]
    if any(e.off is None for e in stable.spec.inputs.values()):
        return False  # what the formula mentions, its truth needs, also where it cancels
    if len(stable.forms) != 1 or stable.pivot is not Pivot.TARGET or len(terms) != 1:
        return False
    allowed = {stable.forms[0].z, *names.parameters.values(), names.classes}
    used = stable.loss.free_symbols | terms[0][0].free_symbols
    form = stable.forms[0]
    plain = terms[0][1] == form.R and (form.ell, form.ell_y) == (names.x, names.x_y)
    return not stable.outputs and plain and used <= allowed


def certify_scalar(stable: StableLoss, worst: Worst) -> None:
    """Loss and coefficient on a row of two classes (or eight, where their number counts), whose
    logits are exactly z apart."""
    form, names, real = stable.forms[0], stable.vocabulary, real_of(stable.arithmetic)
    used = used_symbols(stable)
    size = 8 if names.classes in used else 2
    wanted = [n for n, s in names.parameters.items() if s in used]
    emitted = (stable.loss, stable.gradients[0].terms[0][0])
    for k, point in enumerate(parameter_points(stable.spec, wanted)):
        grid = (*_Z, *_FAR) if k == 0 else _Z[::2]
        env: dict[Any, Any] = {
            form.z: np.array(grid, np.float32).astype(real),
            names.classes: real(size),
        }
        env |= {s: real(np.float32(point.get(n, 1.0))) for n, s in names.parameters.items()}
        values = [np.broadcast_to(evaluated(e, env, real), len(grid)) for e in emitted]
        for i, z in enumerate(grid):
            with np.errstate(over="ignore"):
                found = [float(np.float32(v[i])) for v in values]
            _point(stable.spec, worst, size, float(np.float32(z)), point, found)


def _at(
    spec: LossSpec, size: int, z: Any, point: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]] | None:
    """Loss and dloss/dz where log Σ exp of the others is z above the target, and dloss/d(each
    parameter)."""
    x = [-z, *[-mp.log(size - 1)] * (size - 1)]
    try:
        truth = literal(spec, x, 0, point)
    except (ZeroDivisionError, ValueError, TypeError, OverflowError):
        return None
    slope = mp.fsum(truth.gradients["x"][1:])
    return ([truth.results[0], slope], truth.slopes) if truth.real else None


def _point(
    spec: LossSpec,
    worst: Worst,
    size: int,
    z: float,
    point: dict[str, float],
    values: list[float],
) -> None:
    with mp.workdps(60 + int((1.0 if abs(z) < 1e3 else 0.5) * abs(z))):
        exact = {n: mp.mpf(v) for n, v in point.items()}
        known = _at(spec, size, mp.mpf(z), exact)
        if known is None:
            return
        gold, slopes = known
        worst.real += 1
        where = f"z = {z:g}" + "".join(f", {n} = {v:g}" for n, v in point.items())
        for i, which in enumerate(("loss", "gradient")):
            worst.points += 1
            error, unit = off(values[i], gold[i]), worst.unit(gold[i])
            ulp = worst.ulp(error, unit)
            if error <= TINY or ulp <= getattr(worst, which)[1]:
                continue
            if worst.arithmetic == "float64" and error <= ALIKE * _written(
                spec, size, z, exact, gold, i
            ):
                continue
            kappa = mp.mpf(0)
            if abs(z) < 1e3 and gold[i] != 0:
                kappa = _condition(spec, size, z, exact, gold, slopes, i)
            worst.add(which, ulp, float(kappa / unit), where)
            worst.add_strict(which, ulp, float(kappa / unit))


def _written(
    spec: LossSpec, size: int, z: float, point: dict[str, Any], gold: list[Any], i: int
) -> Any:
    """What the formula as it is written loses in float64."""
    with mp.workprec(53):
        found = _at(spec, size, mp.mpf(z), point)
    return mp.mpf(0) if found is None else abs(found[0][i] - gold[i])


def _condition(
    spec: LossSpec,
    size: int,
    z: float,
    point: dict[str, Any],
    gold: list[Any],
    slopes: dict[str, Any],
    i: int,
) -> Any:
    """Σ |v·df/dv| over z and the parameters, of the loss (0) or of its derivative (1)."""
    if i == 0:
        return abs(z * gold[1]) + mp.fsum(abs(v * slopes[n]) for n, v in point.items())
    total, step = mp.mpf(0), mp.mpf(10) ** -20
    for name in ("z", *point):
        moved = point if name == "z" else {**point, name: point[name] * (1 + step)}
        other = _at(spec, size, mp.mpf(z) * (1 + step if name == "z" else 1), moved)
        total += abs(other[0][1] - gold[1]) / step if other is not None else 0
    return total
