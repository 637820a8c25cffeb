"""Logarithms and shares of sums of exponentials, which overflow, underflow or are nearly 1.

    log(1 + c·e^v)              →  softplus(v + log c)       where e^v may be infinite
    log(a·P^e + b)              →  log(a + b) - softplus(log a + log(1 - P^e) - log(a·P^e + b))
    log(e^v + e^w + …)          →  logaddexp(v, w, …)
    c·logaddexp(v, w) - c·v     →  c·softplus(w - v)
    e^v/(e^v + e^w)             →  sigmoid(v - w)

P stands for Q too, and e^v for any product of exponentials, P and Q.  The second is right at both
ends: it is a difference of its terms nowhere but at its zero.  1 - a·Q is (1 - a) + a·P first,
where the domains say that neither is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Mul, exp, expand, expand_log, log

from lossgen.ir.given import Given
from lossgen.ir.ops import OPS, logaddexp
from lossgen.passes.algebra import complement

if TYPE_CHECKING:
    from lossgen.ir.statistics import Form
    from lossgen.passes.rules import Rewriter

__all__ = ["log_of_class_sum", "log_of_sum", "logs_apart", "share_of_sum"]

_CLIP = Integer(80)
_f = {name: op.symbol for name, op in OPS.items()}


def log_of_class_sum(expr: Expr, forms: Sequence[Form]) -> Expr | None:
    """log(a + b·e^v) of a class, if this is one and e^v may be infinite."""
    if not isinstance(expr, Add) or len(expr.args) != 2:
        return None
    for constant, other in (expr.args, expr.args[::-1]):
        grown = [f for f in Mul.make_args(other) if isinstance(f, exp)]
        exponent = expand(Add(*(f.args[0] for f in grown)))
        if not grown or exponent.is_nonpositive or constant.has(exp):
            continue
        scale = other / Mul(*grown) / constant
        if constant.is_positive and scale.is_positive:
            level = _without_total(exponent, forms)
            return log(constant) + _f["softplus"](level + log(scale))
    return None


def _without_total(exponent: Expr, forms: Sequence[Form]) -> Expr:
    """logp + L is what the exponent was before it was one of a softmax."""
    for form in forms:
        rate = exponent.coeff(form.L)
        if rate != 0 and exponent.coeff(form.logp) == rate:
            exponent = expand(exponent + rate * (form.ell - form.logp - form.L), log=False)
    return exponent


def log_of_sum(expr: Expr, rw: Rewriter) -> Expr | None:
    """log of a sum of positive terms that holds exponentials or probabilities."""
    if not isinstance(expr, log) or not isinstance(expr.args[0], Add):
        return None
    terms = _positive_terms(expr.args[0], rw)
    if terms is None or (1 in terms and _is_tame(terms, rw)):
        return None  # log1p of what is positive is right: `log_near_one`
    return _log(terms, rw)


def _log(terms: Sequence[Expr], rw: Rewriter) -> Expr:
    """The logarithm of Σ terms, each of which is positive and a product."""
    fixed = [t for t in terms if not _moves(t, rw)]
    moving = [t for t in terms if _moves(t, rw)]
    constant = Add(*fixed)
    if len(moving) == 1 and fixed:
        whole = _near_one(constant, moving[0], rw)
        if whole is not None:
            return whole
        low = log(constant)
        if low == 0:
            return _f["softplus"](_differs(_level(moving[0], rw), Integer(0), rw))
        return logaddexp(low, _level(moving[0], rw))
    logs = [_level(t, rw) for t in moving] + ([log(constant)] if fixed else [])
    total = logs[0]
    for other in logs[1:]:
        total = logaddexp(total, other)
    return total


def _near_one(constant: Expr, term: Expr, rw: Rewriter) -> Expr | None:
    """log(a·B^e + b) of a B between 0 and 1: from a + b, its value at B = 1."""
    held = [f for f in Mul.make_args(term) if f.as_base_exp()[0] in rw.logs]
    if len(held) != 1 or any(_moves(f, rw) for f in Mul.make_args(term) if f != held[0]):
        return None
    base, exponent = held[0].as_base_exp()
    if not exponent.is_positive:
        return None
    scale = term / held[0]
    low = logaddexp(log(constant), _level(term, rw))
    left = rw.rewrite(log(rw.halves[base]) if exponent == 1 else log(1 - base**exponent))
    left = complement(left, rw.forms) + log(scale)
    return log(expand(constant + scale)) - _f["softplus"](left - low)


def share_of_sum(expr: Expr, rw: Rewriter) -> Expr | None:
    """e^v·c/(e^v + e^w), where a term of the sum may be infinite, or all of them 0."""
    if not isinstance(expr, Mul):
        return None
    for factor in expr.args:
        base, order = factor.as_base_exp()
        terms = _positive_terms(base, rw) if order == -1 and isinstance(base, Add) else None
        if terms is None or _is_tame(terms, rw):
            continue
        held = (expr / factor).as_powers_dict()
        for term in (t for t in terms if _moves(t, rw)):
            own = [f for f in Mul.make_args(term) if _moves(f, rw)]
            if not _divides(Mul(*own), held):
                continue
            if all(f in own or f.is_positive or _divides(f, held) for f in Mul.make_args(term)):
                others = [t for t in terms if t is not term]
                apart = _differs(_level(term, rw), _log(others, rw), rw)
                return rw.rewrite(_one_exponent(expr / factor / term)) * _f["sigmoid"](apart)
            part = Mul(*own)  # beside it a number that may be 0
            ratio = _differs(_level(part, rw), _log(terms, rw), rw)
            rest = _one_exponent(expr / factor / part)
            return rw.rewrite(rest) * exp(_f["minimum"](ratio, _CLIP))
        for total in (f for f in expr.args if isinstance(f, Add)):
            if any(_grows(f, rw) for t in total.args for f in Mul.make_args(t)):
                return Add(*(rw.rewrite(expr / total * t) for t in total.args))
    return None


def _one_exponent(product: Expr) -> Expr:
    """e^a·e^-a  →  1"""
    factors = Mul.make_args(product)
    exponent = expand(Add(*(f.args[0] for f in factors if isinstance(f, exp))))
    return Mul(*(f for f in factors if not isinstance(f, exp))) * exp(exponent)


def _divides(product: Expr, held: dict[Expr, Expr]) -> bool:
    """Are its factors, and all of its exponentials as one, among these powers?"""
    powers = product.as_powers_dict()
    left = {base: expand(held.get(base, Integer(0)) - order) for base, order in powers.items()}
    return all(order.is_nonnegative for order in left.values())


def _is_tame(terms: Sequence[Expr], rw: Rewriter) -> bool:
    """Is none of them infinite, and one of them never 0?"""
    apart = any(t.is_positive and not _moves(t, rw) for t in terms)
    return apart and not any(_grows(f, rw) for t in terms for f in Mul.make_args(t))


def _grows(factor: Expr, rw: Rewriter) -> bool:
    base, order = factor.as_base_exp()
    if isinstance(factor, exp):
        return not factor.args[0].is_nonpositive
    return base in rw.logs and not order.is_nonnegative


def logs_apart(expr: Expr, rw: Rewriter) -> Expr:
    """c·logaddexp(v, w) - c·v  →  c·softplus(w - v), bottom up."""
    if not expr.args or not expr.has(logaddexp):
        return expr
    expr = expr.func(*(logs_apart(a, rw) for a in expr.args))
    if not isinstance(expr, Add):
        return expr
    for term in expr.args:
        for node in (f for f in Mul.make_args(term) if isinstance(f, logaddexp)):
            scale, rest = term / node, expand(expr - term)
            for one, other in (node.args, node.args[::-1]):
                parts = [-expand(scale * t) for t in Add.make_args(one)]
                left = Add.make_args(rest)
                if one.is_number or not all(p in left for p in parts):
                    continue
                found = scale * _f["softplus"](_differs(other, one, rw))
                return logs_apart(rest - Add(*parts) + found, rw)
    return expr


# ---------------------------------------------------------------------------- positive terms
def _positive_terms(expr: Expr, rw: Rewriter) -> list[Expr] | None:
    """The terms of a sum, if it is one of products that are never negative and at least one of
    them moves with a softmax or an exponential.  Best is a constant and one term: P or Q is written
    as 1 less the other for it."""
    candidates = [list(Add.make_args(expr))]
    for form in rw.forms:
        for half, other in ((form.P, form.Q), (form.Q, form.P)):
            if half in expr.free_symbols and expr.is_polynomial(half):
                flat = expand(expr.xreplace({half: 1 - other}), power_base=False)
                candidates.append(_gathered(flat, rw))
    held = [
        c
        for c in candidates
        if len(c) > 1 and all(_is_positive(t, rw) for t in c) and any(_moves(t, rw) for t in c)
    ]
    return min(held, key=lambda terms: sum(_moves(t, rw) for t in terms), default=None)


def _gathered(expr: Expr, rw: Rewriter) -> list[Expr]:
    """a·P - b·P + c - d  →  (a - b)·P, c - d"""
    by_factor: dict[Expr, Expr] = {}
    for term in Add.make_args(expr):
        moving = Mul(*(f for f in Mul.make_args(term) if _moves(f, rw)))
        by_factor[moving] = by_factor.get(moving, Integer(0)) + term / moving
    return [moving * total for moving, total in by_factor.items() if total != 0]


def _moves(expr: Expr, rw: Rewriter) -> bool:
    """Does it hold an exponential, or P or Q of a softmax?"""
    return bool(expr.free_symbols & set(rw.logs)) or expr.has(exp)


def _is_monomial(expr: Expr, rw: Rewriter) -> bool:
    return isinstance(expr, exp) or expr.as_base_exp()[0] in rw.logs


def _is_positive(term: Expr, rw: Rewriter) -> bool:
    """A product of exponentials, P, Q and constants that are not negative?"""
    return all(
        _is_monomial(f, rw) or f.is_positive or _is_constant(f, rw) for f in Mul.make_args(term)
    )


def _is_constant(factor: Expr, rw: Rewriter) -> bool:
    """A number of the call or the row that is never negative?"""
    if factor.free_symbols <= rw.constants:
        return rw.is_nonnegative(factor)
    given = all(isinstance(s, Given) for s in factor.free_symbols - rw.constants)
    return given and not factor.has(exp) and rw.is_nonnegative(factor)


def _level(term: Expr, rw: Rewriter) -> Expr:
    """The logarithm of a product of exponentials, P, Q and constants."""
    found, fixed = Integer(0), Integer(1)
    for factor in Mul.make_args(term):
        base, exponent = factor.as_base_exp()
        if isinstance(factor, exp):
            found += factor.args[0]
        elif base in rw.logs:
            found += exponent * rw.logs[base]
        else:
            fixed *= factor
    found = complement(expand(found), rw.forms)
    for form in rw.forms:  # P·e^L is e^(l_y)
        rate = found.coeff(form.L)
        if rate != 0 and found.coeff(form.s) == -rate:
            found = expand(found - rate * (form.L - form.s - form.ell_y), log=False)
    return found + (expand_log(log(fixed)) if fixed != 1 else 0)


def _differs(one: Expr, other: Expr, rw: Rewriter) -> Expr:
    """one - other without the level of a row, which both may have: L is l_y + s."""
    apart = expand(one - other, power_base=False, log=False)
    for form in rw.forms:
        scale = apart.coeff(form.L)
        if scale == 0:
            continue
        fresh = expand(apart.xreplace({form.L: form.ell_y + form.s}), power_base=False, log=False)
        if not fresh.free_symbols & (form.ell_y.free_symbols - rw.constants):
            apart = fresh
    return complement(apart, rw.forms)
