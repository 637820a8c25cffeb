"""The rewrites of row expressions that make them accurate in float32.

Every rule is one row of ``RULES``, tried on each node from the root down, in order:

    log_of_power        log(1 - P^N)           →  cloglog(log N + logsoftplus(z))
    log_of_sum          log(a + b·P)           →  log(a + b) - softplus(…)    see ``passes.logsums``
    log_near_one        log(1 - c·Q)           →  log1p(-c·Q)
    log_of_complement   log(1 - e^-a), a > 0   →  log1mexp(a)
    complement          1 - e^-a, a > 0        →  -expm1(-a)
    excess_over_uniform P - 1/V                →  expm1(log(V·P))/V
    share_of_sum        e^v / (e^v + e^w)      →  sigmoid(v - w)
    expm1_quotient      B^N / (1 - B^N)        →  recipexpm1x(-N·log B) / (-N·log B)
                        of B^N·(1 - B^N)^(k-1) too
    halves_apart        Q - P                  →  tanh(z/2)          1 - 2·P and 2·Q - 1 too
    half_difference     P - P'                 →  P·Q' - Q·P'   (of two softmaxes)
    log_difference      c·(s - s')             →  c·log1p(Q'·expm1(z - z'))   where z is near z'
                        c·(r - r')             →  c·log1p(P'·expm1(z' - z))
    masked_logarithm    P·s'                   →  P·where(0 < P, s', 0)   (of two softmaxes)
    power_difference    A^e - B^e              →  -A^e · e · expm1div(log(B/A), e)
                        B^a - B^b              →  B^b · (a-b) · expm1div(log B, a-b)
                        1 - A^a·B^b            →  -expm1(a·log A + b·log B)
    bounded_quotient    P / softplus(-z)       →  sigrel(-z)      see ``passes.quotients``
    one_exponential     P^a · Q^b · e^c        →  exp(c - a·s - b·r), integer units as sigmoids

with  expm1div(v, e) = (exp(e·v) - 1)/e.  Mixtures of two probabilities, and whatever stands
inside a later sweep's sum, are the business of ``passes.mixtures``; L - r of one softmax becomes
the log-sum of its other classes once the rules are done (``passes.pairs``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from sympy import Add, Expr, Integer, Mul, Pow, Symbol, exp, expand, log

from lossgen.ir.ops import OPS, absf, maximum, minimum
from lossgen.ir.statistics import Centre, Form
from lossgen.passes.algebra import cancel_parameters, complement
from lossgen.passes.divergences import joint_logarithms
from lossgen.passes.logsums import log_of_sum, logs_apart, share_of_sum
from lossgen.passes.mixtures import stabilize_class, stabilize_mixtures
from lossgen.passes.pairs import (
    half_difference,
    halves_apart,
    log_difference,
    masked_logarithm,
    others_alone,
)
from lossgen.passes.quotients import bounded_quotient
from lossgen.passes.uniform import excess_of_row
from lossgen.passes.zeros import LOWEST

__all__ = ["RULES", "Rewriter", "Rule"]

_f = {name: op.symbol for name, op in OPS.items()}


@dataclass(frozen=True)
class Rule:
    """One rewrite: ``apply`` returns the new node, or None where the pattern is absent."""

    name: str
    apply: Callable[[Expr, Rewriter], Expr | None]


class Rewriter:
    def __init__(
        self,
        forms: tuple[Form, ...],
        centres: tuple[Centre, ...],
        constants: frozenset[Symbol],
        ends: dict[Symbol, tuple[Expr, Expr]],
    ) -> None:
        self.ends = ends  # of every domain: the sign of a difference of exponents
        self.forms = forms
        self.apart = {c.symbol_y for c in centres if c.softmaxes}
        self.constants = constants
        self.fired: set[str] = set()
        self.logs: dict[Expr, Expr] = {f.P: -f.s for f in forms} | {f.Q: -f.r for f in forms}
        self.lower = {f.P for f in forms}
        self.halves: dict[Expr, Expr] = {f.P: f.Q for f in forms} | {f.Q: f.P for f in forms}
        self.final: dict[Expr, Expr] = {}
        for f in forms:
            self.final |= {
                f.P: _f["sigmoid"](-f.z),
                f.Q: _f["sigmoid"](f.z),
                f.s: _f["softplus"](f.z),
                f.r: _f["softplus"](-f.z),
            }

    def __call__(self, expr: Expr) -> Expr:
        mixed, fired = stabilize_mixtures(expr, self.logs, self.halves)
        self.fired |= fired
        ruled = logs_apart(cancel_parameters(self.rewrite(mixed), self.constants), self)
        if "share_of_sum" in self.fired:  # c·σ(u) - c
            ruled = complement(ruled, self.forms)
        found = others_alone(ruled, self.forms)
        self.fired |= {"others_alone"} if found != ruled else set()
        whole = joint_logarithms(found, self.forms)
        self.fired |= {"joint_logarithm"} if whole != found else set()
        return whole.xreplace(self.final)

    def class_level(self, expr: Expr) -> Expr:
        """Class expressions hold logp and raw streams: see ``passes.mixtures``."""
        result, fired = stabilize_class(expr, self.forms)
        self.fired |= fired
        return result

    def rewrite(self, expr: Expr) -> Expr:
        for rule in RULES:
            result = rule.apply(expr, self)
            if result is not None:
                self.fired.add(rule.name)
                return result
        if not expr.args:
            return expr
        return expr.func(*(self.rewrite(a) for a in expr.args))

    def log(self, base: Expr) -> Expr:
        """log(base), not yet rewritten, in s and r where base is a power of P or Q."""
        return complement(log(base), self.forms)

    def owner(self, half: Expr) -> Form | None:
        """The form whose P or Q this is."""
        return next((f for f in self.forms if half in (f.P, f.Q)), None)

    def same_base(self, scale: Expr, base: Expr, a: Expr, b: Expr) -> Expr:
        """c·B^a - c·B^b, with the smaller power outside: B^(a-b) could overflow."""
        rise = expand(a - b)
        signs = self.signs(rise)
        if signs == {-1}:
            return -self.same_base(scale, base, b, a)
        if rise == 1:
            form = self.owner(base)
            assert form is not None
            other = form.Q if base == form.P else form.P
            return -self.rewrite(scale * base**b * other)
        small = self.rewrite(self.log(base))
        if signs != {1}:  # either, and 0 between them: 0·∞ where log B is -∞
            grown = _f["expm1div"](maximum(small, LOWEST), absf(rise))
            return self.rewrite(scale * base ** minimum(a, b)) * rise * grown
        return self.rewrite(scale * base**b) * rise * _f["expm1div"](small, rise)

    def signs(self, rise: Expr) -> set[int]:
        """Of a difference of exponents, at the ends of the domains."""
        held = sorted(rise.free_symbols & set(self.ends), key=str)
        if any(rise.diff(a, b) != 0 for a in held for b in held):
            return {-1, 1}
        corners = product(*(self.ends[s] for s in held))
        values = [rise.xreplace(dict(zip(held, corner, strict=True))) for corner in corners]
        if any(v.is_nonnegative is None and v.is_nonpositive is None for v in values):
            return {-1, 1}
        return {-1 if v.is_negative else 1 for v in values if not v.is_zero} or {1}

    def is_nonnegative(self, expr: Expr) -> bool:
        """Of a given number, by its symbols' signs or at the ends of their domains."""
        if expr.is_nonnegative is not None:
            return bool(expr.is_nonnegative)
        return expr.free_symbols <= set(self.ends) and self.signs(expr) == {1}

    def small_difference(self, expr: Expr) -> Expr | None:
        """A sum that loses all but one term when P is written as 1 - Q (or Q as 1 - P)."""
        best = None
        for form in self.forms:
            for half, other in ((form.P, form.Q), (form.Q, form.P)):
                if half not in expr.free_symbols:
                    continue
                candidate = cancel_parameters(
                    expand(expr.xreplace({half: 1 - other}), power_base=False), self.constants
                )
                candidate = cancel_parameters(_collect_on(candidate, other), self.constants)
                if len(Add.make_args(candidate)) == 1:
                    best = candidate
        return best


