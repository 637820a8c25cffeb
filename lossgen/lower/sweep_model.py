"""One reduction over the classes of a row model: names and lines of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from sympy import Expr, Function, Symbol

from lossgen.ir.plan import SWEEPS, Moment
from lossgen.ir.statistics import Centre, Form, Max, Root

if TYPE_CHECKING:
    from lossgen.lower.model import RowModel

__all__ = ["Sweep", "joins"]


def joins(body: Expr) -> bool:
    """Does a pivot that loses a merge of tiles join a plain sum of ``body`` then?  A function would
    be taken again in each of them: such a sum counts the pivot, and is rid of it in the end."""
    return not body.has(Function)


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

    @property
    def roots(self) -> list[Root]:
        """What it is repeated for."""
        return [r for r in self.model.plan.roots if r.level == self.level]

    @property
    def most(self) -> int:
        """Times that it runs."""
        return SWEEPS if self.roots else 1

    @property
    def trial(self) -> list[str]:
        """What one repetition hands to the next."""
        return [name for root in self.roots for name in root.state]

    @property
    def found(self) -> list[str]:
        """What stays of it: its state, and the roots."""
        return [*self.state, *(root.symbol.name for root in self.roots)]

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
        before = model.values_before if self.level == 1 else model.row_context
        return [*before, *self.known, *self.trial]

    @property
    def merge_context(self) -> list[str]:
        """Row scalars that a merge needs: rates, scales, and what a weight at the pivot needs."""
        wanted = {s.name for m in self.moments for s in m.kappa.free_symbols}
        wanted |= {s.name for f in self.forms for s in f.scale.free_symbols}
        wanted |= {s.name for f in self.forms for _, rate in f.parts for s in rate.free_symbols}
        if self.carries_pivot:
            wanted |= {s.name for e in self.bodies for s in e.free_symbols}
        return [n for n in self.values if n in wanted and n not in self.state]
