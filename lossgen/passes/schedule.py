"""Statistics → sweeps: which numbers are accumulated, which are saved, what runs per element.

    T = Σ_{j≠y} w·exp(κ·logp_j)·logp_j^n   →   moments  M_k = Σ w·exp(κ·t_j)·t_j^k,  k ≤ n
                                               with t = l - m and m the running maximum
A moment rescales by exp(κ·d)·(binomial shift by d) when the maximum moves, which needs the lower
powers: the set of moments is closed downwards.  The backward reads (m, log A) of each softmax and
the sums its coefficients mention; everything else is recomputed per row.
"""

from __future__ import annotations

from sympy import Add, Expr, Integer, Mul, Symbol, exp

from lossgen.ir.function import PiecewiseConstant
from lossgen.ir.piecewise import ne, where
from lossgen.ir.plan import KernelPlan, Moment, RowScalar, StreamGradient
from lossgen.ir.stages import Pivot, StableLoss, SymbolicLoss
from lossgen.ir.statistics import Form, Sum, underlying
from lossgen.passes.algebra import parted

__all__ = ["pivot_is_known", "schedule"]


def schedule(stable: StableLoss) -> KernelPlan:
    """The plan that the templates render."""
    coefficients, gradients = _coefficients(stable)
    needed = {s for c in coefficients for s in c.expr.free_symbols}
    needed = needed.union(*(g.expr.free_symbols | g.at_y.free_symbols for g in gradients))
    for largest in stable.maxes:
        if largest.form is not None and largest.rise in needed:
            owner = stable.forms[largest.form]
            needed |= {owner.top, owner.logp, largest.select}
    wanted = needed.union(*(e.free_symbols for e in stable.results))
    known = _known(stable, wanted)
    live = tuple(s for s in stable.sums if s.symbol in known)
    moments = _moments(stable.forms, live, wanted, stable.pivot)
    if not moments and not stable.maxes:  # a loss of x[y] alone: a sweep has a state
        moments = (Moment("b0", None, Integer(0), 0, Integer(1), level=1),)
    return KernelPlan(
        stable=stable,
        moments=moments,
        saved=_saved(stable, needed),
        sums=live,
        coefficients=coefficients,
        gradients=gradients,
        roots=tuple(r for r in stable.roots if r.symbol in known),
    )


def _known(stable: StableLoss, wanted: set[Symbol]) -> set[Symbol]:
    """What is needed, and what its sums and equations need."""
    exponents = (e.free_symbols for f in stable.forms for e in (f.ell, f.ell_y))
    return underlying(wanted.union(*exponents), stable.sums, stable.roots)


def pivot_is_known(loss: SymbolicLoss) -> bool:
    """Is the distinguished class known where it is needed? That with the largest exponent is known
    after the first sweep, so no exponent and no weight of that sweep may mention it; a later sweep
    may only take the first softmax again, without it.  Nor may it be a class that the logits mask,
    as the largest of -x is."""
    if loss.pivot is not Pivot.ARGMAX:
        return True
    if not loss.forms:
        return False
    if loss.forms[0].ell.diff(loss.vocabulary.x).is_negative:
        return False
    at_y = {pair[1] for pair in loss.vocabulary.pairs}
    weights = (s.weight for s in loss.sums if s.level == 1 and s.form is not None)
    exponents = (f.ell for f in loss.forms)
    mentioned = {s for e in (*weights, *exponents) for s in e.free_symbols}
    known = all(f.level == 1 or f.ell == loss.forms[0].ell for f in loss.forms)
    return known and not mentioned & at_y


def _moments(
    forms: tuple[Form, ...], sums: tuple[Sum, ...], wanted: set[Symbol], pivot: Pivot
) -> tuple[Moment, ...]:
    found = [
        Moment(f"a{f.index}", f.index, Integer(1), 0, Integer(1), level=f.level) for f in forms
    ]
    tops = [f for f in forms if f.top in wanted]
    found += [
        Moment(f"rest{f.index}", f.index, Integer(1), 0, Integer(1), level=f.level, rest=True)
        for f in tops
    ]
    known = {m.kind for m in found}
    for entry in sums:
        if entry.against is not None:
            name, one = f"b{len(found) - len(forms) - len(tops)}", Integer(1)
            own = (entry.form, one, 0, one, entry.centre, entry.level)
            found.append(Moment(name, *own, against=entry.against))
        centres = [None, entry.centre] if entry.centre else [None]
        for centre in centres:
            for power in range(entry.power + 1):
                moment = Moment(
                    f"b{len(found) - len(forms) - len(tops)}",
                    entry.form,
                    entry.kappa,
                    power,
                    entry.weight,
                    centre,
                    entry.level,
                )
                if pivot is not Pivot.ARGMAX:  # of which a plain sum is over all classes
                    moment = moment.plain
                if moment.kind not in known:
                    known.add(moment.kind)
                    found.append(moment)
    return tuple(found)


