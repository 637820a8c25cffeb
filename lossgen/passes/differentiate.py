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

from dataclasses import dataclass, field, replace
from functools import partial

from sympy import Add, Expr, Integer, Symbol

from lossgen.ir.check import defined
from lossgen.ir.piecewise import eq
from lossgen.ir.stages import GradedLoss, Gradient, Pivot, SymbolicLoss
from lossgen.ir.statistics import Centre, Form, Max, Root
from lossgen.passes.absolute import with_absolutes, without_signs
from lossgen.passes.algebra import tidy
from lossgen.passes.bases import collected, shared
from lossgen.passes.equations import at_root, balanced, tried
from lossgen.passes.kinks import chosen_once, vanishes
from lossgen.passes.powers import whole_at_zero
from lossgen.passes.reductions import Reductions
from lossgen.passes.separate import is_centred

__all__ = ["differentiate"]


def differentiate(loss: SymbolicLoss) -> GradedLoss:
    """Add dloss/dv_j (j ≠ y) as coefficient·basis pairs, and dloss/dv_y, for every stream v."""
    statistics = (loss.forms, loss.sums, loss.maxes, loss.centres)
    built = Reductions(loss.vocabulary, loss.pivot, *statistics, loss.whole, loss.roots)
    built.adopt_twins(loss.twins)
    names = loss.vocabulary
    value = loss.loss
    reverse = _Reverse(loss, built)
    reverse.run()
    built.roots = [built.followed_root(r) for r in loss.roots]
    constants = names.constants
    gradients = []
    for stream in names.differentiable:
        terms = collected(reverse.terms[stream], built, constants)
        at_y = chosen_once(built.unfreeze(reverse.at_y[stream]))
        alike = None
        if loss.pivot is not Pivot.NONE:
            alike = shared(terms, at_y, loss, names.streams[stream])
            alike = balanced(built, at_y) if alike is None else alike
        at_y = tidy(at_y, built.forms, constants) if alike is None else alike
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
        roots=tuple(built.roots),
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
            for root in self.loss.roots:
                if root.level == level:
                    self._pull_root(root)
            for centre in self.loss.centres:
                if centre.softmaxes and centre.level == level:
                    self._pull_lse(centre)
            for form in reversed(forms):
                if form.level == level:
                    self._pull_form(form)

    def _streams(self) -> list[tuple[str, Symbol, Symbol]]:
        names = self.loss.vocabulary
        return [(n, *names.streams[n]) for n in names.differentiable]

    def _pull(
        self, cotangent: Expr, body: Expr, largest: Max | None = None, held: Symbol | None = None
    ) -> None:
        """Send the cotangent of Σ_{j≠y} body, or of its ``largest`` value, to what the body
        mentions but what is ``held``."""
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
        self._pull_statistics(cotangent, body, largest, held)

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
        slope = chosen_once(Add(body.diff(symbol), *through))
        return without_signs(slope, partial(is_centred, built=self.built))

    def _pull_statistics(
        self, cotangent: Expr, body: Expr, largest: Max | None, held: Symbol | None
    ) -> None:
        inside = [c for c in self.loss.centres if c.symbol in body.free_symbols]
        mentioned = body.free_symbols.union(*((c.factor * c.expr).free_symbols for c in inside))
        statistics = (self.built.statistics() & mentioned) - {held}
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

    def _pull_root(self, root: Root) -> None:
        """e(t, v) = 0 all the time: dt/dv = -e_v / e_t."""
        cotangent = chosen_once(self.cotangents[root.symbol])
        if vanishes(cotangent):
            return
        sums, now = tried(root, self.built.sums), at_root(root, self.built)
        share = -cotangent / root.slope.xreplace(now)
        for entry in sums:
            factor = root.residual.diff(entry.symbol).xreplace(now)
            body = entry.body.xreplace({root.trial: root.symbol})
            self._pull(share * factor, body, held=root.symbol)
        for name, _, at_y in self._streams():
            self.at_y[name] += share * root.residual.diff(at_y).xreplace(now)
        own = self.loss.vocabulary.x_own
        self.at_y["x"] += share * root.residual.diff(own).xreplace(now)
        beside = self.built.statistics() & root.residual.free_symbols & set(self.cotangents)
        for symbol in sorted(beside - now.keys(), key=str):
            self.cotangents[symbol] += share * root.residual.diff(symbol).xreplace(now)

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
