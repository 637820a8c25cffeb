"""A parameter of 0 adds nothing, also where what it would add is infinite.

    a·e   →   where(a == 0, 0, a·e)      of a parameter a that is off at 0, or of a factor such as
                                         a or 1 - a that is 0 somewhere in its parameter's domain
    a·p·δ →   a·p·max(δ, -10¹⁸)          per class: one instruction, and no comparison

A masked class makes many penalties infinite (the mean of log p is, and a divergence from a row that
masks what this one does not), and 0·∞ is NaN in floating point: the program with the option at 0
has to be the one without it.  Of a gradient, what a sum or a maximum has made infinite is left out,
and class expressions that no probability weighs.  What is no option is only guarded beside a sum
that no probability weighs, or what compares two rows of logits: of one row, ``certify`` clamps what
else is infinite, a z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sympy import Add, Expr, Integer, Mul, Pow, Symbol, exp

from lossgen.ir.ops import maximum, minimum
from lossgen.ir.piecewise import eq, where
from lossgen.ir.stages import Gradient, StableLoss
from lossgen.ir.statistics import Centre, Form
from lossgen.passes.zeros import BOUNDED, LOWEST, may_vanish

__all__ = ["neutral_options"]


def neutral_options(stable: StableLoss) -> StableLoss:
    """The same functions, with every option that is off at 0 out of the way there."""
    if not stable.vocabulary.parameters:
        return stable
    neutral = _Neutral(stable)
    return replace(
        stable,
        loss=neutral.row(stable.loss, neutral.of_a_loss),
        outputs=tuple((n, neutral.row(v, neutral.of_a_loss)) for n, v in stable.outputs),
        gradients=tuple(
            Gradient(
                g.stream,
                tuple(neutral.term(*pair) for pair in g.terms),
                neutral.row(g.at_y, neutral.unbounded),
            )
            for g in stable.gradients
        ),
    )


class _Neutral:
    """The rule, for the symbols of one program."""

    def __init__(self, stable: StableLoss) -> None:
        names, spec = stable.vocabulary, stable.spec
        self.options = {
            names.parameters[n]
            for n, p in spec.parameters.items()
            if p.off == 0 and n in stable.uses
        }
        self.domains = {
            s: spec.parameters[n].domain
            for n, s in names.parameters.items()
            if s not in self.options
        }
        rising = {f.index for f in stable.forms if _rises(f, names.x)}
        self.plain = {s.symbol for s in stable.sums if s.form not in rising}
        sums = {s.symbol for s in stable.sums} | {m.symbol for m in stable.maxes}
        self.unbounded = sums | {s for f in stable.forms for s in (f.L, f.O)}
        self.of_a_loss = self.unbounded | {f.z for f in stable.forms}
        self.weights = {f.R for f in stable.forms}
        logs = {s.symbol for s in stable.sums if s.form is not None and s.kappa == 0}  # Σ log p
        self.grown: set[Symbol] = set()  # class symbols, of sums that no probability weighs
        if self.options or self.plain | logs:
            self.grown = {f.logp for f in stable.forms} | {c.symbol for c in stable.centres}
            self.grown |= {pair[0] for pair in names.streams.values()}
        self.centres = {c.symbol: found for c in stable.centres if (found := _ends(c, stable))}
        self.weighed = logs | {s.symbol for s in stable.sums if s.centre in self.centres}
        for centre in stable.centres:
            if centre.symbol in self.centres:
                self.weighed |= {centre.lse, centre.symbol_y, centre.bernoulli}
        raw = {pair[0] for pair in names.streams.values()}
        if len({s for f in stable.forms for s in f.base.free_symbols & raw}) > 1:
            self.weighed |= {f.z for f in stable.forms}

    def row(self, expr: Expr, unbounded: set[Symbol]) -> Expr:
        """A row expression, with what options and other parameters of 0 leave out."""
        found = _guarded(expr, self._is_option, unbounded)
        found = _guarded(found, self._may_vanish, self.plain)
        return _guarded(self._gathered(found), self._may_vanish, self.weighed, divisors=False)

    def _gathered(self, expr: Expr) -> Expr:
        """T - a·T as (1 - a)·T, of what may be infinite: ∞ - ∞ where a is 1."""
        if not expr.args or not expr.free_symbols & self.weighed:
            return expr
        expr = expr.func(*map(self._gathered, expr.args))
        if not isinstance(expr, Add):
            return expr
        held: dict[Expr, list[Expr]] = {}
        for term in expr.args:
            moves = term.free_symbols - self.domains.keys()
            held.setdefault(term.as_independent(*moves, as_Add=False)[1], []).append(term)
        return Add(*(self._shared(rest, terms) for rest, terms in held.items()))

    def _shared(self, rest: Expr, terms: list[Expr]) -> Expr:
        factor = Add(*(term / rest for term in terms))
        if len(terms) > 1 and _reached(rest) & self.weighed and self._may_vanish(factor):
            return factor * rest
        return Add(*terms)

    def term(self, coefficient: Expr, basis: Expr) -> tuple[Expr, Expr]:
        """The same of a row's coefficient and what it multiplies per class."""
        own = sorted(filter(self._vanishes, Mul.make_args(coefficient)), key=str)
        weighs = any(isinstance(f, exp) or f in self.weights for f in Mul.make_args(basis))
        if own and not weighs and basis.free_symbols & self.grown:
            basis = where(eq(own[0], 0), 0, basis)
        elif own:
            basis = basis.xreplace(self.centres)
        return self.row(coefficient, self.unbounded), basis

    def _vanishes(self, factor: Expr) -> bool:
        return self._is_option(factor) or self._may_vanish(factor)

    def _is_option(self, factor: Expr) -> bool:
        return factor in self.options

    def _may_vanish(self, factor: Expr) -> bool:
        return may_vanish(factor, self.domains)


