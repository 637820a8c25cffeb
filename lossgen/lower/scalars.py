"""Row scalars: from the state of the sweeps to the results and the coefficients.

Per form, from (m, a) or the saved (m, log a):   z = scale·(m - l_y) + log a,   lam = L - m
Per sum, from its moments:                       T = exp(-κ·lam)·Σ binomial·(-lam)^(n-k)·M_k
"""

from __future__ import annotations

from math import comb

from sympy import Expr, Symbol, log

from lossgen.ir.bernoulli import bernoulli
from lossgen.ir.plan import Moment
from lossgen.ir.program import (
    EMPTY,
    INFINITE,
    Line,
    Name,
    Node,
    Number,
    as_node,
    both,
    call,
    eq,
    ne,
    product,
    total,
    where,
)
from lossgen.ir.statistics import Form, Sum
from lossgen.lower.constants import CLAMP, FAR_GAP, LARGEST, LARGEST_INVERSE
from lossgen.lower.expressions import ROW, Lowering, assignments, exponential_names
from lossgen.lower.model import RowModel
from lossgen.lower.roots import start, step
from lossgen.lower.spoilt import symbols_of, unread
from lossgen.lower.sweep import centred, joint
from lossgen.lower.sweep_model import Sweep, joins

__all__ = ["RowScalars"]

_NOWHERE = Number(0.0)  # the gap of the pivot itself


