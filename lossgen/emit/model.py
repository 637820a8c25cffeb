"""A kernel plan as lines of text: the view that the row templates render.

The templates own loops, memory and masks; everything a loss decides is a line of this model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb

from sympy import Expr, Symbol

from lossgen.emit.names import assignments, named_weights
from lossgen.emit.printers import TRITON, Dialect, Printer
from lossgen.ir.stages import Form, KernelPlan, Moment, Sum

__all__ = ["CLAMP", "FLOOR", "RowModel", "whole"]

CLAMP = "3.0e38"  # finite float32 (and float64) stand-in for an infinite z
FLOOR = "-1.0e18"  # finite stand-in for logp = -inf: exp of it is 0, so 0·logp is 0


@dataclass(frozen=True)
class RowModel:
    """One variant of one loss. ``suffix`` tells its functions from the other variants'."""

    plan: KernelPlan
    suffix: str

    # ------------------------------------------------------------------ names and arguments
    @cached_property
    def used(self) -> set[Symbol]:
        stable = self.plan.stable
        found = stable.loss.free_symbols | stable.gradient_y.free_symbols
        found |= self.plan.gradient.free_symbols
        for scalar in self.plan.coefficients:
            found |= scalar.expr.free_symbols
        for form in stable.forms:
            found |= form.ell.free_symbols | form.ell_y.free_symbols
            found |= form.scale.free_symbols
        for moment in self.plan.moments:
            found |= moment.weight.free_symbols | moment.kappa.free_symbols
        for largest in stable.maxes:
            found |= largest.body.free_symbols
        return found

    @property
    def pivot(self) -> str:
        return self.plan.stable.pivot.value

    @property
    def parameters(self) -> list[str]:
        table = self.plan.stable.vocabulary.parameters
        return [name for name, symbol in table.items() if symbol in self.used]

    @property
    def vocab(self) -> list[str]:
        table = self.plan.stable.vocabulary.vocab
        return [name for name, pair in table.items() if set(pair) & self.used]

    @property
    def rows(self) -> list[str]:
        table = self.plan.stable.vocabulary.rows
        return [name for name, symbol in table.items() if symbol in self.used]

    @property
    def inputs(self) -> list[str]:
        order = list(self.plan.stable.spec.inputs)
        return sorted([*self.vocab, *self.rows], key=order.index)

    @property
    def needs_classes(self) -> bool:
        return self.plan.stable.vocabulary.classes in self.used

    @property
    def row_context(self) -> list[str]:
        """What row expressions may mention besides statistics."""
        names = ["x_y"] if self.pivot != "none" else []
        names += [f"{v}_y" for v in self.vocab] if self.pivot == "target" else []
        return [*names, *self.rows, *self.parameters, *(["V"] if self.needs_classes else [])]

    @property
    def tile_context(self) -> list[str]:
        """What class expressions may mention: one tile of every stream, and the row context."""
        return ["x", *self.vocab, *self.lift_row_context]

    @property
    def lift_row_context(self) -> list[str]:
        return [n for n in self.row_context if self.pivot == "target" or n != "x_y"]

    @cached_property
    def state(self) -> list[str]:
        names = [f"m{f.index}" for f in self.forms] + [m.name for m in self.plan.moments]
        if self.pivot == "argmax":
            names.append("pivot")
        for k in range(len(self.plan.stable.maxes)):
            names += [f"max{k}", f"index{k}"]
        return names

    @property
    def identity(self) -> list[str]:
        return ['float("-inf")' if n[0] == "m" else "0.0" for n in self.state]

    @property
    def saved(self) -> list[str]:
        return list(self.plan.saved)

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.plan.stable.forms

    def lower(self, moment: Moment, power: int) -> str:
        """Name of the moment of the same kind with another power."""
        key = (moment.form, moment.kappa, power, moment.weight)
        return next(
            m.name for m in self.plan.moments if (m.form, m.kappa, m.power, m.weight) == key
        )

    def needs_powers(self, form: Form) -> bool:
        """Does any moment of the form need t beyond exp(t)?"""
        return any(
            m.form == form.index and m.kappa != 0 and (m.power or not whole(m.kappa))
            for m in self.plan.moments
        )

    @cached_property
    def gradient_names(self) -> set[str]:
        """The symbols of the gradient of a tile, with p{i} and r{i} named."""
        return named_weights(self.plan.gradient, self.forms)[1]

    # ------------------------------------------------------------------ row scalars
    def _softmax_lines(
        self, dialect: Dialect, wanted: set[Symbol], saved: bool, gradient: bool
    ) -> list[str]:
        """z, lam = L - m, L of every form, from the state (m, a) or the saved (m, log a)."""
        where, printer = ("tl.where" if dialect is TRITON else "torch.where"), Printer(dialect)
        prefix, lines = dialect.prefix, []
        for form in self.forms:
            i = form.index
            if saved and f"m{i}" not in self.saved:
                continue
            if not saved:
                lines.append(f"la{i} = {dialect.log}(a{i})")
            if self.pivot == "argmax":
                lines.append(f"z{i} = la{i}")
                lines.append(f"lam{i} = {prefix}softplus(z{i})")
            else:
                gap = self._gap(form, printer)
                lines.append(f"ly{i} = {printer(form.base_y)}")
                # An empty set of other classes has log a = -inf and m = 0: z = -inf.
                lines.append(f"z{i} = {gap} + la{i}")
                if self._uses_lam(form, wanted, saved, gradient):
                    lines.append(
                        f"lam{i} = {where}(z{i} > 0.0, la{i} + {prefix}softplus(-z{i}), "
                        f"{prefix}softplus(z{i}) - ({gap}))"
                    )
            if form.L in wanted:
                scaled = "" if form.scale == 1 else f"{printer(form.scale, 2)} * "
                lines.append(f"L{i} = {scaled}m{i} + lam{i}")
        return lines

    def _gap(self, form: Form, printer: Printer) -> str:
        """scale·(m - base_y) - shift_y: how far the largest other exponent is above l_y."""
        i = form.index
        gap = f"(m{i} - ly{i})"
        if form.scale != 1:
            gap = f"{printer(form.scale, 2)} * {gap}"
        return gap if form.shift_y == 0 else f"{gap} - {printer(form.shift_y, 2)}"

    def _uses_lam(self, form: Form, wanted: set[Symbol], saved: bool, gradient: bool) -> bool:
        finishes = not saved and any(s.form == form.index for s in self._sums)
        reads = gradient and self.gradient_names & {f"p{form.index}", form.logp.name}
        return form.L in wanted or finishes or bool(reads)

    def _gradient_symbols(self) -> set[Symbol]:
        """The symbols of the gradient's row scalars, and of its class expression."""
        stable = self.plan.stable
        found = stable.gradient_y.free_symbols | self.plan.gradient.free_symbols
        return found.union(*(c.expr.free_symbols for c in self.plan.coefficients))

    @property
    def _sums(self) -> list[Sum]:
        keep = {*self.plan.forward_sums, *self.plan.gradient_sums}
        return [s for s in self.plan.stable.sums if s in keep]

    def _sum_lines(self, dialect: Dialect) -> list[str]:
        """Finished sums: exp(-kappa·lam)·Σ binomial·(-lam)^(n-k)·M_k."""
        printer, lines = Printer(dialect), []
        for entry in self._sums:
            moment = Moment("", entry.form, entry.kappa, entry.power, entry.weight)
            if entry.form is None:
                text = self.lower(moment, 0)
                if self.pivot == "argmax":
                    names = self.plan.stable.vocabulary
                    text += f" - {printer(entry.body.xreplace({names.x: names.x_y}), 2)}"
                lines.append(f"{entry.symbol} = {text}")
                continue
            i, n = entry.form, entry.power
            terms: list[str] = []
            for power in range(n, -1, -1):
                sign = " - " if (n - power) % 2 else (" + " if terms else "")
                scale = [str(float(comb(n, power)))] if comb(n, power) > 1 else []
                factors = [*scale, *[f"lam{i}"] * (n - power), self.lower(moment, power)]
                terms.append(sign + " * ".join(factors))
            total = "".join(terms)
            if entry.kappa != 0:
                exponent = printer(-entry.kappa * Symbol(f"lam{i}"))
                total = f"{dialect.exp}({exponent}) * ({total})"
            lines.append(f"{entry.symbol} = {total}")
        return lines

    def _clamp_lines(self, dialect: Dialect, clamp: bool) -> tuple[list[str], Printer]:
        if not clamp:
            return [], Printer(dialect)
        lines = [
            f"zc{f.index} = {dialect.prefix}clip(z{f.index}, -{CLAMP}, {CLAMP})" for f in self.forms
        ]
        return lines, Printer(dialect, {f.z: f"zc{f.index}" for f in self.forms})

    def loss_lines(self, dialect: Dialect, with_gradient: bool = False) -> list[str]:
        """From the finished state to ``loss``, everything that is saved, and, if the gradient
        follows at once, what it reads."""
        stable = self.plan.stable
        wanted = set(stable.loss.free_symbols)
        if with_gradient:
            wanted |= self._gradient_symbols()
        lines = self._softmax_lines(dialect, wanted, False, with_gradient)
        lines += self._sum_lines(dialect)
        clamped, printer = self._clamp_lines(dialect, stable.clamp_loss)
        return lines + clamped + assignments([("loss", stable.loss)], printer)

    def coefficient_lines(self, dialect: Dialect, saved: bool) -> list[str]:
        """The row scalars of the gradient; ``saved``: from what the forward stored."""
        stable = self.plan.stable
        wanted = set(stable.gradient_y.free_symbols)
        targets: list[tuple[str, Expr]] = []
        for scalar in self.plan.coefficients:
            wanted |= scalar.expr.free_symbols
            targets.append((scalar.symbol.name, scalar.expr))
        if self.pivot != "none":
            targets.append(("grad_y", stable.gradient_y))
        known = {e: s.symbol for s in self.plan.coefficients for e in (s.expr,)}
        targets = [(n, e if n != "grad_y" else _in_terms_of(e, known)) for n, e in targets]
        lines = self._softmax_lines(dialect, wanted, True, True) if saved else []
        clamped, printer = self._clamp_lines(dialect, stable.clamp_gradient)
        lines += clamped + assignments(targets, printer)
        names = self.gradient_names
        where = "tl.where" if dialect is TRITON else "torch.where"
        for form in self.forms:
            i = form.index
            if f"p{i}" in names:
                lines.append(f"pinv{i} = {dialect.exp}(-lam{i})")
            if f"r{i}" in names:
                lines.append(
                    f'rinv{i} = {where}(la{i} == float("-inf"), 0.0, {dialect.exp}(-la{i}))'
                )
        return lines

    @property
    def coefficient_names(self) -> list[str]:
        """What the gradient of a tile needs from its row."""
        names = self.gradient_names
        found = [s.symbol.name for s in self.plan.coefficients]
        found += ["grad_y"] if self.pivot != "none" else []
        for form in self.forms:
            i = form.index
            exponentials = {f"p{i}", f"r{i}", form.logp.name} & names
            found += [f"m{i}"] if exponentials else []
            found += [f"pinv{i}"] if f"p{i}" in names else []
            found += [f"rinv{i}"] if f"r{i}" in names else []
            found += [f"lam{i}"] if form.logp.name in names else []
        return found + [n for n in self.saved if n.startswith("index")]


def whole(kappa: Expr) -> int:
    """kappa as a positive integer, or 0."""
    return int(kappa) if kappa.is_Integer and kappa > 0 else 0


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
