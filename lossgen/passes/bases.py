"""A gradient as Σ coefficient(row)·basis(class): equal bases meet, and so do what cancels."""

from __future__ import annotations

from collections.abc import Iterator

from sympy import Add, Expr, Integer, Mul, Pow, Symbol, exp, expand

from lossgen.ir.stages import SymbolicLoss
from lossgen.ir.statistics import Form, Max
from lossgen.passes.algebra import (
    cancel_fractions,
    divisors_apart,
    expand_products,
    parted,
    tidy,
)
from lossgen.passes.reductions import Reductions
from lossgen.passes.separate import raw_sums

__all__ = ["collected", "shared"]


def collected(
    terms: list[tuple[Expr, Expr]], built: Reductions, parameters: frozenset[Symbol]
) -> tuple[tuple[Expr, Expr], ...]:
    """Group by basis, after moving every row factor into the coefficient.

    R_j becomes p_j = Q·R_j where its coefficient holds a factor Q and p_j is needed anyway.
    """
    by_basis: dict[Expr, Expr] = {}
    class_symbols = built.class_symbols()

    def add(coefficient: Expr, basis: Expr) -> None:
        if coefficient != 0 and basis != 0:
            by_basis[basis] = by_basis.get(basis, Integer(0)) + coefficient

    for coefficient, basis in _together(terms, built, parameters):
        kept = raw_sums(basis, built, centred=True)
        back = {dummy: node for node, dummy in kept.items()}
        whole = cancel_fractions(basis.xreplace(kept), {*class_symbols, *back})
        whole, divisors = divisors_apart(whole, {*class_symbols, *back})
        flat = expand(whole, power_base=False, power_exp=False, log=False)
        for part in Add.make_args(flat):
            row, cls = part.as_independent(*class_symbols, *back, as_Add=False)
            add(coefficient * row.xreplace(divisors), cls.xreplace(back).xreplace(divisors))
    for form in built.forms:
        p = exp(form.logp)
        for basis in [b for b in by_basis if form.R in b.free_symbols]:
            if len(by_basis) == 1:
                break
            reduced = _divide(tidy(by_basis[basis], built.forms, parameters), form.Q)
            if reduced is not None and not _divided(reduced, form):
                del by_basis[basis]
                add(reduced, basis.xreplace({form.R: p}))
    for entry in built.maxes:
        if entry.form is not None:
            _rise(by_basis, entry, built.forms[entry.form])
    result: dict[Expr, Expr] = {}
    for coefficient, basis in _shared(by_basis, built, parameters):
        sign = -1 if -coefficient in result else 1
        if coefficient != 0:
            result[sign * coefficient] = result.get(sign * coefficient, Integer(0)) + sign * basis
    split = [(c, part) for c, basis in result.items() for part in _by_weight(basis)]
    return tuple(sorted(split, key=lambda pair: str(pair[1])))


def _rise(by_basis: dict[Expr, Expr], entry: Max, form: Form) -> None:
    """The maximum of a softmax stands beside p as 1 - p, not as a difference.

    a·p + b·select  →  (a + b)·p + b·(select - p)
    a·R + b·select  →  (a + b·Q)·R + b·(select - p)    where a holds -b·Q
    """
    for weight in (exp(form.logp), form.R):
        for basis in [b for b in by_basis if weight in Mul.make_args(b)]:
            chosen = Mul(*(f for f in Mul.make_args(basis) if f != weight), entry.select)
            if chosen not in by_basis:
                continue
            total = by_basis[basis] + by_basis[chosen]
            if weight == form.R:
                total = _cancelled(by_basis[basis], form.Q * by_basis[chosen], form, entry)
            if total is not None:
                rise = chosen.xreplace({entry.select: entry.rise})
                by_basis[basis] = total
                by_basis[rise] = by_basis.get(rise, Integer(0)) + by_basis.pop(chosen)


def _cancelled(whole: Expr, part: Expr, form: Form, entry: Max) -> Expr | None:
    """whole + part, where nothing of the maximum is left in the sum."""
    own = {form.top, entry.symbol}
    held = Add(*(t for t in Add.make_args(whole) if t.free_symbols & own))
    left = expand_products(held + part)
    return None if left.free_symbols & own else whole - held + left


