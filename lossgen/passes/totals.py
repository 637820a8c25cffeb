"""A sum or difference of two values, in its accurate form: the rules for a sum, one after another.

    c - c·where(w, a, b)     →  where(w, c - c·a, c - c·b)      as of the largest p of all classes
    log Σ w·e^l - log Σ e^l  →  log Σ w·p                       by two logarithms, as by one

and those of :mod:`margins`, :mod:`exponentials`, :mod:`labels` and :mod:`subsets`.
"""

from __future__ import annotations

from sympy import Add, Expr, Mul

from lossgen.ir.ops import where
from lossgen.passes.algebra import complement, logistic
from lossgen.passes.exponentials import beside_one
from lossgen.passes.labels import Labels
from lossgen.passes.margins import margin
from lossgen.passes.subsets import Subsets

__all__ = ["total"]


def total(expr: Expr, subsets: Subsets) -> Expr:
    """``expr``, as far as these rules know it."""
    built = subsets.built
    expr = margin(_of_part(expr, subsets), built)
    expr = beside_one(_in_branches(expr), built.forms, built.statistics())
    return subsets.complement(Labels(subsets).total(logistic(expr)))


def _in_branches(expr: Expr) -> Expr:
    constant, rest = expr.as_coeff_Add()
    node = -rest / constant if constant else None
    if not isinstance(node, where):
        return expr
    return where(node.args[0], *(constant - constant * branch for branch in node.args[1:]))


def _of_part(expr: Expr, subsets: Subsets) -> Expr:
    """Of weights between 0 and 1: at 1 it is 0, and not what two logarithms leave."""
    if not isinstance(expr, Add) or not subsets.logs:
        return expr
    plain = complement(expr, subsets.built.forms)
    terms = Add.make_args(plain)
    for own, (form, weight) in subsets.logs.items():
        if not (subsets.is_share(weight.o) and subsets.is_share(weight.y)):
            continue
        for scale in (term / own for term in terms if own in Mul.make_args(term)):
            if -scale * form.s in terms:
                return plain + scale * (subsets.log_of_part(form, weight) - own + form.s)
    return expr
