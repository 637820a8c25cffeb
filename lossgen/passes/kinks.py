"""What relu, its derivative and the branches of a choice have to do with each other.

relu(u)·[relu(u) ≠ 0]                          →   relu(u)
where(u > 0, 1 - u, 1) - 1 + relu(u)  is 0     in both cases: of u > 0, and of any other
"""

from __future__ import annotations

from sympy import Expr, Integer, Mul, S

from lossgen.ir.ops import lt, ne, relu, where
from lossgen.passes.algebra import expand_products

__all__ = ["chosen_once", "vanishes"]

_CASES = 3  # conditions that are opened within each other


def chosen_once(expr: Expr) -> Expr:
    """``expr`` without [a ≠ 0] beside a power of a."""
    if not expr.has(ne):
        return expr
    expr = expr.func(*map(chosen_once, expr.args)) if expr.args else expr
    if not expr.is_Mul:
        return expr
    powers = expr.as_powers_dict()
    spare = {
        f
        for f in expr.args
        if isinstance(f, ne) and f.args[1] == 0 and powers.get(f.args[0], S.Zero).is_positive
    }
    return Mul(*(f for f in expr.args if f not in spare))


def vanishes(expr: Expr, cases: int = _CASES) -> bool:
    """Is it 0, whichever branch a choice takes?"""
    if expand_products(expr) == 0:
        return True
    choices = sorted(expr.atoms(where), key=str)
    if not choices or not cases:
        return False
    condition = choices[0].args[0]
    return all(vanishes(_in_case(expr, condition, holds), cases - 1) for holds in (True, False))


def _in_case(expr: Expr, condition: Expr, holds: bool) -> Expr:
    """``expr`` where a condition holds, or does not."""
    known: dict[Expr, Expr] = {
        w: w.args[1 if holds else 2] for w in expr.atoms(where) if w.args[0] == condition
    }
    known[condition] = Integer(holds)
    if isinstance(condition, lt) and condition.args[0] == 0:
        u = condition.args[1]
        known |= {relu(u): u if holds else S.Zero, ne(relu(u), S.Zero): Integer(holds)}
    return expr.xreplace(known)
