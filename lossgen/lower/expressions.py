"""SymPy expressions as expressions of the row program.

What the spec declares begins with ``u_`` (``spec.spelling``); none of our names does.

Per form i: ``l{i}`` exponent, ``m{i}`` its running maximum over j ≠ y (0 where there is none),
``t{i}`` = l - m, ``e{i}`` = exp(t), ``a{i}`` = Σ e, ``la{i}`` = log a, ``ly{i}`` = l_y, ``z{i}``,
``lam{i}`` = L - m, ``L{i}``, ``p{i}`` = p_j, ``r{i}`` = R_j.  ``b{n}`` are the other moments,
``T{n}`` finished sums, ``c{n}`` row coefficients of the gradient, ``w{n}`` shared subexpressions.

Only numbers, symbols, + - * / **, exp, log and the vocabulary of ``ir.ops`` can be lowered; any
other node is a compiler bug and stops the build (no Heaviside, Derivative or Piecewise can reach
a kernel).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sympy import (
    Add,
    Expr,
    Function,
    Integer,
    Mul,
    Pow,
    Rational,
    Symbol,
    cse,
    exp,
    log,
    nan,
    numbered_symbols,
    oo,
    pi,
)

from lossgen.errors import CompilerBug
from lossgen.ir.evaluate import paired
from lossgen.ir.ops import OPS, maximum, safe_rsqrt
from lossgen.ir.program import Call, Line, Name, Node, Number, call, product
from lossgen.ir.statistics import Form

__all__ = [
    "ROW",
    "TILE",
    "Lowering",
    "assignments",
    "exponential_names",
    "named_weights",
    "whole",
]


@dataclass(frozen=True)
class Lowering:
    """Lowers expressions; ``names`` gives what stands for a symbol (default: its name).

    ``exp``: the exponential that is meant: of a row, to the last digit; of the tiles, where terms
    of sums need no more than the target's fastest.
    """

    exp: str = "exp"
    names: Mapping[Symbol, Node] = field(default_factory=dict)

    def __call__(self, expr: Expr) -> Node:
        if isinstance(expr, Symbol):
            return self.names.get(expr, Name(expr.name))
        if expr in (oo, -oo) or expr is nan or expr == pi or expr.is_Number:
            return Number(float(expr))
        if isinstance(expr, Add):
            return self._add(expr)
        if isinstance(expr, Mul):
            return self._mul(expr)
        if isinstance(expr, exp):
            return call(self.exp, self(expr.args[0]))
        if isinstance(expr, log):
            return call("log", self(expr.args[0]))
        if isinstance(expr, Pow):
            return self._pow(expr)
        if isinstance(expr, Function) and expr.func.__name__ in OPS:
            return call(expr.func.__name__, *map(self, expr.args))
        raise CompilerBug(f"no row program of {type(expr).__name__}: {expr}")

    def _add(self, expr: Add) -> Node:
        found: Node | None = None
        terms = sorted(expr.args, key=_order)
        for group in paired(expr):
            if len(group) != 2 or len(terms) <= 2 or not group[1].could_extract_minus_sign():
                continue
            apart = self(group[0]) - self(-group[1])
            found = apart if found is None else found + apart
            terms = [t for t in terms if t not in group]
        for term in terms:
            value = self(term)
            if found is None:
                found = value
            elif _leads_with_minus(value):
                found = found - self(-term)
            else:
                found = found + value
        assert found is not None
        return found

    def _mul(self, expr: Mul) -> Node:
        coefficient, rest = expr.as_coeff_Mul()
        negative = bool(coefficient.is_negative)
        coefficient = -coefficient if negative else coefficient
        above = [] if coefficient == 1 else [self(coefficient)]
        below: list[Node] = []
        for factor in Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            divides = not isinstance(factor, exp) and exponent.is_Number and exponent < 0
            if divides and exponent != Rational(-1, 2):
                below.append(self(base**-exponent))
            else:
                value = self(factor)
                above += _factors(value) if isinstance(factor, Pow) else [value]
        if negative:
            first = above[0] if above else Number(1.0)
            minus = Number(-first.value) if isinstance(first, Number) else -first
            above = [minus, *above[1:]]
        found = product(above)
        for divisor in below:
            found = found / divisor
        return found

    def _pow(self, expr: Pow) -> Node:
        base, exponent = expr.as_base_exp()
        if exponent == Rational(1, 2):
            return call("sqrt", self(base))
        if exponent == Rational(-1, 2):
            return call("safe_rsqrt", self(base))
        if exponent.is_Integer and 2 <= exponent <= 4:
            return product([self(base)] * int(exponent))
        if exponent.is_Rational and exponent < 0:
            return 1.0 / self(base**-exponent)
        if exponent.is_Rational and (2 * exponent).is_Integer and 0 < exponent < 4:
            factors = [self(base)] * int(exponent - Rational(1, 2))
            return product([*factors, call("sqrt", self(base))])
        return call("power", self(base), self(exponent))


_TOP = re.compile(r"maximum\((\w+)_y, max\d+\)")
ROW, TILE = Lowering(), Lowering("exp_tile")


def _order(term: Expr) -> tuple[bool, str]:
    """Positive terms first, then by text: reproducible, and never a leading minus by accident."""
    return str(term).startswith("-"), str(term)


def _factors(node: Node) -> list[Node]:
    """Of a power: x·x·x."""
    if isinstance(node, Call) and node.op == "*":
        return [*_factors(node.args[0]), node.args[1]]
    return [node]


def _leads_with_minus(node: Node) -> bool:
    """Does its text begin with a minus?"""
    while isinstance(node, Call) and node.op in ("*", "/"):
        node = node.args[0]
    if isinstance(node, Number):
        return node.value < 0
    return isinstance(node, Call) and node.op == "neg"


def assignments(
    targets: list[tuple[str, Expr]], lowering: Lowering, prefix: str = "w"
) -> list[Line]:
    """``name = expression`` lines with common subexpressions named once, in order."""
    if not targets:
        return []
    fresh = numbered_symbols(prefix, real=True)
    tops = _tops([e for _, e in targets])
    lines = [Line(symbol.name, lowering(largest)) for largest, symbol in tops.items()]
    exprs = [_rooted(e.xreplace(tops)) for _, e in targets]
    shared, reduced = cse(exprs, symbols=fresh, order="canonical")
    names = [name for name, _ in targets]
    for name, expr in [*((s.name, e) for s, e in shared), *zip(names, reduced, strict=True)]:
        roots = {
            power.base: next(fresh)
            for power in sorted(expr.atoms(Pow), key=str)
            if isinstance(power.base, safe_rsqrt)  # needed as often as its power says
        }
        lines += [Line(symbol.name, lowering(root)) for root, symbol in roots.items()]
        lines.append(Line(name, lowering(expr.xreplace(roots))))
    return lines


def _tops(exprs: list[Expr]) -> dict[Expr, Symbol]:
    """The largest class of a stream, maximum(x_y, max0), as x_top: ``paired`` knows it by name."""
    found: dict[Symbol, Expr] = {}
    for node in sorted({a for e in exprs for a in e.atoms(maximum)}, key=str):
        if (text := _TOP.fullmatch(str(node))) is not None:
            found.setdefault(Symbol(f"{text[1]}_top", real=True), node)
    return {node: symbol for symbol, node in found.items()}


def _rooted(expr: Expr) -> Expr:
    """``expr`` with 1/√b as one function where b may be 0, whose 1/√0 is 0 (a norm's derivative):
    cse would name the root, and divide by it."""
    found = {}
    for power in expr.atoms(Pow):
        halves = 2 * power.exp
        if halves.is_Integer and halves % 2 and halves < 0 and _may_vanish(power.base):
            found[power] = safe_rsqrt(power.base) ** -halves
    return expr.xreplace(found) if found else expr


def _may_vanish(base: Expr) -> bool:
    """0 in float32? What is positive is, where a probability underflows."""
    return not base.is_positive or base.has(exp, Function)


def named_weights(expr: Expr, forms: tuple[Form, ...]) -> tuple[Expr, set[str]]:
    """Write exp(logp) as ``p``, exp(2·logp) as p², R as ``r``; and say which names occur."""
    table: dict[Expr, Expr] = {}
    for form in forms:
        p = Symbol(f"p{form.index}", positive=True)
        table[form.R] = Symbol(f"r{form.index}", positive=True)
        for node in expr.atoms(exp):
            kappa = node.args[0].coeff(form.logp)
            if node.args[0] != kappa * form.logp:
                continue
            if kappa.is_Integer and 1 <= kappa <= 4:
                table[node] = p ** Integer(kappa)
    result = expr.xreplace(table)
    return result, {s.name for s in result.free_symbols}


def exponential_names(form: Form) -> set[str]:
    """What class expressions call the softmax's p, R and logarithms."""
    return {f"p{form.index}", f"r{form.index}", form.logp.name, form.logu.name}


def whole(kappa: Expr) -> int:
    """kappa as a number of factors exp(t), 1 to 4; 0: it is one exponential, of kappa·t."""
    return int(kappa) if kappa.is_Integer and 0 < kappa <= 4 else 0
