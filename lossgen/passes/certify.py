"""Measure the emitted functions in float32 against mpmath, and refuse what is not accurate.

A loss that depends on the row through one z is certified as a scalar function: loss and gradient
coefficient on z in [-1e4, 1e4] × the ends of every parameter's domain.  Every loss is certified
on whole rows too: confident, flat, masked with -inf, and offset by 3000, statistics included.

    error <= bound·(1 + kappa) ulp,   kappa(z) = |z·f'(z)/f(z)| + the same for every parameter

An error below 1e-37 absolute is underflow, not inaccuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import mpmath as mp
import numpy as np
from sympy import Expr, Symbol

from lossgen.errors import CompileError
from lossgen.ir.evaluate import Row, float32, high_precision, rows_float32, rows_mpmath
from lossgen.ir.stages import Certificate, Form, GradedLoss, Pivot, StableLoss
from lossgen.spec.model import LossSpec

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
    worst = _Worst()
    if _is_scalar(stable):
        _scalar(stable, worst)
    stable = replace(
        stable,
        clamp_loss=_needs_clamp(stable, [stable.loss]),
        clamp_gradient=_needs_clamp(stable, [c for c, _ in stable.gradient] + [stable.gradient_y]),
    )
    for row in sample_rows(stable):
        _row(stable, row, worst)
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
    )
    return replace(stable, certificate=certificate)


class _Worst:
    def __init__(self) -> None:
        self.loss = (0.0, 0.0, "")
        self.gradient = (0.0, 0.0, "")
        self.points = 0

    def add(self, which: str, error: float, kappa: float, where: str) -> None:
        self.points += 1
        error = error if np.isfinite(error) else float("inf")
        scaled = error / (1.0 + kappa)
        if scaled > getattr(self, which)[1]:
            setattr(self, which, (error, scaled, where))


def _is_scalar(stable: StableLoss) -> bool:
    """Does the row matter through one z alone?"""
    names = stable.vocabulary
    if len(stable.forms) != 1 or stable.pivot is not Pivot.TARGET or len(stable.gradient) != 1:
        return False
    allowed = {stable.forms[0].z, *names.parameters.values(), names.classes}
    used = stable.loss.free_symbols | stable.gradient[0][0].free_symbols
    return used <= allowed


# ---------------------------------------------------------------------------- sample points
def parameter_points(spec: LossSpec, names: Iterable[str]) -> list[dict[str, float]]:
    """The defaults, and each parameter at and near the ends of its domain, one at a time."""
    chosen = list(names)
    defaults = {n: float(np.float32(spec.parameters[n].default)) for n in chosen}
    points = [defaults]
    for name in chosen:
        entry = spec.parameters[name]
        domain, default = entry.domain, float(entry.default)
        low = domain.lo if np.isfinite(domain.lo) else -4.0 * max(1.0, abs(default))
        high = domain.hi if np.isfinite(domain.hi) else 4.0 * max(1.0, abs(default))
        step = (high - low) * 2.0**-10
        ends = [low + step if domain.lo_open else low, high - step if domain.hi_open else high]
        ends += [low + 0.37 * (high - low), low + 0.8 * (high - low)]
        for end in ends:
            value = float(round(end)) if entry.integer else float(np.float32(end))
            if domain.contains(value) and value != defaults[name]:
                points.append(defaults | {name: value})
    return points


def sample_rows(stable: GradedLoss) -> list[Row]:
    """Deterministic rows: confident, flat, wrong, masked, offset; every parameter point."""
    rng = np.random.default_rng(20230711)
    spec, names, size = stable.spec, stable.vocabulary, 7
    used = _used(stable)
    points = parameter_points(spec, [n for n, s in names.parameters.items() if s in used])
    vocab, rows = {}, {}
    for name, entry in spec.inputs.items():
        low, high = entry.range or (0.2, 2.0)
        if entry.kind == "vocab":
            values = rng.uniform(low, high, size).astype(np.float32)
            vocab[name] = tuple(float(v) for v in values)
        else:
            rows[name] = float(np.float32(rng.uniform(low, high)))
    result = []
    for k, point in enumerate(points):
        shapes = range(8) if k == 0 else ((1, 2, 4)[k % 3],)
        for shape in shapes:
            x = rng.normal(0, 1.5, size)
            y = int(rng.integers(size))
            x[y] += (0.0, 12.0, 40.0, 4.0, -12.0, 0.0, 20.0, 90.0)[shape]
            if shape == 5:
                x *= 1e-3
            if shape == 3:
                x += 3000.0
            x = x.astype(np.float32)
            if shape == 6:
                x[(y + 1) % size] = -np.inf
            result.append(Row(tuple(float(v) for v in x), y, vocab, rows, point))
    return result


def _used(stable: GradedLoss) -> set[Symbol]:
    found = stable.loss.free_symbols | stable.gradient_y.free_symbols
    for coefficient, basis in stable.gradient:
        found |= coefficient.free_symbols | basis.free_symbols
    for form in stable.forms:
        found |= form.ell.free_symbols | form.ell_y.free_symbols
    for entry in stable.sums:
        found |= entry.body.free_symbols
    return found


# ---------------------------------------------------------------------------- scalar functions
def _scalar(stable: StableLoss, worst: _Worst) -> None:
    before = stable.before
    assert before is not None
    form, names = stable.forms[0], stable.vocabulary
    symbols = [form.z, *names.parameters.values(), names.classes]
    pairs = [
        ("loss", before.loss, stable.loss),
        ("gradient", before.gradient[0][0], stable.gradient[0][0]),
    ]
    used = _used(stable)
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
        kappa = mp.mpf(0)
        if abs(z) < 1e3 and gold != 0:
            for position in [0, *(1 + i for i in vary.values())]:
                kappa += _condition(function, exact, position, gold)
        error = abs(mp.mpf(value) - gold) if np.isfinite(value) else mp.inf
        if error <= _TINY:
            worst.points += 1
            return
        relative = error / max(abs(gold), mp.mpf(_TINY)) / _ULP
    where = f"z = {z:g}" + "".join(f", {n} = {constants[i]:g}" for n, i in vary.items())
    worst.add(which, float(relative), float(abs(kappa)), where)


def _condition(function: Callable[..., Any], at: list[Any], position: int, gold: Any) -> Any:
    """|v·f'(v)/f| of one argument."""
    if at[position] == 0:
        return mp.mpf(0)
    moved = list(at)
    moved[position] = at[position] * (1 + mp.mpf(10) ** -20)
    try:
        return abs((function(*moved) - gold) / gold) * mp.mpf(10) ** 20
    except (ZeroDivisionError, ValueError):
        return mp.mpf(0)


