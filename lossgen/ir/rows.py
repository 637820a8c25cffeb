"""A whole row program, statistics included, in one of two number systems: float32 with running
maximum and moments, as the kernels compute, or mpmath with sums as defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from math import comb
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from sympy import Expr, Symbol

from lossgen.ir.evaluate import float32, high_precision
from lossgen.ir.ops import OPS
from lossgen.ir.stages import Centre, Form, GradedLoss, Pivot, Sum

__all__ = ["Row", "rows_float32", "rows_mpmath"]

Array = NDArray[np.float32]
Env = Mapping[Symbol, Any]


@dataclass(frozen=True)
class Row:
    """One row of inputs: logits, target class, and values for the other names of a program."""

    x: tuple[float, ...]
    y: int
    vocab: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, float]
    parameters: Mapping[str, float]
    streams: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # beside the logits

    def along(self) -> dict[str, tuple[float, ...]]:
        """Everything that has a value per class, by name."""
        return {"x": self.x, **self.streams, **self.vocab}


#: What multiplies the outputs of a program that has several, to differentiate them at once.
_COTANGENTS = (0.75, -1.25, 0.5, 2.0, -0.625, 1.5)


def _pairs(program: GradedLoss) -> dict[str, tuple[Symbol, Symbol]]:
    return {**program.vocabulary.streams, **program.vocabulary.vocab}


def _classes(row: Row, pivot: Pivot) -> tuple[int | None, list[int]]:
    if pivot is Pivot.NONE:
        return None, list(range(len(row.x)))
    y = row.y if pivot is Pivot.TARGET else int(np.argmax(row.x))
    return y, [j for j in range(len(row.x)) if j != y]


def _raw(program: GradedLoss, row: Row, number: Callable[[float], Any]) -> dict[Symbol, Any]:
    names = program.vocabulary
    env: dict[Symbol, Any] = {names.classes: number(float(len(row.x)))}
    given = row.parameters
    env |= {s: number(given[n]) for n, s in names.parameters.items() if n in given}
    env |= {s: number(row.rows[n]) for n, s in names.rows.items() if n in row.rows}
    env |= {g: number(v) for g, v in zip(names.cotangents, cycle(_COTANGENTS), strict=False)}
    y, _ = _classes(row, program.pivot)
    if y is not None:
        along = row.along()
        env |= {s[1]: number(along[n][y]) for n, s in _pairs(program).items() if n in along}
        env[names.index[1]] = number(float(y))
    return env


def _tile(
    program: GradedLoss, row: Row, j: int, number: Callable[[float], Any]
) -> dict[Symbol, Any]:
    along = row.along()
    env = {s[0]: number(along[n][j]) for n, s in _pairs(program).items() if n in along}
    return env | {program.vocabulary.index[0]: number(float(j))}


def _levels(program: GradedLoss) -> range:
    return range(1, 1 + program.last_level)


def _over(program: GradedLoss, others: list[int], size: int) -> list[int]:
    """The classes that a maximum runs over."""
    return others if program.pivot is Pivot.TARGET else list(range(size))


# ---------------------------------------------------------------------------- reference
def rows_mpmath(program: GradedLoss, row: Row) -> tuple[list[Any], list[list[Any]]]:
    """(results, gradient per stream) of the differentiated, not yet stabilised program."""
    number = mp.mpf
    env = _raw(program, row, number)
    y, others = _classes(row, program.pivot)
    tiles = {j: _tile(program, row, j, number) for j in range(len(row.x))}

    def value(expr: Expr, extra: Mapping[Symbol, Any] | None = None) -> Any:
        known = env | dict(extra or {})
        symbols = sorted(expr.free_symbols, key=str)
        return high_precision(expr, symbols)(*(known[s] for s in symbols))

    for centre in program.centres:
        for j in tiles:
            apart = value(centre.expr, tiles[j]) - value(centre.expr_y)
            tiles[j][centre.symbol] = value(centre.factor) * apart
    for level in _levels(program):
        for form in (f for f in program.forms if f.level == level):
            ell_y = value(form.ell_y)
            low = mp.log(mp.fsum(mp.exp(value(form.ell, tiles[j])) for j in others))
            z = low - ell_y
            total = mp.log(mp.exp(low) + mp.exp(ell_y))
            env |= {
                form.z: z,
                form.L: total,
                form.joint: low
                - mp.fsum(value(rate * program.forms[k].L) for k, rate in form.parts),
                form.top: total - max((value(form.ell, tiles[j]) for j in others), default=low),
                form.P: 1 / (1 + mp.exp(z)),
                form.Q: 1 / (1 + mp.exp(-z)),
                form.s: mp.log1p(mp.exp(z)),
                form.r: mp.log1p(mp.exp(-z)),
            }
            for j in range(len(row.x)):
                ell = value(form.ell, tiles[j])
                tiles[j] |= {form.logp: ell - total, form.R: mp.exp(ell - low)}
        for entry in (e for e in program.sums if e.level == level):
            env[entry.symbol] = mp.fsum(value(entry.body, tiles[j]) for j in others)
        for largest in (m for m in program.maxes if m.level == level):
            left = _over(program, others, len(row.x))
            if largest.below is not None:
                left = [j for j in left if tiles[j][program.maxes[largest.below].select] == 0]
            values = [value(largest.body, tiles[j]) for j in left]
            best = max(values, default=-mp.inf)
            env[largest.symbol] = best
            first = next((j for j, v in zip(left, values, strict=True) if v == best), -1)
            env[largest.index] = number(max(first, 0))
            for j in tiles:
                tiles[j][largest.select] = mp.mpf(int(j == first))
                if largest.form is not None:
                    p = mp.exp(tiles[j][program.forms[largest.form].logp])
                    tiles[j][largest.rise] = tiles[j][largest.select] - p
    gradients = [
        [
            value(gradient.at_y)
            if j == y
            else mp.fsum(value(c) * value(b, tiles[j]) for c, b in gradient.terms)
            for j in range(len(row.x))
        ]
        for gradient in program.gradients
    ]
    return [value(e) for e in program.results], gradients


# ---------------------------------------------------------------------------- as the kernel
def rows_float32(
    program: GradedLoss, row: Row, clamp: bool = True
) -> tuple[list[float], list[Array]]:
    """(results, gradient per stream) of the stabilised program in float32, through (m, log A)
    and moments."""
    number = np.float32
    env = _raw(program, row, number)
    y, others = _classes(row, program.pivot)
    size = len(others)
    along = row.along()
    tile: dict[Symbol, Any] = {
        s[0]: np.array([along[n][j] for j in others], np.float32)
        for n, s in _pairs(program).items()
        if n in along
    }
    tile[program.vocabulary.index[0]] = np.array(others, np.float32)
    known = lambda: env | tile  # noqa: E731
    with np.errstate(all="ignore"):
        for centre in program.centres:
            tile[centre.symbol] = _centred(centre, env, known())
        for level in _levels(program):
            for form in (f for f in program.forms if f.level == level):
                env |= _softmax(form, env, size, float32(form.base, known()), tile)
                env |= _beside_uniform(form, env, np.float32(np.log(len(row.x))), tile)
            for entry in (e for e in program.sums if e.level == level):
                env[entry.symbol] = _sum(entry, program.forms, known(), size)
            for k, largest in enumerate(program.maxes):
                if largest.level == level:
                    _maximum(program, k, row, env, tile, others)
        clamped = (
            env
            | {f.z: np.clip(env[f.z], np.float32(-3e38), np.float32(3e38)) for f in program.forms}
            if clamp
            else env
        )
        results = [float(float32(e, env)) for e in program.results]
        gradients = []
        for gradient in program.gradients:
            values = np.zeros(len(row.x), np.float32)
            total = np.float32(0.0)
            for coefficient, basis in gradient.terms:
                total = total + float32(coefficient, clamped) * float32(basis, clamped | tile)
            values[others] = total
            if y is not None:
                values[y] = float32(gradient.at_y, clamped)
            gradients.append(values)
    return results, gradients


def _centred(centre: Centre, env: Env, known: Env) -> Array:
    """factor·(c_j - c_y) in the order of the kernels."""
    near = float32(centre.expr_y, env)
    far = np.abs(near) > 1 if len(centre.pairs) > 1 else np.True_
    total = -np.where(far, 0, near).astype(np.float32)
    for term, at_y in centre.pairs[::-1]:
        apart = float32(term, known) - np.where(far, float32(at_y, env), 0).astype(np.float32)
        total = (apart + total).astype(np.float32)
    return (total * float32(centre.factor, env)).astype(np.float32)


def _maximum(
    program: GradedLoss,
    k: int,
    row: Row,
    env: dict[Symbol, Any],
    tile: dict[Symbol, Any],
    others: list[int],
) -> None:
    """The value of a maximum, its index, and where it is among the other classes."""
    largest = program.maxes[k]
    over = _over(program, others, len(row.x))
    everywhere = {s: np.array([v], np.float32) for s, v in env.items()}
    values = []
    for j in over:
        raw = _tile(program, row, j, np.float32)
        values.append(float(np.max(float32(largest.body, everywhere | raw))))
    if largest.below is not None:
        taken = int(env[program.maxes[largest.below].index])
        values = [-np.inf if j == taken else v for j, v in zip(over, values, strict=True)]
    first = int(np.argmax(values)) if values else 0
    env[largest.symbol] = np.float32(values[first] if values else -np.inf)
    env[largest.index] = np.float32(over[first] if over else 0)
    chosen = np.array(others) == env[largest.index]
    tile[largest.select] = chosen.astype(np.float32)
    if largest.form is not None:
        form = program.forms[largest.form]
        beside = np.float32(-np.expm1(-env[form.top].astype(np.float64)))
        tile[largest.rise] = np.where(chosen, beside, -np.exp(tile[form.logp]))


def _softmax(
    form: Form, env: Env, size: int, ell: Array, tile: dict[Symbol, Any]
) -> dict[Symbol, Any]:
    softplus = OPS["softplus"].numpy
    ell = np.broadcast_to(ell, (size,)).astype(np.float32)
    ell_y, shift, scale = (float32(e, env) for e in (form.base_y, form.shift_y, form.scale))
    if form.parts:  # relative to the maxima of its parts
        ell = np.maximum(_mixed(form, "t", {**env, **tile}), np.float32(-1e18))
        ell_y, shift, scale = -_mixed(form, "gap", {**env, **tile}), 0, np.float32(1)
    m = ell.max() if ell.size else np.float32(-np.inf)
    m = np.float32(0) if np.isneginf(m) else m
    t = (scale * (ell - m)).astype(np.float32)
    gap = np.float32(scale * np.float32(m - ell_y)) - shift
    log_a = np.log(np.exp(t).astype(np.float32).sum(dtype=np.float32)).astype(np.float32)
    z = np.float32(gap + log_a)
    lam = (
        np.float32(log_a + np.float32(softplus(-z)))
        if z > 0
        else np.float32(np.float32(softplus(z)) - gap)
    )
    tile[form.logp] = np.maximum(t, np.float32(-1e18)) - lam
    tile[form.R] = np.exp(t) * (np.float32(0) if np.isneginf(log_a) else np.exp(-log_a))
    tile |= {Symbol(f"t{form.index}"): t, Symbol(f"gap{form.index}"): gap}
    tile |= {Symbol(f"la{form.index}"): log_a, Symbol(f"lam{form.index}"): lam}
    apart = _mixed(form, "lam", {**env, **tile}) if form.parts else np.float32(0)
    top = _top(np.exp(t).astype(np.float32), gap, z)
    whole = np.float32(scale * m + lam)
    joint = np.float32(np.float32(m + log_a) - apart)
    return {form.z: z, form.L: whole, form.top: top, form.joint: joint}


def _beside_uniform(form: Form, env: Env, even: Any, tile: dict[Symbol, Any]) -> dict[Symbol, Any]:
    """log(V·p) of the classes and of y."""
    t, lam, gap = (tile[Symbol(f"{name}{form.index}")] for name in ("t", "lam", "gap"))
    lam = np.float32(lam - even)
    tile[form.logu] = (np.maximum(t, np.float32(-1e18)) - lam).astype(np.float32)
    far = np.float32(even - np.float32(OPS["softplus"].numpy(env[form.z])))
    return {form.logu_y: np.float32(-gap - lam) if env[form.z] > -1 else far}


def _mixed(form: Form, name: str, env: Env) -> Any:
    """Σ rate·value of the parts, by the name of the value."""
    values = {k: Symbol(f"{name}{k}", real=True) for k, _ in form.parts}
    floor = -1e18 if name == "t" else -np.inf  # exponents of masked classes
    own = {v: np.maximum(env[Symbol(f"{name}{k}")], np.float32(floor)) for k, v in values.items()}
    return float32(form.mixed(values), dict(env) | own)


def _top(exponentials: Array, gap: Any, z: Any) -> Any:
    """L - m from what the other classes beside the largest hold."""
    if not exponentials.any():
        return np.float32(np.inf)
    largest = exponentials == 1
    rest = np.float32(exponentials[~largest].sum(dtype=np.float32) + (largest.sum() - 1))
    if z > 0:
        return np.float32(np.log1p(np.float32(rest + np.exp(np.float32(-gap)))))
    return np.float32(np.float32(OPS["softplus"].numpy(z)) - gap)


def _sum(entry: Sum, forms: tuple[Form, ...], env: Env, size: int) -> Any:
    if entry.form is None:
        return np.sum(np.broadcast_to(float32(entry.body, env), (size,)), dtype=np.float32)
    form = forms[entry.form]
    if entry.against is not None:
        return _divergence(*(env[Symbol(f"t{k}")] for k in (entry.form, entry.against)))
    t, lam = env[Symbol(f"t{form.index}")], env[Symbol(f"lam{form.index}")]
    if entry.others:
        lam = env[Symbol(f"la{form.index}")]
    kappa = float32(entry.kappa, env)
    weight = float32(entry.weight, env)
    if entry.centre is not None:
        weight = weight * env[entry.centre]
    finite = np.maximum(t, np.float32(-1e18)) if kappa != 0 else t
    exponential = np.exp(kappa * finite).astype(np.float32) if kappa != 0 else np.ones_like(t)
    total = np.float32(0)
    for k in range(entry.power + 1):
        parts = weight * exponential * finite**k
        moment = np.sum(np.where(exponential == 0, np.float32(0), parts), dtype=np.float32)
        total = total + np.float32(comb(entry.power, k)) * (-lam) ** (entry.power - k) * moment
    return np.float32(np.exp(-kappa * lam) * total)


def _divergence(t: Array, other: Array) -> Any:
    """Σ R·log(R/R') from the two running maxima, as ``emit.scalars`` has it."""
    e, e_other = (np.exp(v).astype(np.float32) for v in (t, other))
    apart = (other - t).astype(np.float32)
    near = np.abs(apart) < 1
    close = e * np.expm1(np.clip(apart, -1, 1).astype(np.float64)).astype(np.float32)
    gap = np.where(near, close, e_other - e).sum(dtype=np.float32)
    mean = np.where(e > 0, e * -apart, np.float32(0)).sum(dtype=np.float32)
    total, total_other = (v.sum(dtype=np.float32) for v in (e, e_other))
    if total == 0:
        return np.float32(0)
    mean = np.float32(mean / total)
    if np.isposinf(mean):
        return mean
    if abs(2 * gap) < total:
        return np.float32(mean + np.float32(np.log1p(np.float64(np.float32(gap / total)))))
    logs = [np.float32(np.log(np.float64(v))) for v in (total_other, total)]
    return np.float32(mean + np.float32(logs[0] - logs[1]))
