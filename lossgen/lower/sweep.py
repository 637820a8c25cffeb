"""The state of a tile, and the gradient.  ``lower.merge`` joins two states.

    lift:   m = max l,  M_n = Σ w·exp(κ·t)·t^n   with t = l - m
An arg-max pivot leaves the sums and is carried in the state with its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sympy import Expr, Symbol

from lossgen.ir.plan import Moment
from lossgen.ir.program import (
    EMPTY,
    NO_CLASS,
    Line,
    Name,
    Node,
    as_node,
    call,
    eq,
    ne,
    product,
    total,
    where,
)
from lossgen.ir.statistics import Centre, Form
from lossgen.lower.constants import FAR_GAP, FLOOR
from lossgen.lower.expressions import ROW, TILE, Lowering, assignments
from lossgen.lower.model import RowModel, whole
from lossgen.lower.spoilt import shows
from lossgen.lower.sweep_model import Sweep, joins

__all__ = [
    "at_or_above",
    "between",
    "centred",
    "counting",
    "deltas",
    "exponentials",
    "finished_maxima",
    "gap",
    "gradient",
    "joint",
    "lift",
    "scaled",
    "stands",
    "times",
]

COLS = Name("cols")


def finite(k: int) -> Node:
    """A part's exponent, of rate 0 too; a maximum would drop NaN."""
    t = Name(f"t{k}")
    return where(t < FLOOR, FLOOR, t)


def scaled(form: Form, difference: Node, lowering: Lowering) -> Node:
    """scale·difference."""
    return difference if form.scale == 1 else lowering(form.scale) * difference


def joint(form: Form, lowering: Lowering, part: Callable[[int], Node]) -> Node:
    """Σ rate·part of a product of softmaxes."""
    values = {k: Symbol(f"v{k}", real=True) for k, _ in form.parts}
    names = {v: part(k) for k, v in values.items()}
    return Lowering(lowering.exp, names)(form.mixed(values))


def _named(pattern: str) -> Callable[[int], Node]:
    return lambda k: Name(pattern.format(k))


def at_or_above(m: Node) -> Node:
    """A running maximum, and 0 where there is none yet."""
    return where(eq(m, EMPTY), 0.0, m)


def finished_maxima(sweep: Sweep) -> list[Line]:
    """After the last class: there may be no other class; what was kept of the largest class of a
    weight as it stands is taken from the maxima."""
    lines = [Line(f"m{f.index}", at_or_above(Name(f"m{f.index}"))) for f in sweep.forms]
    for centre in (c for c in sweep.measured if stands(c, sweep.model)):
        apart = Name(centre.at_largest.name) - ROW(centre.origin)
        lines.append(Line(centre.at_largest.name, times(centre, ROW, apart)))
    return lines


def stands(centre: Centre, model: RowModel) -> bool:
    """Is its value at the largest class of the weight kept as it stands, so that no merge rounds
    it? An arg-max pivot is that class, and several streams have no one value."""
    return model.pivot != "argmax" and len(centre.pairs) == 1


def times(centre: Centre, lowering: Lowering, apart: Node) -> Node:
    """factor·apart."""
    return apart if centre.factor == 1 else lowering(centre.factor) * apart


# ---------------------------------------------------------------------------- lift
def counting(sweep: Sweep) -> Line:
    """The classes that count: those that are there, without the one that stands apart."""
    model, inside = sweep.model, Name("inside")
    valid: Node = inside & ne(COLS, "y") if model.pivot == "target" else inside
    if model.pivot == "argmax" and sweep.level > 1:
        valid = inside & ne(COLS, call("index", "pivot"))
    return Line("valid", valid)


