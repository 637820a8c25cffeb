"""Functions of what is near 1, of anything, and what they are above 1.

    log(1 + u)      →   log1p(u)                1 + u may be 2 - p, with u = 1 - p
    (1 + u)^k - 1   →   expm1(k·log1p(u))       and √, and 1/(1 + u) - 1 = -u/(1 + u)
    e^u - 1         →   expm1(u)
    cosh u - 1      →   2·sinh(u/2)²
    cos u - 1       →   -2·sin(u/2)²
    √σ(u)           →   e^(-softplus(-u)/2)     which is small where σ(u) underflows

The last rewrite: logarithms and powers of probabilities have become others by then
(``passes.rules``), and what is left is what an author wrote of logits, inputs and functions, as
log(1 + x²) of a small x.  What tanh and erf leave of 1 is written in ``passes.algebra``, and
acosh(1 + u) in ``passes.parse``, as their derivatives need it too.
"""

from __future__ import annotations

from sympy import Add, Expr, Mul, Pow, exp, log

from lossgen.ir.ops import cos, cosh, expm1, log1p, sigmoid, sin, sinh, softplus
from lossgen.ir.stages import StableLoss, mapped
from lossgen.passes.algebra import logistic

__all__ = ["near_one"]


def near_one(stable: StableLoss) -> StableLoss:
    """The same functions, with such functions in them."""
    return mapped(stable, _rewritten)


def _rewritten(expr: Expr) -> Expr:
    if not expr.args or not expr.has(log, Pow, exp, cosh, cos):
        return expr
    expr = expr.func(*(_rewritten(a) for a in expr.args))
    if isinstance(expr, log):
        above = _above_one(expr.args[0])
        return expr if above is None else log1p(above)
    if isinstance(expr, Pow) and isinstance(expr.base, sigmoid) and not expr.exp.is_integer:
        return exp(-expr.exp * softplus(-expr.base.args[0]))
    return _differences(expr) if isinstance(expr, Add) else expr


def _above_one(expr: Expr) -> Expr | None:
    """u of 1 + u, and no number: log(3/2 + u) has no such digits."""
    if not isinstance(expr, Add):
        return None
    above = logistic(expr - 1)
    return above if above.free_symbols and above.as_coeff_Add()[0] == 0 else None


def _differences(expr: Add) -> Expr:
    """c·f - c of every function f that is 1 where its argument is 0."""
    terms = list(expr.args)
    for term in expr.args:
        for factor in Mul.make_args(term):
            above = _function_above_one(factor)
            partner = -term / factor
            if above is not None and term in terms and partner in terms:
                terms.remove(term)
                terms.remove(partner)
                terms.append(-partner * above)
    return Add(*terms) if len(terms) < len(expr.args) else expr


def _function_above_one(factor: Expr) -> Expr | None:
    """f - 1, if it is such a function."""
    if not factor.free_symbols:
        return None
    if isinstance(factor, exp):
        return expm1(factor.args[0])
    if isinstance(factor, cosh):
        return 2 * sinh(factor.args[0] / 2) ** 2
    if isinstance(factor, cos):
        return -2 * sin(factor.args[0] / 2) ** 2
    base, exponent = factor.as_base_exp()
    above = _above_one(base) if isinstance(factor, Pow) else None
    if above is None:
        return None
    return -above * factor if exponent == -1 else expm1(exponent * log1p(above))