def _shared(
    by_basis: dict[Expr, Expr], built: Reductions, parameters: frozenset[Symbol]
) -> Iterator[tuple[Expr, Expr]]:
    """(coefficient, basis) in order; a term of a coefficient that another basis has with the
    opposite sign stands alone, so that the bases meet in one difference:

    (a + b)·R - a·R'  →  b·R + a·(R - R')
    """
    softmaxes = {s for f in built.forms for s in (f.R, exp(f.logp))}
    tidied = {b: tidy(by_basis[b], built.forms, parameters) for b in sorted(by_basis, key=str)}
    for basis, coefficient in tidied.items():
        alone = {-c for b, c in tidied.items() if b != basis and b in softmaxes and not c.is_Add}
        parts = []
        if basis in softmaxes:
            parts = [t for t in Add.make_args(expand_products(coefficient)) if t in alone]
        yield from ((part, basis) for part in parts)
        left = tidy(coefficient - Add(*parts), built.forms, parameters) if parts else coefficient
        yield left, basis


def _divided(expr: Expr, form: Form) -> bool:
    """Does it divide by s, a·P + b·Q or a root of 1 - P^q? That may be as small as Q, which should
    stay beside it: p/s is 0·∞ where p underflows, and (Q/s)·R is R."""
    powers = [e for e in expr.atoms(Pow) if not e.exp.is_nonnegative]
    sums = (e.base for e in powers if e.base.is_Add and e.exp == -1)
    small = any(e.base in (form.s, form.Q) for e in powers)
    one = {form.P: Integer(1), form.Q: Integer(0)}  # (1 - P^q)^(k-1)
    small |= any(e.base.xreplace(one) == 0 for e in powers)
    return small or any({form.P, form.Q} <= total.free_symbols for total in sums)


def _by_weight(basis: Expr) -> list[Expr]:
    """The parts of a basis, one per product of exponentials: logp - log m stays one part, and so
    does a difference of two softmaxes."""
    parts: dict[Expr, Expr] = {}
    for term in Add.make_args(basis):
        weight, rest = parted(term, lambda f: isinstance(f, exp))
        parts[weight] = parts.get(weight, Integer(0)) + rest
    if all(rest in (1, -1) for rest in parts.values()):
        return [basis]
    return [weight * rest for weight, rest in parts.items()]


def _together(
    terms: list[tuple[Expr, Expr]], built: Reductions, parameters: frozenset[Symbol]
) -> list[tuple[Expr, Expr]]:
    """Terms whose coefficients are parameters are one class expression, in which they cancel."""
    fixed, rest = Integer(0), []
    for coefficient, basis in terms:
        basis = built.unfreeze(basis)
        if coefficient.free_symbols <= parameters:
            fixed += coefficient * basis
        else:
            rest.append((coefficient, basis))
    return [(Integer(1), fixed), *rest]


def _divide(expr: Expr, factor: Symbol) -> Expr | None:
    """expr / factor if every term holds it, else None."""
    terms = []
    for term in Add.make_args(expand_products(expr)):
        powers = term.as_powers_dict()
        if not (powers.get(factor, Integer(0)) - 1).is_nonnegative:
            return None
        terms.append(term / factor)
    return Add(*terms)


def shared(
    gradient: tuple[tuple[Expr, Expr], ...],
    at_y: Expr,
    loss: SymbolicLoss,
    stream: tuple[Symbol, Symbol],
) -> Expr | None:
    """Use the coefficient of R itself at y where it is its negative: one row scalar for both."""
    for form in loss.forms:
        slope, slope_y = form.ell.diff(stream[0]), form.ell_y.diff(stream[1])
        for coefficient, basis in gradient:
            ratio = basis / form.R
            if ratio != slope or len(gradient) > 1 or slope != slope_y:
                continue
            if _is_zero(at_y + coefficient * slope_y, form):
                return Mul(-1, coefficient, slope_y)
    return None


def _is_zero(expr: Expr, form: Form) -> bool:
    """Exactly zero, by expansion in P with Q = 1 - P."""
    if expand_products(expr) == 0:
        return True
    return bool(expand_products(expr.xreplace({form.Q: 1 - form.P})) == 0)
