"""Values that depend on differences of logits only, without the level of the row.

logsumexp(x) - x[y]  →  L - (L - s) = s
"""

from __future__ import annotations

import numpy as np
from sympy import Expr, Symbol, expand

from lossgen.ir.evaluate import evaluated
from lossgen.ir.statistics import Form
from lossgen.passes.algebra import complement
from lossgen.passes.reductions import Reductions

__all__ = ["shift_invariant"]

_POINTS, _SAME = 16, 1e-9


def shift_invariant(loss: Expr, built: Reductions) -> Expr:
    """Write x_y through L where L then drops out."""
    for form in built.forms:
        for raw in (pair[1] for pair in built.vocabulary.streams.values()):
            loss = _without_level(loss, form, raw, built)
    return loss


def _without_level(loss: Expr, form: Form, raw: Symbol, built: Reductions) -> Expr:
    slope = form.ell_y.diff(raw)
    if slope == 0 or slope.has(raw) or raw not in loss.free_symbols:
        return loss
    offset = form.ell_y - slope * raw
    replaced = loss.xreplace({raw: (form.L - form.s - expand(offset)) / slope})
    if _moves_with(replaced, form.L):
        return loss
    flat = expand(replaced, power_base=False, power_exp=False, log=False)
    for candidate in (replaced, flat):
        if form.L not in candidate.free_symbols:
            return complement(candidate, built.forms)
    return loss


def _moves_with(expr: Expr, symbol: Symbol) -> bool:
    """Is it another number where ``symbol`` is?  Expansion says so too, of a fourth power of a row
    value with twenty terms in half a minute."""
    others = sorted(expr.free_symbols - {symbol}, key=str)
    points = np.random.default_rng(11).uniform(0.2, 3.0, (len(others), _POINTS, 1))
    env = {s: np.broadcast_to(v, (_POINTS, 2)) for s, v in zip(others, points, strict=True)}
    env[symbol] = np.broadcast_to([0.3, 0.9], (_POINTS, 2))
    values = np.broadcast_to(evaluated(expr, env, np.float64), (_POINTS, 2))
    one, other = values[np.isfinite(values).all(axis=1)].T
    return bool((abs(one - other) > _SAME * (1 + abs(one))).any())
