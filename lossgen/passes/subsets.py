"""Log-sums over a part of the classes, over its complement, and over all but the largest class.

    log Σ_j w_j·p_j     →   -softplus(A(1 - w) - A(w))      0 <= w <= 1
                        →   A(w) - A(1)                      0 <= w
    log(1 - p_k)        →   -softplus(l_k - A(1 - [j = k]))  k the largest class beside the target
                        →   -softplus(-z)                    k the arg-max pivot, in a later sweep
    log(1 - max p)      →   the same, of the target or of k, whichever is larger

with A(w) = log Σ_j w_j·e^(l_j - ref).  Each A is a softmax of its own, with the exponents
l_j + log w_j and its own running maximum, so that nothing is taken from 1 and a part far below
the others does not underflow.  ``ref`` is l_y, and 0 where that is masked: it drops out of every
result, is a constant when that is differentiated, and keeps an offset of the row out of the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from sympy import (
    Add,
    Dummy,
    Expr,
    Function,
    Integer,
    Mul,
    Pow,
    Symbol,
    degree,
    exp,
    expand,
    expand_mul,
    log,
)

from lossgen.ir.ops import logaddexp, ne, sigmoid, softplus, where
from lossgen.ir.special import cosh, logcosh
from lossgen.ir.stages import Cls, Pivot
from lossgen.ir.statistics import Form, Max
from lossgen.passes.algebra import complement
from lossgen.passes.exponentials import opened
from lossgen.passes.logsums import log_of_class_sum
from lossgen.passes.raised import Raised
from lossgen.passes.reductions import Reductions
from lossgen.spec.model import LossSpec

__all__ = ["Subsets"]

_CORNERS = 6
_NOTHING = -3 * Integer(10) ** 38
_STEPS = {"lt", "le", "eq", "ne", "step", "above", "inrange"}
_SHARES = _STEPS | {"sigmoid", "sech2"}


@dataclass(frozen=True)
class _Mass:
    """Σ_j w_j·p_j of one softmax."""

    form: Form
    weight: Cls


class Subsets:
    """The rules, for one program under construction; ``spec`` has the domains of its numbers."""

    def __init__(self, built: Reductions, spec: LossSpec) -> None:
        self.built = built
        names = built.vocabulary
        domains = {n: e.domain for n, e in spec.inputs.items() if e.domain is not None}
        domains |= {n: e.domain for n, e in spec.parameters.items()}
        within = {n for n, d in domains.items() if d.lo >= 0 and d.hi <= 1}
        single = names.rows | names.parameters
        self.shares = {s for n, s in single.items() if n in within}
        pairs = names.streams | names.vocab
        self.shares |= {s for n, pair in pairs.items() if n in within for s in pair}
        bits = {n for n, e in spec.inputs.items() if e.values and {*e.values} <= {0, 1}}
        self.bits = {s for n, s in names.rows.items() if n in bits}
        self.bits |= {s for n, pair in pairs.items() if n in bits for s in pair}
        #: z of A(w) of the other classes, and whose part it is.
        self.parts: dict[Symbol, tuple[Form, Expr]] = {}
        self.raised = Raised(self)
        #: A(w) that a logarithm was written as.
        self.logs: dict[Expr, tuple[Form, Cls]] = {}
        self.moving = {s for n in names.differentiable for s in names.streams[n]}

    # ------------------------------------------------------------------ row expressions
    def log(self, expr: Expr) -> Expr:
        """log(expr), with the logarithms of sums of probabilities as log-sums."""
        found, expr = self.raised.logarithm(expr)
        rest = Integer(1)
        for factor in Mul.make_args(expr):
            base, exponent = factor.as_base_exp()
            mass = None if isinstance(factor, exp) else self._mass(base)
            if isinstance(factor, exp) and factor != expr:  # two may be 0·∞
                found += factor.args[0]
            elif mass is not None:
                found += exponent * self.log_of_part(mass.form, mass.weight)
            elif (known := _log_of_function(opened(factor, self.built.forms))) is not None:
                found += known
            elif (form := self._largest_left_out(factor)) is not None:
                found += self._log_rest(form)[1]
            elif (form := self._pivot_left_out(base)) is not None:
                found -= exponent * softplus(-self.built.without_pivot(form).z)
            elif isinstance(base, where):
                branches = (complement(self.log(b), self.built.forms) for b in base.args[1:])
                found += exponent * where(base.args[0], *branches)
            else:
                rest *= factor
        return found if rest == 1 else found + log(rest)

    def power(self, base: Expr, exponent: Expr) -> Expr | None:
        """base^exponent of such a sum, except for whole powers, which lose nothing."""
        if exponent.is_Integer and exponent > 0:
            return None
        mass = self._mass(base)
        return None if mass is None else exp(exponent * self.log_of_part(mass.form, mass.weight))

    def choice(self, condition: Expr, value: Expr, otherwise: Expr) -> Expr:
        """where(c, p, 0) as c·p, a weight under a sum, if p is finite or exponentials, of which a
        sum makes a softmax; where(c, t·e^v, e^v) as where(c, t, 1)·e^v, which is a weight, too."""
        common = {f for f in Mul.make_args(value) if isinstance(f, exp)}
        if common := common.intersection(Mul.make_args(otherwise)):
            value, otherwise = (
                Mul(*(f for f in Mul.make_args(branch) if f not in common))
                for branch in (value, otherwise)
            )
            return self.choice(condition, value, otherwise) * Mul(*common)
        finite = self.is_share(value) and self.is_share(otherwise)
        grows = 0 in (value, otherwise) and self._is_exponential(value + otherwise)
        if finite and self._is_of_one(value + otherwise):
            return where(condition, value, otherwise)
        weighs = (finite and self._is_given(condition)) or (grows and self.is_weight(condition))
        if weighs and _has_range(condition):
            return condition * value + (1 - condition) * otherwise
        return where(condition, value, otherwise)

    def _is_of_one(self, expr: Expr) -> bool:
        """Is it a function of a logit alone, which no softmax is in?"""
        known = self.built.statistics() | {f.logp for f in self.built.forms}
        return bool(expr.free_symbols & self.moving) and not expr.free_symbols & known

    def _is_exponential(self, expr: Expr) -> bool:
        """Is it made of exponentials of softmaxes, and of weights?"""
        factors = Mul.make_args(expr)
        shares = {share for f in self.built.forms for share in (f.P, exp(f.logp))}
        grown = [f for f in factors if isinstance(f, exp) or f in shares]
        return bool(shares.intersection(grown)) and all(
            self.is_weight(f) for f in factors if f not in grown
        )

    def complement(self, expr: Expr) -> Expr:
        """1 - Σ w·p as Σ (1 - w)·p."""
        mass = self._mass(expr) if isinstance(expr, Add) else None
        if mass is None or all(t.is_nonnegative for t in expr.args):
            return expr
        return self.built.sum(mass.weight.o * exp(mass.form.logp)) + mass.weight.y * mass.form.P

    # ------------------------------------------------------------------ class expressions
    def log_of_class(self, value: Expr) -> Expr:
        """log of a class expression."""
        found, rest = Integer(0), Integer(1)
        for factor in Mul.make_args(value):
            base, exponent = factor.as_base_exp()
            known = _log_of_function(opened(base, self.built.forms))  # of what is positive
            if isinstance(factor, exp) and factor != value:  # p/p' may be 0/0: log p - log p'
                found += factor.args[0]
            elif known is None:
                rest *= factor
            else:
                found += exponent * known
        return found if rest == 1 else found + self._log_of_rest(rest)

    def _log_of_rest(self, rest: Expr) -> Expr:
        return log_of_class_sum(rest, self.built.forms) or log(rest)

    def split(self, body: Expr) -> tuple[Expr, Expr]:
        """(what all classes but the largest add, what that one adds) of a sum of w·log(1 - p)."""
        forms = {log(1 - exp(f.logp)): f for f in self.built.forms if self._alone(f)}
        if self.built.pivot is not Pivot.TARGET or not body.atoms(log) & set(forms):
            return body, Integer(0)
        rest, chosen = Integer(0), Integer(0)
        for term in Add.make_args(expand_mul(body)):
            held = [f for f in Mul.make_args(term) if f in forms]
            if len(held) == 1:
                entry, outside = self._log_rest(forms[held[0]])
                rest += where(entry.select, 0, term)
                chosen += entry.select * outside * term / held[0]
            else:
                rest += term
        return rest, chosen

    # ------------------------------------------------------------------ log-sum-exps
    def logsumexp(self, value: Cls, others: bool) -> Expr | None:
        """Of v + log w with a weight that may be 0: the target may be left out too."""
        logs = [
            t for t in Add.make_args(value.o) if isinstance(t, log) and self.nonnegative(t.args[0])
        ]
        logs = [t for t in logs if self.built.varies(t) and not t.args[0].is_positive]
        logs = [t for t in logs if self.is_weight(t.args[0])]
        at_y = [t for t in Add.make_args(value.y) if isinstance(t, log)]
        matched = [t for t in at_y if len(logs) == 1]
        if len(logs) != 1 or len(matched) != 1 or self.built.pivot is not Pivot.TARGET:
            return None
        plain = Cls(value.o - logs[0], value.y - matched[0])
        if not self.built.varies(plain.o):
            return None
        form, constant = self.built.form(plain.o, plain.y)
        weight = Cls(logs[0].args[0], Integer(0) if others else matched[0].args[0])
        return self.log_of_weighted(form, weight) + self.reference_value(form) + constant

    def log_of_part(self, form: Form, weight: Cls) -> Expr:
        """log Σ w·p"""
        own = self.log_of_weighted(form, weight)
        if all(self.is_share(w) for w in (weight.o, weight.y)):
            rest = Cls(1 - weight.o, 1 - weight.y)
            return -softplus(self.log_of_weighted(form, rest) - own)
        return own - self.log_of_weighted(form, Cls(Integer(1), Integer(1)))

    def _log_rest(self, form: Form) -> tuple[Max, Expr]:
        """The largest class beside the target, and log(1 - p) of it."""
        subtracted, _ = self._reference(form)
        entry = self.built.maximum(form.base - subtracted)
        rest = self.log_of_weighted(form, Cls(1 - entry.select, Integer(1)))
        return entry, -softplus(form.scale * entry.symbol - rest)

    def log_of_weighted(self, form: Form, weight: Cls) -> Expr:
        """A(w)"""
        low = self.weighted(form, weight.o).z
        if weight.y == 0:
            return low
        return logaddexp(low, self._reference(form)[1] + _log_of_weight(weight.y))

    def weighted(self, form: Form, weight: Expr) -> Form:
        """The softmax with the exponents l_j + log w_j, and the reference in the place of l_y."""
        subtracted, _ = self._reference(form)
        base = form.base - subtracted + log(weight) / form.scale
        pivoted = self.built.pivot is Pivot.ARGMAX
        part = self.built.weighted(form.scale, base, form.base_y if pivoted else Integer(0))
        self.parts[part.z] = form, weight
        return part

    def _reference(self, form: Form) -> tuple[Expr, Expr]:
        """(what the exponents' base is measured from, l_y from there)."""
        names = self.built.vocabulary
        if self.built.pivot is Pivot.ARGMAX:  # it is not known yet, and never masked
            return Integer(0), form.shift_y
        if form.base.has(names.x_ref):
            return Integer(0), form.scale * names.x_own + form.shift_y
        slope = form.base_y.diff(names.x_y)
        if slope == 0 or slope.has(names.x_y):
            return form.base_y, form.shift_y
        own = form.scale * slope * names.x_own + form.shift_y
        return form.base_y.xreplace({names.x_y: names.x_ref}), own

    def reference_value(self, form: Form) -> Expr:
        """The reference itself."""
        return form.ell_y - self._reference(form)[1]

    # ------------------------------------------------------------------ what is a sum of p
    def masses(self) -> list[tuple[Symbol, tuple[Form, Expr]]]:
        """The sums Σ_{j≠y} w·p with a constant weight."""
        found = []
        for entry in self.built.sums:
            plain = entry.form is not None and entry.kappa == 1 and entry.power == 0
            if plain and entry.centre is None and not entry.others and self.is_weight(entry.weight):
                assert entry.form is not None
                if not entry.body.free_symbols & set(self.built.twins.values()):
                    found.append((entry.symbol, (self.built.forms[entry.form], entry.weight)))
        return found

    def _mass(self, expr: Expr) -> _Mass | None:
        """``expr`` as Σ_j w_j·p_j with w >= 0: with Σ p = 1, constants belong to it."""
        masses = dict(self.masses())
        if not expr.free_symbols & set(masses):
            return None
        owners = {form.index: form for s, (form, _) in masses.items() if s in expr.free_symbols}
        if len(owners) != 1:
            return None
        (form,) = owners.values()
        others, at_y = Integer(0), Integer(0)
        for term in Add.make_args(expand(expr)):
            held = [s for s in (*masses, form.P, form.Q) if s in term.free_symbols]
            coefficient = term / held[0] if held else term
            if len(held) > 1 or not self.is_weight(coefficient):
                return None
            own = masses[held[0]][1] if held and held[0] in masses else Integer(1)
            others += coefficient * own if not held or held[0] != form.P else 0
            at_y += coefficient if not held or held[0] == form.P else 0
        whole = _Mass(form, Cls(others, at_y))
        return whole if self.nonnegative(others) and self.nonnegative(at_y) else None

    def _largest_left_out(self, expr: Expr) -> Form | None:
        """The softmax of which this is 1 - max_{j≠y} p_j."""
        if self.built.pivot is Pivot.TARGET:
            for form in self.built.forms:
                if expr == 1 - exp(-form.top) and self._alone(form):
                    return form
        return None

    def _pivot_left_out(self, expr: Expr) -> Form | None:
        """The softmax of which this is 1 - p of its largest class: beside it, others underflow."""
        first = next(iter(self.built.forms), None)
        if self.built.pivot is not Pivot.ARGMAX or first is None or expr != first.Q:
            return None
        return first if self._alone(first) else None

    def _alone(self, form: Form) -> bool:
        return form.level == 1 and not form.parts

    def is_weight(self, expr: Expr) -> bool:
        """Nothing that the logits move? A comparison of logits jumps, and moves nothing between."""
        steps = (n for n in expr.atoms(Function) if n.func.__name__ in _STEPS)
        return self._is_given(expr.xreplace({n: Dummy("step") for n in steps}))

    def _is_given(self, expr: Expr) -> bool:
        """No statistic and no logit in it?"""
        return not expr.free_symbols & (self.built.statistics() | self.moving) and not any(
            s in f.class_symbols for f in self.built.forms for s in expr.free_symbols
        )

    def nonnegative(self, expr: Expr) -> bool:
        if expr.is_nonnegative or self.is_share(expr):
            return True
        return isinstance(expr, Add | Mul) and all(self.nonnegative(a) for a in expr.args)

    def is_bit(self, expr: Expr) -> bool:
        """Is it known to be 0 or 1?"""
        if isinstance(expr, Add):
            return expr.args[0] == 1 and self.is_bit(1 - expr)
        if isinstance(expr, Mul):
            return all(self.is_bit(a) for a in expr.args)
        return expr in self.bits or expr.func.__name__ in _STEPS

    def is_share(self, expr: Expr) -> bool:
        """Is it known to be between 0 and 1?"""
        if isinstance(expr, Symbol):
            known = {s for f in self.built.forms for s in (f.P, f.Q, f.R)}
            return expr in self.shares | known | {m.select for m in self.built.maxes}
        if expr.is_Rational:
            return bool(0 <= expr <= 1)
        if isinstance(expr, where):
            return all(self.is_share(a) for a in expr.args[1:])
        if isinstance(expr, Mul):
            return all(self.is_share(a) for a in expr.args)
        if isinstance(expr, exp):
            return bool(expr.args[0].is_nonpositive)
        if isinstance(expr, Pow):
            return bool(expr.exp.is_nonnegative) and self.is_share(expr.base)
        return self._is_share_at_corners(expr) if isinstance(expr, Add) else _has_range(expr)

    def _is_share_at_corners(self, expr: Expr) -> bool:
        """A polynomial, linear in each of a few shares, is extreme where they are 0 or 1."""
        count = self.built.vocabulary.classes
        parts = {n for n in expr.atoms(Function) if _has_range(n)} | {1 / count}
        opaque = {n: Dummy(f"share{k}") for k, n in enumerate(sorted(parts, key=str))}
        plain = expr.xreplace(opaque)
        symbols = sorted(plain.free_symbols, key=str)
        if len(symbols) > _CORNERS or not plain.is_polynomial(*symbols):
            return False
        if not all(s in opaque.values() or self.is_share(s) for s in symbols):
            return False
        if any(degree(plain, s) > 1 for s in symbols):
            return False
        corners = product((0, 1), repeat=len(symbols))
        values = [plain.xreplace(dict(zip(symbols, map(Integer, c), strict=True))) for c in corners]
        return all(0 <= v <= 1 for v in values)


def _log_of_weight(weight: Expr) -> Expr:
    """log of a weight at y; of 0 a finite number, as others beside it may hold nothing either."""
    if weight.is_positive:
        return log(weight)
    return where(ne(weight, 0), log(weight), _NOTHING)


def _log_of_function(expr: Expr) -> Expr | None:
    """log(sigmoid(u)), log(cosh(u)) and log(1 + exp(u)), which neither underflow nor overflow."""
    if isinstance(expr, Add) and isinstance(expr - 1, exp):
        return softplus((expr - 1).args[0])
    if isinstance(expr, cosh):
        return logcosh(expr.args[0])
    return -softplus(-expr.args[0]) if isinstance(expr, sigmoid) else None


def _has_range(expr: Expr) -> bool:
    return expr.func.__name__ in _SHARES