def lift(sweep: Sweep, whole_row: bool = False) -> list[Line]:
    """State of one tile, of its ``valid`` classes, relative to the tile's own maximum; of a
    ``whole_row``, the largest class is the pivot for good, and every sum leaves it out."""
    model, lines = sweep.model, list[Line]()
    if model.needs_index:
        lines.append(Line("index", call("number", COLS)))
    names = sweep.model.read(sweep.bodies)
    lines += _known(sweep, names)
    for form in sweep.forms:
        lines += _softmax(sweep, form, whole_row)
    origins = sorted(sweep.model.origins(names))
    lines += [Line(f"ref{k}", at_or_above(Name(f"m{k}"))) for k in origins]
    from_maxima = {sweep.model.forms[k].m: Name(f"ref{k}") for k in origins}
    lines += deltas(sweep.model, names, Lowering(TILE.exp, from_maxima), sweep.level)
    lines += _moments(sweep, whole_row)
    for k, largest in sweep.maxes:
        counts: Node = Name("valid")
        if largest.below is not None:
            counts = counts & ne(call("number", COLS), f"index{largest.below}")
        f, found = Name(f"f{k}"), Name(f"max{k}")
        lines.append(Line(f.name, where(counts, TILE(sweep.model.named(largest.body)), EMPTY)))
        at = where(eq(f, found), COLS, NO_CLASS)
        if shows(sweep.model, largest):
            lines.append(Line(found.name, call("row_max", f)))
        else:  # the class is the first that is not below the maximum, which NaN is not either
            at = where(f < Name(f"near{k}"), NO_CLASS, COLS)
            lines += [
                Line(found.name, call("row_max_or_nan", f)),
                Line(f"near{k}", where(eq(found, found), found, float("inf"))),
            ]
        lines.append(Line(f"index{k}", call("number", call("row_min", at))))
    if sweep.carries_pivot:
        lines.append(Line("pivot", call("number", "pivot")))
    return lines


def _softmax(sweep: Sweep, form: Form, whole_row: bool) -> list[Line]:
    i, lines = form.index, list[Line]()
    ell, m, t = Name(f"l{i}"), Name(f"m{i}"), Name(f"t{i}")
    inside = Name("others" if sweep.carries_pivot else "valid")
    if form.parts:
        largest: Node = call("row_max", ell)
        if sweep.carries_pivot:
            for k, _ in form.parts:
                part, at_y, own = sweep.model.forms[k], Name(f"at_y{k}"), Name(f"m{k}")
                apart = scaled(part, TILE(part.base_y) - own, TILE)
                lines.append(Line(at_y.name, where(eq(own, EMPTY), FLOOR, apart)))
                lines.append(Line(at_y.name, where(at_y < FLOOR, FLOOR, at_y)))
            largest = call("fmax", largest, joint(form, TILE, _named("at_y{}")))
        return [
            *lines,
            Line(ell.name, where(inside, joint(form, TILE, finite), EMPTY)),
            Line(m.name, largest),
            Line(t.name, ell - at_or_above(m)),
            Line(f"e{i}", call("exp_below", t)),
        ]
    lines.append(Line(ell.name, where(Name("valid"), TILE(sweep.model.named(form.base)), EMPTY)))
    if sweep.carries_pivot and i == 0 and not whole_row:
        lines += _pivot_of_part(ell, m)
    else:
        lines.append(Line(m.name, call("row_max", ell)))
    if sweep.carries_pivot:
        if i == 0:
            if whole_row:
                first = call("row_min", where(eq(ell, m), COLS, NO_CLASS))
                lines.append(Line("pivot", first))
            lines.append(Line("others", Name("valid") & ne(COLS, "pivot")))
            lines += [_value_at_pivot(name, form, whole_row) for name in sweep.model.at_y]
        lines.append(Line(ell.name, where(inside, ell, EMPTY)))
    lines += [
        Line(t.name, scaled(form, ell - at_or_above(m), TILE)),
        Line(f"e{i}", call("exp_below", t)),
    ]
    if sweep.model.needs_powers(form):
        lines.append(Line(f"u{i}", call("fmax", t, FLOOR)))
    return lines


def _pivot_of_part(ell: Node, m: Name) -> list[Line]:
    """The first of the largest, NaN before all, as what a part keeps must show it; none (-1) where
    the part has no class."""
    near, pivot = Name("near"), Name("pivot")
    largest = Name("valid") & ~(ell < near)
    return [
        Line(m.name, call("row_max_or_nan", ell)),
        Line(near.name, where(eq(m, m), m, float("inf"))),
        Line(pivot.name, call("row_min", where(largest, COLS, NO_CLASS))),
        Line(pivot.name, where(eq(pivot, NO_CLASS), -1, pivot)),
    ]


def _value_at_pivot(name: str, form: Form, whole_row: bool) -> Line:
    """That of the exponent is the maximum itself; of a part without a class it is 0."""
    if not whole_row and str(form.base) == name.removesuffix("_y"):
        return Line(name, where(Name("pivot") < 0, 0.0, f"m{form.index}"))
    if name == "index_y":
        return Line(name, call("number", "pivot"))
    return Line(name, call("take", name.removesuffix("_y"), "pivot"))


