"""Absolute values as the language has them.

    sqrt(x² + x²/a²)   →   sqrt(1 + 1/a²)·Abs(x)   →   sqrt(1 + 1/a²)·absf(x)

SymPy takes the root of a square wherever it meets one: in a constructor, or in what factors a sum.
Its own Abs has no derivative at 0, and no kernel knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sympy import Abs, Expr, Mul, sign, sqrt

from lossgen.ir.ops import absf, sgn
from lossgen.ir.stages import SymbolicLoss, mapped

__all__ = ["absolute", "root", "with_absolutes", "without_abs", "without_signs"]

Stage = TypeVar("Stage", bound=SymbolicLoss)


def absolute(expr: Expr) -> Expr:
    """|expr|"""
    if expr.is_nonnegative:
        return expr
    return -expr if expr.is_nonpositive else absf(expr)


def root(expr: Expr) -> Expr:
    """sqrt(expr)"""
    return without_abs(sqrt(expr))


def without_abs(expr: Expr) -> Expr:
    """``expr`` in the vocabulary."""
    if not expr.has(Abs, sign):
        return expr
    return expr.replace(Abs, absolute).replace(sign, sgn)


def without_signs(expr: Expr, held: Callable[[Expr], bool]) -> Expr:
    """|a|·sgn(a) as a, where ``held(a)``."""
    for part in sorted(expr.atoms(absf), key=str):
        (a,) = part.args
        if held(a):
            expr = expr.xreplace(
                {
                    product: product / part / sgn(a) * a
                    for product in expr.atoms(Mul)
                    if {part, sgn(a)} <= {*product.args}
                }
            )
    return expr


def with_absolutes(stage: Stage) -> Stage:
    """A stage in the vocabulary."""
    return mapped(stage, without_abs)
