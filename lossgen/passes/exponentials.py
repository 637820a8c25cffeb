"""Exponentials of the parser, and e^(logp + L) as e^x inside of a function.

    exp(-p_j·e^L)   →   exp(-e^(x_j))          (e^a)^b   →   e^(a·b)

An exponential of logits is parsed as one of a softmax, of which sums are made.  Inside of another
function that costs a sweep, and is 0·∞ where L is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sympy import Expr, Integer, Mul, exp, expand

from lossgen.ir.statistics import Form
from lossgen.passes.absolute import without_abs

__all__ = ["expand_exp", "opened", "power"]


def opened(expr: Expr, forms: Sequence[Form]) -> Expr:
    """``expr`` without the softmaxes whose log-sum-exps then drop out."""
    for form in forms:
        if form.L in expr.free_symbols:
            found = expr.replace(lambda node: isinstance(node, Mul), partial(_merged, form))
            expr = expr if form.L in found.free_symbols else found
    return expr


def _merged(form: Form, product: Expr) -> Expr:
    """Its exponentials as one, if L drops out."""
    exponent, rest = Integer(0), Integer(1)
    for factor in product.args:
        base, order = factor.as_base_exp()
        if isinstance(factor, exp):
            exponent += factor.args[0]
        elif base == form.P:
            exponent += order * (form.ell_y - form.L)
        else:
            rest *= factor
    exponent = expand(exponent.xreplace({form.logp: form.ell - form.L}))
    return product if form.L in exponent.free_symbols else rest * exp(exponent)


def power(base: Expr, exponent: Expr) -> Expr:
    """base^exponent, of an exponential an exponential."""
    if isinstance(base, exp):
        return expand_exp(base.args[0] * exponent)
    return without_abs(base**exponent)


def expand_exp(argument: Expr) -> Expr:
    """exp of a sum of products."""
    return exp(expand(argument))
