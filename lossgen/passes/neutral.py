"""A parameter of 0 adds nothing, also where what it would add is infinite.

    a·e   →   where(a == 0, 0, a·e)      of a parameter a that is off at 0, or may be 0

A masked class makes many penalties infinite (the mean of log p is), and 0·∞ is NaN in floating
point: the program with the option at 0 has to be the one without it.  Of a gradient, what a sum or
a maximum has made infinite is left out, and class expressions that no probability weighs.  What is
no option is only guarded beside a sum that no probability weighs.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr, Mul, Pow, Symbol, exp

from lossgen.ir.piecewise import eq, where
from lossgen.ir.stages import Gradient, StableLoss

__all__ = ["neutral_options"]


def neutral_options(stable: StableLoss) -> StableLoss:
    """The same functions, with every option that is off at 0 out of the way there."""
    names, spec = stable.vocabulary, stable.spec
    options = {
        names.parameters[n] for n, p in spec.parameters.items() if p.off == 0 and n in stable.uses
    }
    plain = {s.symbol for s in stable.sums if s.form is None}
    logs = {s.symbol for s in stable.sums if s.form is not None and s.kappa == 0}  # Σ log p
    may_vanish = {
        names.parameters[n]
        for n, p in spec.parameters.items()
        if p.off is None and p.domain.contains(0.0) and plain | logs
    }
    if not options | may_vanish:
        return stable
    sums = {s.symbol for s in stable.sums} | {m.symbol for m in stable.maxes}
    unbounded = sums | {s for f in stable.forms for s in (f.L, f.O)}
    of_a_loss = unbounded | {f.z for f in stable.forms}
    of_a_class = {f.logp for f in stable.forms} | {c.symbol for c in stable.centres}
    of_a_class |= {pair[0] for pair in names.streams.values()}

    def guarded(expr: Expr, unbounded: set[Symbol]) -> Expr:
        found = _guarded(_guarded(expr, options, unbounded), may_vanish, plain)
        return _guarded(found, may_vanish, logs, divisors=False)

    def term(coefficient: Expr, basis: Expr) -> tuple[Expr, Expr]:
        own = sorted((options | may_vanish) & set(Mul.make_args(coefficient)), key=str)
        weighs = any(isinstance(f, exp) or f in weights for f in Mul.make_args(basis))
        if own and not weighs and basis.free_symbols & of_a_class:
            basis = where(eq(own[0], 0), 0, basis)
        return guarded(coefficient, unbounded), basis

    weights = {f.R for f in stable.forms}
    return replace(
        stable,
        loss=guarded(stable.loss, of_a_loss),
        outputs=tuple((n, guarded(v, of_a_loss)) for n, v in stable.outputs),
        gradients=tuple(
            Gradient(
                g.stream,
                tuple(term(*pair) for pair in g.terms),
                guarded(g.at_y, unbounded),
            )
            for g in stable.gradients
        ),
    )


def _guarded(
    expr: Expr, options: set[Symbol], unbounded: set[Symbol], divisors: bool = True
) -> Expr:
    """``divisors``: also where it is divided by what may be infinite."""
    if not (expr.free_symbols & options and expr.free_symbols & unbounded):
        return expr
    expr = expr.func(*(_guarded(a, options, unbounded, divisors) for a in expr.args))
    factors = Mul.make_args(expr)
    grown = [f for f in factors if divisors or not (isinstance(f, Pow) and f.exp.is_negative)]
    for option in sorted(options & set(factors), key=str):
        if any(f.free_symbols & unbounded for f in grown):
            expr = where(eq(option, 0), 0, expr)
    return expr
