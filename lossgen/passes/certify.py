"""Measure the emitted functions in float32 against mpmath, and refuse what is not accurate.

A loss that depends on the row through one z is certified as a scalar function: loss and gradient
coefficient on z in [-1e4, 1e4] × the ends of every parameter's domain.  Every loss is certified
on whole rows too: confident, flat, masked with -inf, and offset by 3000, statistics included.

    error <= bound·(1 + kappa) ulp,   kappa(z) = |z·f'(z)/f(z)| + the same for every parameter

An error below 1e-37 absolute is underflow, not inaccuracy; nor is one below 1e-34 in a row's
gradient, as the distance of two softmaxes' logarithms is clipped to ±80.  A spec may state a
scale: errors and kappa are relative to it where the true value is smaller.
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
from lossgen.ir.rows import Row, rows_limit
from lossgen.ir.rows_float32 import rows_float32
from lossgen.ir.stages import Certificate, Pivot, StableLoss
from lossgen.ir.statistics import Form
from lossgen.passes.condition import of_parameters, of_streams, scales, sensitivity, spread
from lossgen.passes.samples import parameter_points, sample_rows, used_symbols

__all__ = ["BOUND", "certify"]

BOUND = 4.0
_ULP = 2.0**-23
_TINY = 1e-37
_CLIPPED = 1e-34
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
    """Attach the certificate; choose clamping at z = ±inf, and the cheapest program that is
    accurate enough.

    Raises:
        CompileError: an error above the bound, with the point where it was found.
    """
    try:
        return _certified(stable)
    except CompileError:
        if stable.dearer is None:
            raise
    return _certified(stable.dearer)


def _certified(stable: StableLoss) -> StableLoss:
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
        terms = [(t.name or t.role, t.expr.span) for t in spec.terms]
        name, span = [*terms, *((o.name, o.expr.span) for o in spec.outputs)][0]
        raise CompileError(
            f"the {which} is not accurate in float32: off by {ulp:.3g} ulp, which is {kappa:.3g} "
            f"times (1 + condition number), at {where}; {bound:g} are allowed",
            location=spec.location_of(name, span),
            hint="write the formula without the cancellation, narrow a parameter's domain, or "
            "state what is enough: `accuracy: {ulp: ..., reason: ...}`",
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
    """Is a function NaN at z = ±inf, but finite at the largest float, for any parameters?"""
    if not stable.forms:
        return False
    names = stable.vocabulary
    for expr in exprs:
        used = [n for n, s in names.parameters.items() if s in expr.free_symbols]
        for point in parameter_points(stable.spec, used):
            far, near = (_at_ends(stable, expr, point, z) for z in (np.inf, 3e38))
            if any(np.isnan(a) and np.isfinite(b) for a, b in zip(far, near, strict=True)):
                return True
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
        truth = rows_limit(before, row)
        if truth is None:
            return
        results, gradients = truth
        worst.real += 1
        values, slopes = rows_float32(stable, row)
        width = spread(row, stable)
        where = f"a row with logits {_spelled(row.x)}, target {row.y}"
        where += "".join(f", {n} = {_spelled(v)}" for n, v in row.streams.items())
        where += "".join(f", {n} = {v:g}" for n, v in row.parameters.items())
        by_loss, by_gradient = of_parameters(before, row, results, gradients, worst.unit)
        for k, (value, gold) in enumerate(zip(values, results, strict=True)):
            error = abs(mp.mpf(value) - gold)
            if error <= _TINY:
                continue
            kappa = by_loss[k]
            if stable.outputs or stable.twins:
                kappa += width  # the gradient says nothing of one value
            elif gold != 0:
                kappa += float(sensitivity(stable, row, gradients) / worst.unit(gold))
            found = f" ({value:.6g} instead of {mp.nstr(gold, 6)})"
            worst.add("loss", float(error / worst.unit(gold) / _ULP), kappa, where + found)
        by_streams = of_streams(before, row, gradients, worst.unit)
        for slope, gradient, apart in zip(slopes, gradients, by_streams, strict=True):
            largest = max(abs(g) for g in gradient)
            errors = [abs(mp.mpf(float(s)) - g) for s, g in zip(slope, gradient, strict=True)]
            error = max(errors) if np.isfinite(slope).all() else mp.inf
            if error > _CLIPPED:
                ulp = float(error / worst.unit(largest) / _ULP)
                worst.add("gradient", ulp, by_gradient + apart + width + scales(row), where)


def _spelled(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{v:.4g}' for v in values)}]"
