"""Measure the emitted functions in float32 against mpmath, and refuse what is not accurate.

A loss that depends on the row through one z is certified as a scalar function: loss and gradient
coefficient on z in [-1e4, 1e4] × the ends of every parameter's domain.  Every loss is certified
on whole rows too: confident, flat, masked with -inf, and offset by 3000, statistics included.

    error <= bound·(1 + kappa) ulp,   kappa(z) = |z·f'(z)/f(z)| + the same for every parameter

An error below 1e-37 absolute is underflow, not inaccuracy.  A spec may state a scale: errors and
kappa are relative to it where the true value is smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath as mp
import numpy as np
from sympy import Expr, Symbol

from lossgen.errors import CompileError
from lossgen.ir.evaluate import float32, high_precision
from lossgen.ir.rows import Row, rows_float32, rows_mpmath
from lossgen.ir.stages import Certificate, Form, GradedLoss, Pivot, StableLoss
from lossgen.passes.samples import parameter_points, sample_rows, used_symbols

__all__ = ["BOUND", "certify"]

BOUND = 4.0
_ULP = 2.0**-23
_TINY = 1e-37
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


def certify(stable: StableLoss) -> StableLoss:
    """Attach the certificate; choose clamping at z = ±inf.

    Raises:
        CompileError: an error above the bound, with the point where it was found.
    """
    spec = stable.spec
    bound = spec.accuracy.ulp if spec.accuracy else BOUND
    worst = _Worst(spec.accuracy.scale if spec.accuracy else 0.0)
    if _is_scalar(stable):
        _scalar(stable, worst)
    stable = replace(
        stable,
        clamp_loss=_needs_clamp(stable, list(stable.results)),
        clamp_gradient=_needs_clamp(stable, list(stable.coefficients)),
    )
    for row in sample_rows(stable):
        _row(stable, row, worst)
    if not worst.real:
        raise CompileError(
            "the loss is not a real number at any of the points that were tried: it takes a "
            "logarithm, a root or a power of a negative number, or divides by 0"
        )
    if max(worst.loss[1], worst.gradient[1]) > bound:
        which = "loss" if worst.loss[1] >= worst.gradient[1] else "gradient"
        ulp, kappa, where = worst.loss if which == "loss" else worst.gradient
        raise CompileError(
            f"the {which} is not accurate in float32: {ulp:.3g} ulp, {kappa:.3g}*(1+kappa), at "
            f"{where}; the bound is {bound:g}. Write the formula without the cancellation, narrow "
            "a parameter's domain, or state a bound with `accuracy: {ulp: ..., reason: ...}`"
        )
    certificate = Certificate(
        loss_ulp=worst.loss[0],
        loss_kappa=worst.loss[1],
        gradient_ulp=worst.gradient[0],
        gradient_kappa=worst.gradient[1],
        points=worst.points,
        bound=bound,
        scale=worst.scale,
    )
    return replace(stable, certificate=certificate)


class _Worst:
    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.loss = (0.0, 0.0, "")
        self.gradient = (0.0, 0.0, "")
        self.points = 0
        self.real = 0  # how often the true loss was a finite real number

    def unit(self, gold: Any) -> Any:
        """What an error of a number is relative to."""
        return max(abs(gold), mp.mpf(self.scale), mp.mpf(_TINY))

    def add(self, which: str, error: float, kappa: float, where: str) -> None:
        self.points += 1
        error = error if np.isfinite(error) else float("inf")
        scaled = error / (1.0 + kappa)
        if scaled > getattr(self, which)[1]:
            setattr(self, which, (error, scaled, where))


def _is_scalar(stable: StableLoss) -> bool:
    """Does the row matter through one z alone?"""
    names = stable.vocabulary
    terms = [t for g in stable.gradients for t in g.terms]
    if len(stable.forms) != 1 or stable.pivot is not Pivot.TARGET or len(terms) != 1:
        return False
    allowed = {stable.forms[0].z, *names.parameters.values(), names.classes}
    used = stable.loss.free_symbols | terms[0][0].free_symbols
    return not stable.outputs and used <= allowed


# ---------------------------------------------------------------------------- scalar functions
def _scalar(stable: StableLoss, worst: _Worst) -> None:
    before = stable.before
    assert before is not None
    form, names = stable.forms[0], stable.vocabulary
    symbols = [form.z, *names.parameters.values(), names.classes]
    pairs = [
        ("loss", before.loss, stable.loss),
        ("gradient", *(c for s in (before, stable) for g in s.gradients for c, _ in g.terms)),
    ]
    used = used_symbols(stable)
    wanted = [n for n, s in names.parameters.items() if s in used]
    for which, literal, emitted in pairs:
        reference = _in_z(literal, form, symbols)
        for k, point in enumerate(parameter_points(stable.spec, wanted)):
            known = {n: point.get(n, 1.0) for n in names.parameters}
            grid = (*_Z, *_FAR) if k == 0 else _Z[::2]
            env: dict[Any, Any] = {
                form.z: np.array(grid, np.float32),
                names.classes: np.float32(8.0),
            }
            env |= {s: np.float32(known[n]) for n, s in names.parameters.items()}
            values = np.broadcast_to(float32(emitted, env), len(grid))
            for z, value in zip(grid, values, strict=True):
                fixed = [*(known[n] for n in names.parameters), 8.0]
                _point(
                    worst,
                    which,
                    reference,
                    float(np.float32(z)),
                    fixed,
                    float(value),
                    {n: i for i, n in enumerate(names.parameters) if n in wanted},
                )


def _in_z(expr: Expr, form: Form, symbols: list[Symbol]) -> Callable[..., Any]:
    """The unstabilised expression as an mpmath function of z and the constants."""
    inner = high_precision(expr, [*symbols, form.P, form.Q, form.s, form.r])

    def function(z: Any, *constants: Any) -> Any:
        up, down = mp.exp(z), mp.exp(-z)
        return inner(z, *constants, 1 / (1 + up), 1 / (1 + down), mp.log1p(up), mp.log1p(down))

    return function


def _point(
    worst: _Worst,
    which: str,
    function: Callable[..., Any],
    z: float,
    constants: list[float],
    value: float,
    vary: dict[str, int],
) -> None:
    digits = 60 + int(1.0 * abs(z)) if abs(z) < 1e3 else 60 + int(0.5 * abs(z))
    with mp.workdps(digits):
        exact = [mp.mpf(z), *(mp.mpf(c) for c in constants)]
        try:
            gold = function(*exact)
        except (ZeroDivisionError, ValueError):
            return
        if not mp.isfinite(gold) or mp.im(gold) != 0 or abs(gold) > 3e38:
            return
        worst.real += which == "loss"
        kappa = mp.mpf(0)
        if abs(z) < 1e3 and gold != 0:
            for position in [0, *(1 + i for i in vary.values())]:
                kappa += _condition(function, exact, position, gold, worst.unit(gold))
        error = abs(mp.mpf(value) - gold) if np.isfinite(value) else mp.inf
        if error <= _TINY:
            worst.points += 1
            return
        relative = error / worst.unit(gold) / _ULP
    where = f"z = {z:g}" + "".join(f", {n} = {constants[i]:g}" for n, i in vary.items())
    worst.add(which, float(relative), float(abs(kappa)), where)


def _condition(
    function: Callable[..., Any], at: list[Any], position: int, gold: Any, unit: Any
) -> Any:
    """|v·f'(v)/f| of one argument."""
    if at[position] == 0:
        return mp.mpf(0)
    moved = list(at)
    moved[position] = at[position] * (1 + mp.mpf(10) ** -20)
    try:
        return abs((function(*moved) - gold) / unit) * mp.mpf(10) ** 20
    except (ZeroDivisionError, ValueError):
        return mp.mpf(0)