def _needs_clamp(stable: StableLoss, exprs: list[Expr]) -> bool:
    """Is a function NaN at z = ±inf, but finite at the largest float?"""
    if not stable.forms:
        return False
    names = stable.vocabulary
    defaults = {
        s: np.float32(stable.spec.parameters[n].default) for n, s in names.parameters.items()
    }
    for expr in exprs:
        for infinite, finite in ((np.inf, 3e38), (-np.inf, -3e38)):
            values = []
            for z in (infinite, finite):
                env: dict[Any, Any] = dict.fromkeys(expr.free_symbols, np.float32(0.5))
                env |= {s: v for s, v in defaults.items() if s in env}
                env |= {f.z: np.float32(z) for f in stable.forms}
                values.append(float32(expr, env))
            if np.isnan(values[0]).any() and np.isfinite(values[1]).all():
                return True
    return False


# ---------------------------------------------------------------------------- whole rows
def _row(stable: StableLoss, row: Row, worst: _Worst) -> None:
    before = stable.before
    assert before is not None
    with mp.workdps(150):
        try:
            loss, gradient = rows_mpmath(before, row)
        except (ZeroDivisionError, ValueError):
            return
        if not mp.isfinite(loss) or not all(mp.isfinite(g) for g in gradient):
            return
        value, slopes = rows_float32(stable, row)
        finite = [v for v in row.x if np.isfinite(v)]
        centre = row.x[row.y] if stable.pivot is not Pivot.NONE else 0.0
        spread = max(finite) - min(finite)
        scale = mp.fsum(
            abs((v - centre) * g) for v, g in zip(row.x, gradient, strict=True) if np.isfinite(v)
        )
        where = f"a row with logits {', '.join(f'{v:.4g}' for v in row.x)}, target {row.y}"
        where += "".join(f", {n} = {v:g}" for n, v in row.parameters.items())
        error = abs(mp.mpf(value) - loss)
        by_loss, by_gradient = _parameter_condition(before, row, loss, gradient)
        if error > _TINY:
            kappa = by_loss + (float(scale / abs(loss)) if loss != 0 else 0.0)
            kappa += spread if stable.twins else 0.0  # its gradient says nothing of the value
            worst.add("loss", float(error / max(abs(loss), mp.mpf(_TINY)) / _ULP), kappa, where)
        largest = max(abs(g) for g in gradient)
        error = max(abs(mp.mpf(float(s)) - g) for s, g in zip(slopes, gradient, strict=True))
        if error > _TINY:
            ulp = float(error / max(largest, mp.mpf(_TINY)) / _ULP)
            worst.add("gradient", ulp, by_gradient + spread + _scales(row), where)


def _scales(row: Row) -> float:
    """How far parameters stretch the exponents: x/T and q·x round T or q times as often."""
    return max(
        (max(abs(v), 1 / abs(v)) if v else 0.0 for v in row.parameters.values()), default=0.0
    )


def _parameter_condition(
    before: GradedLoss, row: Row, loss: Any, gradient: list[Any]
) -> tuple[float, float]:
    """Relative change of loss and gradient per relative change of a parameter, summed."""
    of_loss = of_gradient = 0.0
    largest = max(abs(g) for g in gradient)
    for name, value in row.parameters.items():
        if not value:
            continue
        moved = replace(row, parameters={**row.parameters, name: value * (1 + 2.0**-40)})
        try:
            shifted, slopes = rows_mpmath(before, moved)
        except (ZeroDivisionError, ValueError):
            continue
        if loss:
            of_loss += float(abs((shifted - loss) / loss) * 2**40)
        if largest:
            change = max(abs(a - b) for a, b in zip(slopes, gradient, strict=True))
            of_gradient += float(change / largest * 2**40)
    return of_loss, of_gradient
