"""Invariants of every stage, checked after every pass; a violation is a bug of the compiler.

- A row expression mentions symbols of the program only, and a class symbol never.
- A sum of one sweep needs the statistics of earlier ones only.
- No node outside the vocabulary: a printer would refuse it later, with less to say.
"""

from __future__ import annotations

from collections.abc import Iterable

from sympy import Add, Expr, Function, I, Mul, Pow, Symbol, exp, log, nan, zoo

from lossgen.errors import CompileError, CompilerBug
from lossgen.ir.ops import OPS
from lossgen.ir.stages import GradedLoss, StableLoss, SymbolicLoss
from lossgen.ir.statistics import Sum

__all__ = ["check", "defined"]


def defined(exprs: Iterable[Expr]) -> None:
    """Refuse a formula in which a number was divided by 0, or became imaginary.

    Raises:
        CompileError: without a place, which the caller knows.
    """
    if any(e.has(zoo, nan, I) for e in exprs):
        raise CompileError(
            "the formula, or its derivative, is never a number: it divides by 0, multiplies 0 by "
            "infinity, or takes a logarithm or a root of a negative number"
        )


def check(stage: SymbolicLoss) -> None:
    """Raises CompilerBug where an invariant does not hold."""
    names = stage.vocabulary
    raw_row = {names.classes, *names.parameters.values(), *names.rows.values()}
    raw_row |= {*(pair[1] for pair in names.pairs), *names.cotangents, names.x_ref}
    raw_row |= {names.x_own}
    raw_class = {*names.class_symbols, *(c.symbol for c in stage.centres)}
    statistics = {s.symbol for s in stage.sums}
    statistics |= {s for m in stage.maxes for s in (m.symbol, m.index)}
    statistics |= {
        s for c in stage.centres if c.softmaxes for s in (c.lse, c.symbol_y, c.bernoulli)
    }
    statistics |= {r.symbol for r in stage.roots}
    class_symbols = raw_class | {s for m in stage.maxes for s in (m.select, m.rise)}
    for form in stage.forms:
        statistics |= {*form.row_symbols, form.logu_y}
        class_symbols |= {*form.class_symbols, form.logu}
    frozen = set(stage.twins.values())
    row_known = raw_row | statistics | frozen
    for entry in stage.sums:
        _earlier(stage, entry)
    rows = [("the loss", stage.loss), *stage.outputs]
    if isinstance(stage, GradedLoss):
        row_known -= frozen
        rows += [("a gradient coefficient", c) for c in stage.coefficients]
        for basis in stage.bases:
            _symbols(basis, class_symbols | row_known, "a gradient basis")
        inside = [e for c in stage.centres for e in (c.expr, c.origin, c.factor)]
        if left := frozen & set().union(*(e.free_symbols for e in inside)):
            raise CompilerBug(f"a difference still holds {sorted(left, key=str)}")
    if isinstance(stage, StableLoss):
        halves = {s for f in stage.forms for s in (f.P, f.Q, f.s, f.r)}
        row_known -= halves
    for root in stage.roots:
        for expr in root.exprs:
            _symbols(expr, row_known | {root.trial}, "an equation")
            _nodes(expr, "an equation")
    for what, expr in rows:
        _symbols(expr, row_known, what)
        _nodes(expr, what)


def _earlier(stage: SymbolicLoss, entry: Sum) -> None:
    """A sum is over what sweeps before its own have found, besides its softmax."""
    own = (entry.form, entry.against)
    late = {f.index: f for f in stage.forms if f.level >= entry.level and f.index not in own}
    strange = {s for f in late.values() for s in (*f.row_symbols, *f.class_symbols)}
    strange |= {s.symbol for s in stage.sums if s.level >= entry.level}
    strange |= {r.symbol for r in stage.roots if r.level >= entry.level}
    if entry.body.free_symbols & strange:
        raise CompilerBug(f"{entry.symbol} of sweep {entry.level} sums {entry.body}")


def _symbols(expr: Expr, known: set[Symbol], what: str) -> None:
    strange = expr.free_symbols - known
    if strange:
        names = ", ".join(sorted(str(s) for s in strange))
        raise CompilerBug(f"{what} mentions {names}: {expr}")


def _nodes(expr: Expr, what: str) -> None:
    for node in expr.atoms(Function):
        if not isinstance(node, (exp, log)) and node.func.__name__ not in OPS:
            raise CompilerBug(f"{what} holds {node.func.__name__}, which no kernel can compute")
    for node in expr.args:
        if isinstance(node, (Add, Mul, Pow, Function)):
            _nodes(node, what)