def _needs_clamp(stable: StableLoss, exprs: list[Expr]) -> bool:
    """Is a function NaN at z = ±inf, but finite at the largest float?

    With the defaults; at the ends of the domains too if it is bounded, so that no infinity of it
    is lost to the clamp.
    """
    if not stable.forms:
        return False
    names = stable.vocabulary
    for expr in exprs:
        used = [n for n, s in names.parameters.items() if s in expr.free_symbols]
        for point in parameter_points(stable.spec, used):
            far, near = (_at_ends(stable, expr, point, z) for z in (np.inf, 3e38))
            if any(np.isnan(a) and np.isfinite(b) for a, b in zip(far, near, strict=True)):
                return True
            if not np.isfinite(far).all():
                break
    return False


def _at_ends(stable: StableLoss, expr: Expr, point: dict[str, float], z: float) -> list[Any]:
    """The values at z and at -z, with any statistic at 0.5."""
    names, values = stable.vocabulary, []
    for end in (z, -z):
        env: dict[Any, Any] = dict.fromkeys(expr.free_symbols, np.float32(0.5))
        env |= {names.parameters[n]: np.float32(v) for n, v in point.items()}
        env |= {f.z: np.float32(end) for f in stable.forms}
        values.append(np.max(float32(expr, env)))
    return values


