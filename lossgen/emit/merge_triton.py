"""Two states of a row as one, as Triton lines.

    m = max(m_a, m_b), d = m_side - m:   M_n ← exp(κ·d)·Σ_k binomial(n, k)·d^(n-k)·M_k

A divergence that is measured from the maxima moves by Σ sign·d, and to the origin of the side
whose weight has the larger class.  The arg-max pivot that loses a merge joins the sums of the other
side.
"""

from __future__ import annotations

from math import comb

from lossgen.emit.constants import FLOOR
from lossgen.emit.model import Sweep, whole
from lossgen.emit.names import assignments
from lossgen.emit.printers import TRITON, Printer
from lossgen.emit.sweep_triton import gap_text, joint, scaled
from lossgen.ir.plan import Moment
from lossgen.ir.statistics import Centre, Form

__all__ = ["merge"]

_EMPTY = 'float("-inf")'
_FINITE = f"tl.maximum(d{{}}, {FLOOR})"  # the distance of a pivot that a part masks


def merge(sweep: Sweep) -> list[str]:
    """One state from two: rescale both to the larger maximum."""
    printer, lines = Printer(TRITON), []
    for form in (f for f in sweep.forms if not f.parts):
        i = form.index
        lines.append(f"m{i} = tl.maximum(m{i}_a, m{i}_b)")
        for s in "ab":  # an empty side (m = -inf) must not make inf - inf
            empty = f"(m{i}_{s} == m{i}) | (m{i}_{s} == {_EMPTY})"
            distance = scaled(form, f"m{i}_{s} - m{i}", printer)
            lines.append(f"d{i}_{s} = tl.where({empty}, 0.0, {distance})")
        lines += [f"k{i}_{s} = tl.exp(d{i}_{s})" for s in "ab"]
    if sweep.carries_pivot:
        lines += _merge_pivot(sweep, printer)
    for form in (f for f in sweep.forms if f.parts):
        lines += _merge_joint(form, sweep.carries_pivot, printer)
    for centre in sweep.measured:
        i, name = centre.weight, centre.at_largest
        for s in "ab":
            lines.append(f"{name}_{s} = {name}_{s} + ({_moves(centre, f'_{s}')})")
        first = "first" if sweep.carries_pivot else f"m{i}_a >= m{i}_b"
        lines.append(f"{name} = tl.where({first}, {name}_a, {name}_b)")
    for moment in sweep.moments:
        text = " + ".join(_rescaled(sweep, moment, side, printer) for side in "ab")
        if moment.rest:  # the smaller maximum of two joins what is beside the larger
            both = f"(m{moment.form}_a > {_EMPTY}) & (m{moment.form}_b > {_EMPTY})"
            text += f" + tl.where({both}, tl.minimum(k{moment.form}_a, k{moment.form}_b), 0.0)"
        if sweep.carries_pivot and moment.form is not None:
            text += f" + {_joining(sweep, moment, printer)}"
        lines.append(f"{moment.name} = {text}")
    for k, largest in sweep.maxes:
        if largest.below is None:
            lines += [
                f"first{k} = {_comes_first(k)}",
                f"max{k} = dl.maximum(max{k}_a, max{k}_b)",
                f"index{k} = tl.where(first{k}, index{k}_a, index{k}_b)",
            ]
        else:  # the loser among the largest, or the second of its side
            n = largest.below
            lines += [
                f"near{k} = tl.where(first{n}, max{k}_a, max{k}_b)",
                f"near_at{k} = tl.where(first{n}, index{k}_a, index{k}_b)",
                f"far{k} = tl.where(first{n}, max{n}_b, max{n}_a)",
                f"far_at{k} = tl.where(first{n}, index{n}_b, index{n}_a)",
                f"max{k} = dl.maximum(near{k}, far{k})",
                f"index{k} = tl.where((near{k} > far{k}) | "
                f"((near{k} == far{k}) & (near_at{k} < far_at{k})), near_at{k}, far_at{k})",
            ]
    return lines


def _comes_first(k: int) -> str:
    """Has side a the maximum: the larger, the first of equal ones, NaN before all?"""
    return f"(max{k}_a >= max{k}_b) | (max{k}_a != max{k}_a)"


def _merge_pivot(sweep: Sweep, printer: Printer) -> list[str]:
    """The winner's values, the loser's (``_lost``), and the loser's distance to each maximum."""
    model = sweep.model
    lines = [
        "first = (m0_a > m0_b) | ((m0_a == m0_b) & (pivot_a >= 0.0))",
        "pivot = tl.where(first, pivot_a, pivot_b)",
    ]
    for name in model.at_y:
        lines.append(f"{name} = tl.where(first, {name}_a, {name}_b)")
    lines.append("lost = tl.where(first, pivot_b, pivot_a) >= 0.0")
    wanted = {s.name for e in sweep.bodies for s in e.free_symbols}
    for name in model.at_y:
        if name.removesuffix("_y") in wanted:
            lines.append(f"{name.removesuffix('_y')} = tl.where(first, {name}_b, {name}_a)")
    for form in (f for f in sweep.forms if not f.parts):
        i = form.index
        if i == 0:
            lines += [  # a pivot at -inf adds nothing
                f"sunk = tl.where(first, m0_b, m0_a) == {_EMPTY}",
                f"d0 = tl.where(sunk, {FLOOR}, tl.where(first, d0_b, d0_a))",
            ]
        else:
            lines.append(
                f"d{i} = tl.where(lost, {scaled(form, f'{printer(form.base, 1)} - m{i}', printer)}"
                f", {FLOOR})"
            )
        lines.append(f"k{i} = tl.exp(d{i})")
    return lines + assignments([(v.name, w) for w, v in sweep.weights.items()], printer)


