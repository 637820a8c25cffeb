"""Two states of a row as one.

    m = max(m_a, m_b), d = m_side - m:   M_n ← exp(κ·d)·Σ_k binomial(n, k)·d^(n-k)·M_k

A divergence that is measured from the maxima moves by Σ sign·d, and to the origin of the side
whose weight has the larger class.  The arg-max pivot that loses a merge joins the sums of the other
side.
"""

from __future__ import annotations

from math import comb

from lossgen.ir.plan import Moment
from lossgen.ir.program import EMPTY, Line, Name, Node, Number, call, eq, ne, product, total, where
from lossgen.ir.statistics import Centre, Form
from lossgen.lower.constants import FLOOR
from lossgen.lower.expressions import ROW, assignments
from lossgen.lower.model import whole
from lossgen.lower.sweep import at_or_above, gap, joint, scaled, stands, times
from lossgen.lower.sweep_model import Sweep, joins

__all__ = ["merge"]

_FIRST, _LOST, _SUNK = Name("first"), Name("lost"), Name("sunk")
_SIDES = ("_a", "_b")


def _sides(name: str) -> tuple[Name, Name]:
    """Of both states."""
    return Name(f"{name}_a"), Name(f"{name}_b")


def _chosen(name: str, first: Node = _FIRST) -> Line:
    """That of the side that comes first."""
    return Line(name, where(first, *_sides(name)))


def merge(sweep: Sweep) -> list[Line]:
    """One state from two: rescale both to the larger maximum."""
    lines: list[Line] = []
    for form in (f for f in sweep.forms if not f.parts):
        i, m = form.index, Name(f"m{form.index}")
        top = "maximum" if sweep.carries_pivot and i == 0 else "fmax"  # NaN shows in a pivot
        lines.append(Line(m.name, call(top, *_sides(m.name))))
        for side, own in zip(_SIDES, _sides(m.name), strict=True):
            empty = eq(own, m) | eq(own, EMPTY)  # m = -inf must not make inf - inf
            lines.append(Line(f"d{i}{side}", where(empty, 0.0, scaled(form, own - m, ROW))))
        lines += [Line(f"k{i}{s}", call("exp_tile", f"d{i}{s}")) for s in _SIDES]
    if sweep.carries_pivot:
        lines += _merge_pivot(sweep)
    for form in (f for f in sweep.forms if f.parts):
        lines += _merge_joint(form, sweep.carries_pivot)
    for centre in sweep.measured:
        i, name = centre.weight, centre.at_largest.name
        if not stands(centre, sweep.model):
            for side, own in zip(_SIDES, _sides(name), strict=True):
                lines.append(Line(own.name, own + _moves(centre, side)))
        m_a, m_b = _sides(f"m{i}")
        lines.append(_chosen(name, _FIRST if sweep.carries_pivot else m_a >= m_b))
    for moment in sweep.moments:
        parts = [_rescaled(sweep, moment, side) for side in _SIDES]
        if moment.rest:  # the smaller maximum of two joins what is beside the larger
            m_a, m_b = _sides(f"m{moment.form}")
            smaller = call("fmin", *_sides(f"k{moment.form}"))
            parts.append(where((m_a > EMPTY) & (m_b > EMPTY), smaller, 0.0))
        if sweep.carries_pivot and (moment.form is not None or joins(moment.weight)):
            parts.append(_joining(sweep, moment))
        lines.append(Line(moment.name, total((1, p) for p in parts)))
    for k, largest in sweep.maxes:
        lines += _merge_second(k, largest.below) if largest.below is not None else _merge_max(k)
    return lines


def _merge_max(k: int) -> list[Line]:
    """The larger, that of the smaller class of equal ones, NaN before all: in any order."""
    a, b = _sides(f"max{k}")
    index_a, index_b = _sides(f"index{k}")
    return [
        Line(f"first{k}", (a > b) | (eq(a, b) & (index_a <= index_b)) | ne(a, a)),
        Line(f"max{k}", call("maximum", a, b)),
        _chosen(f"index{k}", Name(f"first{k}")),
    ]


