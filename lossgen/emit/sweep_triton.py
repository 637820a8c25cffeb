"""The monoid of a row as Triton lines: ``lift`` a tile, ``merge`` two states; and the gradient.

    lift:   m = max l,  M_n = Σ w·exp(κ·t)·t^n   with t = l - m
    merge:  m = max(m_a, m_b), d = m_side - m:   M_n ← exp(κ·d)·Σ_k binomial(n, k)·d^(n-k)·M_k
An arg-max pivot leaves the sums; the pivot that loses a merge joins them as exp(κ·d)·d^n.
"""

from __future__ import annotations

from math import comb

from lossgen.emit.model import FLOOR, RowModel, whole
from lossgen.emit.names import assignments, named_weights
from lossgen.emit.printers import TRITON, TRITON_TILE, Printer
from lossgen.ir.stages import Form, Moment

__all__ = ["gradient", "lift", "merge", "scaled"]

_EMPTY = 'float("-inf")'


def scaled(form: Form, difference: str, printer: Printer) -> str:
    """scale·(difference) as text."""
    return difference if form.scale == 1 else f"{printer(form.scale, 2)} * ({difference})"


def lift(model: RowModel) -> list[str]:
    """State of one tile relative to the tile's own maximum."""
    printer = Printer(TRITON_TILE)
    lines = ["valid = inside & (cols != y)" if model.pivot == "target" else "valid = inside"]
    for form in model.forms:
        i = form.index
        lines += [
            f"l{i} = tl.where(valid, {printer(form.base)}, {_EMPTY})",
            f"m{i} = tl.max(l{i})",
        ]
        if model.pivot == "argmax":
            lines += [
                f"pivot = tl.min(tl.where(l{i} == m{i}, cols, 2147483647))",
                "others = valid & (cols != pivot)",
                f"l{i} = tl.where(others, l{i}, {_EMPTY})",
            ]
        lines += [
            f"t{i} = {scaled(form, f'l{i} - tl.where(m{i} == {_EMPTY}, 0.0, m{i})', printer)}",
            f"e{i} = tl.exp(t{i})",
        ]
        if model.needs_powers(form):
            lines.append(f"u{i} = tl.maximum(t{i}, {FLOOR})")
    for moment in model.plan.moments:
        body = _integrand(moment, printer)
        if moment.kappa == 0 or moment.weight != 1:
            inside = "others" if _without_pivot(model, moment) else "valid"
            body = f"tl.where({inside}, {body}, 0.0)"
        lines.append(f"{moment.name} = tl.sum({body})")
    for k, largest in enumerate(model.plan.stable.maxes):
        lines += [
            f"f{k} = tl.where(valid, {printer(largest.body)}, {_EMPTY})",
            f"max{k} = tl.max(f{k})",
            f"index{k} = tl.min(tl.where(f{k} == max{k}, cols, 2147483647)).to(tl.float32)",
        ]
    if model.pivot == "argmax":
        lines.append("pivot = pivot.to(tl.float32)")
    return lines


def _without_pivot(model: RowModel, moment: Moment) -> bool:
    return model.pivot == "argmax" and moment.form is not None and moment.weight == 1


def _integrand(moment: Moment, printer: Printer) -> str:
    i, parts = moment.form, []
    if i is not None and moment.kappa != 0:
        count = whole(moment.kappa)
        scaled = f"tl.exp({printer(moment.kappa, 2)} * u{i})"
        parts += [f"e{i}"] * count if 0 < count <= 4 else [scaled]
    parts += [f"u{i}" if moment.kappa != 0 else f"t{i}"] * moment.power
    if moment.weight != 1:
        parts.append(printer(moment.weight, 2))
    return " * ".join(parts) or "1.0"