def _known(sweep: Sweep, names: set[str]) -> list[Line]:
    """The exponentials of earlier sweeps and where their maxima are, if used."""
    lines = exponentials(sweep.model, names, sweep.level - 1)
    for k, largest in enumerate(sweep.model.maxes):
        if largest.select.name in names and largest.level < sweep.level:
            lines.append(_selected(k, largest.select))
    return lines


def _selected(k: int, select: Symbol) -> Line:
    """1 where the maximum is, else 0."""
    return Line(select.name, where(eq(COLS, f"index{k}"), 1.0, 0.0))


def deltas(model: RowModel, names: set[str], lowering: Lowering, measured: int = 0) -> list[Line]:
    """factor·(c_j - origin) of every centre that is used.

    The sweep of level ``measured`` finds what its centres are at the largest class of the weight;
    otherwise that is known.
    """
    lines: list[Line] = []
    for centre in (c for c in model.centres if c.symbol.name in names):
        if centre not in model.measured:
            lines += centred(centre, lowering)
            continue
        measuring = centre.level == measured
        lines += centred(replace(centre, symbol=centre.apart), lowering)
        lines += _at_largest(centre, model, lowering) if measuring else []
        own = Name(centre.at_largest.name)
        apart: Node = Name(centre.apart.name) - own
        if measuring and stands(centre, model):
            apart = times(centre, lowering, lowering(centre.expr) - own)
        lines.append(Line(centre.symbol.name, apart))
    return lines


def _at_largest(centre: Centre, model: RowModel, lowering: Lowering) -> list[Line]:
    """``at_largest`` of a tile, as it stands or from the maxima; that of the maxima where the tile
    has no such class or the other row masks it."""
    name, lines, least = Name(centre.at_largest.name), list[Line](), as_node(0.0)
    if model.pivot == "argmax":
        own = replace(centre.at_y(model.forms), symbol=centre.at_largest)
        lines = centred(own, lowering)
    else:
        value: Node = Name(centre.apart.name)
        if stands(centre, model):
            value, least = lowering(centre.expr), lowering(centre.origin)
        at = where(eq(Name(f"e{centre.weight}"), 1.0), value, EMPTY)
        lines.append(Line(name.name, call("row_max", at)))
    near = (name > FLOOR) & (name < FAR_GAP)  # nor NaN, which compares false
    return [*lines, Line(name.name, where(near, name, least))]


def centred(centre: Centre, lowering: Lowering) -> list[Line]:
    """One stream: v_j - origin. Several: see ``Centre``."""
    symbol = centre.symbol.name

    if len(centre.pairs) == 1:
        return [
            Line(symbol, times(centre, lowering, lowering(centre.expr) - lowering(centre.origin)))
        ]
    near, far = Name(f"near_{symbol}"), Name(f"far_{symbol}")
    lines = [
        Line(near.name, lowering(centre.origin)),
        Line(far.name, (near > 1.0) | (near < -1.0)),
    ]
    parts: list[Node] = []
    for k, (term, origin) in enumerate(centre.pairs):
        off = Name(f"off{k}_{symbol}")
        lines.append(Line(off.name, where(far, lowering(origin), 0.0)))
        parts.append(lowering(term) - off)
    lines.append(Line(near.name, where(far, 0.0, near)))
    return [*lines, Line(symbol, times(centre, lowering, total((1, p) for p in parts) - near))]


