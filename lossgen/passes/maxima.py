"""The largest of all classes from that of the others, and that of a softmax from its maximum."""

from __future__ import annotations

from collections.abc import Iterable

from sympy import Expr, exp

from lossgen.ir.piecewise import eq, lt, maximum, where
from lossgen.ir.stages import Pivot
from lossgen.ir.statistics import Form, Max

__all__ = ["beats", "largest_of", "without_places"]


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


def without_places(expr: Expr, index: Expr, entries: Iterable[Max]) -> Expr:
    """The same number where nothing is differentiated: which of two equal classes comes first is
    nobody's concern."""
    for entry in entries:
        for node in sorted(expr.atoms(where), key=str):
            condition, value, other = node.args
            if other == entry.symbol and condition == beats(value, index, entry):
                expr = expr.xreplace({node: maximum(value, other)})
    return expr