def _merge_joint(form: Form, carries_pivot: bool, printer: Printer) -> list[str]:
    """Its maximum is relative to those of its parts, which move by their d."""
    i, lines = form.index, list[str]()
    for s in "ab":
        lines.append(f"m{i}_{s} = m{i}_{s} + ({joint(form, printer, 'd{}_' + s)})")
    if carries_pivot:
        lines.append(f"d{i} = tl.where(lost, {joint(form, printer, _FINITE)}, {_EMPTY})")
    lines.append(f"m{i} = tl.maximum(m{i}_a, m{i}_b)")
    lines += [f"m{i} = tl.maximum(m{i}, d{i})"] if carries_pivot else []
    for s in [f"{i}_a", f"{i}_b", *([f"{i}"] if carries_pivot else [])]:
        own = f"m{s}" if s != str(i) else f"d{i}"
        empty = 0.0 if s != str(i) else FLOOR
        lines.append(f"d{s} = tl.where({own} == {_EMPTY}, {empty}, {own} - m{i})")
        lines.append(f"k{s} = tl.exp(d{s})")
    return lines


def _joining(sweep: Sweep, moment: Moment, printer: Printer) -> str:
    """What the pivot that lost adds to a sum over the other classes."""
    i, k = moment.form, moment.against
    weight = sweep.weight(moment)
    if k is not None:
        own = gap_text(f"(d{k} - d{i})", f"k{i}", f"k{k}", "tl.where", "dl.")
        return f"tl.where(lost, {own}, 0.0)"
    factor, d = _factor(moment, f"d{i}", f"k{i}", printer), f"d{i}"
    if i == 0 and moment.kappa == 0:  # no exponential makes it vanish
        d = f"tl.where(sunk, {_EMPTY}, d{i})"
    parts = [*([factor] if factor else []), *[d] * moment.power]
    parts += [_apart(sweep, moment, "")] if moment.centre is not None else []
    parts += [printer(weight, 2)] if weight != 1 else []
    inside = "lost" if moment.kappa == 0 else f"lost & (k{i} > 0.0)"
    if moment.kappa == 0 and weight != 1:  # 0·∞ is 0
        inside = f"lost & ({printer(weight, 2)} != 0.0)"
    return f"tl.where({inside}, {' * '.join(parts) or '1.0'}, 0.0)"


def _apart(sweep: Sweep, moment: Moment, side: str) -> str:
    """How far a side's origin, or a class, is from the merged origin of the moment's centre."""
    centre = sweep.model.centre(moment.centre)
    if not centre.softmaxes:
        return ""
    if centre not in sweep.measured:
        return f"({_moves(centre, side)})"
    own = f"{centre.at_largest}{side}" if side else _moves(centre, side)
    return f"({own} - {centre.at_largest})"


def _moves(centre: Centre, side: str) -> str:
    """How far its maxima are from the merged ones."""
    terms = [f"{'-' if sign < 0 else '+'} d{k}{side}" for k, sign in centre.softmaxes]
    return " ".join(terms).removeprefix("+ ")


def _factor(moment: Moment, d: str, k: str, printer: Printer) -> str:
    """exp(kappa·d) as text, "" for 1."""
    if moment.kappa == 0 or moment.form is None:
        return ""
    count = whole(moment.kappa)
    if count:
        return " * ".join([k] * count)
    return f"tl.exp({printer(moment.kappa, 2)} * {d})"


def _rescaled(sweep: Sweep, moment: Moment, side: str, printer: Printer) -> str:
    i, n = moment.form, moment.power
    if i is None:
        return f"{moment.name}_{side}"
    if moment.against is not None:
        return _moved(moment, side)
    d, terms = f"d{i}_{side}", []
    moved = _apart(sweep, moment, f"_{side}") if moment.centre is not None else ""
    for power in range(n, -1, -1):
        scale = [str(float(comb(n, power)))] if comb(n, power) > 1 else []
        name = f"{moment.name if moment.rest else sweep.model.lower(moment, power)}_{side}"
        if moved:
            still = f"{sweep.model.lower(moment, power, centred=False)}_{side}"
            name = f"({name} + {moved} * {still})"
        terms.append(" * ".join([*scale, *[d] * (n - power), name]))
    total = " + ".join(terms)
    factor = _factor(moment, d, f"k{i}_{side}", printer)
    if not factor:
        return total
    product = f"{factor} * ({total})" if n else f"{factor} * {total}"
    if moment.weight == 1 and moment.centre is None:
        return product
    return f"tl.where(k{i}_{side} > 0.0, {product}, 0.0)"  # weights may be infinite


def _moved(moment: Moment, side: str) -> str:
    """The gap of two softmaxes, whose maxima move by d and d'."""
    i, k, name = moment.form, moment.against, f"{moment.name}_{side}"
    (one, other), (e, e_other) = ([f"{s}{n}_{side}" for n in (i, k)] for s in "dk")
    scale = gap_text(f"({other} - {one})", e, e_other, "tl.where", "dl.")
    return f"({e} * {name} + {scale} * a{k}_{side})"