def _moments(sweep: Sweep, whole_row: bool) -> list[Line]:
    lines: list[Line] = []
    plain = [m for m in sweep.moments if m.form is None]
    targets = [(name.name, sweep.model.named(w)) for w, name in sweep.weights.items()]
    if sweep.level > 1:
        targets = [(f"v{k}", sweep.model.named(m.weight)) for k, m in enumerate(plain)] + targets
    lines += assignments(targets, TILE)
    for moment in sweep.moments:
        weight = sweep.weight(moment)
        body = _integrand(moment, weight)
        e = Name(f"e{moment.form}")
        if moment.rest:
            largest = eq(e, 1.0)
            small = call("row_sum", where(largest, 0.0, e))
            ties = call("row_sum", where(largest, 1.0, 0.0)) - 1.0
            lines.append(Line(moment.name, call("fmax", small + ties, 0.0)))
            continue
        if moment.against is not None:
            lines.append(Line(f"{moment.name}_j", between(sweep, moment)))
            lines.append(Line(moment.name, call("row_sum", f"{moment.name}_j")))
            continue
        if moment.form is None:
            body = Name(f"v{plain.index(moment)}") if sweep.level > 1 else body
            left_out = sweep.carries_pivot and (whole_row or joins(moment.weight))
            inside = Name("others" if left_out else "valid")
            body = where(inside, body, 0.0)
        elif moment.kappa == 0:
            counts: Node = Name("others" if sweep.carries_pivot else "valid")
            if weight != 1:  # 0·∞ is 0: a class of weight zero may be masked
                counts = counts & ne(TILE(weight), 0.0)
            body = where(counts, body, 0.0)
        elif weight != 1 or moment.centre is not None:
            t = Name(f"t{moment.form}")  # e^(q·t) of a small q is a number where e^t is none
            body = where(e > 0.0 if whole(moment.kappa) else t > FLOOR, body, 0.0)
        lines.append(Line(moment.name, call("row_sum", body)))
    return lines


def between(sweep: Sweep, moment: Moment) -> Node:
    """What a class adds to the gap of two softmaxes."""
    own, other = Name(f"e{moment.form}"), Name(f"e{moment.against}")
    centre = sweep.model.centre(moment.centre)
    apart = centre.apart if centre in sweep.model.measured else centre.symbol
    return gap(-Name(apart.name), own, other)


def gap(apart: Node, e: Node, other: Node) -> Node:
    """exp(t') - exp(t) with ``apart`` = t' - t; NaN of two masked classes is not near."""
    near = (apart > -1.0) & (apart < 1.0)
    return where(near, e * call("expm1", call("clip", apart, -1.0, 1.0)), other - e)


def _integrand(moment: Moment, weight: Expr) -> Node:
    i, parts = moment.form, list[Node]()
    t, u = Name(f"t{i}"), Name(f"u{i}")
    if i is not None and moment.kappa != 0:
        count = whole(moment.kappa)
        exponential = call("exp_tile", TILE(moment.kappa) * u)
        parts += [Name(f"e{i}")] * count if count else [exponential]
    parts += [u if moment.kappa != 0 else t] * moment.power
    parts += [Name(moment.centre.name)] if moment.centre is not None else []
    if weight != 1:
        parts.append(TILE(weight))
    return product(parts)


# ---------------------------------------------------------------------------- gradient
def exponentials(model: RowModel, names: set[str], level: int) -> list[Line]:
    """t, logp, p and R of the softmaxes that are known after ``level`` sweeps, where used."""
    lines: list[Line] = []
    exponents = model.exponents(names)
    for form in model.forms:
        i = form.index
        if form.level > level or i not in exponents:
            continue
        t, e, m = Name(f"t{i}"), Name(f"e{i}"), Name(f"m{i}")
        value = scaled(form, TILE(model.named(form.base)) - m, TILE)
        if form.parts:
            value = joint(form, TILE, finite) - m
        lines.append(Line(t.name, value))
        for log, shift in ((form.logp, f"lam{i}"), (form.logu, f"lamu{i}")):
            if log.name in names:
                lines.append(Line(log.name, call("fmax", t, FLOOR) - Name(shift)))
        if {f"p{i}", f"r{i}"} & names:
            lines.append(Line(e.name, call("exp_below", t)))
        for weight in "pr":
            if f"{weight}{i}" in names:
                lines.append(Line(f"{weight}{i}", e * as_node(f"{weight}inv{i}")))
    return lines


def gradient(model: RowModel) -> list[Line]:
    """The gradients of one tile, before the values at y are written."""
    names = model.gradient_names
    lines = [Line("index", call("number", COLS))] if model.needs_index else []
    for k, largest in enumerate(model.maxes):
        if largest.select.name in names:
            lines.append(_selected(k, largest.select))
    lines += exponentials(model, names, model.levels[-1])
    for k, largest in enumerate(model.maxes):
        if largest.rise.name in names:
            i, at = largest.form, eq(COLS, f"index{k}")
            rise = where(at, -call("expm1", -Name(f"top{i}")), -Name(f"p{i}"))
            lines.append(Line(largest.rise.name, rise))
    lines += deltas(model, names, TILE)
    targets = [(f"grad_{g.stream}", model.named(g.expr)) for g in model.gradients]
    return lines + assignments(targets, TILE)
