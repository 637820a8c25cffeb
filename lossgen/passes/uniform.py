"""Probabilities beside the uniform one: what is left where a row is nearly flat.

    c·p_j - c/V   →   (c/V)·expm1(log(V·p_j))     log(V·p_j) = t_j - (lam - log V)
    c·P - c/V     →   (c/V)·expm1(log(V·P))       the same at y, with the same lam - log V

The plain difference keeps an error of one ulp of 1/V; here the classes share what lam was rounded
to, and a gradient does not see what they share.  Squares and products of such differences are
summed as they stand: Σ (p - 1/V)^2 = Σ p^2 - 1/V cancels where the row is flat.
"""

from __future__ import annotations

from collections.abc import Iterator

from sympy import Add, Expr, Mul, Symbol, exp

from lossgen.ir.ops import OPS
from lossgen.ir.statistics import Form

__all__ = ["excess", "excess_of_class", "excess_of_row", "excesses"]

_expm1 = OPS["expm1"].symbol


def excess(expr: Expr) -> tuple[Expr, Expr, Symbol] | None:
    """(c, p, V) of c·p - c/V, for p a symbol or an exponential."""
    if not (isinstance(expr, Add) and len(expr.args) == 2):
        return None
    for one, other in (expr.args, expr.args[::-1]):
        for p in (f for f in Mul.make_args(one) if isinstance(f, (Symbol, exp))):
            share = -other / (one / p)
            if share.is_Pow and share.exp == -1 and _is_count(share.base):
                return one / p, p, share.base
    return None


def _is_count(expr: Expr) -> bool:
    """V, the only symbol that is known to be an integer?"""
    return isinstance(expr, Symbol) and bool(expr.is_integer)


def excesses(expr: Expr) -> Iterator[Expr]:
    """The differences c·p - c/V inside an expression."""
    yield from (n for n in sorted(expr.atoms(Add), key=str) if excess(n) is not None)


def excess_of_row(expr: Expr, forms: tuple[Form, ...]) -> Expr | None:
    """c·P - c/V in its accurate form."""
    found = excess(expr)
    if found is None:
        return None
    c, p, classes = found
    own = next((f for f in forms if p == f.P), None)
    return None if own is None else c * _expm1(own.logu_y) / classes


def excess_of_class(expr: Expr, forms: tuple[Form, ...]) -> Expr:
    """Every c·p_j - c/V of a class expression in its accurate form."""
    for node in excesses(expr):
        found = excess(node)
        assert found is not None
        c, p, classes = found
        for form in forms:
            if p == exp(form.logp):
                expr = expr.xreplace({node: c * _expm1(form.logu) / classes})
    return expr