def _collect_on(expr: Expr, symbol: Symbol) -> Expr:
    """a·q + b·q → (a + b)·q."""
    inside: list[Expr] = []
    rest: list[Expr] = []
    for term in Add.make_args(expr):
        (inside if symbol in Mul.make_args(term) else rest).append(term)
    total = Add(*(t / symbol for t in inside))
    return Add(total * symbol, *rest) if inside else expr


# ---------------------------------------------------------------------------- the rules
def _log_of_power(expr: Expr, rw: Rewriter) -> Expr | None:
    if not (isinstance(expr, log) and isinstance(expr.args[0], Add)):
        return None
    split = _one_minus_power(expr.args[0])
    if split is None or split[0] != 1:
        return None
    _, base, exponent = split
    form = rw.owner(base)
    if form is None:
        return None
    argument = form.z if base == form.P else -form.z
    return _f["cloglog"](log(exponent) + _f["logsoftplus"](argument))


def _log_near_one(expr: Expr, rw: Rewriter) -> Expr | None:
    if not (isinstance(expr, log) and isinstance(expr.args[0], Add)):
        return None
    inside = rw.small_difference(expr.args[0] - 1)
    return None if inside is None else _f["log1p"](rw.rewrite(inside))


def _log_of_complement(expr: Expr, rw: Rewriter) -> Expr | None:
    if not isinstance(expr, log):
        return None
    found = _one_minus_exp(expr.args[0])
    return None if found is None or found[0] != 1 else _f["log1mexp"](rw.rewrite(-found[1]))


