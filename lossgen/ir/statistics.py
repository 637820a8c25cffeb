"""What a program reduces over the classes of a row: softmaxes, centred differences, sums, maxima.

``ir.stages`` says what the symbols of a softmax are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sympy import Add, Expr, S, Symbol, expand

__all__ = ["Centre", "Form", "Max", "Root", "Sum", "trial", "underlying"]


@dataclass(frozen=True)
class Form:
    """One softmax: the exponent l_j, and the symbols the algebra knows about it.

    l_j = scale·base for j ≠ y and l_y = scale·base_y + shift_y.  The running maximum is of
    ``base``, and the exponent is scale·(base - max): forming x/T - m at |x| = 3000 would lose
    three digits that (x - m)/T keeps.

    ``parts`` are other forms and rates with l = Σ rate·l', for a product of powers of softmaxes.
    Its exponent is formed of their t', and its maximum is relative to theirs: offsets of the rows
    never meet.
    """

    index: int  # numbers the forms of a program
    scale: Expr  # positive row expression
    base: Expr  # class expression that needs no statistic, without additive row constants
    base_y: Expr
    shift_y: Expr
    level: int = 1
    parts: tuple[tuple[int, Expr], ...] = ()

    def mixed(self, values: Mapping[int, Expr]) -> Expr:
        """Σ rate·value of the parts, so that it is exactly their value where that is the same."""
        if expand(Add(*(rate for _, rate in self.parts))) != 1:
            return Add(*(rate * values[k] for k, rate in self.parts))
        last = values[self.parts[-1][0]]
        return Add(last, *(rate * (values[k] - last) for k, rate in self.parts[:-1]))

    @cached_property
    def ell(self) -> Expr:
        """l_j for j ≠ y."""
        return self.scale * self.base

    @cached_property
    def ell_y(self) -> Expr:
        """l_y."""
        return self.scale * self.base_y + self.shift_y

    def _row(self, letter: str, **assumptions: bool) -> Symbol:
        return Symbol(f"{letter}{self.index}", real=True, **assumptions)

    @cached_property
    def z(self) -> Symbol:
        return self._row("z")

    @cached_property
    def L(self) -> Symbol:
        return self._row("L")

    @cached_property
    def O(self) -> Symbol:  # noqa: E743
        """log Σ_{j≠y} exp(l_j), which is L - r but for what l_y would round."""
        return self._row("O")

    @cached_property
    def P(self) -> Symbol:
        return self._row("P", positive=True)

    @cached_property
    def Q(self) -> Symbol:
        return self._row("Q", positive=True)

    @cached_property
    def s(self) -> Symbol:
        """softplus(z) = -log P."""
        return self._row("s", positive=True)

    @cached_property
    def r(self) -> Symbol:
        """softplus(-z) = -log Q."""
        return self._row("r", positive=True)

    @cached_property
    def top(self) -> Symbol:
        """L - max_{j≠y} l_j = -log of the largest other probability, accurate where that is 1."""
        return self._row("top", nonnegative=True)

    @cached_property
    def joint(self) -> Symbol:
        """log Σ_{j≠y} Π p'^rate of the parts."""
        return self._row("joint")

    @cached_property
    def logp(self) -> Symbol:
        return Symbol(f"logp{self.index}", real=True, nonpositive=True)

    @cached_property
    def logu(self) -> Symbol:
        """log(V·p_j) = t_j - (lam - log V): near 0, and accurate, where p is nearly uniform."""
        return self._row("logu")

    @cached_property
    def logu_y(self) -> Symbol:
        """log(V·P), with the same lam - log V."""
        return self._row("loguy")

    @cached_property
    def R(self) -> Symbol:
        return self._row("R", positive=True)

    @cached_property
    def m(self) -> Symbol:
        """The running maximum of the base: over j ≠ y, or of an arg-max pivot over all classes."""
        return self._row("m")

    @property
    def class_symbols(self) -> tuple[Symbol, ...]:
        return (self.logp, self.R)

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """All of them, and what ``stabilize`` writes in their place."""
        return (*self.row_symbols, *self.class_symbols, self.logu, self.logu_y)

    @property
    def row_symbols(self) -> tuple[Symbol, ...]:
        return (self.z, self.L, self.O, self.top, self.joint, self.P, self.Q, self.s, self.r)


