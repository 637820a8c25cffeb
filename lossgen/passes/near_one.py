"""Logarithms of what is near 1, of anything:  log(1 + u)  →  log1p(u).

The last rewrite: logarithms of probabilities have become others by then (``passes.rules``), and
what is left is what an author wrote of logits and inputs, as log(1 + x²) of a small x.
"""

from __future__ import annotations

from sympy import Add, Expr, log

from lossgen.ir.ops import log1p
from lossgen.ir.stages import StableLoss, mapped

__all__ = ["near_one"]


def near_one(stable: StableLoss) -> StableLoss:
    """The same functions, with such logarithms in them."""
    return mapped(stable, _logs)


def _logs(expr: Expr) -> Expr:
    if not expr.has(log):
        return expr
    return expr.replace(lambda e: isinstance(e, log) and _is_near_one(e.args[0]), _log1p)


def _is_near_one(expr: Expr) -> bool:
    """Is it 1 and something else? 1 and a number apart: log(3/2 + u) has no such digits."""
    return isinstance(expr, Add) and expr.as_coeff_Add()[0] == 1


def _log1p(expr: Expr) -> Expr:
    return log1p(expr.args[0] - 1)