def _rises(form: Form, x: Symbol) -> bool:
    """Is its probability 0 at a masked class, or does it not depend on the logits?"""
    slope = form.base.diff(x)
    return slope == 0 or bool(slope.is_positive)


def _ends(centre: Centre, stable: StableLoss) -> Expr | None:
    """The symbol of a centre, no further than is finite, if its weight may lie on a class that
    another row masks."""
    if not centre.softmaxes:
        return None
    raw = {pair[0] for pair in stable.vocabulary.streams.values()}
    beside = (centre.expr.free_symbols & raw) - stable.forms[centre.weight].base.free_symbols
    if not beside:
        return None
    slopes = [centre.factor * centre.expr.diff(s) for s in beside]
    found: Expr = centre.symbol
    if not all(s.is_negative for s in slopes):
        found = maximum(found, LOWEST)
    return found if all(s.is_positive for s in slopes) else minimum(found, -LOWEST)


def _guarded(
    expr: Expr, vanishes: Callable[[Expr], bool], unbounded: set[Symbol], divisors: bool = True
) -> Expr:
    """``divisors``: also where it is divided by what may be infinite."""
    if not expr.args or not expr.free_symbols & unbounded:
        return expr
    expr = expr.func(*(_guarded(a, vanishes, unbounded, divisors) for a in expr.args))
    if isinstance(expr, Add):
        return _together(expr)
    factors = Mul.make_args(expr)
    grown = [f for f in factors if divisors or not (isinstance(f, Pow) and f.exp.is_negative)]
    for option in sorted(filter(vanishes, factors), key=str):
        if any(_reached(f) & unbounded for f in grown):
            expr = where(eq(option, 0), 0, expr)
    return expr


def _reached(expr: Expr) -> set[Symbol]:
    """The symbols that it is not bounded in."""
    if isinstance(expr, Symbol):
        return {expr}
    if expr.func.__name__ in BOUNDED:
        return set()
    return set().union(*map(_reached, expr.args[isinstance(expr, where) :]))


def _together(expr: Expr) -> Expr:
    """Terms that the same number leaves out, as one."""
    held: dict[Expr, list[Expr]] = {}
    for term in Add.make_args(expr):
        left_out = isinstance(term, where) and isinstance(term.args[0], eq) and term.args[1] == 0
        held.setdefault(term.args[0] if left_out else Integer(1), []).append(term)
    return Add(
        *held.pop(Integer(1), []),
        *(where(c, 0, Add(*(t.args[2] for t in ts))) for c, ts in held.items()),
    )