def _saved(stable: StableLoss, needed: set[Symbol]) -> tuple[str, ...]:
    apart = [
        c
        for c in stable.centres
        if {c.symbol, c.symbol_y, c.lse, c.bernoulli} & needed and c.softmaxes
    ]
    names: list[str] = []
    parts = {k for c in apart for k, _ in c.softmaxes}
    for form in reversed(stable.forms):
        if form.index in parts or needed & set(form.symbols):
            parts |= {k for k, _ in form.parts}
    read: set[int] = set()
    for form in reversed(stable.forms):  # the exponent of a later sweep reads earlier softmaxes
        own = {form.z, form.L, form.O, form.top, form.logu, form.logu_y, *form.class_symbols}
        if needed & own or form.index in parts:
            read.add(form.index)
            needed = needed | form.ell.free_symbols | form.ell_y.free_symbols
    for form in (f for f in stable.forms if f.index in read):
        names += [f"m{form.index}", f"la{form.index}"]
        names += [f"rest{form.index}"] if form.top in needed else []
        names += [f"lamu{form.index}"] if {form.logu, form.logu_y} & needed else []
    if stable.pivot is Pivot.ARGMAX:
        names.append("pivot")
    names += [str(c.at_largest) for c in apart if stable.measures(c)]
    names += [s.symbol.name for s in stable.sums if s.symbol in needed]
    names += [r.symbol.name for r in stable.roots if r.symbol in needed]
    for k, largest in enumerate(stable.maxes):
        if largest.symbol in needed:
            names.append(largest.symbol.name)
        if {largest.select, largest.index} & needed:
            names.append(f"index{k}")
    return tuple(names)


def _coefficients(
    stable: StableLoss,
) -> tuple[tuple[RowScalar, ...], tuple[StreamGradient, ...]]:
    """Name the row coefficients and group the bases by exponential weight:

    p_j·c0 + p_j·logp_j·c1 + c2  →  p_j·(c0 + c1·logp_j) + c2
    """
    names = stable.vocabulary
    constants = set(names.parameters.values()) | {names.classes}
    scalars: dict[Expr, Symbol] = {}
    gradients: list[StreamGradient] = []
    for gradient in stable.gradients:
        groups: dict[Expr, list[Expr]] = {}
        for coefficient, basis in gradient.terms:
            factor = coefficient
            if coefficient.free_symbols - constants:
                if -coefficient in scalars:
                    factor = -scalars[-coefficient]
                else:
                    if coefficient not in scalars:
                        scalars[coefficient] = Symbol(f"c{len(scalars)}", real=True)
                    factor = scalars[coefficient]
            weight, rest = parted(basis, lambda f: _is_weight(f, stable.forms))
            term = factor * rest
            if weight == 1 and _leaves_out(coefficient, basis, stable):
                term = where(ne(factor, 0), term, 0)
            groups.setdefault(weight, []).append(term)
        centres = {c.symbol for c in stable.centres}
        total = Add(*(_weighted(weight, Add(*terms), centres) for weight, terms in groups.items()))
        sparse = all(_decays(weight, stable.forms) for weight in groups)
        gradients.append(StreamGradient(gradient.stream, total, gradient.at_y, sparse))
    return tuple(RowScalar(s, e) for e, s in scalars.items()), tuple(gradients)


def _weighted(weight: Expr, inner: Expr, unbounded: set[Symbol]) -> Expr:
    """weight·inner, and 0 where a masked class makes that 0·∞."""
    if weight == 1 or not inner.free_symbols & unbounded:
        return weight * inner
    return where(ne(weight, 0), weight * inner, 0)  # also where it is NaN


def _leaves_out(coefficient: Expr, basis: Expr, stable: StableLoss) -> bool:
    """May a row leave out, by a comparison, what is infinite at a masked class, as x is of x²?"""
    constants = stable.vocabulary.constants
    choices = (c for c in coefficient.atoms(PiecewiseConstant) if c.free_symbols - constants)
    raw = {pair[0] for pair in stable.vocabulary.streams.values()}
    grown = (f for f in Mul.make_args(basis) if not isinstance(f, PiecewiseConstant))
    return any(choices) and any(f.free_symbols & raw for f in grown)


def _decays(weight: Expr, forms: tuple[Form, ...]) -> bool:
    """Does it fall at least as fast as a probability? A sum of many such terms is small where all
    of them are, as Σ p = 1; Σ p^κ with κ < 1, or a constant, need not be."""
    rates = [
        factor.args[0].coeff(form.logp)
        for factor in Mul.make_args(weight)
        if isinstance(factor, exp)
        for form in forms
    ]
    rates += [Integer(1) for factor in Mul.make_args(weight) if any(factor == f.R for f in forms)]
    return all(rate.is_nonnegative for rate in rates) and any(
        rate.is_number and rate >= 1 for rate in rates
    )


def _is_weight(factor: Expr, forms: tuple[Form, ...]) -> bool:
    return isinstance(factor, exp) or any(factor == f.R for f in forms)
