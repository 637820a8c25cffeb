"""0·∞ is 0: a weight that may be 0 beside a factor that may be infinite.

    c·softplus(-x)   →   where(c ≠ 0, c·softplus(-x), 0)

c is what the caller gives per class or row: a mask, a multi-hot label, a sample weight.  What it
leaves out may be a class that the logits mask, or a number that float32 does not hold.  A parameter
beside it counts too, as in a·c·softplus(-x).  So is the choice that minimum(a, b) makes, in its
derivative, of a sum that a masked class has made infinite; and a probability beside the logarithm
of what a caller gives, p·log(w), where both may be 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sympy import Add, Expr, Float, Function, Integer, Mul, Pow, Symbol, collect, exp, log

from lossgen.ir.function import PiecewiseConstant
from lossgen.ir.ops import clip, expm1, maximum, ne, relu, sigmoid, softplus, where
from lossgen.ir.special import erfc
from lossgen.ir.stages import GradedLoss
from lossgen.spec.domain import Interval

__all__ = ["BOUNDED", "LOWEST", "MOST", "Zeros", "may_vanish"]

LOWEST = Float(-1e18)  # a masked class, of logits that are multiplied by what may be 0

MOST = Float(3e38)  # stands for what float32 does not hold, beside what may be 0

BOUNDED = {"sigmoid", "tanh", "sech2", "erf", "sgn", "step", "above", "inrange"}
BOUNDED |= {"lt", "le", "eq", "ne", "atan", "sin", "cos", "erfc"}


class Zeros:
    """The rule, for the symbols of one program."""

    def __init__(self, graded: GradedLoss) -> None:
        names = graded.vocabulary
        self.at_y, self.reference, self.own = names.x_y, names.x_ref, names.x_own
        moving = {s for n in names.differentiable for s in names.streams[n]}
        given = {s for pair in (*names.streams.values(), *names.vocab.values()) for s in pair}
        given |= set(names.rows.values())
        self.constants = names.constants
        declared, parameters = graded.spec.inputs, graded.spec.parameters
        self.domains = {s: parameters[n].domain for n, s in names.parameters.items()}
        self.beside = {  # other logits, which may be masked too
            s
            for n, pair in names.streams.items()
            if n not in names.differentiable and declared[n].domain is None
            for s in pair
        }
        self.raw = moving | self.beside
        self.shares = {f.R for f in graded.forms}
        self.logs = {f.logp for f in graded.forms}
        self.odds = {f.z for f in graded.forms}  # -∞ of one class, ∞ of a masked target
        self.weights = {s for s in given - moving if not s.is_positive}
        self.finite = (given - moving) | names.constants | set(names.index)
        self.finite |= {m.select for m in graded.maxes}
        self.finite |= {s for f in graded.forms for s in f.class_symbols}  # logp has a floor
        plain = [s for s in graded.sums if s.form is None]
        self.masses = {s.symbol for s in graded.sums if s.form is not None and s.power == 0}
        self.infinite = {s.symbol for s in plain if s.body.free_symbols & self.raw}
        self.infinite |= self.raw & set(names.at_y.values())
        self.infinite |= {s for f in graded.forms for s in (f.z, f.L, f.O)}
        self.sums = {  # of given numbers
            s.symbol
            for s in plain
            if s.body.free_symbols <= self.finite
            and s.body.free_symbols & self.weights
            and self._is_bounded(s.body)
        }
        self.finite |= self.sums

    def __call__(self, expr: Expr) -> Expr:
        """``expr``, with such products guarded."""
        own = self.weights | self.sums | self.raw | self.infinite | self.logs
        if not expr.args or not expr.free_symbols & own:
            return expr
        if isinstance(expr, Add):
            expr = self._gathered(expr)
        expr = expr.func(*(self(a) for a in expr.args))
        if isinstance(expr, Add):
            return self._left_out(self._measured(expr))
        if isinstance(expr, exp):
            return exp(self.exponent(expr.args[0]))
        if isinstance(expr, Pow) and isinstance(expr.base, sigmoid):  # e^(-g·softplus(-x))
            return _held(expr, self.raw) if may_vanish(expr.exp, self.domains) else expr
        if not isinstance(expr, Mul):
            return expr
        expr = self._floored(expr)
        held = [a for a in expr.args if self._may_vanish(a)]
        held += [a for a in expr.args if held and may_vanish(a, self.domains)]
        held += [a for a in expr.args if a not in held and self._is_choice_of(a, expr)]
        if any(map(self._is_infinite_of_zero, expr.args)):
            held += [a for a in expr.args if a not in held and self._underflows(a)]
        weight, rest = Mul(*held), [a for a in expr.args if a not in held]
        if not held or all(self._is_bounded(a) for a in rest):
            return expr
        summed = weight.free_symbols & self.sums
        if summed and all(a.free_symbols <= self.finite for a in rest):  # 1/Σ w of the same w
            return expr
        return where(ne(weight, 0), expr, Integer(0))

    def _gathered(self, expr: Add) -> Expr:
        """c·s - w·c·s is (c - w·c)·s, where s is the logarithm of what may be 0: no ∞ - ∞."""
        held = [
            f
            for f in {f for t in expr.args for f in Mul.make_args(t)}
            if isinstance(f, softplus | log) and any(map(self._is_infinite_of_zero, f.atoms(log)))
        ]
        shared = [f for f in held if sum(f in Mul.make_args(t) for t in expr.args) > 1]
        return collect(expr, sorted(shared, key=str)) if shared else expr

    def _measured(self, expr: Add) -> Expr:
        """c·x_y - c·x_own is c·x_ref, which a masked target leaves finite."""
        slope = expr.coeff(self.own)
        if slope == 0 or expr.coeff(self.at_y) != -slope:
            return expr
        return expr - slope * (self.own - self.at_y) - slope * self.reference

    def _left_out(self, expr: Expr) -> Expr:
        """-x + log w is -∞ where the weight is 0, even of a class that is masked: ∞ - ∞."""
        if not isinstance(expr, Add) or not any(map(self._is_log_of_zero, expr.args)):
            return expr
        kept = [t if self._is_log_of_zero(t) else _held(t, self._falls(t)) for t in expr.args]
        return Add(*kept)

    def _is_log_of_zero(self, term: Expr) -> bool:
        """Is it log w, times what is positive, of a given w that may be 0?"""
        logs = [f for f in Mul.make_args(term) if isinstance(f, log)]
        rest = [f for f in Mul.make_args(term) if f not in logs]
        of = [f.args[0] for f in logs if f.args[0].free_symbols & (self.weights | self.sums)]
        known = len(of) == 1 and of[0].free_symbols <= self.finite and not of[0].is_positive
        return known and all(f.is_positive for f in rest)

    def _falls(self, term: Expr) -> set[Symbol]:
        """The logits with which it does not rise."""
        logits = term.free_symbols & (self.raw | {self.own})
        return {s for s in logits if not term.diff(s).is_positive}

    def _floored(self, expr: Mul) -> Expr:
        """p·x is 0 where a class is masked, and so is relu(x - t)·x."""
        raw = expr.free_symbols & self.raw
        weighted = any(isinstance(a, sigmoid | exp | erfc) or a in self.shares for a in expr.args)
        shut = [a for a in expr.args if self._shuts(a)]
        if not raw or not (weighted or shut):
            return expr
        grown = [a for a in expr.args if a not in shut and self._grows(a)]
        return expr.func(*(_held(a, raw) if a in grown else a for a in expr.args))

    def _shuts(self, expr: Expr) -> bool:
        """Is it 0 of a class far below: relu(x - t), a power of it, or where it is not?"""
        if isinstance(expr, ne) and expr.args[1] == 0:
            return self._shuts(expr.args[0])
        if isinstance(expr, Pow) and expr.exp.is_positive:
            return self._shuts(expr.base)
        if not isinstance(expr, relu):
            return False
        return any(expr.args[0].coeff(s).is_positive for s in expr.free_symbols & self.raw)

    def exponent(self, expr: Expr) -> Expr:
        """The exponent of a softmax, with relu(x)·x, w·x and a·x finite where x is masked, and 0
        for w·log(v) where w is."""
        if not expr.args:
            return expr
        if not expr.free_symbols & self.raw:
            return self(expr) if isinstance(expr, Mul) else expr
        expr = self._left_out(expr)
        if isinstance(expr, Mul):
            several = sum(not a.free_symbols <= self.constants for a in expr.args) > 1
            if several or any(may_vanish(a, self.domains) for a in expr.args):
                return _held(expr, self.raw)
        return expr.func(*(self.exponent(a) for a in expr.args))

    def _grows(self, expr: Expr) -> bool:
        """With the logits, or is it nothing where two rows mask a class: ∞ - ∞?"""
        if len(expr.free_symbols & self.raw) > 1:
            return True
        divides = isinstance(expr, Pow) and expr.exp.is_negative
        bounded = self._is_bounded(expr) and not expr.free_symbols & self.beside
        return not (isinstance(expr, exp) or divides or bounded)

    def _may_vanish(self, expr: Expr) -> bool:
        used = expr.free_symbols
        plain = not expr.is_positive and not isinstance(expr, where) and self._is_bounded(expr)
        return plain and bool(used & (self.weights | self.sums)) and used <= self.finite

    def _is_choice_of(self, expr: Expr, product: Mul) -> bool:
        """Does it leave out what a masked class has made infinite: x_y, -log p_y, Σ x?"""
        if not isinstance(expr, PiecewiseConstant):
            return False
        rest = (a for a in product.args if not self._is_bounded(a) and a not in expr.args)
        return any(a.free_symbols & self.infinite for a in rest)

    def _is_infinite_of_zero(self, expr: Expr) -> bool:
        """Is it log(w) or 1/w, of a given w that may be 0, or has it such a term? Or the logarithm
        of what falls to 0 with a probability, as in u·log(u), or z, of which both are?"""
        if isinstance(expr, Add | Mul):
            return any(map(self._is_infinite_of_zero, expr.args))
        if expr in self.odds:
            return True
        if isinstance(expr, Pow) and not expr.exp.is_negative:
            return self._is_infinite_of_zero(expr.base)
        if isinstance(expr, log) and self._underflows(expr.args[0]):
            return True
        zeros = self.weights | self.sums if isinstance(expr, log) else self.weights
        of = expr.args[0] if isinstance(expr, log | Pow) else Integer(1)
        used = of.free_symbols
        return bool(used & zeros) and used <= self.finite and not of.is_positive

    def _underflows(self, expr: Expr) -> bool:
        """Is it a probability, or -log of one, of a class that may be masked or alone? Or a sum of
        probabilities?"""
        if isinstance(expr, where):
            return 0 in expr.args[1:]
        if isinstance(expr, Add):
            return all(map(self._underflows, expr.args))
        if isinstance(expr, Mul) and all(map(self._is_share, expr.args)):
            return any(map(self._underflows, expr.args))
        if isinstance(expr, Pow) and expr.exp.is_positive:
            return self._underflows(expr.base)
        known = expr in self.shares or expr in self.masses or {expr, -expr} & self.logs
        return isinstance(expr, sigmoid | softplus | exp) or bool(known)

    def _is_share(self, expr: Expr) -> bool:
        return self._underflows(expr) or self._is_bounded(expr)

    def of_a_sum(self, weight: Expr) -> Expr:
        """What weighs a softmax: where an exponential is 0 it is left out in any case."""
        infinite = any(map(self._is_infinite_of_zero, Mul.make_args(weight)))
        return self(weight) if infinite else weight

    def coefficient(self, expr: Expr, basis: Expr) -> Expr:
        """What classes are multiplied by in the gradient: a number, where a class that counts 0 is
        beside it."""
        if not any(map(self._is_infinite_of_zero, Add.make_args(expr))):
            return expr
        kept = any(map(self._may_vanish, Mul.make_args(basis)))
        return clip(expr, -MOST, MOST) if kept else expr

    def _is_bounded(self, expr: Expr) -> bool:
        if expr.free_symbols <= self.constants:  # finite in the domains of the parameters
            return True
        if isinstance(expr, Symbol):
            return expr in self.finite
        if isinstance(expr, exp):
            return bool(expr.args[0].is_nonpositive) or self._is_bounded(expr.args[0])
        if isinstance(expr, Pow):
            return self._is_bounded(expr.base) and bool(expr.exp.is_nonnegative)
        if isinstance(expr, where):
            return all(self._is_bounded(a) for a in expr.args[1:])
        if isinstance(expr, clip):
            return all(self._is_bounded(a) for a in expr.args[1:])
        if isinstance(expr, Add | Mul | expm1):
            return all(self._is_bounded(a) for a in expr.args)
        return expr.func.__name__ in BOUNDED or (not isinstance(expr, Function) and not expr.args)


def may_vanish(factor: Expr, domains: Mapping[Symbol, Interval]) -> bool:
    """Is it 0 somewhere in the domain of its parameter, as a and 1 - a are?"""
    if isinstance(factor, Pow):
        return bool(factor.exp.is_positive) and may_vanish(factor.base, domains)
    if len(factor.free_symbols) != 1:
        return False
    (symbol,) = factor.free_symbols
    domain, slope = domains.get(symbol), factor.diff(symbol)
    if domain is None or not slope.is_number or slope == 0:
        return False
    return domain.contains(float(-factor.subs(symbol, 0) / slope))


def _held(expr: Expr, logits: Collection[Symbol]) -> Expr:
    """``expr`` with these logits finite."""
    held = {s: maximum(s, LOWEST) for s in expr.free_symbols & set(logits)}
    return expr.xreplace({v: s for s, v in held.items()}).xreplace(held)