def _merge_second(k: int, n: int) -> list[Line]:
    """The loser among the largest, or the second of its side."""
    first, near, far = Name(f"first{n}"), Name(f"near{k}"), Name(f"far{k}")
    near_at, far_at = Name(f"near_at{k}"), Name(f"far_at{k}")
    nearer = (near > far) | (eq(near, far) & (near_at < far_at))
    return [
        Line(near.name, where(first, *_sides(f"max{k}"))),
        Line(near_at.name, where(first, *_sides(f"index{k}"))),
        Line(far.name, where(first, *reversed(_sides(f"max{n}")))),
        Line(far_at.name, where(first, *reversed(_sides(f"index{n}")))),
        Line(f"max{k}", call("maximum", near, far)),
        Line(f"index{k}", where(nearer, near_at, far_at)),
    ]


def _merge_pivot(sweep: Sweep) -> list[Line]:
    """The winner's values, the loser's (``_lost``), and the loser's distance to each maximum."""
    model = sweep.model
    (m_a, m_b), (pivot_a, pivot_b) = _sides("m0"), _sides("pivot")
    before = (pivot_a >= 0.0) & ((pivot_b < 0.0) | (pivot_a <= pivot_b))
    lines = [
        Line(_FIRST.name, (m_a > m_b) | (eq(m_a, m_b) & before) | ne(m_a, m_a)),
        _chosen("pivot"),
        *(_chosen(name) for name in model.at_y),
        Line(_LOST.name, where(_FIRST, pivot_b, pivot_a) >= 0.0),
    ]
    wanted = {s.name for e in sweep.bodies for s in e.free_symbols}
    for name in model.at_y:
        if name.removesuffix("_y") in wanted:
            value = where(_FIRST, *reversed(_sides(name)))
            lines.append(Line(name.removesuffix("_y"), value))
    for form in (f for f in sweep.forms if not f.parts):
        i = form.index
        if i == 0:
            lines += [  # a pivot at -inf adds nothing
                Line(_SUNK.name, eq(where(_FIRST, m_b, m_a), EMPTY)),
                Line("d0", where(_SUNK, FLOOR, where(_FIRST, *reversed(_sides("d0"))))),
            ]
        else:
            distance = scaled(form, ROW(form.base) - at_or_above(Name(f"m{i}")), ROW)
            lines.append(Line(f"d{i}", where(_LOST, distance, FLOOR)))
        lines.append(Line(f"k{i}", call("exp_tile", f"d{i}")))
    return lines + assignments([(v.name, w) for w, v in sweep.weights.items()], ROW)


def _merge_joint(form: Form, carries_pivot: bool) -> list[Line]:
    """Its maximum is relative to those of its parts, which move by their d."""
    i, m, d = form.index, Name(f"m{form.index}"), Name(f"d{form.index}")
    lines = list[Line]()

    def moved(side: str) -> Node:
        return joint(form, ROW, lambda k: Name(f"d{k}{side}"))

    for side, own in zip(_SIDES, _sides(m.name), strict=True):
        lines.append(Line(own.name, own + moved(side)))
    if carries_pivot:  # its distance counts as finite where a part masks it
        far = joint(form, ROW, lambda k: where(Name(f"d{k}") < FLOOR, FLOOR, f"d{k}"))
        lines.append(Line(d.name, where(_LOST, far, EMPTY)))
    lines.append(Line(m.name, call("fmax", *_sides(m.name))))
    lines += [Line(m.name, call("fmax", m, d))] if carries_pivot else []
    ends = [(own, side, 0.0) for side, own in zip(_SIDES, _sides(m.name), strict=True)]
    for own, side, empty in [*ends, *([(d, "", FLOOR)] if carries_pivot else [])]:
        lines.append(Line(f"d{i}{side}", where(eq(own, EMPTY), empty, own - m)))
        lines.append(Line(f"k{i}{side}", call("exp_tile", f"d{i}{side}")))
    return lines