def _complement_of_exp(expr: Expr, rw: Rewriter) -> Expr | None:
    found = _one_minus_exp(expr)
    return None if found is None else -rw.rewrite(found[0]) * _f["expm1"](rw.rewrite(found[1]))


def _one_minus_exp(expr: Expr) -> tuple[Expr, Expr] | None:
    """(c, a) of c - c·e^a with a < 0."""
    terms = Add.make_args(expr)
    for one, other in (terms, terms[::-1]) if len(terms) == 2 else ():
        for factor in Mul.make_args(other):
            small = isinstance(factor, exp) and factor.args[0].is_nonpositive
            if small and _without(other, factor) == -one:
                return one, factor.args[0]
    return None


def _one_minus_power(expr: Expr) -> tuple[Expr, Expr, Expr] | None:
    """(c, B, e) with expr = c·(1 - B^e), in either order of signs."""
    terms = Add.make_args(expr)
    if len(terms) != 2:
        return None
    for constant, other in (terms, terms[::-1]):
        for factor in Mul.make_args(other):
            base, exponent = factor.as_base_exp()
            if _without(other, factor) == -constant and _is_power(base, exponent):
                return constant, base, exponent
    return None


def _without(product: Expr, factor: Expr) -> Expr:
    """product / factor for one of its factors (SymPy leaves B^(e-1)·B^(1-e) uncombined)."""
    factors = list(Mul.make_args(product))
    factors.remove(factor)
    return Mul(*factors)


def _is_power(base: Expr, exponent: Expr) -> bool:
    if exponent == 0:
        return False
    # A sum under a symbolic exponent is positive, or the author's formula is not real.
    return bool(base.is_positive) or (base.is_Add and bool(exponent.free_symbols))


def _power_difference(expr: Expr, rw: Rewriter) -> Expr | None:
    if not isinstance(expr, Add):
        return None
    terms = list(expr.args)
    for i, first in enumerate(terms):
        for k, second in enumerate(terms):
            if i == k:
                continue
            result = _difference(first, second, rw)
            if result is not None:
                rest = [t for n, t in enumerate(terms) if n not in (i, k)]
                return Add(result, *(rw.rewrite(t) for t in rest))
    return None


def _difference(first: Expr, second: Expr, rw: Rewriter) -> Expr | None:
    """c·A^e - c·B^e, where A or B holds P or Q; A may be 1."""
    factors = Mul.make_args(second)
    halves = [f for f in factors if f.as_base_exp()[0] in rw.logs]
    if len(halves) > 1 and first == -Mul(*(f for f in factors if f not in halves)):  # c - c·A^a·B^b
        total = Add(*(e * rw.logs[b] for b, e in (f.as_base_exp() for f in halves)))
        return -rw.rewrite(first) * _f["expm1"](total)
    for factor in Mul.make_args(second):
        base, exponent = factor.as_base_exp()
        if not _is_power(base, exponent):
            continue
        scale = -_without(second, factor)
        if not exponent.free_symbols and base not in rw.logs:
            continue
        if first == scale and isinstance(factor, exp):  # c - c·e^a, where a may be -∞
            return -rw.rewrite(scale) * _f["expm1"](rw.rewrite(factor.args[0]))
        if first == scale:  # c - c·B^e
            small = rw.rewrite(rw.log(base))
            return -rw.rewrite(scale) * exponent * _f["expm1div"](small, exponent)
        ratio = first / scale
        top, top_exponent = ratio.as_base_exp()
        if top == base and base in rw.logs and top_exponent != exponent:
            return rw.same_base(scale, base, top_exponent, exponent)
        if top_exponent != exponent or not _is_power(top, exponent) or exponent == 1:
            continue
        small_top = rw.small_difference(base - top)
        if small_top is None:
            continue
        small = _f["log1p"](rw.rewrite(small_top) / rw.rewrite(top))
        return -rw.rewrite(scale * ratio) * exponent * _f["expm1div"](small, exponent)
    return None


