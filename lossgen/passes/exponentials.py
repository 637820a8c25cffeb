"""Exponentials of the parser, and e^(logp + L) as e^x inside of a function.

    exp(-p_j·e^L)   →   exp(-e^(x_j))          (e^a)^b   →   e^(a·b)
    1 - p_j·e^L     →   1 - e^(x_j)            e^-softplus(u)   →   σ(-u)
    1/(1 + e^u)     →   σ(-u)                  e^u/(1 + e^u)    →   σ(u)

An exponential of logits is parsed as one of a softmax, of which sums are made.  Inside of another
function that costs a sweep, and is 0·∞ where L is infinite; beside 1 it hides an expm1.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial

from sympy import Add, Expr, Integer, Mul, Symbol, exp, expand

from lossgen.ir.ops import sigmoid, softplus
from lossgen.ir.statistics import Form
from lossgen.passes.absolute import without_abs

__all__ = [
    "beside_one",
    "expand_exp",
    "logistic_power",
    "logistic_quotient",
    "opened",
    "power",
]


def opened(expr: Expr, forms: Sequence[Form]) -> Expr:
    """``expr`` without the softmaxes whose log-sum-exps then drop out."""
    for form in forms:
        if form.L in expr.free_symbols:
            found = expr.replace(lambda node: isinstance(node, Mul), partial(_merged, form))
            expr = expr if form.L in found.free_symbols else found
    return expr


def beside_one(expr: Expr, forms: Sequence[Form], statistics: Set[Symbol]) -> Expr:
    """``expr`` with the exponentials of logits that a number is less opened."""
    number, rest = expr.as_coeff_Add()
    if not number or not any(
        (number * t.as_coeff_Mul()[0]).is_negative for t in Add.make_args(rest)
    ):
        return expr
    found = opened(expr, forms)
    alone = not any(node.free_symbols & statistics for node in found.atoms(exp))
    return found if alone else expr  # e^(x - max x) is one of a sum


def logistic_power(exponent: Expr) -> Expr | None:
    """e^exponent, if that is a σ."""
    number, node = exponent.as_coeff_Mul()
    return sigmoid(-node.args[0]) if number == -1 and isinstance(node, softplus) else None


def logistic_quotient(expr: Expr, forms: Sequence[Form]) -> Expr:
    """A quotient by 1 + e^u as a product with a σ."""
    for factor in Mul.make_args(expr):
        base, order = factor.as_base_exp()
        grown = opened(base, forms) - 1 if order == -1 and base.is_Add else None
        if isinstance(grown, exp):
            return _divided(opened(expr / factor, forms), grown)
    return expr


def _divided(above: Expr, grown: exp) -> Expr:
    """``above`` divided by 1 + grown, term by term: neither e^u nor e^-u is left to overflow."""
    if isinstance(above, Add):
        return Add(*(_divided(term, grown) for term in above.args))
    u = grown.args[0]
    if grown in Mul.make_args(above):
        return above / grown * sigmoid(u)
    return above * sigmoid(-u)


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
    found = expand(argument)
    return logistic_power(found) or exp(found)
