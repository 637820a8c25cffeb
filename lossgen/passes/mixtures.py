"""Mixtures of two probabilities, and what else needs care inside a sum over classes.

    p·log(a·p + b·q)   →   p·(log p + log1p(b·expm1(d)))     a + b = 1,  d = log q - log p
    p·q/(a·p + b·q)    →   q/(a + b·exp(d))                  in powers of either
    P·Q/(a·P + b·Q)    →   exp(log P + log Q - log(a·P + b·Q))   of complements
    log(a·p + b·q)     →   logaddexp(log a + log p, log b + log q)          without such a weight
    log(a·P + b·P')    →   -softplus(log(a·Q + b·Q') - log(a·P + b·P'))     a + b = 1
    1 - p^k            →   -expm1(k·log p)
    log(1 - p)         →   log1mexp(-log p)
    a / expm1(a)       →   recipexpm1x(a)
    p^2·p^-t           →   p^(2 - t)                        the second alone is infinite at p = 0

The first two need the weight p (or q): d is clipped to ±80 there, an error of e^-80 that keeps a
class of probability zero from making 0·∞.  Classes and the row's own P, Q obey the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sympy import Add, Dummy, Expr, Integer, Mul, Pow, Symbol, exp, expand, log

from lossgen.ir.ops import OPS
from lossgen.ir.statistics import Form
from lossgen.passes.uniform import excess_of_class

__all__ = ["stabilize_class", "stabilize_mixtures"]

_CLIP = Integer(80)
_f = {name: op.symbol for name, op in OPS.items()}


def stabilize_class(expr: Expr, forms: tuple[Form, ...]) -> tuple[Expr, set[str]]:
    """A class expression, and the names of the rules that fired."""
    logs = {Dummy(f"p{f.index}", positive=True): f.logp for f in forms}
    own = {f.logp: dummy for dummy, f in zip(logs, forms, strict=True)}
    powers: dict[Expr, Expr] = {}
    for node in expr.atoms(exp):
        rates = [(own[s], node.args[0].coeff(s)) for s in own if s in node.args[0].free_symbols]
        rest = expand(node.args[0] - Add(*(k * logs[d] for d, k in rates)))
        if rates and rest == 0:
            powers[node] = Mul(*(d**k for d, k in rates))
    rewriter = _Mixtures(dict(logs))
    whole, expr = expr, excess_of_class(expr, forms)
    if whole != expr:
        rewriter.fired.add("excess_over_uniform")
    result = rewriter(expr.xreplace(powers), {})
    result = rewriter.complements(result)
    whole, result = result, _one_power(result, logs)
    if whole != result:
        rewriter.fired.add("one_power")
    back = result.replace(
        lambda e: isinstance(e, Pow) and e.base in logs, lambda e: exp(e.exp * logs[e.base])
    )
    return back.xreplace({d: exp(v) for d, v in logs.items()}), rewriter.fired


def _one_power(expr: Expr, bases: Mapping[Expr, Expr]) -> Expr:
    """A power of p that may grow beside another: SymPy keeps p^2·p^-t apart."""
    if not expr.args or not expr.free_symbols & set(bases):
        return expr
    expr = expr.func(*(_one_power(a, bases) for a in expr.args))
    for base in bases if isinstance(expr, Mul) else ():
        own = [f for f in expr.args if f.as_base_exp()[0] == base]
        powers = [f.as_base_exp()[1] for f in own]
        if len(own) > 1 and not all(e.is_nonnegative for e in powers):
            expr = Mul(*(f for f in expr.args if f not in own), base ** Add(*powers))
    return expr


def stabilize_mixtures(
    expr: Expr, logs: Mapping[Expr, Expr], complements: Mapping[Expr, Expr]
) -> tuple[Expr, set[str]]:
    """A row expression; ``logs`` has the logarithm of every P and Q, which are complements."""
    rewriter = _Mixtures(dict(logs), complements)
    return rewriter(expr, {}), rewriter.fired


@dataclass(frozen=True)
class _Mixture:
    """a·p + b·q"""

    p: Symbol
    a: Expr
    q: Symbol
    b: Expr

    def swapped(self) -> _Mixture:
        return _Mixture(self.q, self.b, self.p, self.a)


@dataclass
class _Mixtures:
    logs: dict[Expr, Expr]
    halves: Mapping[Expr, Expr] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)

    def __call__(self, expr: Expr, weights: dict[Expr, Expr]) -> Expr:
        """``weights``: the probabilities that multiply ``expr``, and their powers."""
        if not expr.args or not expr.free_symbols & set(self.logs):
            return expr
        if isinstance(expr, Mul):
            return self._product(expr, weights)
        if isinstance(expr, Pow) and self._mixture(expr.base) and expr.exp.is_negative:
            return self._product(Mul(expr, evaluate=False), weights)
        if isinstance(expr, log) and (mixture := self._mixture(expr.args[0])):
            return self._log(mixture, weights)
        inner = weights if isinstance(expr, Add) else {}
        return expr.func(*(self(a, inner) for a in expr.args))

    def _mixture(self, expr: Expr) -> _Mixture | None:
        """``expr`` as a·p + b·q, however many terms it is spread over."""
        if not isinstance(expr, Add):
            return None
        found: dict[Symbol, Expr] = {}
        for term in expr.args:
            held = [f for f in Mul.make_args(term) if f in self.logs]
            if len(held) != 1 or (term / held[0]).free_symbols & set(self.logs):
                return None
            found[held[0]] = found.get(held[0], Integer(0)) + term / held[0]
        if len(found) != 2:
            return None
        (p, a), (q, b) = sorted(found.items(), key=lambda item: str(item[0]))
        return _Mixture(p, a, q, b)

    def _distance(self, mixture: _Mixture) -> Expr:
        return _f["clip"](self.logs[mixture.q] - self.logs[mixture.p], -_CLIP, _CLIP)

    def _log(self, mixture: _Mixture, weights: dict[Expr, Expr]) -> Expr:
        """log(a·p + b·q) under the weights."""
        if mixture.p not in weights and mixture.q in weights:
            mixture = mixture.swapped()
        if mixture.p not in weights:
            if self.halves.get(mixture.p) == mixture.q and 1 in (mixture.a, mixture.b):
                return log(Add(mixture.a * mixture.p, mixture.b * mixture.q))  # passes.logsums
            self.fired.add("log_mixture")
            inside = self._log_sum(mixture)
            if not self.halves or expand(mixture.a + mixture.b) != 1:
                return inside
            rest = replace(mixture, p=self.halves[mixture.p], q=self.halves[mixture.q])
            return -_f["softplus"](self._log_sum(rest) - inside)
        self.fired.add("log_mixture")
        return self.logs[mixture.p] + _log_of(self._relative(mixture))

    def _relative(self, mixture: _Mixture) -> Expr:
        """(a·p + b·q)/p"""
        far = self._distance(mixture)
        if expand(mixture.a + mixture.b) == 1:
            return 1 + mixture.b * _f["expm1"](far)
        return mixture.a + mixture.b * exp(far)

    def _log_sum(self, mixture: _Mixture) -> Expr:
        parts = ((mixture.p, mixture.a), (mixture.q, mixture.b))
        return _f["logaddexp"](*(log(c) + self.logs[s] for s, c in parts))

    def _product(self, expr: Expr, weights: dict[Expr, Expr]) -> Expr:
        powers = {
            s: e for s, e in expr.as_powers_dict().items() if s in self.logs and e.is_positive
        }
        known = {**weights, **powers}
        factors = list(Mul.make_args(expr))
        for factor in factors:
            base, exponent = factor.as_base_exp()
            mixture = self._mixture(base) if exponent.is_negative else None
            if mixture is None or not exponent.is_Integer:
                continue
            held = powers.get(mixture.p, Integer(0)) + powers.get(mixture.q, Integer(0))
            if not (held + exponent).is_nonnegative:
                continue
            if mixture.a.has(exp) or mixture.b.has(exp):
                continue  # a share of exponentials: passes.logsums
            self.fired.add("ratio_of_mixture")
            if self.halves.get(mixture.p) == mixture.q:
                return self._of_complements(expr, factor, mixture, powers)
            if powers.get(mixture.p, Integer(0)) == 0:
                mixture = mixture.swapped()
            ratio = exp(self._distance(mixture))
            rest = expr / factor
            other = powers.get(mixture.q, Integer(0))
            rest = rest / mixture.q**other * mixture.p ** (other + exponent) * ratio**other
            return self(rest, weights) * self._relative(mixture) ** exponent
        done = [self._factor(f, known) for f in factors]
        split = [f for f, new in zip(factors, done, strict=True) if new != f and new.is_Add]
        if len(split) != 1:
            return Mul(*done)
        whole = done.pop(factors.index(split[0]))  # so that log p meets its like in other terms
        return Add(*(Mul(*done, part) for part in whole.args))

    def _of_complements(
        self, expr: Expr, factor: Expr, mixture: _Mixture, powers: dict[Expr, Expr]
    ) -> Expr:
        """P·Q/(a·P + b·Q) as one exponential: P or Q may underflow, and a or b be 0.  What stands
        beside it vanishes with a or b, and is 0 where the ratio would be infinite."""
        held = {s: e for s, e in powers.items() if s in (mixture.p, mixture.q)}
        whole = [c for c in (mixture.a, mixture.b) if not c.is_Add] or [mixture.a]
        if whole[0].could_extract_minus_sign():  # 1/(-m): a mixture under a logarithm is positive
            mixture = replace(mixture, a=-mixture.a, b=-mixture.b)
            expr = expr * (-1) ** factor.as_base_exp()[1]
        rest = expr / factor / Mul(*(s**e for s, e in held.items()))
        logs = Add(*(e * self.logs[s] for s, e in held.items()))
        ratio = logs + factor.as_base_exp()[1] * self._log_sum(mixture)
        return self(rest, {}) * exp(_f["minimum"](ratio, _CLIP))

    def _factor(self, factor: Expr, weights: dict[Expr, Expr]) -> Expr:
        """A factor that is no ratio to its weights: 1/(a·p + b·q) stays."""
        if isinstance(factor, Pow) and self._mixture(factor.base):
            return self(factor.base, {}) ** factor.exp
        return self(factor, weights)

    # ------------------------------------------------------------------ 1 - p
    def complements(self, expr: Expr) -> Expr:
        """1 - p^k and log(1 - p), from the root down."""
        if not expr.args:
            return expr
        if isinstance(expr, log):
            found = self._complement(expr.args[0])
            if found is not None and found[0] == 1:
                self.fired.add("log_of_complement")
                return _f["log1mexp"](-found[1])
        found = self._complement(expr)
        if found is not None:
            self.fired.add("complement")
            return -found[0] * _f["expm1"](found[1])
        return self._quotient(expr.func(*(self.complements(a) for a in expr.args)))

    def _quotient(self, expr: Expr) -> Expr:
        """a/expm1(a), which is 1 at 0."""
        powers = expr.as_powers_dict() if isinstance(expr, Mul) else {}
        for divisor, order in powers.items():
            if order == -1 and divisor.func is _f["expm1"]:
                (a,) = divisor.args
                if powers.get(a, Integer(0)) == 1:
                    self.fired.add("expm1_quotient")
                    return expr / a * divisor * _f["recipexpm1x"](a)
        return expr

    def _complement(self, expr: Expr) -> tuple[Expr, Expr] | None:
        """(c, k·log p) of c - c·p^k."""
        terms = Add.make_args(expr)
        if len(terms) != 2:
            return None
        for one, other in (terms, terms[::-1]):
            for factor in Mul.make_args(other):
                base, exponent = factor.as_base_exp()
                if base in self.logs and exponent.is_positive and other / factor == -one:
                    return one, exponent * self.logs[base]
        return None


def _log_of(expr: Expr) -> Expr:
    return _f["log1p"](expr - 1) if isinstance(expr, Add) and 1 in expr.args else log(expr)
