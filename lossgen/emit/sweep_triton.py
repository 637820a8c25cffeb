"""The state of a tile as Triton lines, and the gradient.  ``emit.merge_triton`` joins two states.

    lift:   m = max l,  M_n = Σ w·exp(κ·t)·t^n   with t = l - m
An arg-max pivot leaves the sums and is carried in the state with its values.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Expr, Symbol

from lossgen.emit.constants import FAR_GAP, FLOOR
from lossgen.emit.model import RowModel, Sweep, whole
from lossgen.emit.names import assignments
from lossgen.emit.printers import TRITON_TILE, Printer
from lossgen.emit.spoilt import shows
from lossgen.ir.plan import Moment
from lossgen.ir.statistics import Centre, Form

__all__ = [
    "between",
    "centred",
    "deltas",
    "exponentials",
    "gap_text",
    "gradient",
    "joint",
    "lift",
    "scaled",
]

_EMPTY = 'float("-inf")'
# A part's exponent, of rate 0 too; tl.maximum would drop NaN.
_FINITE = f"tl.where(t{{0}} < {FLOOR}, {FLOOR}, t{{0}})"


def scaled(form: Form, difference: str, printer: Printer) -> str:
    """scale·(difference) as text."""
    return difference if form.scale == 1 else f"{printer(form.scale, 2)} * ({difference})"


def joint(form: Form, printer: Printer, part: str) -> str:
    """Σ rate·part of a product of softmaxes; ``part`` has a place for the index."""
    values = {k: Symbol(f"v{k}", real=True) for k, _ in form.parts}
    names = {v: part.format(k) for k, v in values.items()}
    return Printer(printer.dialect, names)(form.mixed(values))


# ---------------------------------------------------------------------------- lift
def lift(sweep: Sweep, whole_row: bool = False) -> list[str]:
    """State of one tile relative to the tile's own maximum; of a ``whole_row``, the largest class
    is the pivot for good, and every sum leaves it out."""
    model, printer = sweep.model, Printer(TRITON_TILE)
    lines = ["valid = inside & (cols != y)" if model.pivot == "target" else "valid = inside"]
    if model.pivot == "argmax" and sweep.level > 1:
        lines = ["valid = inside & (cols != pivot.to(tl.int32))"]
    if model.needs_index:
        lines.append("index = cols.to(tl.float32)")
    names = sweep.model.read(sweep.bodies)
    lines += _known(sweep, names, printer)
    for form in sweep.forms:
        lines += _softmax(sweep, form, printer)
    origins = sorted(sweep.model.origins(names))
    lines += [f"ref{k} = tl.where(m{k} == {_EMPTY}, 0.0, m{k})" for k in origins]
    finite = Printer(TRITON_TILE, {sweep.model.forms[k].m: f"ref{k}" for k in origins})
    lines += deltas(sweep.model, names, finite, "tl.where", "dl.row_max({})")
    lines += _moments(sweep, printer, whole_row)
    for k, largest in sweep.maxes:
        valid = "valid"
        if largest.below is not None:
            valid = f"valid & (cols.to(tl.float32) != index{largest.below})"
        body = printer(sweep.model.named(largest.body))
        lines.append(f"f{k} = tl.where({valid}, {body}, {_EMPTY})")
        at = f"tl.where(f{k} == max{k}, cols, 2147483647)"
        if shows(sweep.model, largest):
            lines.append(f"max{k} = dl.row_max(f{k})")
        else:  # the class is the first that is not below the maximum, which NaN is not either
            at = f"tl.where(f{k} < near{k}, 2147483647, cols)"
            lines += [
                f"max{k} = dl.row_max_or_nan(f{k})",
                f'near{k} = tl.where(max{k} == max{k}, max{k}, float("inf"))',
            ]
        lines.append(f"index{k} = dl.row_min({at}).to(tl.float32)")
    if sweep.carries_pivot:
        lines.append("pivot = pivot.to(tl.float32)")
    return lines


def _softmax(sweep: Sweep, form: Form, printer: Printer) -> list[str]:
    i, lines = form.index, []
    if form.parts:
        inside = "others" if sweep.carries_pivot else "valid"
        largest, at_y = f"dl.row_max(l{i})", list[str]()
        if sweep.carries_pivot:
            for k, _ in form.parts:
                part = sweep.model.forms[k]
                apart = scaled(part, f"{printer(part.base_y, 1)} - m{k}", printer)
                own = f"tl.where(m{k} == {_EMPTY}, {FLOOR}, {apart})"
                at_y.append(f"at_y{k} = {own}")
                at_y.append(f"at_y{k} = tl.where(at_y{k} < {FLOOR}, {FLOOR}, at_y{k})")
            largest = f"tl.maximum({largest}, {joint(form, printer, 'at_y{}')})"
        return [
            *at_y,
            f"l{i} = tl.where({inside}, {joint(form, printer, _FINITE)}, {_EMPTY})",
            f"m{i} = {largest}",
            f"t{i} = l{i} - tl.where(m{i} == {_EMPTY}, 0.0, m{i})",
            f"e{i} = tl.exp(t{i})",
        ]
    lines += [
        f"l{i} = tl.where(valid, {printer(sweep.model.named(form.base))}, {_EMPTY})",
        f"m{i} = dl.row_max(l{i})",
    ]
    if sweep.carries_pivot:
        if i == 0:
            lines += [
                f"pivot = dl.row_min(tl.where(l{i} == m{i}, cols, 2147483647))",
                "others = valid & (cols != pivot)",
            ]
            lines += [_value_at_pivot(name) for name in sweep.model.at_y]
        lines.append(f"l{i} = tl.where(others, l{i}, {_EMPTY})")
    lines += [
        f"t{i} = {scaled(form, f'l{i} - tl.where(m{i} == {_EMPTY}, 0.0, m{i})', printer)}",
        f"e{i} = tl.exp(t{i})",
    ]
    if sweep.model.needs_powers(form):
        lines.append(f"u{i} = tl.maximum(t{i}, {FLOOR})")
    return lines


def _value_at_pivot(name: str) -> str:
    if name == "index_y":
        return "index_y = pivot.to(tl.float32)"
    return f"{name} = dl.row_sum(tl.where(cols == pivot, {name.removesuffix('_y')}, 0.0))"


def _known(sweep: Sweep, names: set[str], printer: Printer) -> list[str]:
    """The exponentials of earlier sweeps and where their maxima are, if used."""
    lines = exponentials(sweep.model, names, printer, sweep.level - 1)
    for k, largest in enumerate(sweep.model.maxes):
        if largest.select.name in names and largest.level < sweep.level:
            lines.append(f"{largest.select} = tl.where(cols == index{k}, 1.0, 0.0)")
    return lines


def deltas(
    model: RowModel,
    names: set[str],
    printer: Printer,
    where: str,
    maximum: str = "",
) -> list[str]:
    """factor·(c_j - origin) of every centre that is used.

    ``maximum``, with a place for a tile, finds what it is at the largest class of the weight;
    without it that is known.
    """
    lines: list[str] = []
    for centre in (c for c in model.centres if c.symbol.name in names):
        if centre not in model.measured:
            lines += centred(centre, printer, where)
            continue
        lines += centred(replace(centre, symbol=centre.apart), printer, where)
        lines += _at_largest(centre, model, printer, where, maximum) if maximum else []
        lines.append(f"{centre.symbol} = {centre.apart} - {centre.at_largest}")
    return lines


def _at_largest(
    centre: Centre, model: RowModel, printer: Printer, where: str, maximum: str
) -> list[str]:
    """``at_largest`` of a tile, and 0 where it has no such class or the other row masks it."""
    name, lines = centre.at_largest, list[str]()
    if model.pivot == "argmax":
        lines = centred(replace(centre.at_y(model.forms), symbol=name), printer, where)
    else:
        at = f"{where}(e{centre.weight} == 1.0, {centre.apart}, {_EMPTY})"
        lines.append(f"{name} = {maximum.format(at)}")
    finite = f"({name} > {FLOOR}) & ({name} < {FAR_GAP})"  # nor NaN, which compares false
    return [*lines, f"{name} = {where}({finite}, {name}, 0.0)"]


def centred(centre: Centre, printer: Printer, where: str) -> list[str]:
    """One stream: v_j - origin. Several: see ``Centre``."""
    symbol = centre.symbol
    factor = "" if centre.factor == 1 else f"{printer(centre.factor, 2)} * "
    if len(centre.pairs) == 1:
        apart = f"{printer(centre.expr, 2)} - {printer(centre.origin, 2)}"
        return [f"{symbol} = {factor}({apart})"]
    near, far = f"near_{symbol}", f"far_{symbol}"
    lines = [
        f"{near} = {printer(centre.origin)}",
        f"{far} = ({near} > 1.0) | ({near} < -1.0)",
    ]
    parts = []
    for k, (term, origin) in enumerate(centre.pairs):
        lines.append(f"off{k}_{symbol} = {where}({far}, {printer(origin)}, 0.0)")
        parts.append(f"({printer(term)} - off{k}_{symbol})")
    lines.append(f"{near} = {where}({far}, 0.0, {near})")
    return [*lines, f"{symbol} = {factor}({' + '.join(parts)} - {near})"]


def _moments(sweep: Sweep, printer: Printer, whole_row: bool) -> list[str]:
    lines: list[str] = []
    plain = [m for m in sweep.moments if m.form is None]
    targets = [(name.name, sweep.model.named(w)) for w, name in sweep.weights.items()]
    if sweep.level > 1:
        targets = [(f"v{k}", sweep.model.named(m.weight)) for k, m in enumerate(plain)] + targets
    lines += assignments(targets, printer)
    for moment in sweep.moments:
        weight = sweep.weight(moment)
        body = _integrand(moment, weight, printer)
        if moment.rest:
            i = moment.form
            lines.append(
                f"{moment.name} = tl.maximum(dl.row_sum(tl.where(e{i} == 1.0, 0.0, e{i})) + "
                f"(dl.row_sum(tl.where(e{i} == 1.0, 1.0, 0.0)) - 1.0), 0.0)"
            )
            continue
        if moment.against is not None:
            lines.append(f"{moment.name}_j = {between(sweep, moment, 'tl.where')}")
            lines.append(f"{moment.name} = dl.row_sum({moment.name}_j)")
            continue
        if moment.form is None:
            body = f"v{plain.index(moment)}" if sweep.level > 1 else body
            inside = "others" if sweep.carries_pivot and whole_row else "valid"
            body = f"tl.where({inside}, {body}, 0.0)"
        elif moment.kappa == 0:
            inside = _inside(sweep, moment)
            if weight != 1:  # 0·∞ is 0: a class of weight zero may be masked
                inside = f"{inside} & ({printer(weight, 2)} != 0.0)"
            body = f"tl.where({inside}, {body}, 0.0)"
        elif weight != 1 or moment.centre is not None:
            body = f"tl.where(e{moment.form} > 0.0, {body}, 0.0)"
        lines.append(f"{moment.name} = dl.row_sum({body})")
    return lines


def between(sweep: Sweep, moment: Moment, where: str, function: str = "dl.") -> str:
    """What a class adds to the gap of two softmaxes."""
    own, other = f"e{moment.form}", f"e{moment.against}"
    centre = sweep.model.centre(moment.centre)
    apart = centre.apart if centre in sweep.model.measured else centre.symbol
    return gap_text(f"-{apart}", own, other, where, function)


def gap_text(apart: str, e: str, other: str, where: str, function: str) -> str:
    """exp(t') - exp(t) with ``apart`` = t' - t; NaN of two masked classes is not near."""
    near = f"({apart} > -1.0) & ({apart} < 1.0)"
    close = f"{e} * {function}expm1({function}clip({apart}, -1.0, 1.0))"
    return f"{where}({near}, {close}, {other} - {e})"


def _inside(sweep: Sweep, moment: Moment) -> str:
    return "others" if sweep.carries_pivot and moment.form is not None else "valid"


def _integrand(moment: Moment, weight: Expr, printer: Printer) -> str:
    i, parts = moment.form, []
    if i is not None and moment.kappa != 0:
        count = whole(moment.kappa)
        exponential = f"tl.exp({printer(moment.kappa, 2)} * u{i})"
        parts += [f"e{i}"] * count if count else [exponential]
    parts += [f"u{i}" if moment.kappa != 0 else f"t{i}"] * moment.power
    parts += [moment.centre.name] if moment.centre is not None else []
    if weight != 1:
        parts.append(printer(weight, 2))
    return " * ".join(parts) or "1.0"


# ---------------------------------------------------------------------------- gradient
def exponentials(model: RowModel, names: set[str], printer: Printer, level: int) -> list[str]:
    """t, logp, p and R of the softmaxes that are known after ``level`` sweeps, where used."""
    lines: list[str] = []
    exponents = model.exponents(names)
    for form in model.forms:
        i = form.index
        if form.level > level or i not in exponents:
            continue
        base = printer(model.named(form.base), 1)
        value = scaled(form, f"{base} - m{i}", printer)
        if form.parts:
            value = f"{joint(form, printer, _FINITE)} - m{i}"
        lines.append(f"t{i} = {value}")
        if form.logp.name in names:
            lines.append(f"{form.logp} = tl.maximum(t{i}, {FLOOR}) - lam{i}")
        if form.logu.name in names:
            lines.append(f"{form.logu} = tl.maximum(t{i}, {FLOOR}) - lamu{i}")
        if {f"p{i}", f"r{i}"} & names:
            lines.append(f"e{i} = tl.exp(t{i})")
        lines += [f"p{i} = e{i} * pinv{i}"] if f"p{i}" in names else []
        lines += [f"r{i} = e{i} * rinv{i}"] if f"r{i}" in names else []
    return lines


def gradient(model: RowModel) -> list[str]:
    """The gradients of one tile, before the values at y are written."""
    names, printer = model.gradient_names, Printer(TRITON_TILE)
    lines = ["index = cols.to(tl.float32)"] if model.needs_index else []
    for k, largest in enumerate(model.maxes):
        if largest.select.name in names:
            lines.append(f"{largest.select} = tl.where(cols == index{k}, 1.0, 0.0)")
    lines += exponentials(model, names, printer, model.levels[-1])
    for k, largest in enumerate(model.maxes):
        if largest.rise.name in names:
            i, at = largest.form, f"cols == index{k}"
            lines.append(f"{largest.rise} = tl.where({at}, -dl.expm1(-top{i}), -p{i})")
    lines += deltas(model, names, printer, "tl.where")
    targets: list[tuple[str, Expr]] = []
    for entry in model.gradients:
        targets.append((f"grad_{entry.stream}", model.named(entry.expr)))
    return lines + assignments(targets, printer)
