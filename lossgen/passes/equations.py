"""Roots: the number of a row at which a sum over its classes has a given value.

    root(t, sum(relu(x - t)) - 1, low, high)   →   root0, with
    residual  T0 + relu(x_y - try0) - 1        T0 = Σ_{j≠y} relu(x_j - try0), in a sweep of its own
    slope     -T1 - [x_y > try0]               T1 = Σ_{j≠y} [x_j > try0]

``try0`` is what that sweep takes the root for; it is repeated until nothing moves.  Where the sum
stands alone in its equation the equation says what it is, and it is no statistic at the root:

    Σ_{j≠y} relu(x_j - root0)   →   1 - relu(x_y - root0)

so that the derivative of a minimum does not hold that of where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sympy import Expr, Integer, Symbol

from lossgen.errors import CompileError
from lossgen.ir.statistics import Root, Sum, trial
from lossgen.passes.kinks import chosen_once, vanishes
from lossgen.spec.expr import Call, Name
from lossgen.spec.expr import Expr as Tree

if TYPE_CHECKING:
    from lossgen.passes.reductions import Reductions

__all__ = ["Equations", "at_root", "balanced", "held_sum", "tried"]


class NoEquation(CompileError):
    id = "LG204"
    template = "root cannot be solved: {problem}"


class Equations:
    """Solves the equations of one program; ``row`` forms the value of a formula."""

    def __init__(self, built: Reductions, row: Callable[[Tree], Expr]) -> None:
        self.built, self.row = built, row
        self.unknowns: dict[str, Symbol] = {}  # of the equations around this place
        self.roots: dict[Call, Symbol] = {}

    def __call__(self, node: Call, low: Expr, high: Expr) -> Symbol:
        """The root, a statistic.

        Raises:
            NoEquation: without a place, which the caller knows.
        """
        if node not in self.roots:
            unknown, equation = node.args[:2]
            assert isinstance(unknown, Name)
            index, outer = len(self.roots), self.unknowns
            self.roots[node] = trial(index)
            self.unknowns = {unknown.name: trial(index)}
            residual = self.row(equation)
            self.unknowns = outer
            self.roots[node] = _solved(self.built, index, residual, low, high)
        return self.roots[node]


def _solved(built: Reductions, index: int, residual: Expr, low: Expr, high: Expr) -> Symbol:
    own = trial(index)
    _check(built, own, residual)
    slope = chosen_once(residual.diff(own))
    for entry in _holding(built.sums, own):
        slope += residual.diff(entry.symbol) * built.sum(chosen_once(entry.body.diff(own)))
    if slope == 0:
        hint = "a mean of the largest, or a quantile, is a sort: give it as an input of kind row"
        raise NoEquation(problem="its equation moves in steps, and has no slope", hint=hint)
    held = _holding(built.sums, own)
    mine = {s.symbol for s in held}
    known = [residual, slope, low, high, *(s.body for s in held)]
    symbols = set().union(*(e.free_symbols for e in known)) - mine - {own}
    levels = built.levels()
    level = 1 + max((levels.get(s, 0) for s in symbols), default=0)
    built.sums = [replace(s, level=level) if s.symbol in mine else s for s in built.sums]
    built.roots.append(Root(index, residual, slope, low, high, level))
    return built.roots[-1].symbol


def _check(built: Reductions, own: Symbol, residual: Expr) -> None:
    """Is the equation made of plain sums, in which alone the unknown is?"""
    hint = "write it with sums over the classes of elementwise functions of the unknown"
    sums = _holding(built.sums, own)
    inside = {s.symbol for s in sums}
    forms = any(own in (f.ell + f.ell_y).free_symbols for f in built.forms)
    if forms or any(s.form is not None for s in sums):
        raise NoEquation(problem="its unknown is in a softmax or beside one", hint=hint)
    if any(own in m.body.free_symbols for m in built.maxes):
        raise NoEquation(problem="its unknown is in a maximum over the classes", hint=hint)
    if any(s.body.free_symbols & inside for s in built.sums):
        raise NoEquation(problem="its unknown is in a sum within a sum", hint=hint)
    if not residual.free_symbols & inside:
        hint = "solve it by hand: the equation is one in sums without the unknown"
        raise NoEquation(problem="no sum over the classes needs its unknown", hint=hint)


def _holding(sums: Iterable[Sum], own: Symbol) -> list[Sum]:
    return [s for s in sums if own in s.body.free_symbols]


def tried(root: Root, sums: Iterable[Sum]) -> list[Sum]:
    """The sums of the root's own sweep that its equation mentions."""
    mentioned = root.residual.free_symbols | root.slope.free_symbols
    return [s for s in sums if s.symbol in mentioned and root.trial in s.body.free_symbols]


def at_root(root: Root, built: Reductions) -> dict[Symbol, Expr]:
    """What the trial, and the sums that hold it, are once the root is known."""
    found: dict[Symbol, Expr] = {root.trial: root.symbol}
    for entry in tried(root, built.sums):
        found[entry.symbol] = built.sum(_at(root, entry.body))
    return found


def held_sum(roots: Sequence[Root], sums: Sequence[Sum], body: Expr) -> Expr | None:
    """What the equation of a root says of Σ_{j≠y} body, if the sum is in it, and no other is."""
    for root in roots:
        own = alone(root, sums) if root.symbol in body.free_symbols else None
        if own is not None and _at(root, own.body) == body:
            return _said(root, own)
    return None


def balanced(built: Reductions, expr: Expr) -> Expr | None:
    """A row value that is minus what an equation says of its sum, as that sum: 1 - p of a class
    with nearly all of it has the digits of the others.

    relu(x_y - root0) - 1   →   -Σ_{j≠y} relu(x_j - root0)
    """
    for root in built.roots:
        own = alone(root, built.sums)
        if own is not None and vanishes(expr + _said(root, own)):
            return -built.register(_at(root, own.body))
    return None


def alone(root: Root, sums: Iterable[Sum]) -> Sum | None:
    """The one sum of an equation that is linear in it."""
    inside = [s for s in tried(root, sums) if s.symbol in root.residual.free_symbols]
    factor = root.residual.diff(inside[0].symbol) if len(inside) == 1 else Integer(0)
    linear = factor != 0 and inside[0].symbol not in factor.free_symbols
    return inside[0] if linear else None


def _said(root: Root, own: Sum) -> Expr:
    rest = root.residual.xreplace({own.symbol: Integer(0)})
    return _at(root, -rest / root.residual.diff(own.symbol))


def _at(root: Root, expr: Expr) -> Expr:
    return expr.xreplace({root.trial: root.symbol})
