"""The largest of all classes from that of the others, and that of a softmax from its maximum."""

from __future__ import annotations

from sympy import Expr, exp

from lossgen.ir.piecewise import eq, lt
from lossgen.ir.stages import Pivot
from lossgen.ir.statistics import Form, Max

__all__ = ["beats", "largest_of"]


def beats(value: Expr, index: Expr, entry: Max) -> Expr:
    """1 where ``value`` at class ``index`` comes before the maximum: larger, or equal and first."""
    tie = eq(value, entry.symbol) * lt(index, entry.index)
    return lt(entry.symbol, value) + tie


def largest_of(form: Form, logarithm: bool, pivot: Pivot, entry: Max) -> Expr:
    """max of logp, or of p: the largest l_j is the running maximum of the softmax."""
    best = form.scale * entry.symbol - form.L
    if entry.below is None and pivot is Pivot.TARGET:
        best = -form.top
    elif entry.below is None and form.index == 0:
        best = -form.s  # the pivot is the largest
    return best if logarithm else exp(best)
