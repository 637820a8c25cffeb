"""The algebra of P = p_y and Q = 1 - p_y, and the choice between equal expressions.

    c - c·P  →  c·Q          c - c·Q  →  c·P          log P → -s        log Q → -r
    c - c·sigmoid(u)  →  c·sigmoid(-u)

No power is expanded and `simplify` is never called: candidates are few and named, and the one
with the fewest additions of terms of unknown or opposite sign wins (cancellation is what costs
accuracy), then the shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache

from sympy import (
    Add,
    Dummy,
    Expr,
    Function,
    Integer,
    Mul,
    Pow,
    Symbol,
    cancel,
    exp,
    expand,
    expand_mul,
    factor_terms,
    log,
    together,
)

from lossgen.ir.ops import erf, erfc, sigmoid, tanh
from lossgen.ir.statistics import Form
from lossgen.passes.uniform import excesses

__all__ = [
    "cancel_fractions",
    "cancel_parameters",
    "complement",
    "cost",
    "divisors_apart",
    "expand_products",
    "logistic",
    "parted",
    "tidy",
]

_MAX_OPS = 150  # larger expressions keep their form: expansion is not worth its time


def complement(expr: Expr, forms: Iterable[Form]) -> Expr:
    """Bottom-up: write 1 - P as Q and 1 - Q as P, L - l_y as -log P, and logarithms of products of
    both as sums."""
    forms = tuple(forms)
    return _complemented(expr, forms, {a for f in forms for a in (f.P, f.Q, f.s, f.r, f.L)})[0]


def _complemented(expr: Expr, forms: Sequence[Form], own: set[Symbol]) -> tuple[Expr, bool]:
    """And whether there is anything in it that it is about."""
    if not expr.args:
        return expr, expr in own
    parts = [_complemented(a, forms, own) for a in expr.args]
    if expr.func not in _TAILS and not any(found for _, found in parts):
        return expr, False
    expr = expr.func(*(part for part, _ in parts))
    if isinstance(expr, Add):
        return _complement_sum(expr, forms), True
    if isinstance(expr, exp):
        return _power_of_half(expr, forms), True
    if isinstance(expr, log):
        return _log_of_product(expr, forms), True
    return expr, True


def _complement_sum(expr: Expr, forms: Sequence[Form]) -> Expr:
    terms = list(Add.make_args(expr))
    for form in forms:
        for half, other in ((form.P, form.Q), (form.Q, form.P)):
            for term in list(terms):
                if half not in term.as_powers_dict():
                    continue
                for partner, joined in (
                    (-term / half, other),
                    (-term * half, -other / half),
                    (term / half * other, 1 / other),
                ):
                    if partner in terms and term in terms and partner != term:
                        terms.remove(term)
                        terms.remove(partner)
                        terms.append(partner * joined)
        for term in list(terms):  # softplus(z) - softplus(-z) = z
            partner = -term / form.s * form.r
            if form.s in Mul.make_args(term) and partner in terms:
                terms.remove(term)
                terms.remove(partner)
                terms.append(term / form.s * form.z)
        terms = _from_target(terms, form)
    return logistic(Add(*terms))


def _from_target(terms: list[Expr], form: Form) -> list[Expr]:
    """Terms with c·L - c·l_y as c·s, which an offset of the row does not reach; L - r - l_y is z
    only when all is known, as its exponential is made of P and Q."""
    for term in terms if not any(t.has(form.r) for t in terms) else ():
        if form.L in Mul.make_args(term):
            scale = term / form.L
            own = Add.make_args(expand_mul(-scale * form.ell_y))
            if all(part in terms for part in own):
                return [t for t in terms if t != term and t not in own] + [scale * form.s]
    return terms


def logistic(expr: Expr) -> Expr:
    """c - c·sigmoid(u)  →  c·sigmoid(-u), and what tanh, erf and erfc leave of 1."""
    if not expr.has(*_TAILS):
        return expr
    terms = list(Add.make_args(expr))
    for term in list(terms):
        for node in (f for f in Mul.make_args(term) if f.func in _TAILS):
            whole = term / node
            for sign, tail in zip((1, -1), _TAILS[node.func](*node.args), strict=False):
                partner = -sign * whole
                if tail is not None and term in terms and partner in terms:
                    terms = [t for t in terms if t not in (term, partner)]
                    terms.append(partner * tail)
    return Add(*terms)


#: 1 - f(u), and 1 + f(u)
_TAILS: dict[type[Expr], Callable[[Expr], tuple[Expr, Expr | None]]] = {
    sigmoid: lambda u: (sigmoid(-u), None),
    tanh: lambda u: (2 * sigmoid(-2 * u), 2 * sigmoid(2 * u)),
    erf: lambda u: (erfc(u), erfc(-u)),
    erfc: lambda u: (erf(u), None),
}


def _log_of_product(expr: Expr, forms: Sequence[Form]) -> Expr:
    """A product inside a real logarithm is positive: so is its last factor of unknown sign."""
    known = {f.P: -f.s for f in forms} | {f.Q: -f.r for f in forms}
    factors = [f.as_base_exp() for f in Mul.make_args(expr.args[0])]
    if sum(not base.is_positive for base, _ in factors) > 1:
        return expr
    return Add(*(exponent * known.get(base, log(base)) for base, exponent in factors))


def _power_of_half(expr: Expr, forms: Sequence[Form]) -> Expr:
    """exp(a·s + b·r + c)  →  P^-a·Q^-b·exp(c)."""
    exponent, powers = expr.args[0], Integer(1)
    for form in forms:
        for half, logarithm in ((form.P, form.s), (form.Q, form.r)):
            rate = exponent.coeff(logarithm)
            if rate != 0:
                exponent = expand(exponent - rate * logarithm)
                powers = powers * half**-rate
    return powers * exp(exponent)


def _sign(term: Expr) -> int:
    if term.is_nonnegative:
        return 1
    if term.is_nonpositive:
        return -1
    return 0


def cost(expr: Expr) -> tuple[int, int]:
    """(terms that may cancel, operations): smaller is better."""
    mixed = 0
    for node in expr.atoms(Add):
        if not node.free_symbols:
            continue
        signs = {_sign(t) for t in node.args}
        mixed += 0 if signs in ({1}, {-1}) else len(node.args) - 1
    return mixed, int(expr.count_ops())


def cheapest(exprs: Iterable[Expr]) -> Expr:
    """Of the least cost, and the first by its text of those: the same whatever the order."""
    costs = {expr: cost(expr) for expr in exprs}
    least = min(costs.values())
    ties = [expr for expr, own in costs.items() if own == least]
    return ties[0] if len(ties) == 1 else min(ties, key=str)


def cancel_parameters(expr: Expr, parameters: frozenset[Symbol]) -> Expr:
    """Cancel common factors in the parts of products that consist of parameters alone."""
    if not expr.args:
        return expr
    expr = expr.func(*(cancel_parameters(a, parameters) for a in expr.args))
    if isinstance(expr, Mul):
        own = [
            a
            for a in expr.args
            if a.free_symbols
            and a.free_symbols <= parameters
            and a.is_rational_function(*a.free_symbols)
        ]
        if any(isinstance(a.as_base_exp()[0], Add) for a in own):
            rest = [a for a in expr.args if a not in own]
            return Mul(_rational(Mul(*own)), *rest)
    elif isinstance(expr, Add) and expr.free_symbols <= parameters:
        return _rational(expr)
    return expr


@lru_cache(maxsize=4096)
def _rational(expr: Expr) -> Expr:
    """Rational normal form, only where every generator is a plain symbol (SymPy splits exp)."""
    if not expr.is_rational_function(*expr.free_symbols) or expr.count_ops() > 60:
        return expr
    result = cancel(expr)
    return result if result.count_ops() < expr.count_ops() else expr


def tidy(expr: Expr, forms: Iterable[Form], parameters: frozenset[Symbol]) -> Expr:
    """The cheapest of a few equal forms of a row expression in P, Q, s, r, L and sums."""
    forms = tuple(forms)
    expr = cancel_fractions(expr, [half for f in forms for half in (f.P, f.Q)])
    expr = complement(expr, forms)
    expr = _absorbed(expr, [half for f in forms for half in (f.P, f.Q)])
    if expr.count_ops() > _MAX_OPS or not expr.args:
        return expr
    candidates = [expr]
    flat = expand_products(expr)
    starts = [flat]
    for form in forms:
        starts += [_eliminate(flat, form.P, form.Q), _eliminate(flat, form.Q, form.P)]
    shapes = [shape for start in dict.fromkeys(starts) for shape in (start, _fraction(start))]
    for shape in dict.fromkeys(shapes):
        candidates.append(complement(shape, forms))
        candidates.append(complement(factor_terms(candidates[-1]), forms))
    return cheapest(cancel_parameters(c, parameters) for c in dict.fromkeys(candidates))


def expand_products(expr: Expr) -> Expr:
    """Expand products and whole positive powers; other powers of sums, P - 1/V and the arguments
    of functions stay: |a·(V - 1) - index| is more accurate than |a·V - a - index|."""
    apart: dict[Expr, Expr] = {}
    for node in sorted(_calls(expr), key=str):
        sign = {"positive": True} if node.is_positive else {"real": True}
        apart[node] = Dummy(f"call{len(apart)}", **sign)
    expr = expr.xreplace(apart)
    apart |= {node: Dummy(f"excess{k}", real=True) for k, node in enumerate(excesses(expr))}
    expr = expr.xreplace(apart)
    kept: dict[Expr, Expr] = {}
    for node in sorted(expr.atoms(Pow), key=str):
        if node.base.is_Add and not (node.exp.is_Integer and node.exp > 0):
            base = kept.setdefault(node.base, Dummy(f"base{len(kept)}", positive=True))
            expr = expr.xreplace({node: base**node.exp})
    flat = expand(expr, deep=True, power_base=False, power_exp=False, log=False)
    flat = flat.xreplace({dummy: base for base, dummy in kept.items()})
    for node, dummy in reversed(apart.items()):
        flat = flat.xreplace({dummy: node})
    return flat


def parted(product: Expr, held: Callable[[Expr], bool]) -> tuple[Expr, Expr]:
    """The factors that are held, and the others: not by a division, since SymPy leaves
    e^(a - b) times e^(b - a) as it is."""
    found: tuple[list[Expr], list[Expr]] = [], []
    for factor in Mul.make_args(product):
        found[not held(factor)].append(factor)
    return Mul(*found[0]), Mul(*found[1])


def divisors_apart(expr: Expr, varying: Collection[Symbol]) -> tuple[Expr, dict[Expr, Expr]]:
    """Sums of the row or of parameters that it is divided by as symbols: expanding would multiply
    them into the denominators of the classes, as 2·p^t - t·p^t, which is 0 where p^t is, and a root
    into its own, as B·√B + 2·B + √B, in which √B no longer stands beside a slope."""
    apart: dict[Expr, Expr] = {}
    for node in sorted(expr.atoms(Pow), key=str):
        if node.base.is_Add and node.exp.is_negative and not node.base.free_symbols & set(varying):
            apart.setdefault(node.base, Dummy(f"divisor{len(apart)}", real=True))
    return expr.xreplace(apart), {dummy: base for base, dummy in apart.items()}


def _calls(expr: Expr) -> set[Expr]:
    """Applications of functions other than exp and log that are not inside others, and
    exponentials of squares of sums, as the derivative of erf has: no use, and many terms."""
    if isinstance(expr, Function) and not isinstance(expr, exp | log):
        return {expr}
    if isinstance(expr, exp) and any(e.base.is_Add and e.exp.is_Integer for e in expr.atoms(Pow)):
        return {expr}
    return {node for part in expr.args for node in _calls(part)}


def _absorbed(expr: Expr, halves: Sequence[Symbol]) -> Expr:
    """P·Q·(a·Q^(e-1) + b)  →  P·(a·Q^e + b·Q): the negative power may be infinite alone.  So it may
    below:  a/(P·(1 + b·Q/P))  →  a/(P + b·Q)."""
    if not expr.args or not expr.free_symbols & set(halves):
        return expr
    expr = expr.func(*(_absorbed(a, halves) for a in expr.args))
    for half in halves if isinstance(expr, Mul) else ():
        held = expr.as_powers_dict().get(half, Integer(0))
        for total in expr.args if held.is_positive else ():
            powers = [_power_in(t, half) for t in Add.make_args(total)]
            if total.is_Add and not all(p.is_nonnegative for p in powers):
                rest = expr / total / half**held
                terms = zip(total.args, powers, strict=True)
                spread = (rest * _without(t, half) * half ** (held + p) for t, p in terms)
                return _absorbed(Add(*spread), halves)
    for half in halves if isinstance(expr, Mul | Pow) else ():
        for divisor in (f for f in Mul.make_args(expr) if f.is_Pow and f.base.is_Add):
            powers = [_power_in(t, half) for t in divisor.base.args]
            whole = divisor.exp.is_Integer and all(p.is_Integer for p in powers)
            if whole and divisor.exp.is_negative and min(powers) < 0:
                least = min(powers)
                terms = zip(divisor.base.args, powers, strict=True)
                total = Add(*(_without(t, half) * half ** (p - least) for t, p in terms))
                rest = expr / divisor * half ** (least * divisor.exp)
                return _absorbed(rest * total**divisor.exp, halves)
    return expr


def _power_in(product: Expr, half: Symbol) -> Expr:
    return product.as_powers_dict().get(half, Integer(0))


def _without(product: Expr, half: Symbol) -> Expr:
    """The factors that are no power of ``half``."""
    return Mul(*(f for f in Mul.make_args(product) if f.as_base_exp()[0] != half))


def _eliminate(expr: Expr, half: Symbol, other: Symbol) -> Expr:
    """Expand with half = 1 - other in its integer powers only, so that what cancels, cancels."""
    if half not in expr.free_symbols:
        return expr
    terms = []
    for term in Add.make_args(expr):
        power = term.as_powers_dict().get(half, Integer(0))
        whole = power.is_Integer and power > 0
        terms.append(term / half**power * (1 - other) ** power if whole else term)
    return expand_products(Add(*terms))


def _fraction(expr: Expr) -> Expr:
    """One fraction with an expanded numerator, where the terms share a root of a sum.

    Not for whole powers: numerator and denominator could both be infinite (a masked class).  Nor
    where a root would stand over itself: a/√B + c is c where B is 0 (``safe_rsqrt``), and
    (a + c·√B)/√B is 0/0.
    """
    roots = any(e.base.is_Add and not e.exp.is_Integer for e in expr.atoms(Pow))
    if not roots or expr.count_ops() > 80:
        return expr
    numerator, denominator = together(expr).as_numer_denom()
    numerator = expand(numerator, power_base=False, power_exp=False, log=False)
    below = {d for d in Mul.make_args(denominator) if d.is_Pow and not d.exp.is_Integer}
    if any(below & set(Mul.make_args(term)) for term in Add.make_args(numerator)):
        return expr
    return numerator / denominator


def cancel_fractions(expr: Expr, symbols: Iterable[Symbol]) -> Expr:
    """Cancel what an expression shares with its denominators in ``symbols``:

    p - p·(a·p + b·q)/(a·p + b·q)  →  0

    Every exponential and logarithm is a generator of its own (SymPy would split their arguments).
    """
    varying = set(symbols)
    if not any(
        e.base.is_Add and e.exp.is_negative and e.base.free_symbols & varying
        for e in expr.atoms(Pow)
    ):
        return expr
    kept = {
        node: Dummy(f"g{k}", positive=True)
        for k, node in enumerate(sorted(_outermost(expr), key=str))
    }
    plain = expr.xreplace(kept)
    if not plain.is_rational_function(*plain.free_symbols) or plain.count_ops() > _MAX_OPS:
        return expr
    result = cancel(plain).xreplace({dummy: node for node, dummy in kept.items()})
    result = expand_products(result) if result.is_Mul else result
    return result if result.count_ops() < expr.count_ops() else expr


def _outermost(expr: Expr) -> set[Expr]:
    """The largest subexpressions that are not rational in symbols."""
    if isinstance(expr, Function) or (isinstance(expr, Pow) and not expr.exp.is_Integer):
        return {expr}
    return set().union(*(_outermost(a) for a in expr.args)) if expr.args else set()
