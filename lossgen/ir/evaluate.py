"""Numerical readings of an expression: as the kernels compute, and mpmath.

``evaluated`` rounds every operation to float32 (the elementwise functions correctly), or to
float64, in the order in which the printers write it.  ``ir.rows`` runs whole row programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from sympy import Add, Dummy, Expr, Function, Mul, Pow, Rational, Symbol, exp, lambdify, log

from lossgen.ir.numeric import bounded
from lossgen.ir.ops import BUILTINS, OPS

__all__ = ["Real", "evaluated", "high_precision", "paired", "real_of"]

Real = type[np.float32] | type[np.float64]  # of the arithmetic: of every operation
Env = Mapping[Symbol, Any]


def real_of(arithmetic: str) -> Real:
    """The type by its name."""
    return np.float64 if arithmetic == "float64" else np.float32


def evaluated(
    expr: Expr, env: Env, real: Real = np.float32, memo: dict[Expr, Any] | None = None
) -> Any:
    """``expr`` in the arithmetic ``real``; ``env`` holds arrays of that type, which broadcast."""
    memo = {} if memo is None else memo
    if expr in memo:
        return memo[expr]
    with np.errstate(all="ignore"):
        value = np.asarray(_evaluated(expr, env, real, memo)).astype(real)
    memo[expr] = value
    return value


def _evaluated(expr: Expr, env: Env, real: Real, memo: dict[Expr, Any]) -> Any:
    def operand(part: Expr) -> NDArray[Any]:
        return np.asarray(evaluated(part, env, real, memo))

    if isinstance(expr, Symbol):
        return env[expr]
    if not expr.args or expr.is_number:
        return real(np.nan if expr.is_extended_real is False else float(expr))
    if isinstance(expr, (Add, Mul)):
        operation = np.add if isinstance(expr, Add) else np.multiply
        groups = _grouped(expr)
        totals = []
        for group in groups:
            total = operand(group[0])
            for part in group[1:]:
                total = operation(total, operand(part)).astype(real)
            totals.append(total)
        total = totals[0]
        for part in totals[1:]:
            total = operation(total, part).astype(real)
        return total
    arguments = [operand(a).astype(np.float64) for a in expr.args]
    if isinstance(expr, (exp, log)):
        return BUILTINS["exp" if isinstance(expr, exp) else "log"].numpy(arguments[0])
    if isinstance(expr, Pow) and expr.exp == Rational(-1, 2):  # printed so
        return OPS["safe_rsqrt"].numpy(arguments[0])
    if isinstance(expr, Pow):
        return np.power(*arguments)
    return OPS[expr.func.__name__].numpy(*arguments)


@lru_cache(maxsize=4096)
def _grouped(expr: Expr) -> tuple[tuple[Expr, ...], ...]:
    """The operands of a sum or a product, in the order of the printers."""
    # factors in the order that the printers have: 2·a·f may be 0 where 2·f·a is inf·0
    groups = paired(expr) if isinstance(expr, Add) else [list(expr.args)]
    return tuple(map(tuple, groups))


#: A logit of the row: at the target, or the largest.
_LEVEL = re.compile(r"-?(\w+_y|x_ref|\w+_top|max\d+)((?:/\d+)?)")
_TERM = re.compile(r"(-?)(\w+)((?:/\d+)?)")


def paired(expr: Add) -> list[list[Expr]]:
    """The terms in the order of evaluation: first each v - v_y, a difference of its own, which
    is exact (x_y may stand as x_ref, or as x_top, the largest of all), and each x_y - max, of two
    numbers that are as far from 0 as the row is; then the rest as one group."""
    args = sorted(expr.args, key=str)
    by_text = {str(a): a for a in args}
    groups: list[list[Expr]] = []
    used: set[Expr] = set()
    for text, term in by_text.items():
        if (found := _TERM.fullmatch(text)) is None:
            continue
        sign, name, divisor = found.groups()
        stem = name.removesuffix("_y")
        for away in (f"{name}_y", f"{stem}_ref", f"{stem}_top"):
            other = by_text.get(f"{'' if sign else '-'}{away}{divisor}")
            if other is not None and not used & {term, other}:
                groups.append([other, term] if sign else [term, other])
                used |= {term, other}
    levels = {a: m[2] for a in args if a not in used and (m := _LEVEL.fullmatch(str(a)))}
    pairs: list[list[Expr]] = []
    for divisor in sorted(set(levels.values())):
        own = [a for a, per in levels.items() if per == divisor]
        above = [a for a in own if str(a)[0] != "-"]
        below = [a for a in own if str(a)[0] == "-"]
        pairs += [[*pair] for pair in zip(above, below, strict=False)]
    used |= {t for pair in pairs for t in pair}
    rest = [a for a in args if a not in used]
    return [*groups, *pairs, rest] if rest else [*groups, *pairs]


def high_precision(expr: Expr, symbols: Sequence[Symbol]) -> Callable[..., Any]:
    """``expr`` as a function of mpmath numbers, at the working precision of the caller."""
    return _compiled(expr, tuple(symbols))


_POWER = Function("power")  # whose exponent is not constant


def _exp(a: Any) -> Any:
    return mp.exp(bounded(a))


def _power(base: Any, exponent: Any) -> Any:
    return base ** bounded(exponent)


@lru_cache(maxsize=1024)
def _compiled(expr: Expr, symbols: tuple[Symbol, ...]) -> Callable[..., Any]:
    table = {name: op.mp for name, op in OPS.items()} | {"exp": _exp, "power": _power}
    # 2**4096 raised to itself would not fit the memory, and mpmath would abort the process
    expr = expr.replace(
        lambda e: isinstance(e, Pow) and not e.exp.is_Rational, lambda e: _POWER(*e.args)
    )
    # A parameter may be named like a function of the vocabulary: its symbol must not be.
    plain = {s: Dummy(f"v{k}") for k, s in enumerate(symbols)}
    return lambdify(list(plain.values()), expr.xreplace(plain), modules=[table, "mpmath"])
