"""A kernel plan as names and lines of text: what its row programs are made of.

The templates own loops, memory and masks; everything a loss decides is a line of this model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from sympy import Expr, Symbol

from lossgen.ir.plan import KernelPlan, Moment, StreamGradient
from lossgen.ir.statistics import Centre, Form, Max, Sum
from lossgen.lower.expressions import exponential_names, named_weights, whole
from lossgen.lower.sweep_model import Sweep
from lossgen.spec.spelling import spelled

__all__ = ["RowModel", "exponential_names", "whole"]


@dataclass(frozen=True)
class RowModel:
    """One variant of one loss. ``suffix`` tells its functions from the other variants'."""

    plan: KernelPlan
    suffix: str

    # ------------------------------------------------------------------ what is used
    @cached_property
    def used(self) -> set[Symbol]:
        stable, plan = self.plan.stable, self.plan
        found = stable.loss.free_symbols.union(*(e.free_symbols for e in stable.results))
        for gradient in plan.gradients:
            found |= gradient.expr.free_symbols | gradient.at_y.free_symbols
        for scalar in plan.coefficients:
            found |= scalar.expr.free_symbols
        for form in stable.forms:
            found |= form.ell.free_symbols | form.ell_y.free_symbols
            found |= form.scale.free_symbols
            found = found.union(*(rate.free_symbols for _, rate in form.parts))
        for moment in plan.moments:
            found |= moment.weight.free_symbols | moment.kappa.free_symbols
        for centre in self.centres:
            found |= centre.expr.free_symbols | centre.origin.free_symbols
            found |= centre.factor.free_symbols
        for largest in stable.maxes:
            found |= largest.body.free_symbols
        return found.union(*(e.free_symbols for r in plan.roots for e in r.exprs))

    @cached_property
    def centres(self) -> tuple[Centre, ...]:
        wanted = {m.centre for m in self.plan.moments}
        wanted = wanted.union(*(m.weight.free_symbols for m in self.plan.moments))
        wanted = wanted.union(*(g.expr.free_symbols for g in self.plan.gradients))
        return tuple(c for c in self.plan.stable.centres if c.symbol in wanted)

    def centre(self, symbol: Symbol | None) -> Centre:
        """The centre of a moment or a sum."""
        return next(c for c in self.plan.stable.centres if c.symbol == symbol)

    @cached_property
    def measured(self) -> tuple[Centre, ...]:
        """The centres that are measured from the largest class of a weight."""
        return tuple(c for c in self.centres if self.plan.stable.measures(c))

    def origins(self, names: set[str]) -> set[int]:
        """The softmaxes from whose maxima the centred differences of ``names`` are measured."""
        return {k for c in self.centres if c.symbol.name in names for k, _ in c.softmaxes}

    @property
    def pivot(self) -> str:
        return self.plan.stable.pivot.value

    @property
    def parameters(self) -> list[str]:
        return self._spelled(self.plan.stable.vocabulary.parameters.values())

    @property
    def streams(self) -> list[str]:
        """The class streams beside the logits."""
        return [pair[0].name for pair in self.plan.stable.vocabulary.streams.values()][1:]

    @property
    def differentiable(self) -> list[str]:
        """Those of them that get a gradient."""
        return [g.stream for g in self.gradients if g.stream != "x"]

    @cached_property
    def gradients(self) -> tuple[StreamGradient, ...]:
        """Those of the plan; a stream is called as its symbol."""
        streams = self.plan.stable.vocabulary.streams
        return tuple(replace(g, stream=streams[g.stream][0].name) for g in self.plan.gradients)

    @cached_property
    def floored(self) -> list[str]:
        """Streams whose value at the target stands in a difference of streams: a masked target
        counts as ``FAR`` there, so that the difference has a finite centre."""
        if self.pivot != "target":
            return []
        raw = [c for c in self.centres if len(c.pairs) > 1 and not c.softmaxes]
        used = {s.name for c in raw for s in c.expr.free_symbols}
        return [n for n in self.streams if n in used]

    @property
    def vocab(self) -> list[str]:
        table = self.plan.stable.vocabulary.vocab
        return [pair[0].name for pair in table.values() if set(pair) & self.used]

    @property
    def rows(self) -> list[str]:
        return self._spelled(self.plan.stable.vocabulary.rows.values())

    def _spelled(self, symbols: Iterable[Symbol]) -> list[str]:
        return [symbol.name for symbol in symbols if symbol in self.used]

    @property
    def inputs(self) -> list[str]:
        order = [*map(spelled, self.plan.stable.spec.inputs)]
        return sorted([*self.vocab, *self.rows], key=order.index)

    @property
    def needs_classes(self) -> bool:
        return self.plan.stable.vocabulary.classes in self.used

    @property
    def needs_index(self) -> bool:
        return bool(set(self.plan.stable.vocabulary.index) & self.used)

    @property
    def needs_reference(self) -> bool:
        """Is anything measured from x_y where that is not masked?"""
        names = self.plan.stable.vocabulary
        return bool({names.x_ref, names.x_own} & self.used)

    @property
    def outputs(self) -> list[str]:
        """Names of the results of a row."""
        return [f"out_{spelled(name)}" for name, _ in self.plan.stable.outputs] or ["loss"]

    @property
    def cotangents(self) -> list[str]:
        return [g.name for g in self.plan.stable.vocabulary.cotangents]

    # ------------------------------------------------------------------ names and arguments
    @cached_property
    def at_y(self) -> list[str]:
        """Values at y that anything may mention; an arg-max pivot carries them in the state."""
        if self.pivot == "none":
            return []
        found = [f"{n}_y" for n in self.tile_streams]
        found += ["x_ref", "x_own"] if self.needs_reference else []
        return found + (["index_y"] if self.needs_index else [])

    @property
    def row_context(self) -> list[str]:
        """The values of a row besides statistics."""
        constants = [*self.rows, *self.parameters, *(["V"] if self.needs_classes else [])]
        return [*self.at_y, *constants]

    @property
    def values_before(self) -> list[str]:
        """Those before the first sweep, which finds an arg-max pivot."""
        return [n for n in self.row_context if self.pivot == "target" or n not in self.at_y]

    @property
    def tile_streams(self) -> list[str]:
        """What is loaded per class."""
        return ["x", *self.streams, *self.vocab]

    @property
    def saved(self) -> list[str]:
        return list(self.plan.saved)

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.plan.stable.forms

    @property
    def maxes(self) -> tuple[Max, ...]:
        return self.plan.stable.maxes

    @property
    def sums(self) -> tuple[Sum, ...]:
        return self.plan.sums

    def lower(self, moment: Moment, power: int, centred: bool = True) -> str:
        """Name of the moment of the same kind with another power, or without its centre."""
        centre = moment.centre if centred else None
        wanted = replace(moment, power=power, centre=centre, rest=False)
        kinds = (wanted.kind, wanted.plain.kind)
        return next(m.name for m in self.plan.moments if m.kind in kinds)

    def between(self, entry: Sum) -> tuple[str, str]:
        """Names of the two moments of a divergence: of its centre, and the gap."""
        own = [m for m in self.plan.moments if (m.form, m.centre) == (entry.form, entry.centre)]
        gap = next(m for m in own if m.against == entry.against)
        return self.lower(replace(gap, against=None), 0), gap.name

    def needs_powers(self, form: Form) -> bool:
        """Does any moment of the form need t beyond exp(t)?"""
        return any(
            m.form == form.index and m.kappa != 0 and (m.power or not whole(m.kappa))
            for m in self.plan.moments
        )

    # ------------------------------------------------------------------ sweeps
    @property
    def levels(self) -> range:
        return range(1, 1 + max(1, self.plan.sweeps))

    @cached_property
    def sweep_models(self) -> list[Sweep]:
        return [Sweep(self, level) for level in self.levels]

    @property
    def state(self) -> list[str]:
        """Everything that the sweeps find."""
        return [n for sweep in self.sweep_models for n in sweep.found]

    def tile_symbols(self, exprs: list[Expr]) -> set[str]:
        """The names that class expressions mention, with p{i} and r{i} named."""
        found: set[str] = set()
        for expr in exprs:
            found |= named_weights(expr, self.forms)[1]
        for k, largest in enumerate(self.maxes):
            if f"rise{k}" in found:  # built of p, top and where the maximum is
                found |= {f"p{largest.form}", f"top{largest.form}", largest.select.name}
        return found

    def read(self, exprs: list[Expr]) -> set[str]:
        """``tile_symbols``, and those of earlier softmaxes that their exponents are made of."""
        return self._with_exponents(self.tile_symbols(exprs))

    @cached_property
    def gradient_names(self) -> set[str]:
        return self.read([g.expr for g in self.gradients])

    def named(self, expr: Expr) -> Expr:
        """A class expression with p{i} and r{i} for the exponentials."""
        return named_weights(expr, self.forms)[0]

    def tile_scalars(self, names: set[str], level: int) -> list[str]:
        """The row scalars that class expressions with ``names`` need, of sweeps up to ``level``."""
        names = self._with_exponents(names)
        found: list[str] = []
        exponents = self.exponents(names) | self.origins(names)
        for form in self.forms:
            i = form.index
            if form.level > level:
                continue
            found += [f"m{i}"] if i in exponents else []
            found += [f"pinv{i}"] if f"p{i}" in names else []
            found += [f"rinv{i}"] if f"r{i}" in names else []
            found += [f"lam{i}"] if form.logp.name in names else []
            found += [f"lamu{i}"] if form.logu.name in names else []
            found += [n for n in (f"z{i}", f"L{i}", f"top{i}", f"loguy{i}") if n in names]
        known = [c for c in self.measured if c.level <= level and c.symbol.name in names]
        found += [str(c.at_largest) for c in known]
        apart = [c for c in self.plan.stable.centres if c.softmaxes and c.level <= level]
        rows = [s.name for c in apart for s in (c.lse, c.symbol_y, c.bernoulli)]
        found += [name for name in rows if name in names]
        found += [s.symbol.name for s in self.sums if s.level <= level and s.symbol.name in names]
        roots = [r.symbol.name for r in self.plan.roots if r.level <= level]
        found += [name for name in roots if name in names]
        for k, largest in enumerate(self.maxes):
            if largest.level <= level:
                found += [f"max{k}"] if f"max{k}" in names else []
                found += [f"index{k}"] if {f"index{k}", f"is_max{k}"} & names else []
        return found

    def exponents(self, names: set[str]) -> set[int]:
        """The forms whose t the class expressions with ``names`` need, parts of others included."""
        found: set[int] = set()
        for form in reversed(self.forms):
            i = form.index
            if i in found or exponential_names(form) & names:
                found |= {i, *(k for k, _ in form.parts)}
        return found

    def _with_exponents(self, names: set[str]) -> set[str]:
        """``names``, and those that the units of their differences and the exponents of their
        softmaxes mention."""
        found = set(names)
        for centre in self.plan.stable.centres:
            if centre.symbol.name in found:
                found |= self.tile_symbols(centre.made_of)
        for form in reversed(self.forms):
            if form.level > 1 and exponential_names(form) & found:
                found |= self.tile_symbols([form.base, form.scale])
        return found

    @property
    def coefficient_names(self) -> list[str]:
        """What the gradient of a tile needs from its row."""
        found = [s.symbol.name for s in self.plan.coefficients]
        if self.pivot != "none":
            found += [f"grad_{g.stream}_y" for g in self.gradients]
        last = self.levels[-1]
        return found + self.tile_scalars(self.gradient_names, last)