class RowScalars:
    """The lines of one model.

    ``sums_pivot``: in tiles, where an arg-max pivot is not known until the last, the sums of the
    first sweep count one that cannot join them later; not where a whole row is one tile.
    """

    def __init__(self, model: RowModel, sums_pivot: bool = True) -> None:
        self.model, self.sums_pivot = model, sums_pivot

    # ------------------------------------------------------------------ the whole
    def results(self, with_gradient: bool = False) -> list[Line]:
        """From the finished state to the results, everything that is saved, and, if the gradient
        follows at once, what it reads."""
        stable = self.model.plan.stable
        wanted = symbols_of(stable.results)
        wanted |= {s for e in self.model.sums for s in e.body.free_symbols if e.level > 1}
        if with_gradient:
            wanted |= self._gradient_symbols()
        lines = self._settled(self.model.levels[-1], wanted, with_gradient)
        clamped, lowering = self._clamp(stable.clamp_loss, self.model.forms)
        targets = list(zip(self.model.outputs, stable.results, strict=True))
        lines += clamped + assignments(targets, lowering)
        if stable.clamp_loss:  # what a clamped z leaves of infinity
            ends = [ne(f"z{f.index}", f"zc{f.index}") for f in self.model.forms]
            for name, _ in targets:
                own = Name(name)
                far = where(own > LARGEST, INFINITE, where(own < -LARGEST, EMPTY, own))
                lines.append(Line(name, where(both(ends, "|"), far, own)))
        for name, value in targets:
            lines += self._shown(name, unread(self.model, value, with_sums=True))
        return lines

    def between(self, level: int) -> list[Line]:
        """From the state of the first ``level`` sweeps to what the next one needs."""
        following = self.model.sweep_models[level]
        wanted = {s for e in following.bodies for s in e.free_symbols}
        held = [c for c in self.model.centres if c.symbol in wanted]
        wanted |= {s for c in held for e in c.made_of for s in e.free_symbols}
        wanted |= {s for e in self.model.sums for s in e.body.free_symbols if e.level > 1}
        lines = self._settled(level, wanted, False)
        names = self.model.read(following.bodies)
        return lines + self._inverses(names, level)

    def started(self, sweep: Sweep) -> list[Line]:
        """From the state of the sweeps before it to the first trial of its roots."""
        wanted = symbols_of(e for r in sweep.roots for e in (r.low, r.high))
        lines = self._settled(sweep.level - 1, wanted, False)
        return lines + [line for r in sweep.roots for line in start(r)]

    def stepped(self, sweep: Sweep) -> list[Line]:
        """From its own state, at a trial, to the next one."""
        wanted = symbols_of(e for r in sweep.roots for e in (r.residual, r.slope))
        lines = self._settled(sweep.level, wanted, False, sweep)
        arithmetic = self.model.plan.stable.arithmetic
        return lines + [line for r in sweep.roots for line in step(r, arithmetic)]

    def coefficients(self, saved: bool) -> list[Line]:
        """The row scalars of the gradient; ``saved``: from what the forward stored."""
        model, stable = self.model, self.model.plan.stable
        wanted = self._tops() | self._of_exponents
        wanted |= symbols_of(g.expr for g in model.gradients) & {f.L for f in model.forms}
        targets: list[tuple[str, Expr]] = []
        for scalar in model.plan.coefficients:
            wanted |= scalar.expr.free_symbols
            targets.append((scalar.symbol.name, scalar.expr))
        known = {s.expr: s.symbol for s in model.plan.coefficients}
        if model.pivot != "none":
            for gradient in model.gradients:
                wanted |= gradient.at_y.free_symbols
                value = _in_terms_of(gradient.at_y, known)
                targets.append((f"grad_{gradient.stream}_y", value))
        lines: list[Line] = []
        if saved:
            for form in model.forms:
                lines += self._softmax(form, wanted, True, True)
            for level in model.levels:
                lines += self._log_sums(level, wanted)
        read = symbols_of(value for _, value in targets)
        forms = tuple(f for f in model.forms if f.z in read)
        clamped, lowering = self._clamp(stable.clamp_gradient, forms)
        lines += clamped + assignments(targets, lowering)
        if model.pivot != "none":
            for gradient in model.gradients:
                missed = unread(model, gradient.at_y)
                lines += self._shown(f"grad_{gradient.stream}_y", missed)
        return lines + self._inverses(model.gradient_names, model.levels[-1])

    def _shown(self, result: str, missed: list[str]) -> list[Line]:
        """NaN in a result where it is in a value that it does not read."""
        return [Line(result, where(eq(n, n), result, n)) for n in missed]

    @property
    def _even(self) -> Node:
        return ROW(log(self.model.plan.stable.vocabulary.classes))

    # ------------------------------------------------------------------ parts
    @property
    def _of_exponents(self) -> set[Symbol]:
        """What later softmaxes are scaled and measured by."""
        later = [f for f in self.model.forms if f.level > 1]
        return symbols_of(e for f in later for e in (f.scale, f.base_y, f.shift_y))

    def _settled(
        self, level: int, wanted: set[Symbol], gradient: bool, tried: Sweep | None = None
    ) -> list[Line]:
        """``tried``: with the sums of its equations, which nobody else reads."""
        lines, wanted = [], wanted | self._of_exponents
        trials = {r.trial for r in self.model.plan.roots}
        for k in range(1, level + 1):
            for form in self.model.forms:
                if form.level == k:
                    lines += self._softmax(form, wanted, False, gradient)
            lines += self._log_sums(k, wanted)
            for entry in (e for e in self.model.sums if e.level == k):
                if entry.body.free_symbols & trials and (tried is None or tried.level != k):
                    continue
                lines += [self._sum(entry)] if entry.against is None else self._divergence(entry)
        return lines

    def _softmax(self, form: Form, wanted: set[Symbol], saved: bool, gradient: bool) -> list[Line]:
        i, lines = form.index, list[Line]()
        if saved and f"m{i}" not in self.model.saved:
            return []
        z, la, lam = Name(f"z{i}"), Name(f"la{i}"), Name(f"lam{i}")
        if not saved:
            lines.append(Line(la.name, call("log", f"a{i}")))
        if self.model.pivot == "argmax" and i == 0:
            lines += [Line(z.name, la), Line(lam.name, call("softplus", z))]
        else:
            gap = self._gap(form)
            if form.parts:  # a pivot that one part masks: its distance counts as finite
                for k, _ in form.parts:
                    own = self._gap(self.model.forms[k])
                    far = own if own == _NOWHERE else call("clip", own, -FAR_GAP, FAR_GAP)
                    lines.append(Line(f"gap{k}", far))
            else:
                lines.append(Line(f"ly{i}", ROW(form.base_y)))
            # An empty set of other classes has log a = -inf and m = 0: z = -inf.
            lines.append(Line(z.name, gap + la))
            if self._uses_lam(form, wanted, saved, gradient):
                above, below = la + call("softplus", -z), call("softplus", z) - gap
                lines.append(Line(lam.name, where(z > 0.0, above, below)))
                if form.parts:
                    lines.append(Line(lam.name, where(eq(la, EMPTY), 0.0, lam)))
        m = Name(f"m{i}")
        if form.joint in wanted:
            apart = joint(form, ROW, lambda k: Name(f"lam{k}"))
            lines.append(Line(f"joint{i}", m + la - apart))
        if form.top in wanted:
            gap, top = self._gap(form), Name(f"top{i}")
            above = call("log1p", Name(f"rest{i}") + call("exp", -gap))
            lines.append(Line(top.name, where(z > 0.0, above, call("softplus", z) - gap)))
            lines.append(Line(top.name, where(eq(la, EMPTY), INFINITE, top)))
        if not saved and self._uses_lamu(form, wanted):
            lines.append(Line(f"lamu{i}", lam - self._even))
        if form.logu_y in wanted:
            near, far = -self._gap(form) - Name(f"lamu{i}"), self._even - call("softplus", z)
            lines.append(Line(f"loguy{i}", where(z > -1.0, near, far)))
        largest = m if form.scale == 1 else ROW(form.scale) * m
        if form.O in wanted:
            lines.append(Line(f"O{i}", largest + la))
        if form.L in wanted:
            lines.append(Line(f"L{i}", largest + lam))
            for k, rate in form.parts:
                at = ROW(rate * self.model.forms[k].scale * Symbol(f"m{k}"))
                lines.append(Line(f"L{i}", Name(f"L{i}") + at))
        return lines

    def _log_sums(self, level: int, wanted: set[Symbol]) -> list[Line]:
        """What divergences of a sweep are at y, and lse: log-sum-exps from the running maxima.

        Where the target is the largest of each row, it stands far above those maxima, and how
        much farther in one row than in the other is one accurate difference.
        """
        lines: list[Line] = []
        for centre in self.model.plan.stable.centres:
            asked = {centre.lse, centre.symbol_y, centre.bernoulli} & wanted
            if centre.level != level or not asked:
                continue
            if centre.bernoulli in asked:
                z, other = (self.model.forms[k].z for k, _ in centre.softmaxes)
                value = (centre.bernoulli.name, bernoulli(z, other))
                lines += assignments([value], ROW, f"{centre.bernoulli}_")
            far = centre.lse in asked and len(centre.pairs) > 1 and self.model.pivot == "target"
            measured = self.model.plan.stable.measures(centre)
            origin = [(-1, as_node(centre.at_largest.name))] if measured else []
            at_y = centre.at_y(self.model.forms)
            if centre.symbol_y in asked or far:
                lines += centred(at_y, ROW)
            if centre.symbol_y in asked:
                lines.append(
                    Line(centre.symbol_y.name, total([(1, Name(at_y.symbol.name)), *origin]))
                )
            if centre.lse not in asked:
                continue
            name, parts = centre.lse.name, list[tuple[int, Node]]()
            for k, sign in centre.softmaxes:
                z_k, la = Name(f"z{k}"), Name(f"la{k}")
                above = la + call("softplus", -z_k)
                value_k = where(z_k > 0.0, above, call("softplus", z_k))
                lines.append(Line(f"{name}_{k}", value_k))
                parts.append((sign, Name(f"{name}_{k}")))
            if self.model.pivot == "argmax":  # the maxima are those of all classes
                lines.append(Line(name, total([(1, total(parts)), *origin])))
                continue
            gaps = [
                (-sign, where(Name(f"z{k}") > 0.0, 0.0, self._gap(self.model.forms[k])))
                for k, sign in centre.softmaxes
            ]
            rest = total(gaps)
            if len(gaps) > 1:
                largest = both(Name(f"z{k}") <= 0.0 for k, _ in centre.softmaxes)
                rest = where(largest, at_y.symbol.name, rest)
            lines.append(Line(name, total([(1, total(parts) + rest), *origin])))
        return lines

    def _gap(self, form: Form) -> Node:
        """scale·(m - base_y) - shift_y: how far the largest other exponent is above l_y."""
        i, m = form.index, Name(f"m{form.index}")
        if form.parts:
            return m + joint(form, ROW, lambda k: Name(f"gap{k}"))
        if self.model.pivot == "argmax" and i == 0:
            return _NOWHERE
        gap: Node = m - as_node(f"ly{i}")
        if form.scale != 1:
            gap = ROW(form.scale) * gap
        return gap if form.shift_y == 0 else gap - ROW(form.shift_y)

    def _uses_lam(self, form: Form, wanted: set[Symbol], saved: bool, gradient: bool) -> bool:
        finishes = not saved and any(s.form == form.index and not s.others for s in self.model.sums)
        names = self.model.gradient_names if gradient else set()
        if not saved:
            later = [b for s in self.model.sweep_models[1:] for b in s.bodies]
            names = names | self.model.read(later)
        reads = names & (exponential_names(form) - {f"r{form.index}"})
        joint = any(f.joint in wanted for f in self.model.forms if form.index in dict(f.parts))
        rows = form.L in wanted or (not saved and self._uses_lamu(form, wanted))
        return rows or finishes or joint or bool(reads)

    def _uses_lamu(self, form: Form, wanted: set[Symbol]) -> bool:
        """lam - log V is saved: sums and gradient must share what it was rounded to."""
        return f"lamu{form.index}" in self.model.saved or bool({form.logu, form.logu_y} & wanted)

    def _gradient_symbols(self) -> set[Symbol]:
        """The symbols of the gradient's row scalars, and of its class expressions."""
        plan = self.model.plan
        found = self._tops().union(*(c.expr.free_symbols for c in plan.coefficients))
        return found.union(*(g.at_y.free_symbols | g.expr.free_symbols for g in plan.gradients))

    def _tops(self) -> set[Symbol]:
        """What the gradient's select - p is made of."""
        names = self.model.gradient_names
        owners = {m.form for m in self.model.maxes if m.rise.name in names}
        return {f.top for f in self.model.forms if f.index in owners}

    def _sum(self, entry: Sum) -> Line:
        """A finished sum."""
        moment = Moment(
            "", entry.form, entry.kappa, entry.power, entry.weight, entry.centre, level=entry.level
        )
        name = entry.symbol.name
        if entry.form is None:
            value: Node = Name(self.model.lower(moment, 0))
            counted = self.sums_pivot and entry.level == 1 and not joins(entry.body)
            if self.model.pivot == "argmax" and counted:
                value = value - ROW(entry.body.xreplace(self.model.plan.stable.vocabulary.at_y))
            return Line(name, value)
        i, n = entry.form, entry.power
        la, lam, empty = Name(f"la{i}"), Name(f"lam{i}"), eq(f"la{i}", EMPTY)
        if entry.others:  # b/a, and nothing where there is no other class
            share = call("exp", -la) * Name(self.model.lower(moment, 0))
            return Line(name, where(empty, 0.0, share))
        terms: list[tuple[int, Node]] = []
        for power in range(n, -1, -1):
            scale = [Number(float(comb(n, power)))] if comb(n, power) > 1 else []
            own = Name(self.model.lower(moment, power))
            sign = -1 if (n - power) % 2 else 1
            terms.append((sign, product([*scale, *[lam] * (n - power), own])))
        value = total(terms)
        if entry.kappa != 0:
            value = call("exp", ROW(-entry.kappa * Symbol(lam.name))) * value
            if self.model.pivot != "argmax" or i != 0:  # lam may be anything without other classes
                value = where(empty, 0.0, value)
        return Line(name, value)

    def _divergence(self, entry: Sum) -> list[Line]:
        """Σ R·log(R/R') = Σ R·δ + log(A'/A), and nothing where there is no other class.

        A'/A is 1 + gap/A where it is near 1.
        """
        name, a = Name(entry.symbol.name), Name(f"a{entry.form}")
        la, la_other = Name(f"la{entry.form}"), Name(f"la{entry.against}")
        mean, gap = map(Name, self.model.between(entry))
        near = (2.0 * gap < a) & (-2.0 * gap < a)
        apart = where(near, call("log1p", gap / a), la_other - la)
        whole = where(eq(name, INFINITE), name, name + apart)
        centre = self.model.centre(entry.centre)
        value: Node = mean / a
        if centre in self.model.measured:
            value = value + as_node(centre.at_largest.name)
        return [
            Line(name.name, value),  # infinite where the other softmax masks a class
            Line(name.name, where(eq(la, EMPTY), 0.0, whole)),
        ]

    def _inverses(self, names: set[str], level: int) -> list[Line]:
        """1/Σ exp(t), over all classes and over the others, for the tiles' p and R."""
        lines: list[Line] = []
        for form in self.model.forms:
            i = form.index
            if form.level > level:
                continue
            empty = eq(f"la{i}", EMPTY)  # nothing where there is no other class
            for weight, log_sum in (("p", "lam"), ("r", "la")):
                if f"{weight}{i}" not in names:
                    continue
                inverse = Name(f"{weight}inv{i}")
                value = where(empty, 0.0, call("exp", -as_node(f"{log_sum}{i}")))
                lines.append(Line(inverse.name, value))
                if log_sum == "la" and self.model.pivot == "argmax":
                    over = eq(inverse, INFINITE)  # r of classes 90 below the pivot: 0·∞
                    lines.append(Line(inverse.name, where(over, LARGEST_INVERSE, inverse)))
        return lines

    def _clamp(self, clamp: bool, forms: tuple[Form, ...]) -> tuple[list[Line], Lowering]:
        if not clamp:
            return [], ROW
        lines = [Line(f"zc{f.index}", call("clip", f"z{f.index}", -CLAMP, CLAMP)) for f in forms]
        return lines, Lowering(ROW.exp, {f.z: Name(f"zc{f.index}") for f in forms})


def _in_terms_of(expr: Expr, known: dict[Expr, Symbol]) -> Expr:
    """Use a named coefficient where the expression is one, up to sign or a constant factor."""
    coefficient, rest = expr.as_coeff_Mul()
    for value, symbol in known.items():
        if expr in (value, -value):
            return symbol if expr == value else -symbol
        scale, body = value.as_coeff_Mul()
        if body == rest:
            return coefficient / scale * symbol
    return expr