# ---------------------------------------------------------------------------- whole rows
def _row(stable: StableLoss, row: Row, worst: _Worst) -> None:
    before = stable.before
    assert before is not None
    with mp.workdps(150):
        try:
            results, gradients = rows_mpmath(before, row)
        except (ZeroDivisionError, ValueError):
            return
        flat = [g for gradient in gradients for g in gradient]
        if not all(mp.isfinite(v) and mp.im(v) == 0 for v in (*results, *flat)):
            return
        worst.real += 1
        values, slopes = rows_float32(stable, row)
        spread = _spread(row, stable)
        where = f"a row with logits {_spelled(row.x)}, target {row.y}"
        where += "".join(f", {n} = {_spelled(v)}" for n, v in row.streams.items())
        where += "".join(f", {n} = {v:g}" for n, v in row.parameters.items())
        by_loss, by_gradient = _parameter_condition(before, row, results, gradients, worst)
        for k, (value, gold) in enumerate(zip(values, results, strict=True)):
            error = abs(mp.mpf(value) - gold)
            if error <= _TINY:
                continue
            kappa = by_loss[k]
            if stable.outputs or stable.twins:
                kappa += spread  # the gradient says nothing of one value
            elif gold != 0:
                kappa += float(_sensitivity(stable, row, gradients) / worst.unit(gold))
            found = f" ({value:.6g} instead of {mp.nstr(gold, 6)})"
            worst.add("loss", float(error / worst.unit(gold) / _ULP), kappa, where + found)
        for slope, gradient in zip(slopes, gradients, strict=True):
            largest = max(abs(g) for g in gradient)
            errors = [abs(mp.mpf(float(s)) - g) for s, g in zip(slope, gradient, strict=True)]
            error = max(errors) if np.isfinite(slope).all() else mp.inf
            if error > _TINY:
                ulp = float(error / worst.unit(largest) / _ULP)
                worst.add("gradient", ulp, by_gradient + spread + _scales(row), where)


def _spelled(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{v:.4g}' for v in values)}]"


def _spread(row: Row, stable: StableLoss) -> float:
    """The largest distance of two logits: how much an exponential amplifies."""
    names = stable.vocabulary.streams
    rows = [[v for v in row.along()[n] if np.isfinite(v)] for n in names]
    return max(max(r) - min(r) for r in rows)


def _sensitivity(stable: StableLoss, row: Row, gradients: list[list[Any]]) -> Any:
    """Σ |v·dL/dv| over the logits, measured from their value at y."""
    total = mp.mpf(0)
    for gradient, stream in zip(gradients, stable.gradients, strict=True):
        values = row.along()[stream.stream]
        centre = values[row.y] if stable.pivot is not Pivot.NONE else 0.0
        total += mp.fsum(
            abs((v - centre) * g)
            for v, g in zip(values, gradient, strict=True)
            if np.isfinite(v) and np.isfinite(centre)
        )
    return total


def _scales(row: Row) -> float:
    """How far parameters stretch the exponents: x/T and q·x round T or q times as often."""
    return max(
        (max(abs(v), 1 / abs(v)) if v else 0.0 for v in row.parameters.values()), default=0.0
    )


def _parameter_condition(
    before: GradedLoss,
    row: Row,
    results: list[Any],
    gradients: list[list[Any]],
    worst: _Worst,
) -> tuple[list[float], float]:
    """Relative change of results and gradient per relative change of a parameter or row input."""
    of_loss, of_gradient = [0.0] * len(results), 0.0
    flat = [g for gradient in gradients for g in gradient]
    largest = max(abs(g) for g in flat)
    for name, value in (*row.parameters.items(), *row.rows.items()):
        if not value:
            continue
        changed = {name: value * (1 + 2.0**-40)}
        if name in row.rows:
            moved = replace(row, rows={**row.rows, **changed})
        else:
            moved = replace(row, parameters={**row.parameters, **changed})
        try:
            shifted, slopes = rows_mpmath(before, moved)
        except (ZeroDivisionError, ValueError):
            continue
        for k, (after, value_) in enumerate(zip(shifted, results, strict=True)):
            if value_:
                of_loss[k] += float(abs(after - value_) / worst.unit(value_) * 2**40)
        if largest:
            after_flat = [g for gradient in slopes for g in gradient]
            change = max(abs(a - b) for a, b in zip(after_flat, flat, strict=True))
            of_gradient += float(change / worst.unit(largest) * 2**40)
    return of_loss, of_gradient
