"""Sums over classes in normal form.

    Σ_j e_j   →   Σ_k coefficient_k(row) · T_k      with T_k = Σ_{j≠y} exp(κ·logp)·logp^n·w

A body without statistics is already one online sum and is never expanded.  A body with
statistics is expanded in exp(κ·logp), logp and the statistics only; every other class expression
is an opaque weight.  Identities: Σ_{j≠y} p_j = Q, Σ_{j≠y} 1 = V - 1.  Equal sums are one sum.
What does not separate (log(1 - p_j), |p_j - q_j|) needs a second sweep and is refused.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Expr, Integer, Mul, Symbol, exp, expand

from lossgen.errors import CompileError
from lossgen.ir.stages import Form, Max, Pivot, Sum, Vocabulary

__all__ = ["Reductions"]

_FIXED = "_fixed"  # suffix of the twin symbols under stop_gradient


class Reductions:
    """The statistics of one program under construction (the only mutable object of a pass)."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        pivot: Pivot,
        forms: tuple[Form, ...] = (),
        sums: tuple[Sum, ...] = (),
        maxes: tuple[Max, ...] = (),
    ) -> None:
        self.vocabulary = vocabulary
        self.pivot = pivot
        self.forms = list(forms)
        self.sums = list(sums)
        self.maxes = list(maxes)
        self._twins: dict[Symbol, Symbol] = {}

    @property
    def count(self) -> Expr:
        """The number of classes a sum runs over."""
        classes = self.vocabulary.classes
        return classes if self.pivot is Pivot.NONE else classes - 1

    # ------------------------------------------------------------------ what varies along what
    def class_symbols(self) -> set[Symbol]:
        found: set[Symbol] = set(self.vocabulary.class_symbols)
        for form in self.forms:
            found.update(form.class_symbols)
        found.update(m.select for m in self.maxes)
        return found | {t for live, t in self._twins.items() if live in found}

    def statistics(self) -> set[Symbol]:
        """Row symbols that are known only after the sweep."""
        found: set[Symbol] = {s.symbol for s in self.sums} | {m.symbol for m in self.maxes}
        for form in self.forms:
            found.update(form.row_symbols)
        return found | {t for live, t in self._twins.items() if live in found}

    def varies(self, expr: Expr) -> bool:
        return bool(expr.free_symbols & self.class_symbols())

    # ------------------------------------------------------------------ stop_gradient
    def freeze(self, expr: Expr) -> Expr:
        """Replace every symbol that depends on the logits by a twin with zero derivative."""
        names = self.vocabulary
        live = self.statistics() | self.class_symbols() | {names.x, names.x_y}
        for symbol in sorted(expr.free_symbols & live, key=str):
            if symbol not in self._twins and not symbol.name.endswith(_FIXED):
                self._twins[symbol] = Symbol(symbol.name + _FIXED, **symbol.assumptions0)
        return expr.xreplace(self._twins)

    def unfreeze(self, expr: Expr) -> Expr:
        """Give the twins their values again, and the sums over twins too."""
        back: dict[Expr, Expr] = {t: live for live, t in self._twins.items()}
        for entry in list(self.sums):
            if entry.body.free_symbols & set(back):
                back[entry.symbol] = self.sum(entry.body.xreplace(back))
        return expr.xreplace(back)

    def adopt_twins(self, twins: dict[Symbol, Symbol]) -> None:
        """Take over the twins of an earlier pass."""
        self._twins.update(twins)

    @property
    def twins(self) -> dict[Symbol, Symbol]:
        return dict(self._twins)

    def without_twins(self, entries: tuple[Sum, ...]) -> tuple[Sum, ...]:
        twins = set(self._twins.values())
        return tuple(e for e in entries if not e.body.free_symbols & twins)

    # ------------------------------------------------------------------ statistics
    def form(self, ell: Expr, ell_y: Expr) -> tuple[Form, Expr]:
        """The form of exp(ell), and the row constant stripped from it: exp(ell) = e^c·exp(form)."""
        symbols = self.class_symbols()
        scale, body = ell.as_independent(*symbols, as_Add=False)
        if not scale.is_positive:
            scale, body = Integer(1), ell
        offset, base = body.as_independent(*symbols, as_Add=True)
        x, x_y = self.vocabulary.x, self.vocabulary.x_y
        rest = base - x
        if self.pivot is Pivot.TARGET and rest != 0 and x not in rest.free_symbols:
            # x - x_y is exact where it matters, x + rest at |x| = 3000 is not
            offset, base = offset + x_y, base - x_y
        constant = scale * offset
        along: list[Expr] = []
        shift_y: list[Expr] = []
        for term in Add.make_args(expand(ell_y - constant)):
            held = self.vocabulary.x_y in term.free_symbols
            (along if held else shift_y).append(term)
        base_y = Add(*(term / scale for term in along))
        found = Form(len(self.forms), scale, base, base_y, Add(*shift_y))
        for form in self.forms:
            if replace(found, index=form.index) == form:
                return form, constant
        self.forms.append(found)
        return found, constant

    def maximum(self, body: Expr) -> Symbol:
        for entry in self.maxes:
            if entry.body == body:
                return entry.symbol
        k = len(self.maxes)
        select = Symbol(f"is_max{k}", nonnegative=True)
        entry = Max(Symbol(f"max{k}", real=True), select, body)
        self.maxes.append(entry)
        return entry.symbol

    def sum(self, body: Expr) -> Expr:
        """Σ_{j≠y} body as a row expression in sum symbols."""
        body = body.xreplace({f.R: exp(f.logp) / f.Q for f in self.forms})
        if not self.varies(body):
            return self.count * body
        logps = {f.logp for f in self.forms}
        logps |= {t for live, t in self._twins.items() if live in logps}
        if not body.free_symbols & (self.statistics() | logps):
            return self._plain(body)
        body = self._one_form(body)
        total: list[Expr] = []
        symbols = self.class_symbols()
        for outer in Add.make_args(body):
            row, cls = outer.as_independent(*symbols, as_Add=False)
            for term in Add.make_args(expand(cls, deep=True, power_base=False, log=False)):
                inner, own = term.as_independent(*symbols, as_Add=False)
                total.append(row * inner * (self._monomial(own) if own != 1 else self.count))
        return Add(*total)

    def _plain(self, body: Expr) -> Expr:
        row, cls = body.as_independent(*self.class_symbols(), as_Add=False)
        key = Sum(Symbol("_"), cls, None, Integer(0), 0, cls)
        return row * self._register(key)

    def _one_form(self, body: Expr) -> Expr:
        """Keep logp of the form under exp; write the other forms' logp as l_j - L."""
        used = [f for f in self.forms if f.logp in body.free_symbols]
        if len(used) < 2:
            return body
        inside = {s for e in body.atoms(exp) for s in e.free_symbols}
        keep = [f for f in used if f.logp in inside] or used[:1]
        if len(keep) > 1:
            raise CompileError(
                "a sum over classes multiplies the probabilities of two different softmaxes: "
                "not in this release"
            )
        return body.xreplace({f.logp: f.ell - f.L for f in used if f is not keep[0]})

    def _monomial(self, cls: Expr) -> Expr:
        """T for one product of exp(κ·logp), powers of logp and a weight."""
        kappa: dict[Symbol, Expr] = {}
        power: dict[Symbol, int] = {}
        weight: list[Expr] = []
        logps = {f.logp: f for f in self.forms}
        logps.update({self._twins[f.logp]: f for f in self.forms if f.logp in self._twins})
        for factor in Mul.make_args(cls):
            if isinstance(factor, exp):
                for part in Add.make_args(expand(factor.args[0])):
                    coefficient, symbol = part.as_independent(*logps, as_Add=False)
                    if symbol not in logps or self.varies(coefficient):
                        self._refuse(cls)
                    kappa[symbol] = kappa.get(symbol, Integer(0)) + coefficient
                continue
            base, exponent = factor.as_base_exp()
            if base in logps and exponent.is_Integer and exponent > 0:
                power[base] = power.get(base, 0) + int(exponent)
            elif factor.free_symbols & (set(logps) | self.statistics()):
                self._refuse(cls)
            else:
                weight.append(factor)
        owners = {logps[s].index for s in (*kappa, *power)}
        if len(owners) != 1:
            self._refuse(cls)
        live = self.forms[owners.pop()]
        total_kappa, total_power = Add(*kappa.values()), sum(power.values())
        w = Mul(*weight)
        if {*kappa, *power} == {live.logp} and (total_kappa, total_power, w) == (1, 0, 1):
            return live.Q
        if total_kappa.free_symbols & self.statistics():
            self._refuse(cls)
        return self._register(Sum(Symbol("_"), cls, live.index, total_kappa, total_power, w))

    def _register(self, key: Sum) -> Symbol:
        for entry in self.sums:
            if entry.body == key.body:
                return entry.symbol
        sign = {}
        if key.weight.is_nonnegative:
            sign = {"nonnegative": True} if key.power % 2 == 0 else {"nonpositive": True}
        symbol = Symbol(f"T{len(self.sums)}", real=True, **sign)
        self.sums.append(Sum(symbol, key.body, key.form, key.kappa, key.power, key.weight))
        return symbol

    def _refuse(self, cls: Expr) -> None:
        raise CompileError(
            f"the sum over classes of {cls} is nonlinear in normalised probabilities: it needs a "
            "second sweep, which is not in this release"
        )
