"""A kernel plan as names and lines of text: what its row programs are made of.

The templates own loops, memory and masks; everything a loss decides is a line of this model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from sympy import Expr, Symbol

from lossgen.ir.plan import KernelPlan, Moment, StreamGradient
from lossgen.ir.statistics import Centre, Form, Max, Sum
from lossgen.lower.expressions import exponential_names, named_weights, whole
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
        return found

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
        """Everything that the sweeps reduce."""
        return [n for sweep in self.sweep_models for n in sweep.state]

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


@dataclass(frozen=True)
class Sweep:
    """One reduction over the classes: what it accumulates and what it needs to know."""

    model: RowModel
    level: int

    @property
    def suffix(self) -> str:
        """Of its functions: _2 for the second sweep."""
        return self.model.suffix + (f"_{self.level}" if self.level > 1 else "")

    @property
    def forms(self) -> list[Form]:
        return [f for f in self.model.forms if f.level == self.level]

    @property
    def moments(self) -> list[Moment]:
        return [m for m in self.model.plan.moments if m.level == self.level]

    @property
    def maxes(self) -> list[tuple[int, Max]]:
        return [(k, m) for k, m in enumerate(self.model.maxes) if m.level == self.level]

    @property
    def measured(self) -> list[Centre]:
        return [c for c in self.model.measured if c.level == self.level]

    @cached_property
    def carries_pivot(self) -> bool:
        return self.model.pivot == "argmax" and self.level == 1

    @cached_property
    def weights(self) -> dict[Expr, Symbol]:
        """Names of the weights that are more than a name and occur more than once in the sums."""
        uses: Counter[Expr] = Counter()
        for moment in self.moments:
            if not moment.weight.is_Atom and (moment.form is not None or self.level == 1):
                uses[moment.weight] += 2 if moment.form is not None and moment.kappa == 0 else 1
        # In later sweeps the plain sums are v0, v1, ...
        first = sum(m.form is None for m in self.moments) if self.level > 1 else 0
        several = [weight for weight, count in uses.items() if count > 1]
        return {w: Symbol(f"v{k}", real=True) for k, w in enumerate(several, first)}

    def weight(self, moment: Moment) -> Expr:
        """Its weight, or the name of it."""
        return self.weights.get(moment.weight, moment.weight)

    @cached_property
    def state(self) -> list[str]:
        names = [f"m{f.index}" for f in self.forms] + [m.name for m in self.moments]
        names += [str(c.at_largest) for c in self.measured]
        if self.carries_pivot:
            names += ["pivot", *self.model.at_y]
        for k, _ in self.maxes:
            names += [f"max{k}", f"index{k}"]
        return names

    @property
    def identity(self) -> list[float]:
        """The state of no class; a pivot of -1: there is none yet."""
        known = {"pivot": -1.0}
        return [known.get(n, -inf if n[0] == "m" else 0.0) for n in self.state]

    @property
    def bodies(self) -> list[Expr]:
        """The class expressions of its lift."""
        found = [m.weight for m in self.moments]
        found += [e for f in self.forms for e in (f.base, f.scale, *(r for _, r in f.parts))]
        found += [m.body for _, m in self.maxes]
        found += [c.symbol for c in self.measured]
        return found + [m.centre for m in self.moments if m.centre is not None]

    @property
    def known(self) -> list[str]:
        """Row scalars of the sweeps before it."""
        if self.level == 1:
            return []
        return self.model.tile_scalars(self.model.read(self.bodies), self.level - 1)

    @property
    def values(self) -> list[str]:
        """What its lift reads of the row."""
        model = self.model
        return [*(model.values_before if self.level == 1 else model.row_context), *self.known]

    @property
    def merge_context(self) -> list[str]:
        """Row scalars that a merge needs: rates, scales, and what a weight at the pivot needs."""
        wanted = {s.name for m in self.moments for s in m.kappa.free_symbols}
        wanted |= {s.name for f in self.forms for s in f.scale.free_symbols}
        wanted |= {s.name for f in self.forms for _, rate in f.parts for s in rate.free_symbols}
        if self.carries_pivot:
            wanted |= {s.name for e in self.bodies for s in e.free_symbols}
        return [n for n in self.values if n in wanted and n not in self.state]
