"""Whole row programs with running maxima and moments, as the kernels compute them: in float32, or
in float64 and rounded at the end.

Rows of one number of classes are computed together: a row value is [N, 1], a class value [N, J]
over the J classes other than y (over all where no class is distinguished).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Expr, Mul, Symbol, exp

from lossgen.ir.bernoulli import bernoulli
from lossgen.ir.evaluate import Real, evaluated, real_of
from lossgen.ir.ops import OPS
from lossgen.ir.rows import COTANGENTS, MASKED, Row, classes, levels, pairs
from lossgen.ir.stages import GradedLoss, Pivot, StableLoss
from lossgen.ir.statistics import Centre, Form, Sum

__all__ = ["rounded_rows"]

Array = NDArray[Any]
Env = Mapping[Symbol, Any]
_INF = np.float32(np.inf)
_ZERO = np.float32(0)
_FLOOR = np.float32(-1e18)


def rounded_rows(program: StableLoss, rows: Sequence[Row]) -> tuple[Array, list[Array]]:
    """Results [N, n] and gradients [N, V], one per differentiable stream, of the stabilised
    program in its arithmetic, through (m, log A) and moments; rounded to float32."""
    real = real_of(program.arithmetic)
    with np.errstate(all="ignore"):
        results, gradients = _Rows(program, _Batch(program, rows, real), real).run()
        return results.astype(np.float32), [g.astype(np.float32) for g in gradients]


class _Batch:
    """The numbers of the rows, one array for each name."""

    def __init__(self, program: GradedLoss, rows: Sequence[Row], real: Real) -> None:
        self.real = real
        names = program.vocabulary
        self.size, self.classes = len(rows), len(rows[0].x)
        found = [classes(program, row) for row in rows]
        self.y = None if found[0][0] is None else np.array([y for y, _ in found])[:, None]
        count = self.classes - (self.y is not None)
        self.others = np.array([o for _, o in found], np.int64).reshape(self.size, count)
        along = [row.along() for row in rows]
        self.wide = {
            n: np.array([a[n] for a in along], self.real) for n in pairs(program) if n in along[0]
        }
        self.env: dict[Symbol, Any] = {names.classes: self.real(self.classes)}
        for values, symbols in (
            ([r.parameters for r in rows], names.parameters),
            ([r.rows for r in rows], names.rows),
        ):
            self.env |= {
                s: np.array([[v[n]] for v in values], self.real)
                for n, s in symbols.items()
                if n in values[0]
            }
        self.env |= {g: self.real(COTANGENTS[k % 6]) for k, g in enumerate(names.cotangents)}
        if self.y is not None:
            self.env |= {
                s[1]: self.at(self.wide[n]) for n, s in pairs(program).items() if n in self.wide
            }
            self.env[names.index[1]] = self.y.astype(self.real)
            x_y = self.at(self.wide["x"])
            self.env[names.x_ref] = np.where(x_y > MASKED, x_y, _ZERO)
            self.env[names.x_own] = np.where(x_y > MASKED, _ZERO, x_y)

    def at(self, values: Array) -> Array:
        """The values at y [N, 1]."""
        assert self.y is not None
        return np.take_along_axis(values, self.y, 1)

    def beside(self, values: Array) -> Array:
        """The values of the classes of a sum [N, J]."""
        return np.take_along_axis(values, self.others, 1)

    def tile(self, program: GradedLoss, whole: bool = False) -> dict[Symbol, Any]:
        """The raw class values, of all classes or of those of a sum."""
        pick = (lambda values: values) if whole else self.beside
        index = np.broadcast_to(np.arange(self.classes, dtype=self.real), (self.size, self.classes))
        found = {s[0]: pick(self.wide[n]) for n, s in pairs(program).items() if n in self.wide}
        return found | {program.vocabulary.index[0]: pick(index)}


def _sum_of(values: Any, real: Real) -> Any:
    return np.asarray(np.sum(values, axis=1, keepdims=True, dtype=real))


def _max_of(values: Any) -> Any:
    return np.asarray(np.max(values, axis=1, keepdims=True, initial=-_INF))


def _softplus(value: Any, real: Real) -> Any:
    return np.asarray(OPS["softplus"].numpy(value)).astype(real)


@dataclass
class _Rows:
    program: StableLoss
    batch: _Batch
    real: Real

    def __post_init__(self) -> None:
        self.env: dict[Symbol, Any] = dict(self.batch.env)
        self.tile: dict[Symbol, Any] = self.batch.tile(self.program)
        self.shape = self.batch.others.shape

    def read(self, expr: Expr, env: Env) -> Any:
        return evaluated(expr, env, self.real)

    @property
    def known(self) -> dict[Symbol, Any]:
        return self.env | self.tile

    def run(self) -> tuple[Array, list[Array]]:
        program, env, tile = self.program, self.env, self.tile
        for centre in (c for c in program.centres if not c.softmaxes):
            tile[centre.symbol] = _centred(centre, env, self.known, self.real)
        for level in levels(program):
            for form in (f for f in program.forms if f.level == level):
                self._softmax(form)
                self._beside_uniform(form)
            for centre in (c for c in program.centres if c.softmaxes and c.level == level):
                self._difference(centre)
            for entry in (e for e in program.sums if e.level == level):
                env[entry.symbol] = self._sum(entry)
            for k, largest in enumerate(program.maxes):
                if largest.level == level:
                    self._maximum(k)
        return self._results()

    def _results(self) -> tuple[Array, list[Array]]:
        program, env, tile, batch = self.program, self.env, self.tile, self.batch
        ends = self.real(-3e38), self.real(3e38)
        finite = env | {f.z: np.clip(env[f.z], *ends) for f in program.forms}
        ended = finite if program.clamp_loss else env
        one = (batch.size, 1)
        results = [np.broadcast_to(self.read(e, ended), one) for e in program.results]
        clamped = finite if program.clamp_gradient else env
        gradients = []
        for gradient in program.gradients:
            values = np.zeros((batch.size, batch.classes), self.real)
            total: Any = self.real(0.0)
            for coefficient, basis in gradient.terms:
                along = _guarded(program, basis, clamped | tile, self.real)
                total = total + self.read(coefficient, clamped) * along
            np.put_along_axis(values, batch.others, np.broadcast_to(total, self.shape), 1)
            if batch.y is not None:
                at_y = np.broadcast_to(self.read(gradient.at_y, clamped), one)
                np.put_along_axis(values, batch.y, at_y, 1)
            gradients.append(values)
        return np.concatenate(results, 1), gradients

    # ------------------------------------------------------------------ softmaxes
    def _softmax(self, form: Form) -> None:
        env, tile, pivoted = self.env, self.tile, self.program.pivot is Pivot.ARGMAX
        ell: Any = self.read(form.base, self.known)
        ell_y, shift, scale = (self.read(e, env) for e in (form.base_y, form.shift_y, form.scale))
        if form.parts:  # relative to the maxima of its parts
            ell = np.maximum(self._mixed(form, "t"), _FLOOR)
            ell_y, shift, scale = -self._mixed(form, "gap"), _ZERO, self.real(1)
        ell = np.broadcast_to(ell, self.shape).astype(self.real)
        m = _max_of(ell)
        m = np.maximum(m, ell_y) if pivoted else m
        m = np.where(np.isneginf(m), _ZERO, m)
        t = (scale * (ell - m)).astype(self.real)
        gap = (scale * (m - ell_y).astype(self.real) - shift).astype(self.real)
        log_a = np.log(_sum_of(np.exp(t), self.real)).astype(self.real)
        z = (gap + log_a).astype(self.real)
        lam = np.where(
            z > 0, log_a + _softplus(-z, self.real), _softplus(z, self.real) - gap
        ).astype(self.real)
        tile[form.logp] = np.maximum(t, _FLOOR) - lam
        tile[form.R] = np.exp(t) * np.where(np.isneginf(log_a), _ZERO, np.exp(-log_a))
        tile |= {Symbol(f"t{form.index}"): t, Symbol(f"gap{form.index}"): gap}
        tile |= {Symbol(f"la{form.index}"): log_a, Symbol(f"lam{form.index}"): lam}
        apart = self._mixed(form, "lam") if form.parts else _ZERO
        env[form.z], env[form.m] = z, m
        env[form.top] = _top(np.exp(t).astype(self.real), gap, z, self.real)
        env[form.L] = (scale * m + lam).astype(self.real)
        env[form.O] = (scale * m + log_a).astype(self.real)
        env[form.joint] = ((m + log_a).astype(self.real) - apart).astype(self.real)

    def _beside_uniform(self, form: Form) -> None:
        """log(V·p) of the classes and of y."""
        even = self.real(np.log(self.batch.classes))
        t, lam, gap = (self.tile[Symbol(f"{name}{form.index}")] for name in ("t", "lam", "gap"))
        lam = (lam - even).astype(self.real)
        z = self.env[form.z]
        self.tile[form.logu] = (np.maximum(t, _FLOOR) - lam).astype(self.real)
        far = (even - _softplus(z, self.real)).astype(self.real)
        self.env[form.logu_y] = np.where(z > -1, (-gap - lam).astype(self.real), far)

    def _mixed(self, form: Form, name: str) -> Any:
        """Σ rate·value of the parts, by the name of the value."""
        values = {k: Symbol(f"{name}{k}", real=True) for k, _ in form.parts}
        least, most = {"t": (-1e18, np.inf), "gap": (-1e18, 1e18)}.get(name, (-np.inf, np.inf))
        ends = self.real(least), self.real(most)  # masked classes count as finite
        own = {v: np.clip(self.tile[Symbol(f"{name}{k}")], *ends) for k, v in values.items()}
        return self.read(form.mixed(values), self.known | own)

    # ------------------------------------------------------------------ differences of two
    def _difference(self, centre: Centre) -> None:
        program, env, tile = self.program, self.env, self.tile
        apart = _centred(centre, env, self.known, self.real)
        at_y = _centred(centre.at_y(program.forms), env, env, self.real)
        origin: Any = self.real(0)
        if program.measures(centre):
            origin = self._at_largest(centre, apart, at_y)
        tile |= {centre.symbol: apart - origin, centre.apart: apart}
        env[centre.at_largest] = origin
        if len(centre.softmaxes) == 2:
            z, other = (program.forms[k].z for k, _ in centre.softmaxes)
            env[centre.bernoulli] = self.read(bernoulli(z, other), env)
        env[centre.symbol_y] = at_y - origin
        env[centre.lse] = self._lse(centre, at_y) - origin

    def _at_largest(self, centre: Centre, apart: Any, at_y: Any) -> Any:
        """The difference at the largest class of the weight, if it is finite; else 0."""
        found = at_y
        if self.program.pivot is Pivot.TARGET:
            largest = np.exp(self.tile[Symbol(f"t{centre.weight}")]).astype(self.real) == 1
            found = _max_of(np.where(largest, apart, -_INF))
        return np.where(np.abs(found) < 1e18, found, _ZERO).astype(self.real)

    def _lse(self, centre: Centre, at_y: Any) -> Any:
        """The difference of L from the origin, as ``lower.scalars`` has it."""
        env, tile, forms = self.env, self.tile, self.program.forms
        total: Any = self.real(0)
        dominant: Any = np.True_
        for k, sign in centre.softmaxes:
            z, log_a = env[forms[k].z], tile[Symbol(f"la{k}")]
            above = (log_a + _softplus(-z, self.real)).astype(self.real)
            total = (total + sign * np.where(z > 0, above, _softplus(z, self.real))).astype(
                self.real
            )
            dominant = dominant & (z <= 0)
        apart = total
        for k, sign in centre.softmaxes:
            gap = np.where(env[forms[k].z] <= 0, tile[Symbol(f"gap{k}")], _ZERO)
            apart = (apart - sign * gap).astype(self.real)
        return np.where(dominant, (total + at_y).astype(self.real), apart)

    # ------------------------------------------------------------------ maxima and sums
    def _maximum(self, k: int) -> None:
        """The value of a maximum, its index, and where it is among the other classes."""
        program, env, tile, batch = self.program, self.env, self.tile, self.batch
        largest = program.maxes[k]
        whole = program.pivot is not Pivot.TARGET and largest.level == 1
        left = np.broadcast_to(np.arange(batch.classes), (batch.size, batch.classes))
        left = left if whole else batch.others
        raw = batch.tile(program, whole)
        values = self.read(largest.body, env | raw if whole else env | tile | raw)
        values = np.broadcast_to(values, left.shape).astype(self.real)
        if largest.below is not None:
            values = np.where(left == env[program.maxes[largest.below].index], -_INF, values)
        env[largest.symbol] = _max_of(values)
        env[largest.index] = np.zeros((batch.size, 1), self.real)
        if left.shape[1]:
            first = np.argmax(values, axis=1)[:, None]
            env[largest.index] = np.take_along_axis(left, first, 1).astype(self.real)
        chosen = batch.others == env[largest.index]
        tile[largest.select] = chosen.astype(self.real)
        if largest.form is not None:
            form = program.forms[largest.form]
            beside = (-np.expm1(-env[form.top].astype(np.float64))).astype(self.real)
            tile[largest.rise] = np.where(chosen, beside, -np.exp(tile[form.logp]))

    def _sum(self, entry: Sum) -> Any:
        known = self.known
        if entry.form is None:
            return _sum_of(np.broadcast_to(self.read(entry.body, known), self.shape), self.real)
        form = self.program.forms[entry.form]
        if entry.against is not None:
            t, other = (known[Symbol(f"t{k}")] for k in (entry.form, entry.against))
            centre = next(c for c in self.program.centres if c.symbol == entry.centre)
            return _divergence(t, other, known[centre.symbol], known[centre.at_largest], self.real)
        t, lam = known[Symbol(f"t{form.index}")], known[Symbol(f"lam{form.index}")]
        if entry.others:
            lam = known[Symbol(f"la{form.index}")]
        kappa = self.read(entry.kappa, known)
        weight = self.read(entry.weight, known)
        if entry.centre is not None:
            weight = weight * known[entry.centre]
        still = entry.kappa == 0
        finite = t if still else np.maximum(t, _FLOOR)
        exponential = np.ones_like(t) if still else np.exp(kappa * finite).astype(self.real)
        total: Any = self.real(0)
        for k in range(entry.power + 1):
            parts = weight * exponential * finite**k
            void = exponential == 0
            if still and entry.weight != 1:  # 0·∞ is 0: a class of weight zero may be masked
                void = void | (weight == 0)
            moment = _sum_of(np.where(void, _ZERO, parts), self.real)
            total = total + self.real(comb(entry.power, k)) * (-lam) ** (entry.power - k) * moment
        value = np.exp(-kappa * lam) * total
        pivoted = self.program.pivot is Pivot.ARGMAX and form.index == 0
        if entry.others or not (still or pivoted):  # nothing where there is no other class
            value = np.where(np.isneginf(known[Symbol(f"la{form.index}")]), _ZERO, value)
        return value.astype(self.real)


def _guarded(program: GradedLoss, basis: Expr, env: Env, real: Real) -> Any:
    """A basis, and 0 where a masked class makes it 0·∞, as ``passes.schedule`` has it."""
    value = evaluated(basis, env, real)
    if not basis.free_symbols & {c.symbol for c in program.centres}:
        return value
    weight = Mul(*(f for f in Mul.make_args(basis) if isinstance(f, exp)))
    return np.where(evaluated(weight, env, real) > 0, value, _ZERO)


def _centred(centre: Centre, env: Env, known: Env, real: Real) -> Any:
    """factor·(c_j - origin) in the order of the kernels."""
    near: Any = evaluated(centre.origin, env, real)
    far: Any = np.abs(near) > 1 if len(centre.pairs) > 1 else np.True_
    total: Any = np.where(far, 0, -near).astype(real)
    for term, origin in centre.pairs[::-1]:
        apart: Any = evaluated(term, known, real) - np.where(
            far, evaluated(origin, env, real), 0
        ).astype(real)
        total = np.asarray(apart + total).astype(real)
    return (total * evaluated(centre.factor, env, real)).astype(real)


def _top(exponentials: Any, gap: Any, z: Any, real: Real) -> Any:
    """L - m from what the other classes beside the largest hold."""
    largest = exponentials == 1
    rest = _sum_of(np.where(largest, _ZERO, exponentials), real)
    rest = (rest + (largest.sum(axis=1, keepdims=True) - 1)).astype(real)
    above = np.log1p((rest + np.exp(-gap)).astype(real)).astype(real)
    below = (_softplus(z, real) - gap).astype(real)
    empty = ~exponentials.any(axis=1, keepdims=True)
    return np.where(empty, _INF, np.where(z > 0, above, below)).astype(real)


def _divergence(t: Any, other: Any, delta: Any, origin: Any, real: Real) -> Any:
    """Σ R·log(R/R') from the two running maxima, as ``lower.scalars`` has it."""
    e, e_other = (np.exp(v).astype(real) for v in (t, other))
    apart = -(delta + origin)
    near = np.abs(apart) < 1
    close = e * np.expm1(np.clip(apart, -1, 1).astype(np.float64)).astype(real)
    gap = _sum_of(np.where(near, close, e_other - e), real)
    mean = _sum_of(np.where(e > 0, e * delta, _ZERO), real)
    total, total_other = _sum_of(e, real), _sum_of(e_other, real)
    mean = (mean / total).astype(real) + origin
    close = np.log1p((gap / total).astype(real).astype(np.float64)).astype(real)
    logs = [np.log(v.astype(np.float64)).astype(real) for v in (total_other, total)]
    apart = np.where(np.abs(2 * gap) < total, close, logs[0] - logs[1])
    found = np.where(np.isposinf(mean), mean, (mean + apart).astype(real))
    return np.where(total == 0, _ZERO, found).astype(real)
