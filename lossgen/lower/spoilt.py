"""What a result reads, and loses when it is NaN: algebra, and rows of one class, drop it.

    x_y - x_y  →  0        c/T·T  →  c        Σ over no other class  →  0

The row scalars of ``unread`` are compared with themselves once per row, which costs nothing per
class; what else is NaN in a row arrives with the sums and the maxima.
"""

from __future__ import annotations

from collections.abc import Iterable

from sympy import Dummy, Expr, Symbol

from lossgen.ir.ops import where
from lossgen.ir.statistics import Max
from lossgen.lower.model import RowModel

__all__ = ["shows", "symbols_of", "unread"]


def symbols_of(exprs: Iterable[Expr]) -> set[Symbol]:
    """The symbols of them all."""
    return set[Symbol]().union(*(e.free_symbols for e in exprs))


def unread(model: RowModel, value: Expr, with_sums: bool = False) -> list[str]:
    """Names of values at y that ``value`` may not read, and ``with_sums`` of saved sums over an
    input of which it reads nothing."""
    found: list[str] = []
    if model.pivot != "none":
        sure = _surely_read(model, value)
        pairs = model.plan.stable.vocabulary.streams.values()
        found += [at_y.name for _, at_y in pairs if at_y not in sure]
    return found + (_cancelled(model) if with_sums else [])


def shows(model: RowModel, largest: Max) -> bool:
    """Is a NaN among what this is the maximum of seen without it, in the sum of a softmax that
    every result reads?"""
    if largest.form is None:
        return False
    own = {model.forms[largest.form].z, model.forms[largest.form].L}
    return all(own & _surely_read(model, value) for value in model.plan.stable.results)


def _surely_read(model: RowModel, value: Expr) -> set[Symbol]:
    """What makes ``value`` NaN whatever else it reads: nothing in a branch of a condition."""
    found = value.xreplace({node: Dummy() for node in value.atoms(where)}).free_symbols
    for form in model.forms:
        largest = model.pivot == "argmax" and form.index == 0  # its z has no l_y
        if form.z in found and not largest and not form.parts:
            found = found | form.ell_y.free_symbols
    return set(found)


def _cancelled(model: RowModel) -> list[str]:
    names = model.plan.stable.vocabulary
    inputs = {s for pair in (*names.streams.values(), *names.vocab.values()) for s in pair}
    read = _followed(model, symbols_of(model.plan.stable.results))
    return [
        s.symbol.name
        for s in model.sums
        if s.symbol.name in model.saved and _followed(model, {s.symbol}) & inputs - read
    ]


def _followed(model: RowModel, found: set[Symbol]) -> set[Symbol]:
    """The symbols, and those that their statistics are made of."""
    made: list[tuple[set[Symbol], list[Expr]]] = [
        ({*f.symbols, f.m, f.joint, f.top}, [f.ell, f.ell_y]) for f in model.forms
    ]
    made += [({s.symbol}, [s.body]) for s in model.sums]
    made += [({m.symbol, m.select, m.index, m.rise}, [m.body]) for m in model.maxes]
    made += [
        ({c.symbol, c.symbol_y, c.lse, c.bernoulli}, [c.expr, c.origin, c.factor])
        for c in model.plan.stable.centres
    ]
    while True:
        more = found.union(*(symbols_of(parts) for own, parts in made if own & found))
        if more == found:
            return found
        found = more
