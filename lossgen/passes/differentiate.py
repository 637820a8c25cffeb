"""Reverse mode over the reduction graph: the gradient of the loss with respect to the logits.

    F(z, L, T, …)   →   dF/dx_j = Σ coefficient(row)·basis_j,   dF/dx_y written, not added

With lo = logsumexp_{j≠y} l_j:   z = lo - l_y,  L = lo + softplus(-z), so
    ∂P/∂z = -PQ    ∂Q/∂z = PQ    ∂s/∂z = Q    ∂r/∂z = -P    ∂L/∂lo = Q    ∂L/∂l_y = P
    dF/dlo = F_z + Q·F_L          dF/dl_y = -F_z + P·F_L
and a sum T = Σ_{j≠y} b(logp_j, x_j) sends F_T·∂b/∂logp_j to l_j and -F_T·Σ ∂b/∂logp_j to L.
The sums this creates are put in normal form together, so that what cancels between them, cancels.
"""

from __future__ import annotations

from sympy import Add, Expr, Integer, Mul, Symbol, exp, expand

from lossgen.errors import CompileError
from lossgen.ir.stages import Form, GradedLoss, Pivot, Sum, SymbolicLoss
from lossgen.passes.algebra import expand_products, tidy
from lossgen.passes.reductions import Reductions

__all__ = ["differentiate"]


def differentiate(loss: SymbolicLoss) -> GradedLoss:
    """Add dloss/dx_j (j ≠ y) as coefficient·basis pairs, and dloss/dx_y."""
    built = Reductions(loss.vocabulary, loss.pivot, loss.forms, loss.sums, loss.maxes)
    built.adopt_twins(loss.twins)
    names = loss.vocabulary
    x, x_y = names.x, names.x_y
    value, sums = loss.loss, tuple(built.sums)
    by_sum = {s.symbol: value.diff(s.symbol) for s in sums}

    terms: list[tuple[Expr, Expr]] = []
    at_y = value.diff(x_y)
    for form in loss.forms:
        to_z = _along_z(value, form)
        moved = Add(*(g * s.body.diff(form.logp) for s, g in _live(sums, by_sum)))
        to_l = value.diff(form.L) - (built.sum(moved) if moved != 0 else 0)
        low = built.unfreeze(to_z + form.Q * to_l)
        slope, slope_y = form.ell.diff(x), form.ell_y.diff(x_y)
        terms.append((low, form.R * slope))
        for entry, grad in _live(sums, by_sum):
            terms.append((built.unfreeze(grad), entry.body.diff(form.logp) * slope))
        at_y += (-to_z + form.P * to_l) * slope_y
        coupled = form.ell.diff(x_y)
        if coupled != 0:
            at_y += built.sum((low * form.R + moved) * coupled)
    for entry, grad in _live(sums, by_sum):
        terms.append((built.unfreeze(grad), entry.body.diff(x)))
        coupled = entry.body.diff(x_y)
        if coupled != 0:
            at_y += grad * built.sum(coupled)
    for largest in loss.maxes:
        grad = value.diff(largest.symbol)
        terms.append((built.unfreeze(grad), largest.select * largest.body.diff(x)))
        coupled = largest.body.diff(x_y)
        if built.varies(coupled):
            raise CompileError("max over classes of a product of x[y] and a class vector")
        at_y += grad * coupled

    parameters = frozenset(names.parameters.values()) | {names.classes}
    gradient = _collect(terms, built, parameters)
    at_y = built.unfreeze(at_y)
    shared = _share(gradient, at_y, loss) if loss.pivot is not Pivot.NONE else None
    at_y = tidy(at_y, built.forms, parameters) if shared is None else shared
    return GradedLoss(
        spec=loss.spec,
        uses=loss.uses,
        pivot=loss.pivot,
        vocabulary=names,
        forms=loss.forms,
        sums=built.without_twins(tuple(built.sums)),
        maxes=loss.maxes,
        twins=loss.twins,
        loss=tidy(built.unfreeze(value), built.forms, parameters),
        gradient=gradient,
        gradient_y=at_y,
    )


def _live(sums: tuple[Sum, ...], by_sum: dict[Symbol, Expr]) -> list[tuple[Sum, Expr]]:
    """The sums that the loss depends on, with its derivative by each."""
    return [(s, by_sum[s.symbol]) for s in sums if by_sum[s.symbol] != 0]


def _along_z(value: Expr, form: Form) -> Expr:
    return Add(
        value.diff(form.z),
        value.diff(form.P) * -form.P * form.Q,
        value.diff(form.Q) * form.P * form.Q,
        value.diff(form.s) * form.Q,
        value.diff(form.r) * -form.P,
    )


def _collect(
    terms: list[tuple[Expr, Expr]], built: Reductions, parameters: frozenset[Symbol]
) -> tuple[tuple[Expr, Expr], ...]:
    """Group by basis, after moving every row factor into the coefficient.

    R_j becomes p_j = Q·R_j where its coefficient holds a factor Q and p_j is needed anyway.
    """
    by_basis: dict[Expr, Expr] = {}
    class_symbols = built.class_symbols()

    def add(coefficient: Expr, basis: Expr) -> None:
        if coefficient != 0 and basis != 0:
            by_basis[basis] = by_basis.get(basis, Integer(0)) + coefficient

    for coefficient, basis in terms:
        flat = expand(built.unfreeze(basis), power_base=False, power_exp=False, log=False)
        for part in Add.make_args(flat):
            row, cls = part.as_independent(*class_symbols, as_Add=False)
            add(coefficient * row, cls)
    for form in built.forms:
        p = exp(form.logp)
        for basis in [b for b in by_basis if form.R in b.free_symbols]:
            if len(by_basis) == 1:
                break
            reduced = _divide(tidy(by_basis[basis], built.forms, parameters), form.Q)
            if reduced is not None:
                del by_basis[basis]
                add(reduced, basis.xreplace({form.R: p}))
    result = []
    for basis in sorted(by_basis, key=str):
        coefficient = tidy(by_basis[basis], built.forms, parameters)
        if coefficient != 0:
            result.append((coefficient, basis))
    return tuple(result)


def _divide(expr: Expr, factor: Symbol) -> Expr | None:
    """expr / factor if every term holds it, else None."""
    terms = []
    for term in Add.make_args(expand_products(expr)):
        powers = term.as_powers_dict()
        if not (powers.get(factor, Integer(0)) - 1).is_nonnegative:
            return None
        terms.append(term / factor)
    return Add(*terms)


def _share(gradient: tuple[tuple[Expr, Expr], ...], at_y: Expr, loss: SymbolicLoss) -> Expr | None:
    """Use the coefficient of R itself at y where it is its negative: one row scalar for both."""
    for form in loss.forms:
        slope, slope_y = form.ell.diff(loss.vocabulary.x), form.ell_y.diff(loss.vocabulary.x_y)
        for coefficient, basis in gradient:
            ratio = basis / form.R
            if ratio != slope or len(gradient) > 1 or slope != slope_y:
                continue
            if _is_zero(at_y + coefficient * slope_y, form):
                return Mul(-1, coefficient, slope_y)
    return None


def _is_zero(expr: Expr, form: Form) -> bool:
    """Exactly zero, by expansion in P with Q = 1 - P."""
    if expand_products(expr) == 0:
        return True
    return bool(expand_products(expr.xreplace({form.Q: 1 - form.P})) == 0)