def merge(model: RowModel) -> list[str]:
    """One state from two: rescale both to the larger maximum."""
    printer, lines = Printer(TRITON), []
    for form in model.forms:
        i = form.index
        lines.append(f"m{i} = tl.maximum(m{i}_a, m{i}_b)")
        for s in "ab":  # an empty side (m = -inf) must not make inf - inf
            empty = f"(m{i}_{s} == m{i}) | (m{i}_{s} == {_EMPTY})"
            distance = scaled(form, f"m{i}_{s} - m{i}", printer)
            lines.append(f"d{i}_{s} = tl.where({empty}, 0.0, {distance})")
        lines += [f"k{i}_{s} = tl.exp(d{i}_{s})" for s in "ab"]
    if model.pivot == "argmax":
        lines += [
            "first = m0_a >= m0_b",
            "pivot = tl.where(first, pivot_a, pivot_b)",
            "d0 = tl.where(first, d0_b, d0_a)",
            "k0 = tl.where(first, k0_b, k0_a)",
            f"lost = tl.where(first, m0_b, m0_a) > {_EMPTY}",
        ]
    for moment in model.plan.moments:
        text = " + ".join(_rescaled(model, moment, side, printer) for side in "ab")
        if _without_pivot(model, moment):
            factor = _factor(moment, "d0", "k0", printer)
            joined = " * ".join([*([factor] if factor else []), *["d0"] * moment.power]) or "1.0"
            text += f" + tl.where(lost, {joined}, 0.0)"
        lines.append(f"{moment.name} = {text}")
    for k in range(len(model.plan.stable.maxes)):
        lines += [
            f"max{k} = tl.maximum(max{k}_a, max{k}_b)",
            f"index{k} = tl.where(max{k}_a >= max{k}_b, index{k}_a, index{k}_b)",
        ]
    return lines


def _factor(moment: Moment, d: str, k: str, printer: Printer) -> str:
    """exp(kappa·d) as text, "" for 1."""
    if moment.kappa == 0 or moment.form is None:
        return ""
    count = whole(moment.kappa)
    if 0 < count <= 4:
        return " * ".join([k] * count)
    return f"tl.exp({printer(moment.kappa, 2)} * {d})"


def _rescaled(model: RowModel, moment: Moment, side: str, printer: Printer) -> str:
    i, n = moment.form, moment.power
    if i is None:
        return f"{moment.name}_{side}"
    d, terms = f"d{i}_{side}", []
    for power in range(n, -1, -1):
        scale = [str(float(comb(n, power)))] if comb(n, power) > 1 else []
        name = f"{model.lower(moment, power)}_{side}"
        terms.append(" * ".join([*scale, *[d] * (n - power), name]))
    total = " + ".join(terms)
    factor = _factor(moment, d, f"k{i}_{side}", printer)
    if not factor:
        return total
    return f"{factor} * ({total})" if n else f"{factor} * {total}"


def gradient(model: RowModel) -> list[str]:
    """dloss/dx_j of one tile, before the value at y is written."""
    expr, names = named_weights(model.plan.gradient, model.forms)
    printer, lines = Printer(TRITON_TILE), []
    for form in model.forms:
        i = form.index
        if not {f"p{i}", f"r{i}", form.logp.name} & names:
            continue
        lines.append(f"t{i} = {scaled(form, f'{printer(form.base, 1)} - m{i}', printer)}")
        if form.logp.name in names:
            lines.append(f"{form.logp} = tl.maximum(t{i}, {FLOOR}) - lam{i}")
        if {f"p{i}", f"r{i}"} & names:
            lines.append(f"e{i} = tl.exp(t{i})")
        lines += [f"p{i} = e{i} * pinv{i}"] if f"p{i}" in names else []
        lines += [f"r{i} = e{i} * rinv{i}"] if f"r{i}" in names else []
    for k, largest in enumerate(model.plan.stable.maxes):
        if largest.select.name in names:
            lines.append(f"{largest.select} = tl.where(cols == index{k}, 1.0, 0.0)")
    return lines + assignments([("grad", expr)], printer)
