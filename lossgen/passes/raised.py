"""Sums of exponentials over a part of the classes, as they are written: with a level of their own.

    e^(L + c)·Σ_j w_j·p_j              →   e^(A(w) + ref + c)      A⁺ - A⁻ where w may be negative
    log(e^c·Σ w·e^l)                   →   A(w) + ref + c
    log(Σ w·e^l / Σ e^l)               →   log Σ w·p
    log(Σ w·e^l / Σ v·e^l)             →   A(w) - A(v)
    Σ w·e^l / Σ e^l                    →   Σ w·p

e^L may be infinite where the sum is 0, so that a sum has no L in it.  What the distinguished class
adds to it stands apart, w_y·P·e^L, and joins it where a logarithm or a quotient is taken: a row
whose level is -3000 has neither.  ``Subsets`` says what A(w) and ref are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Mul, Symbol, exp, expand

from lossgen.ir.ops import relu
from lossgen.ir.stages import Cls
from lossgen.ir.statistics import Form

if TYPE_CHECKING:
    from lossgen.passes.subsets import Subsets

__all__ = ["Raised"]


@dataclass(frozen=True)
class _Level:
    """(e^rest·Σ_j w_j·e^l_j)^order"""

    form: Form
    weight: Cls
    rest: Expr
    order: Expr


class Raised:
    """The rules, beside those of ``subsets``."""

    def __init__(self, subsets: Subsets) -> None:
        self.subsets = subsets

    def total(self, expr: Expr) -> Expr:
        """Σ w·p·e^(L + c) of the other classes as one exponential."""
        return Add(*(self._raised(term) for term in Add.make_args(expr)))

    def _raised(self, term: Expr) -> Expr:
        held = [(s, f) for s, f in self.subsets.masses() if s in term.free_symbols]
        if len(held) != 1 or term.as_powers_dict().get(held[0][0]) != 1:
            return term
        symbol, (form, weight) = held[0]
        factor, rest = exp(expand(_exponent(term))), _without_exponentials(term) / symbol
        exponent = factor.args[0] if isinstance(factor, exp) else Integer(0)
        if exponent.coeff(form.L) != 1:
            return term
        left = exponent - form.L + self.subsets.reference_value(form)
        known = self.subsets.nonnegative(weight)
        signs = ((1, weight),) if known else ((1, relu(weight)), (-1, relu(-weight)))
        parts = (sign * exp(expand(self.subsets.weighted(form, w).z + left)) for sign, w in signs)
        return rest * Add(*parts)

    # ------------------------------------------------------------------ logarithms and quotients
    def logarithm(self, expr: Expr) -> tuple[Expr, Expr]:
        """(the logarithm of the exponentials and sums of them in a product, its other factors)."""
        levels, exponent, rest = self._levels(expr)
        if not levels:
            return Integer(0), expr
        apart = self._share(levels, exponent)
        found = exponent
        for level in levels:
            if apart and len(levels) == 1:
                own = self.subsets.log_of_part(level.form, level.weight) + level.form.L
            else:
                own = self.subsets.log_of_weighted(level.form, level.weight)
                self.subsets.logs[own] = level.form, level.weight
                own += self.subsets.reference_value(level.form)
            found += level.order * (own + level.rest)
        return expand(found, power_base=False, log=False), rest

    def quotient(self, expr: Expr) -> Expr:
        """Σ w·e^l / Σ e^l as a sum of probabilities."""
        levels, exponent, rest = self._levels(expr)
        if len(levels) != 1 or levels[0].order != 1 or not self._share(levels, exponent):
            return expr
        form, weight = levels[0].form, levels[0].weight
        mass = self.subsets.built.sum(weight.o * exp(form.logp)) + weight.y * form.P
        return rest * mass * exp(expand(exponent + levels[0].rest + form.L))

    def _share(self, levels: Sequence[_Level], exponent: Expr) -> bool:
        """Does a sum over all classes divide what one of these multiplies?"""
        form = levels[0].form
        return bool(exponent.coeff(form.L) == -levels[0].order)

    def _levels(self, expr: Expr) -> tuple[list[_Level], Expr, Expr]:
        """(sums of exponentials, the exponents beside them, the other factors) of a product."""
        levels: list[_Level] = []
        exponent, rest = Integer(0), Integer(1)
        for factor in Mul.make_args(expr):
            base, order = factor.as_base_exp()
            level = None if isinstance(factor, exp) else self._level(base, order)
            if isinstance(factor, exp):
                level = self._level(factor, Integer(1))
            if level is not None:
                levels.append(level)
            elif isinstance(factor, exp):
                exponent += factor.args[0]
            else:
                rest *= factor
        return levels, exponent, rest

    def _level(self, expr: Expr, order: Expr) -> _Level | None:
        """``expr`` as e^rest·Σ w·e^l with w >= 0, some of it without L."""
        parts = {s: held for s, held in self.subsets.parts.items() if s in expr.free_symbols}
        if len({form.index for form, _ in parts.values()}) != 1:
            return None
        form = next(iter(parts.values()))[0]
        found: list[tuple[Expr, Cls]] = []
        for term in Add.make_args(expr):
            one = self._weight(term, form, parts)
            if one is None:
                return None
            found.append(one)
        rests = {rest for rest, _ in found}
        if len(rests) != 1:
            return None
        weight = Cls(Add(*(w.o for _, w in found)), Add(*(w.y for _, w in found)))
        return _Level(form, weight, rests.pop(), order)

    def _weight(
        self, term: Expr, form: Form, parts: dict[Symbol, tuple[Form, Expr]]
    ) -> tuple[Expr, Cls] | None:
        """(rest, w) of one term, e^rest·Σ w·e^l."""
        exponent, scale = expand(_exponent(term)), _without_exponentials(term)
        held = [s for s in parts if exponent.coeff(s) != 0]
        nothing = Integer(0)
        if len(held) == 1 and exponent.coeff(held[0]) == 1:
            left = exponent - held[0] - self.subsets.reference_value(form)
            weight = Cls(scale * parts[held[0]][1], nothing)
        elif held:
            return None
        elif exponent.coeff(form.L) == 1:
            left = exponent - form.L
            at_y = scale / form.P if form.P in scale.free_symbols else scale
            weight = Cls(nothing if form.P in scale.free_symbols else scale, at_y)
        else:
            left, weight = exponent - form.ell_y, Cls(nothing, scale)
        whole = (weight.o, weight.y)
        if not all(self.subsets.is_weight(w) and self.subsets.nonnegative(w) for w in whole):
            return None
        return expand(left, power_base=False, log=False), weight


def _exponent(term: Expr) -> Expr:
    return Add(*(f.args[0] for f in Mul.make_args(term) if isinstance(f, exp)))


def _without_exponentials(term: Expr) -> Expr:
    return Mul(*(f for f in Mul.make_args(term) if not isinstance(f, exp)))
