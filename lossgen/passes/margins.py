"""How far the target's probability is from the largest of the others.

    P - e^(-top)   →   where(d < 0, e^(-top)·expm1(d), -P·expm1(-d))         d = l_y - max l

e^(-top) is the largest other p.  Near a tie the difference of the two is what rounding leaves; at
one it is 0, and not ±1e-17, of which a sign makes a gradient.
"""

from __future__ import annotations

from sympy import Add, Expr, exp

from lossgen.ir.ops import expm1, lt, where
from lossgen.passes.reductions import Reductions

__all__ = ["margin"]


def margin(expr: Expr, built: Reductions) -> Expr:
    """``expr`` with the difference of the two in its accurate form."""
    if not isinstance(expr, Add):
        return expr
    for entry in built.maxes:
        if entry.form is None or entry.below is not None:
            continue
        form = built.forms[entry.form]
        largest, scale = exp(-form.top), expr.coeff(form.P)
        if scale != 0 and scale.is_number and -scale * largest in expr.args:
            above = form.scale * (form.base_y - entry.symbol) + form.shift_y
            found = where(lt(above, 0), largest * expm1(above), -form.P * expm1(-above))
            return expr - scale * (form.P - largest) + scale * found
    return expr