def _joining(sweep: Sweep, moment: Moment) -> Node:
    """What the pivot that lost adds to a sum over the other classes."""
    i, against = moment.form, moment.against
    weight = sweep.weight(moment)
    if i is None:
        return where(_LOST, ROW(weight), 0.0)
    d, k = Name(f"d{i}"), Name(f"k{i}")
    if against is not None:
        apart = Name(f"d{against}") - d
        return where(_LOST, gap(apart, k, Name(f"k{against}")), 0.0)
    own: Node = d
    if i == 0 and moment.kappa == 0:  # no exponential makes it vanish
        own = where(_SUNK, EMPTY, d)
    factors = _factor(moment, d, k)
    parts = [*factors, *[own] * moment.power]
    parts += _apart(sweep, moment, "")
    parts += [ROW(weight)] if weight != 1 else []
    # NaN is no number that is at most 0: it shows.
    inside: Node = _LOST & ~(factors[0] <= 0.0) if factors else _LOST
    if moment.kappa == 0 and weight != 1:  # 0·∞ is 0
        inside = _LOST & ne(ROW(weight), 0.0)
    return where(inside, product(parts), 0.0)


def _apart(sweep: Sweep, moment: Moment, side: str) -> list[Node]:
    """How far a side's origin, or a class, is from the merged origin of the moment's centre."""
    if moment.centre is None:
        return []
    centre = sweep.model.centre(moment.centre)
    if not centre.softmaxes:
        return []
    if centre not in sweep.measured:
        return [_moves(centre, side)]
    name = centre.at_largest.name
    own = (Name(f"{name}{side}") if side else _moves(centre, side)) - Name(name)
    return [times(centre, ROW, own) if stands(centre, sweep.model) else own]


def _moves(centre: Centre, side: str) -> Node:
    """How far its maxima, or a pivot that lost, are from the merged ones."""

    def distance(k: int) -> Node:
        own = Name(f"d{k}{side}")
        return where(_SUNK, EMPTY, own) if k == 0 and not side else own

    return total((sign, distance(k)) for k, sign in centre.softmaxes)


def _factor(moment: Moment, d: Node, k: Node) -> list[Node]:
    """Factors of exp(kappa·d)."""
    if moment.kappa == 0 or moment.form is None:
        return []
    count = whole(moment.kappa)
    return [k] * count if count else [call("exp_tile", ROW(moment.kappa) * d)]


def _rescaled(sweep: Sweep, moment: Moment, side: str) -> Node:
    i, n = moment.form, moment.power
    if i is None:
        return Name(f"{moment.name}{side}")
    if moment.against is not None:
        return _moved(moment, side)
    d, k, terms = Name(f"d{i}{side}"), Name(f"k{i}{side}"), list[tuple[int, Node]]()
    moved = _apart(sweep, moment, side)
    for power in range(n, -1, -1):
        scale = [Number(float(comb(n, power)))] if comb(n, power) > 1 else []
        name = moment.name if moment.rest else sweep.model.lower(moment, power)
        value: Node = Name(f"{name}{side}")
        if moved:
            still = sweep.model.lower(moment, power, centred=False)
            value = value + moved[0] * Name(f"{still}{side}")
        terms.append((1, product([*scale, *[d] * (n - power), value])))
    found = total(terms)
    factors = _factor(moment, d, k)
    if not factors:
        return found
    scaled_up = product(factors) * found
    if moment.weight == 1 and moment.centre is None:
        return scaled_up
    return where(factors[0] > 0.0, scaled_up, 0.0)  # weights may be infinite


def _moved(moment: Moment, side: str) -> Node:
    """The gap of two softmaxes, whose maxima move by d and d'."""
    d, k = (Name(f"{s}{moment.form}{side}") for s in "dk")
    d_other, k_other = (Name(f"{s}{moment.against}{side}") for s in "dk")
    beside = gap(d_other - d, k, k_other) * Name(f"a{moment.against}{side}")
    return k * Name(f"{moment.name}{side}") + beside