@dataclass(frozen=True)
class Centre:
    """A class symbol for factor·(c_j - origin), a difference of raw streams taken before anything
    is summed: what two close rows share, and what all classes share, cancels there.

    The origin is c_y; or, of a divergence between ``softmaxes`` (index, sign) under the weight of
    one, what they are apart at the largest class of the weight: no class that it masks, or thinks
    little of, is its measure, and most of the weight has a difference of 0.  That one is measured
    from the running maxima, and ``at_largest`` with it.

    Where the origin is small, the streams are subtracted class by class, which is exact where the
    rows are close; where it is large (rows with different offsets), each loses its own part of it.
    """

    symbol: Symbol
    pairs: tuple[tuple[Expr, Expr], ...]  # the summands of c_j, each with its part of the origin
    factor: Expr = S.One  # a row expression
    softmaxes: tuple[tuple[int, int], ...] = ()
    weight: int = 0  # the softmax that weighs it
    level: int = 0  # the sweep after which it is known

    @property
    def made_of(self) -> list[Expr]:
        """What its values per class are made of, beside softmaxes: its unit, and all there is in a
        difference of rows."""
        return [self.factor, *([] if self.softmaxes else [self.expr, self.origin])]

    @cached_property
    def expr(self) -> Expr:
        """c_j"""
        return Add(*(c for c, _ in self.pairs))

    @cached_property
    def origin(self) -> Expr:
        return Add(*(o for _, o in self.pairs))

    @cached_property
    def at_largest(self) -> Symbol:
        """What the softmaxes are apart at the largest class of the weight, from their maxima."""
        return Symbol(f"o{self.symbol.name.removeprefix('delta')}", real=True)

    @cached_property
    def apart(self) -> Symbol:
        """factor·(c_j - origin): ``symbol`` before ``at_largest`` is taken off."""
        return Symbol(f"apart{self.symbol.name.removeprefix('delta')}", real=True)

    @cached_property
    def lse(self) -> Symbol:
        """Of softmaxes: the difference of L from the same origin, so that

        symbol - lse = Σ sign·logp.
        """
        return Symbol(f"lse{self.symbol.name.removeprefix('delta')}", real=True)

    @cached_property
    def symbol_y(self) -> Symbol:
        """Of softmaxes: the same difference at y, a row value."""
        return Symbol(f"{self.symbol}_y", real=True)

    @cached_property
    def bernoulli(self) -> Symbol:
        """Of two softmaxes: the divergence of (P, Q) from (P', Q'); see ``ir.bernoulli``."""
        return Symbol(f"B{self.symbol.name.removeprefix('delta')}", nonnegative=True)

    def at_y(self, forms: Sequence[Form]) -> Centre:
        """``apart`` at y."""
        pairs = tuple(
            (k * (forms[i].scale * forms[i].base_y + forms[i].shift_y) / self.factor, origin)
            for (i, k), (_, origin) in zip(self.softmaxes, self.pairs, strict=True)
        )
        return Centre(Symbol(f"{self.apart}_y", real=True), pairs, self.factor)


@dataclass(frozen=True)
class Sum:
    """Σ_{j≠y} body: one number per row.

    ``body`` is the monomial exp(kappa·logp)·logp^power·weight·centre of one form, reduced in the
    form's own sweep, or (``form`` None) any class expression, summed as it stands.  ``against``
    another form it is R·log(R/R'), the divergence of the other classes.
    """

    symbol: Symbol
    body: Expr
    form: int | None = None
    kappa: Expr = S.Zero
    power: int = 0
    weight: Expr = S.One
    centre: Symbol | None = None
    others: bool = False  # exp(logp) is R: normalised over the classes j ≠ y
    level: int = 1
    against: int | None = None


@dataclass(frozen=True)
class Max:
    """max_{j≠y} body, with the index of its first maximum (``select`` is 1 there, else 0).

    Without a target it runs over all classes.
    ``below`` is the statistic whose index is left out: the second largest is the maximum of the
    others.
    """

    symbol: Symbol
    select: Symbol
    index: Symbol  # the class, as a number
    body: Expr
    below: int | None = None
    level: int = 1
    form: int | None = None  # the softmax whose exponent this is the maximum of

    @property
    def rise(self) -> Symbol:
        """select - p_j of that softmax: 1 - p at the maximum itself, without the difference."""
        return Symbol(f"rise{self.symbol.name.removeprefix('max')}", real=True)


@dataclass(frozen=True)
class Root:
    """The number t between ``low`` and ``high`` at which ``residual``, which falls in t, is 0.

    residual and slope = dresidual/dt are row expressions in sums of the sweep ``level``, whose
    bodies hold ``trial``.  That sweep is repeated, each time with a better trial; the root is what
    it ends with, and sums of later sweeps hold the root itself.
    """

    index: int  # numbers the roots of a program
    residual: Expr
    slope: Expr
    low: Expr
    high: Expr
    level: int

    def _named(self, word: str) -> Symbol:
        return Symbol(f"{word}{self.index}", real=True)

    @cached_property
    def symbol(self) -> Symbol:
        return self._named("root")

    @cached_property
    def trial(self) -> Symbol:
        return trial(self.index)

    @property
    def state(self) -> tuple[str, ...]:
        """What one sweep hands to the next: the trial; the ends, which the root lies between; how
        many sweeps Newton's steps have had; is it still moving?"""
        return tuple(f"{word}{self.index}" for word in ("try", "below", "above", "age", "moving"))

    @property
    def exprs(self) -> tuple[Expr, ...]:
        return (self.residual, self.slope, self.low, self.high)


def trial(index: int) -> Symbol:
    """What a sweep takes root ``index`` for."""
    return Symbol(f"try{index}", real=True)


def underlying(wanted: Iterable[Symbol], sums: Iterable[Sum], roots: Iterable[Root]) -> set[Symbol]:
    """``wanted``, and what the sums and equations are made of that it mentions."""
    known = set(wanted)
    both: tuple[Sum | Root, ...] = (*sums, *roots)
    entries = sorted(both, key=lambda e: (-e.level, isinstance(e, Sum)))
    for entry in entries:  # of one sweep, an equation before its sums
        if entry.symbol in known:
            exprs = entry.exprs if isinstance(entry, Root) else (entry.body,)
            known = known.union(*(e.free_symbols for e in exprs))
    return known
