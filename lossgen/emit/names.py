"""The local names that templates and emitted lines share.

What the spec declares begins with ``u_`` (``spec.spelling``); none of ours does.

Per form i: ``l{i}`` exponent, ``m{i}`` its running maximum over j ≠ y (0 where there is none),
``t{i}`` = l - m, ``e{i}`` = exp(t), ``a{i}`` = Σ e, ``la{i}`` = log a, ``ly{i}`` = l_y, ``z{i}``,
``lam{i}`` = L - m, ``L{i}``, ``p{i}`` = p_j, ``r{i}`` = R_j.  ``b{n}`` are the other moments,
``T{n}`` finished sums, ``c{n}`` row coefficients of the gradient, ``w{n}`` shared subexpressions.
"""

from __future__ import annotations

from sympy import Expr, Integer, Pow, Symbol, cse, exp, numbered_symbols

from lossgen.emit.printers import Printer
from lossgen.ir.ops import safe_rsqrt
from lossgen.ir.statistics import Form

__all__ = ["assignments", "exponential_names", "named_weights", "whole"]


def assignments(targets: list[tuple[str, Expr]], printer: Printer, prefix: str = "w") -> list[str]:
    """``name = expression`` lines with common subexpressions named once, in order."""
    if not targets:
        return []
    fresh = numbered_symbols(prefix, real=True)
    shared, reduced = cse([_rooted(e) for _, e in targets], symbols=fresh, order="canonical")
    names = [name for name, _ in targets]
    lines: list[str] = []
    for name, expr in [*((s.name, e) for s, e in shared), *zip(names, reduced, strict=True)]:
        roots = {
            power.base: next(fresh)
            for power in sorted(expr.atoms(Pow), key=str)
            if isinstance(power.base, safe_rsqrt)  # printed as often as its power says
        }
        lines += [f"{symbol} = {printer(root)}" for root, symbol in roots.items()]
        lines.append(f"{name} = {printer(expr.xreplace(roots))}")
    return lines


def _rooted(expr: Expr) -> Expr:
    """``expr`` with 1/√b as one function where b may be 0, whose 1/√0 is 0 (a norm's derivative):
    cse would name the root, and divide by it."""
    found = {}
    for power in expr.atoms(Pow):
        halves = 2 * power.exp
        if halves.is_Integer and halves % 2 and halves < 0 and not power.base.is_positive:
            found[power] = safe_rsqrt(power.base) ** -halves
    return expr.xreplace(found) if found else expr


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