def _expm1_quotient(expr: Expr, rw: Rewriter) -> Expr | None:
    if not isinstance(expr, Mul):
        return None
    powers = dict(expr.as_powers_dict())
    for divisor, order in list(powers.items()):
        if not (isinstance(divisor, Add) and _falls(order)):
            continue
        split = _one_minus_power(divisor)
        if split is None:
            continue
        scale, base, exponent = split
        held = powers.get(base, Integer(0))
        if not expand(held - exponent).is_nonnegative or rw.owner(base) is None:
            continue
        powers[divisor] = order + 1
        powers[base] = expand(held - exponent)
        small = -exponent * rw.log(base)
        rest = Mul(*(b**e for b, e in powers.items())) / scale
        return rw.rewrite(rest / small) * _f["recipexpm1x"](small.xreplace(rw.final))
    return None


def _falls(order: Expr) -> bool:
    """Of a power that a quotient may be taken out of: -1, as in k - 1, or a fraction above it."""
    if order.is_Rational:
        return bool(-1 <= order < 0)
    return order.as_coeff_Add()[0] == -1 and bool((order + 1).is_nonnegative)


def _one_exponential(expr: Expr, rw: Rewriter) -> Expr | None:
    if not isinstance(expr, (Mul, Pow)):
        return None
    halves, rest = list[tuple[Expr, Expr]](), list[Expr]()
    exponent: Expr = Integer(0)
    for factor in Mul.make_args(expr):
        base, power = factor.as_base_exp()
        if base in rw.logs:
            halves.append((base, power))
        elif isinstance(factor, exp) and not factor.args[0].free_symbols & set(rw.logs):
            exponent += factor.args[0]
        else:  # an exponent of probabilities has rules of its own to obey
            rest.append(factor)
    if not halves or (all(p == 1 for _, p in halves) and exponent == 0):
        return None
    for form in (f for f in rw.forms if exponent.coeff(f.L) == 1 and not f.parts):
        for half, low in ((form.P, form.ell_y), (form.Q, form.O)):
            if (half, Integer(1)) in halves:  # e^L·P is e^(l_y): both may be out of range
                halves.remove((half, Integer(1)))
                exponent += low - form.L
                break
    units, several = list[Expr](), len({rw.owner(base) for base, _ in halves}) > 1
    grows = several and any(power.is_negative for _, power in halves)  # P·P'/P'' may be 0·∞
    for base, power in halves:
        whole = 0 if grows else _integer_units(power)
        units.extend([base] * whole)
        exponent += (power - whole) * rw.logs[base]
    for form in rw.forms:  # e^{c·s - c·r} = e^{c·z}
        up, down = exponent.coeff(form.s), exponent.coeff(form.r)
        if up != 0 and expand(up + down) == 0:
            exponent = expand(exponent - up * form.s - down * form.r) + up * form.z
    total = exp(exponent) if exponent != 0 else Integer(1)
    return Mul(*(rw.rewrite(r) for r in rest), *units, total)


def _integer_units(power: Expr) -> int:
    """How many whole sigmoids to take out of sigmoid^power."""
    constant = power.as_coeff_Add()[0] if isinstance(power, Add) else power
    if not constant.is_Integer:
        return 0
    if isinstance(power, Add):
        return 1 if constant >= 1 and (power - 1).is_nonnegative else 0
    return int(constant) if 0 < constant <= 3 else 0


RULES: tuple[Rule, ...] = (
    Rule("log_of_power", _log_of_power),
    Rule("log_of_sum", log_of_sum),
    Rule("log_near_one", _log_near_one),
    Rule("log_of_complement", _log_of_complement),
    Rule("complement", _complement_of_exp),
    Rule("excess_over_uniform", lambda expr, rw: excess_of_row(expr, rw.forms)),
    Rule("share_of_sum", share_of_sum),
    Rule("expm1_quotient", _expm1_quotient),
    Rule("halves_apart", halves_apart),
    Rule("half_difference", half_difference),
    Rule("log_difference", log_difference),
    Rule("masked_logarithm", masked_logarithm),
    Rule("power_difference", _power_difference),
    Rule("bounded_quotient", bounded_quotient),
    Rule("one_exponential", _one_exponential),
)
