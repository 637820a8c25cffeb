"""Reverse mode over the reduction graph: the gradient of the loss with respect to each stream.

    F(z, L, T, …)   →   dF/dx_j = Σ coefficient(row)·basis_j,   dF/dx_y written, not added

With lo = logsumexp_{j≠y} l_j:   z = lo - l_y,  L = lo + softplus(-z), so
    ∂P/∂z = -PQ    ∂Q/∂z = PQ    ∂s/∂z = Q    ∂r/∂z = -P    ∂L/∂lo = Q    ∂L/∂l_y = P
    dF/dlo = F_z + Q·F_L          dF/dl_y = -F_z + P·F_L
and a sum T = Σ_{j≠y} b(logp_j, x_j, T') sends F_T·∂b/∂logp_j to l_j, -F_T·Σ ∂b/∂logp_j to L, and
F_T·Σ ∂b/∂T' to the statistics T' of earlier sweeps.  Later sweeps come first.
The sums this creates are put in normal form together, so that what cancels between them, cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from sympy import Add, Expr, Integer, Mul, Pow, Symbol, exp, expand

from lossgen.ir.check import defined
from lossgen.ir.piecewise import eq
from lossgen.ir.stages import GradedLoss, Gradient, Pivot, SymbolicLoss
from lossgen.ir.statistics import Centre, Form, Max
from lossgen.passes.absolute import with_absolutes, without_signs
from lossgen.passes.algebra import (
    cancel_fractions,
    divisors_apart,
    expand_products,
    parted,
    tidy,
)
from lossgen.passes.powers import whole_at_zero
from lossgen.passes.reductions import Reductions
from lossgen.passes.separate import is_centred, raw_sums

__all__ = ["differentiate"]


def differentiate(loss: SymbolicLoss) -> GradedLoss:
    """Add dloss/dv_j (j ≠ y) as coefficient·basis pairs, and dloss/dv_y, for every stream v."""
    statistics = (loss.forms, loss.sums, loss.maxes, loss.centres)
    built = Reductions(loss.vocabulary, loss.pivot, *statistics, loss.whole)
    built.adopt_twins(loss.twins)
    names = loss.vocabulary
    value = loss.loss
    reverse = _Reverse(loss, built)
    reverse.run()
    constants = names.constants
    gradients = []
    for stream in names.differentiable:
        terms = _collect(reverse.terms[stream], built, constants)
        at_y = built.unfreeze(reverse.at_y[stream])
        shared = None
        if loss.pivot is not Pivot.NONE:
            shared = _share(terms, at_y, loss, names.streams[stream])
        at_y = tidy(at_y, built.forms, constants) if shared is None else shared
        gradients.append(Gradient(stream, terms, at_y))
    results = [tidy(built.unfreeze(v), built.forms, constants) for _, v in loss.outputs]
    rows = (value, *results, *(e for g in gradients for t in g.terms for e in (*t, g.at_y)))
    mentioned = {s for e in rows for s in built.unfreeze(e).free_symbols}
    mentioned |= {s for e in built.sums for s in e.body.free_symbols}
    defined([*results, *(e for g in gradients for t in g.terms for e in (*t, g.at_y))])
    graded = GradedLoss(
        spec=loss.spec,
        uses=loss.uses,
        pivot=loss.pivot,
        vocabulary=names,
        forms=tuple(built.followed(f) for f in tuple(built.forms)),
        sums=built.without_twins(tuple(built.sums)),
        maxes=tuple(replace(m, body=built.unfreeze(m.body)) for m in loss.maxes),
        twins=loss.twins,
        whole=loss.whole,
        centres=tuple(
            built.followed_difference(c) for c in built.centres if {c.symbol, c.lse} & mentioned
        ),
        loss=tidy(built.unfreeze(value), built.forms, constants),
        outputs=tuple((n, v) for (n, _), v in zip(loss.outputs, results, strict=True)),
        gradients=tuple(gradients),
    )
    return whole_at_zero(with_absolutes(graded), {s.symbol for s in loss.sums})


@dataclass
class _Reverse:
    """Cotangents of the statistics, and what they send to the streams."""

    loss: SymbolicLoss
    built: Reductions
    cotangents: dict[Symbol, Expr] = field(default_factory=dict)
    moved: dict[Symbol, list[tuple[Expr, Expr]]] = field(default_factory=dict)  # of logp and R
    terms: dict[str, list[tuple[Expr, Expr]]] = field(default_factory=dict)
    at_y: dict[str, Expr] = field(default_factory=dict)

    def run(self) -> None:
        names, forms = self.loss.vocabulary, self.loss.forms
        sums, maxes = self.loss.sums, self.loss.maxes
        for symbol in self.built.statistics():
            self.cotangents[symbol] = self.loss.loss.diff(symbol)
        self.moved = {s: [] for f in forms for s in f.class_symbols}
        self.terms = {n: [] for n in names.differentiable}
        self.at_y = {n: self.loss.loss.diff(names.streams[n][1]) for n in names.differentiable}
        self.at_y["x"] += self.loss.loss.diff(names.x_own)
        for level in range(self.loss.last_level, 0, -1):
            for form in forms:
                self._pull_largest(form)
            for entry in sums:
                if entry.level == level:
                    self._pull(self.cotangents[entry.symbol], entry.body)
            for largest in maxes:
                if largest.level == level:
                    self._pull(self.cotangents[largest.symbol], largest.body, largest)
            for centre in self.loss.centres:
                if centre.softmaxes and centre.level == level:
                    self._pull_lse(centre)
            for form in reversed(forms):
                if form.level == level:
                    self._pull_form(form)

    def _streams(self) -> list[tuple[str, Symbol, Symbol]]:
        names = self.loss.vocabulary
        return [(n, *names.streams[n]) for n in names.differentiable]

    def _pull(self, cotangent: Expr, body: Expr, largest: Max | None = None) -> None:
        """Send the cotangent of Σ_{j≠y} body, or of its ``largest`` value, to what the body
        mentions."""
        if cotangent == 0:
            return
        select = Integer(1) if largest is None else largest.select
        for form in self.loss.forms:
            for symbol, slope in (
                (form.logp, body.diff(form.logp)),
                (form.R, body.diff(form.R) * form.R),
            ):
                if slope != 0:
                    self.moved[symbol].append((cotangent, select * slope))
        for name, symbol, at_y in self._streams():
            slope = self._slope(body, symbol)
            self.terms[name].append((self.built.unfreeze(cotangent), select * slope))
            coupled = self._slope(body, at_y)
            if largest is not None and self._over_all(largest):
                coupled += self._pivot_wins(largest) * slope.xreplace(self.loss.vocabulary.at_y)
            if coupled != 0:
                self.at_y[name] += cotangent * self._total(coupled, largest)
        self._pull_statistics(cotangent, body, largest)

    def _total(self, body: Expr, largest: Max | None) -> Expr:
        """Σ_{j≠y} body, or the body at the maximum."""
        if largest is None:
            return self.built.sum(body)
        return self.built.sum(largest.select * body) if self.built.varies(body) else body

    def _over_all(self, largest: Max) -> bool:
        """Is the pivot among the classes of this maximum?"""
        return self.loss.pivot is Pivot.ARGMAX and largest.level == 1

    def _pivot_wins(self, largest: Max) -> Expr:
        """1 where the maximum is at the pivot."""
        return eq(largest.index, self.loss.vocabulary.index[1])

    def _slope(self, body: Expr, symbol: Symbol) -> Expr:
        """dbody/dsymbol, through the centred differences too.  The origin of softmaxes is a
        constant: the loss does not depend on it."""
        through = [
            body.diff(c.symbol)
            * (c.factor * (c.expr if c.softmaxes else c.expr - c.origin)).diff(symbol)
            for c in self.loss.centres
            if c.symbol in body.free_symbols
        ]
        slope = Add(body.diff(symbol), *through)
        return without_signs(slope, partial(is_centred, built=self.built))

    def _pull_statistics(self, cotangent: Expr, body: Expr, largest: Max | None) -> None:
        inside = [c for c in self.loss.centres if c.symbol in body.free_symbols]
        mentioned = body.free_symbols.union(*((c.factor * c.expr).free_symbols for c in inside))
        statistics = self.built.statistics() & mentioned
        for symbol in sorted(statistics & set(self.cotangents), key=str):
            slope = self._slope(body, symbol)
            if slope != 0:
                self.cotangents[symbol] += cotangent * self._total(slope, largest)

    def _pull_largest(self, form: Form) -> None:
        """top = L - scale·max of the base."""
        cotangent, self.cotangents[form.top] = self.cotangents[form.top], Integer(0)
        if cotangent == 0:
            return
        self.cotangents[form.L] += cotangent
        for entry in self.loss.maxes:
            if entry.below is None and entry.body == form.base:
                self.cotangents[entry.symbol] -= form.scale * cotangent

    def _pull_lse(self, centre: Centre) -> None:
        """lse = Σ sign·L - the origin."""
        for index, sign in centre.softmaxes:
            self.cotangents[self.loss.forms[index].L] += sign * self.cotangents[centre.lse]

    def _pull_form(self, form: Form) -> None:
        cotangents, built = self.cotangents, self.built
        to_z = Add(
            cotangents[form.z],
            cotangents[form.P] * -form.P * form.Q,
            cotangents[form.Q] * form.P * form.Q,
            cotangents[form.s] * form.Q,
            cotangents[form.r] * -form.P,
        )
        to_p, to_r = (Add(*(c * slope for c, slope in self.moved[s])) for s in form.class_symbols)
        to_l = cotangents[form.L] - (built.sum(to_p) if to_p != 0 else 0)
        to_low = -built.sum(to_r) if to_r != 0 else Integer(0)
        low = built.unfreeze(to_z + form.Q * to_l + to_low)
        to_y = -to_z + form.P * to_l
        moved = to_p + to_r
        along = [(low, form.R), *(pair for s in form.class_symbols for pair in self.moved[s])]
        for name, symbol, at_y in self._streams():
            for cotangent, basis in along:
                slope = basis * form.ell.diff(symbol)
                self.terms[name].append((built.unfreeze(cotangent), slope))
            self.at_y[name] += to_y * form.ell_y.diff(at_y)
            coupled = form.ell.diff(at_y)
            if coupled != 0:
                self.at_y[name] += built.sum((low * form.R + moved) * coupled)
        for lower in self.loss.forms:
            slope = form.ell.diff(lower.logp)
            if slope != 0:
                self.moved[lower.logp] += [(c, b * slope) for c, b in along]
        used = built.statistics() & (form.ell.free_symbols | form.ell_y.free_symbols)
        for symbol in sorted(used & set(cotangents), key=str):
            slope = form.ell.diff(symbol)
            if slope != 0:
                cotangents[symbol] += built.sum((low * form.R + moved) * slope)
            cotangents[symbol] += to_y * form.ell_y.diff(symbol)


def _collect(
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


def _share(
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
