"""A whole row program in float32 with running maxima and moments, as the kernels compute it."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Expr, Mul, Symbol, exp

from lossgen.ir.bernoulli import bernoulli
from lossgen.ir.evaluate import float32
from lossgen.ir.ops import OPS
from lossgen.ir.rows import Row, classes, levels, over, pairs, raw_values, tile_values
from lossgen.ir.stages import GradedLoss, Pivot, StableLoss
from lossgen.ir.statistics import Centre, Form, Sum

__all__ = ["rows_float32"]

Array = NDArray[np.float32]
Env = Mapping[Symbol, Any]


def rows_float32(program: StableLoss, row: Row) -> tuple[list[float], list[Array]]:
    """(results, gradient per stream) of the stabilised program in float32, through (m, log A)
    and moments."""
    number = np.float32
    env = raw_values(program, row, number)
    y, others = classes(program, row)
    size = len(others)
    along = row.along()
    tile: dict[Symbol, Any] = {
        s[0]: np.array([along[n][j] for j in others], np.float32)
        for n, s in pairs(program).items()
        if n in along
    }
    tile[program.vocabulary.index[0]] = np.array(others, np.float32)
    known = lambda: env | tile  # noqa: E731
    with np.errstate(all="ignore"):
        for centre in (c for c in program.centres if not c.softmaxes):
            tile[centre.symbol] = _centred(centre, env, known())
        for level in levels(program):
            for form in (f for f in program.forms if f.level == level):
                pivoted = program.pivot is Pivot.ARGMAX
                env |= _softmax(form, env, size, float32(form.base, known()), tile, pivoted)
                env |= _beside_uniform(form, env, np.float32(np.log(len(row.x))), tile)
            for centre in (c for c in program.centres if c.softmaxes and c.level == level):
                apart = _centred(centre, env, known())
                at_y = _centred(centre.at_y(program.forms), env, env)
                origin = np.float32(0)
                if program.measures(centre):
                    origin = _at_largest(program, centre, apart, at_y, tile)
                tile |= {centre.symbol: apart - origin, centre.apart: apart}
                env[centre.at_largest] = origin
                if len(centre.softmaxes) == 2:
                    z, other = (program.forms[k].z for k, _ in centre.softmaxes)
                    env[centre.bernoulli] = float32(bernoulli(z, other), env)
                env[centre.symbol_y] = at_y - origin
                env[centre.lse] = _lse(centre, program.forms, env, tile, at_y) - origin
            for entry in (e for e in program.sums if e.level == level):
                env[entry.symbol] = _sum(entry, program, known(), size)
            for k, largest in enumerate(program.maxes):
                if largest.level == level:
                    _maximum(program, k, row, env, tile, others)
        ends = np.float32(-3e38), np.float32(3e38)
        finite = env | {f.z: np.clip(env[f.z], *ends) for f in program.forms}
        ended = finite if program.clamp_loss else env
        results = [float(float32(e, ended)) for e in program.results]
        clamped = finite if program.clamp_gradient else env
        gradients = []
        for gradient in program.gradients:
            values = np.zeros(len(row.x), np.float32)
            total = np.float32(0.0)
            for coefficient, basis in gradient.terms:
                along = _guarded(program, basis, clamped | tile)
                total = total + float32(coefficient, clamped) * along
            values[others] = total
            if y is not None:
                values[y] = float32(gradient.at_y, clamped)
            gradients.append(values)
    return results, gradients


def _guarded(program: GradedLoss, basis: Expr, env: Env) -> Any:
    """A basis, and 0 where a masked class makes it 0·∞, as ``passes.schedule`` has it."""
    value = float32(basis, env)
    if not basis.free_symbols & {c.symbol for c in program.centres}:
        return value
    weight = Mul(*(f for f in Mul.make_args(basis) if isinstance(f, exp)))
    return np.where(float32(weight, env) > 0, value, np.float32(0))


def _centred(centre: Centre, env: Env, known: Env) -> Array:
    """factor·(c_j - origin) in the order of the kernels."""
    near = float32(centre.origin, env)
    far = np.abs(near) > 1 if len(centre.pairs) > 1 else np.True_
    total = -np.where(far, 0, near).astype(np.float32)
    for term, origin in centre.pairs[::-1]:
        apart = float32(term, known) - np.where(far, float32(origin, env), 0).astype(np.float32)
        total = (apart + total).astype(np.float32)
    return (total * float32(centre.factor, env)).astype(np.float32)


def _at_largest(program: StableLoss, centre: Centre, apart: Array, at_y: Any, tile: Env) -> Any:
    """The difference at the largest class of the weight, if it is finite; else 0."""
    found = at_y
    if program.pivot is Pivot.TARGET:
        largest = np.exp(tile[Symbol(f"t{centre.weight}")]).astype(np.float32) == 1
        found = np.max(np.where(largest, apart, np.float32(-np.inf)), initial=-np.inf)
    return np.float32(found if abs(found) < 1e18 else 0)


def _lse(centre: Centre, forms: tuple[Form, ...], env: Env, tile: Env, at_y: Any) -> Any:
    """The difference of L from the origin, as ``emit.scalars`` has it."""
    softplus, total, dominant = OPS["softplus"].numpy, np.float32(0), True
    for k, sign in centre.softmaxes:
        z, log_a = env[forms[k].z], tile[Symbol(f"la{k}")]
        above = np.float32(log_a + np.float32(softplus(-z)))
        total = np.float32(total + sign * (above if z > 0 else np.float32(softplus(z))))
        dominant = dominant and z <= 0
    if dominant:
        return np.float32(total + at_y)
    for k, sign in centre.softmaxes:
        if env[forms[k].z] <= 0:
            total = np.float32(total - sign * tile[Symbol(f"gap{k}")])
    return total


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
    left = over(program, largest, others, len(row.x))
    everywhere = {s: np.array([v], np.float32) for s, v in env.items()}
    values = []
    for j in left:
        known = tile_values(program, row, j, np.float32)
        if left == others:
            known |= {s: v[others.index(j)] for s, v in tile.items() if np.ndim(v)}
        values.append(float(np.max(float32(largest.body, everywhere | known))))
    if largest.below is not None:
        taken = int(env[program.maxes[largest.below].index])
        values = [-np.inf if j == taken else v for j, v in zip(left, values, strict=True)]
    first = int(np.argmax(values)) if values else 0
    env[largest.symbol] = np.float32(values[first] if values else -np.inf)
    env[largest.index] = np.float32(left[first] if left else 0)
    chosen = np.array(others) == env[largest.index]
    tile[largest.select] = chosen.astype(np.float32)
    if largest.form is not None:
        form = program.forms[largest.form]
        beside = np.float32(-np.expm1(-env[form.top].astype(np.float64)))
        tile[largest.rise] = np.where(chosen, beside, -np.exp(tile[form.logp]))


def _softmax(
    form: Form, env: Env, size: int, ell: Array, tile: dict[Symbol, Any], pivoted: bool
) -> dict[Symbol, Any]:
    softplus = OPS["softplus"].numpy
    ell = np.broadcast_to(ell, (size,)).astype(np.float32)
    ell_y, shift, scale = (float32(e, env) for e in (form.base_y, form.shift_y, form.scale))
    if form.parts:  # relative to the maxima of its parts
        ell = np.maximum(_mixed(form, "t", {**env, **tile}), np.float32(-1e18))
        ell_y, shift, scale = -_mixed(form, "gap", {**env, **tile}), 0, np.float32(1)
    m = ell.max() if ell.size else np.float32(-np.inf)
    m = max(m, ell_y) if pivoted else m
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
    return {form.z: z, form.L: whole, form.top: top, form.joint: joint, form.m: m}


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
    least, most = {"t": (-1e18, np.inf), "gap": (-1e18, 1e18)}.get(name, (-np.inf, np.inf))
    ends = np.float32(least), np.float32(most)  # masked classes count as finite
    own = {v: np.clip(env[Symbol(f"{name}{k}")], *ends) for k, v in values.items()}
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


def _sum(entry: Sum, program: StableLoss, env: Env, size: int) -> Any:
    if entry.form is None:
        return np.sum(np.broadcast_to(float32(entry.body, env), (size,)), dtype=np.float32)
    form = program.forms[entry.form]
    if entry.against is not None:
        t, other = (env[Symbol(f"t{k}")] for k in (entry.form, entry.against))
        centre = next(c for c in program.centres if c.symbol == entry.centre)
        return _divergence(t, other, env[centre.symbol], env[centre.at_largest])
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


def _divergence(t: Array, other: Array, delta: Array, origin: Any) -> Any:
    """Σ R·log(R/R') from the two running maxima, as ``emit.scalars`` has it."""
    e, e_other = (np.exp(v).astype(np.float32) for v in (t, other))
    apart = -(delta + origin)
    near = np.abs(apart) < 1
    close = e * np.expm1(np.clip(apart, -1, 1).astype(np.float64)).astype(np.float32)
    gap = np.where(near, close, e_other - e).sum(dtype=np.float32)
    mean = np.where(e > 0, e * delta, np.float32(0)).sum(dtype=np.float32)
    total, total_other = (v.sum(dtype=np.float32) for v in (e, e_other))
    if total == 0:
        return np.float32(0)
    mean = np.float32(mean / total) + origin
    if np.isposinf(mean):
        return mean
    if abs(2 * gap) < total:
        return np.float32(mean + np.float32(np.log1p(np.float64(np.float32(gap / total)))))
    logs = [np.float32(np.log(np.float64(v))) for v in (total_other, total)]
    return np.float32(mean + np.float32(logs[0] - logs[1]))
