"""Statistics → one sweep: which numbers are accumulated, which are saved, what runs per element.

    T = Σ_{j≠y} w·exp(κ·logp_j)·logp_j^n   →   moments  M_k = Σ w·exp(κ·t_j)·t_j^k,  k ≤ n
                                               with t = l - m and m the running maximum
A moment rescales by exp(κ·d)·(binomial shift by d) when the maximum moves, which needs the lower
powers: the set of moments is closed downwards.  The backward reads (m, log A) of each softmax and
the sums its coefficients mention; everything else is recomputed per row.
"""

from __future__ import annotations

from sympy import Add, Expr, Integer, Mul, Symbol, exp

from lossgen.errors import CompileError
from lossgen.ir.stages import Form, KernelPlan, Moment, Pivot, RowScalar, StableLoss, Sum

__all__ = ["schedule"]


def schedule(stable: StableLoss) -> KernelPlan:
    """The plan that the templates render."""
    if stable.pivot is Pivot.ARGMAX and len(stable.forms) > 1:
        raise CompileError(
            "two different softmaxes in a loss without a target: not in this release"
        )
    if stable.pivot is Pivot.ARGMAX:
        _check_pivot(stable)
    coefficients, gradient = _coefficients(stable)
    needed = {s for c in coefficients for s in c.expr.free_symbols}
    needed |= gradient.free_symbols | stable.gradient_y.free_symbols
    gradient_sums = tuple(s for s in stable.sums if s.symbol in needed)
    forward_sums = tuple(s for s in stable.sums if s.symbol in stable.loss.free_symbols)
    sums = tuple(s for s in stable.sums if s in gradient_sums or s in forward_sums)
    return KernelPlan(
        stable=stable,
        moments=_moments(stable.forms, sums),
        saved=_saved(stable, needed),
        forward_sums=forward_sums,
        gradient_sums=gradient_sums,
        coefficients=coefficients,
        gradient=gradient,
    )


def _check_pivot(stable: StableLoss) -> None:
    """The arg-max class is known after the sweep, so nothing else may be needed of it."""
    vocab = {s for pair in stable.vocabulary.vocab.values() for s in pair}
    used = {s for e in stable.sums for s in e.body.free_symbols}
    used |= {s for f in stable.forms for s in f.ell.free_symbols}
    if used & vocab:
        raise CompileError(
            "a vocab input in a loss with a softmax and no target: not in this release"
        )
    if any(e.form is not None and e.weight != 1 for e in stable.sums):
        raise CompileError(
            "a sum of probabilities times logits in a loss without a target: write it with logp, "
            "which the softmax keeps accurate"
        )


def _moments(forms: tuple[Form, ...], sums: tuple[Sum, ...]) -> tuple[Moment, ...]:
    found = [Moment(f"a{f.index}", f.index, Integer(1), 0, Integer(1)) for f in forms]
    known = {(m.form, m.kappa, m.power, m.weight) for m in found}
    for entry in sums:
        for power in range(entry.power + 1):
            key = (entry.form, entry.kappa, power, entry.weight)
            if key not in known:
                known.add(key)
                found.append(Moment(f"b{len(found) - len(forms)}", *key))
    return tuple(found)


def _saved(stable: StableLoss, needed: set[Symbol]) -> tuple[str, ...]:
    names: list[str] = []
    for form in stable.forms:
        if needed & {form.z, form.L, *form.class_symbols}:
            names += [f"m{form.index}", f"la{form.index}"]
    if stable.pivot is Pivot.ARGMAX:
        names.append("pivot")
    names += [s.symbol.name for s in stable.sums if s.symbol in needed]
    for k, largest in enumerate(stable.maxes):
        if largest.symbol in needed:
            names.append(largest.symbol.name)
        if largest.select in needed:
            names.append(f"index{k}")
    return tuple(names)


def _coefficients(stable: StableLoss) -> tuple[tuple[RowScalar, ...], Expr]:
    """Name the row coefficients and group the bases by exponential weight:

    p_j·c0 + p_j·logp_j·c1 + c2  →  p_j·(c0 + c1·logp_j) + c2
    """
    names = stable.vocabulary
    constants = set(names.parameters.values()) | {names.classes}
    scalars: dict[Expr, Symbol] = {}
    groups: dict[Expr, list[Expr]] = {}
    for coefficient, basis in stable.gradient:
        factor = coefficient
        if coefficient.free_symbols - constants:
            if -coefficient in scalars:
                factor = -scalars[-coefficient]
            else:
                if coefficient not in scalars:
                    scalars[coefficient] = Symbol(f"c{len(scalars)}", real=True)
                factor = scalars[coefficient]
        weight = Mul(*(f for f in Mul.make_args(basis) if _is_weight(f, stable.forms)))
        groups.setdefault(weight, []).append(factor * (basis / weight))
    gradient = Add(*(weight * Add(*terms) for weight, terms in groups.items()))
    return tuple(RowScalar(s, e) for e, s in scalars.items()), gradient


def _is_weight(factor: Expr, forms: tuple[Form, ...]) -> bool:
    return isinstance(factor, exp) or any(factor == f.R for f in forms)
