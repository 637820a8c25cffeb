"""Numerical readings of a stage: float32 as the kernels compute, and mpmath as the reference.

``float32``  evaluates an expression with every operation rounded to float32 (the elementwise
functions correctly rounded), in the order in which the printers write it.
``rows``     runs a whole row program (statistics included) in one of two number systems: float32
with running maximum and moments, or mpmath with sums as defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from sympy import Add, Dummy, Expr, Mul, Pow, Symbol, exp, lambdify, log

from lossgen.ir.ops import BUILTINS, OPS
from lossgen.ir.stages import Form, GradedLoss, Pivot, Sum

__all__ = ["Row", "float32", "high_precision", "paired", "rows_float32", "rows_mpmath"]

Array = NDArray[np.float32]
Env = Mapping[Symbol, Any]


def float32(expr: Expr, env: Env, memo: dict[Expr, Any] | None = None) -> Any:
    """``expr`` in float32 arithmetic; ``env`` holds float32 arrays that broadcast."""
    memo = {} if memo is None else memo
    if expr in memo:
        return memo[expr]
    with np.errstate(all="ignore"):
        value = np.asarray(_float32(expr, env, memo)).astype(np.float32)
    memo[expr] = value
    return value


def _float32(expr: Expr, env: Env, memo: dict[Expr, Any]) -> Any:
    if isinstance(expr, Symbol):
        return env[expr]
    if not expr.args or expr.is_number:
        return np.float32(float(expr))
    if isinstance(expr, (Add, Mul)):
        operation = np.add if isinstance(expr, Add) else np.multiply
        parts = [float32(a, env, memo) for a in paired(expr)]
        total = parts[0]
        for part in parts[1:]:
            total = operation(total, part).astype(np.float32)
        return total
    if isinstance(expr, (exp, log)):
        twin = BUILTINS["exp" if isinstance(expr, exp) else "log"].numpy
        return twin(float32(expr.args[0], env, memo).astype(np.float64))
    if isinstance(expr, Pow):
        base, exponent = (float32(a, env, memo).astype(np.float64) for a in expr.args)
        return np.power(base, exponent)
    arguments = [float32(a, env, memo).astype(np.float64) for a in expr.args]
    return OPS[expr.func.__name__].numpy(*arguments)


def paired(expr: Expr) -> list[Expr]:
    """The operands in the order of evaluation: x - x_y first, which is exact."""
    args = sorted(expr.args, key=str)
    names = {str(a) for a in args}
    if expr.is_Add and {"x", "-x_y"} <= names:
        args.sort(key=lambda a: {"x": 0, "-x_y": 1}.get(str(a), 2))
    return args


def high_precision(expr: Expr, symbols: Sequence[Symbol]) -> Callable[..., Any]:
    """``expr`` as a function of mpmath numbers, at the working precision of the caller."""
    return _compiled(expr, tuple(symbols))


@lru_cache(maxsize=1024)
def _compiled(expr: Expr, symbols: tuple[Symbol, ...]) -> Callable[..., Any]:
    table = {name: op.mp for name, op in OPS.items()}
    # A parameter may be named like a function of the vocabulary: its symbol must not be.
    plain = {s: Dummy(f"v{k}") for k, s in enumerate(symbols)}
    return lambdify(list(plain.values()), expr.xreplace(plain), modules=[table, "mpmath"])


@dataclass(frozen=True)
class Row:
    """One row of inputs: logits, target class, and values for the other names of a program."""

    x: tuple[float, ...]
    y: int
    vocab: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, float]
    parameters: Mapping[str, float]


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
    y, _ = _classes(row, program.pivot)
    if y is not None:
        env[names.x_y] = number(row.x[y])
        env |= {s[1]: number(row.vocab[n][y]) for n, s in names.vocab.items() if n in row.vocab}
    return env


def _tile(
    program: GradedLoss, row: Row, j: int, number: Callable[[float], Any]
) -> dict[Symbol, Any]:
    names = program.vocabulary
    env = {names.x: number(row.x[j])}
    env |= {s[0]: number(row.vocab[n][j]) for n, s in names.vocab.items() if n in row.vocab}
    return env


# ---------------------------------------------------------------------------- reference
def rows_mpmath(program: GradedLoss, row: Row) -> tuple[Any, list[Any]]:
    """(loss, gradient) of the differentiated, not yet stabilised program, in mpmath."""
    number = mp.mpf
    env = _raw(program, row, number)
    y, others = _classes(row, program.pivot)
    tiles = {j: _tile(program, row, j, number) for j in range(len(row.x))}

    def value(expr: Expr, extra: Mapping[Symbol, Any] | None = None) -> Any:
        known = env | dict(extra or {})
        symbols = sorted(expr.free_symbols, key=str)
        return high_precision(expr, symbols)(*(known[s] for s in symbols))

    for form in program.forms:
        ell_y = value(form.ell_y)
        low = mp.log(mp.fsum(mp.exp(value(form.ell, tiles[j])) for j in others))
        z = low - ell_y
        total = mp.log(mp.exp(low) + mp.exp(ell_y))
        env |= {
            form.z: z,
            form.L: total,
            form.P: 1 / (1 + mp.exp(z)),
            form.Q: 1 / (1 + mp.exp(-z)),
            form.s: mp.log1p(mp.exp(z)),
            form.r: mp.log1p(mp.exp(-z)),
        }
        for j in range(len(row.x)):
            ell = value(form.ell, tiles[j])
            tiles[j] |= {form.logp: ell - total, form.R: mp.exp(ell - low)}
    for entry in program.sums:
        env[entry.symbol] = mp.fsum(value(entry.body, tiles[j]) for j in others)
    for largest in program.maxes:
        values = [value(largest.body, tiles[j]) for j in others]
        env[largest.symbol] = max(values)
        for j, v in zip(others, values, strict=True):
            tiles[j][largest.select] = mp.mpf(int(v == max(values)))
    gradient = [
        value(program.gradient_y)
        if j == y
        else mp.fsum(value(c) * value(b, tiles[j]) for c, b in program.gradient)
        for j in range(len(row.x))
    ]
    return value(program.loss), gradient


# ---------------------------------------------------------------------------- as the kernel
def rows_float32(program: GradedLoss, row: Row, clamp: bool = True) -> tuple[float, Array]:
    """(loss, gradient) of the stabilised program in float32, through (m, log A) and moments."""
    number = np.float32
    env = _raw(program, row, number)
    y, others = _classes(row, program.pivot)
    names = program.vocabulary
    tile: dict[Symbol, Any] = {names.x: np.array([row.x[j] for j in others], np.float32)}
    tile |= {
        s[0]: np.array([row.vocab[n][j] for j in others], np.float32)
        for n, s in names.vocab.items()
        if n in row.vocab
    }
    known = lambda: env | tile  # noqa: E731
    with np.errstate(all="ignore"):
        for form in program.forms:
            env |= _softmax(form, env, tile, y, float32(form.base, known()), tile)
        for entry in program.sums:
            env[entry.symbol] = _sum(entry, program.forms, known())
        for largest in program.maxes:
            values = np.broadcast_to(float32(largest.body, known()), tile[names.x].shape)
            env[largest.symbol] = values.max()
            tile[largest.select] = (np.arange(len(values)) == values.argmax()).astype(np.float32)
        clamped = (
            env
            | {f.z: np.clip(env[f.z], np.float32(-3e38), np.float32(3e38)) for f in program.forms}
            if clamp
            else env
        )
        loss = float32(program.loss, env)
        gradient = np.zeros(len(row.x), np.float32)
        total = np.float32(0.0)
        for coefficient, basis in program.gradient:
            total = total + float32(coefficient, clamped) * float32(basis, clamped | tile)
        gradient[others] = total
        if y is not None:
            gradient[y] = float32(program.gradient_y, clamped)
    return float(loss), gradient


def _softmax(
    form: Form, env: Env, raw: Env, y: int | None, ell: Array, tile: dict[Symbol, Any]
) -> dict[Symbol, Any]:
    softplus = OPS["softplus"].numpy
    ell = np.broadcast_to(ell, raw_shape(raw)).astype(np.float32)
    ell_y, shift, scale = (float32(e, env) for e in (form.base_y, form.shift_y, form.scale))
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
    tile[Symbol(f"t{form.index}")] = t
    return {form.z: z, form.L: np.float32(scale * m + lam), Symbol(f"lam{form.index}"): lam}


def raw_shape(tile: Env) -> tuple[int, ...]:
    """The shape of one row's tile."""
    return max((np.shape(v) for v in tile.values()), key=len)


def _sum(entry: Sum, forms: tuple[Form, ...], env: Env) -> Any:
    if entry.form is None:
        return np.sum(np.broadcast_to(float32(entry.body, env), raw_shape(env)), dtype=np.float32)
    form = forms[entry.form]
    t, lam = env[Symbol(f"t{form.index}")], env[Symbol(f"lam{form.index}")]
    kappa = float32(entry.kappa, env)
    weight = float32(entry.weight, env)
    finite = np.maximum(t, np.float32(-1e18)) if kappa != 0 else t
    exponential = np.exp(kappa * finite).astype(np.float32)
    total = np.float32(0)
    for k in range(entry.power + 1):
        moment = np.sum(weight * exponential * finite**k, dtype=np.float32)
        total = total + np.float32(comb(entry.power, k)) * (-lam) ** (entry.power - k) * moment
    return np.float32(np.exp(-kappa * lam) * total)
