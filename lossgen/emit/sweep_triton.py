"""The monoid of a row as Triton lines: ``lift`` a tile, ``merge`` two states; and the gradient.

    lift:   m = max l,  M_n = Σ w·exp(κ·t)·t^n   with t = l - m
    merge:  m = max(m_a, m_b), d = m_side - m:   M_n ← exp(κ·d)·Σ_k binomial(n, k)·d^(n-k)·M_k
An arg-max pivot leaves the sums and is carried in the state with its values; the pivot that loses
a merge joins the sums of the other side, and a centre c_y moves from its value to the winner's.
"""

from __future__ import annotations

from math import comb

from sympy import Expr

from lossgen.emit.model import FLOOR, RowModel, Sweep, whole
from lossgen.emit.names import assignments
from lossgen.emit.printers import TRITON, TRITON_TILE, Printer
from lossgen.ir.plan import Moment
from lossgen.ir.stages import Centre, Form

__all__ = ["between", "deltas", "exponentials", "gradient", "lift", "merge", "scaled"]

_EMPTY = 'float("-inf")'


def scaled(form: Form, difference: str, printer: Printer) -> str:
    """scale·(difference) as text."""
    return difference if form.scale == 1 else f"{printer(form.scale, 2)} * ({difference})"


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
    if not sweep.carries_pivot:
        lines += _tile_values(sweep, printer)
    for form in sweep.forms:
        lines += _softmax(sweep, form, printer)
    if sweep.carries_pivot:
        lines += _tile_values(sweep, printer)
    lines += _moments(sweep, printer, whole_row)
    for k, largest in sweep.maxes:
        valid = "valid"
        if largest.below is not None:
            valid = f"valid & (cols.to(tl.float32) != index{largest.below})"
        lines += [
            f"f{k} = tl.where({valid}, {printer(sweep.model.named(largest.body))}, {_EMPTY})",
            f"max{k} = tl.max(f{k})",
            f"index{k} = tl.min(tl.where(f{k} == max{k}, cols, 2147483647)).to(tl.float32)",
        ]
    if sweep.carries_pivot:
        lines.append("pivot = pivot.to(tl.float32)")
    return lines


def _softmax(sweep: Sweep, form: Form, printer: Printer) -> list[str]:
    i, lines = form.index, []
    lines += [
        f"l{i} = tl.where(valid, {printer(sweep.model.named(form.base))}, {_EMPTY})",
        f"m{i} = tl.max(l{i})",
    ]
    if sweep.carries_pivot:
        if i == 0:
            lines += [
                f"pivot = tl.min(tl.where(l{i} == m{i}, cols, 2147483647))",
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
    return f"{name} = tl.sum(tl.where(cols == pivot, {name.removesuffix('_y')}, 0.0))"


def _tile_values(sweep: Sweep, printer: Printer) -> list[str]:
    """The exponentials of earlier sweeps and the centred differences, where they are used."""
    names = sweep.model.tile_symbols(sweep.bodies)
    lines = exponentials(sweep.model, names, printer, sweep.level - 1)
    for k, largest in enumerate(sweep.model.maxes):
        if largest.select.name in names and largest.level < sweep.level:
            lines.append(f"{largest.select} = tl.where(cols == index{k}, 1.0, 0.0)")
    return lines + deltas(sweep.model, names, printer, "tl.where")


def deltas(model: RowModel, names: set[str], printer: Printer, where: str) -> list[str]:
    """factor·(c_j - c_y) of every centre that is used."""
    if "delta" not in names:
        return []
    carried = {m.centre for m in model.plan.moments}
    return [
        line
        for c in model.centres
        if c.symbol.name in names or c.symbol in carried
        for line in _delta(c, printer, where)
    ]


def _delta(centre: Centre, printer: Printer, where: str) -> list[str]:
    """One stream: v_j - v_y. Several: see ``Centre``."""
    symbol = centre.symbol
    factor = "" if centre.factor == 1 else f"{printer(centre.factor, 2)} * "
    if len(centre.pairs) == 1:
        apart = f"{printer(centre.expr, 2)} - {printer(centre.expr_y, 2)}"
        return [f"{symbol} = {factor}({apart})"]
    near, far = f"near_{symbol}", f"far_{symbol}"
    lines = [
        f"{near} = {printer(centre.expr_y)}",
        f"{far} = ({near} > 1.0) | ({near} < -1.0)",
    ]
    parts = []
    for k, (term, at_y) in enumerate(centre.pairs):
        lines.append(f"off{k}_{symbol} = {where}({far}, {printer(at_y)}, 0.0)")
        parts.append(f"({printer(term)} - off{k}_{symbol})")
    lines.append(f"{near} = {where}({far}, 0.0, {near})")
    return [*lines, f"{symbol} = {factor}({' + '.join(parts)} - {near})"]


def _moments(sweep: Sweep, printer: Printer, whole_row: bool) -> list[str]:
    lines: list[str] = []
    plain = [m for m in sweep.moments if m.form is None]
    targets = [(f"v{k}", sweep.model.named(m.weight)) for k, m in enumerate(plain)]
    if sweep.level > 1:
        lines += assignments(targets, printer)
    for moment in sweep.moments:
        body = _integrand(moment, printer)
        if moment.rest:
            i = moment.form
            lines.append(
                f"{moment.name} = tl.maximum(tl.sum(tl.where(e{i} == 1.0, 0.0, e{i})) + "
                f"(tl.sum(tl.where(e{i} == 1.0, 1.0, 0.0)) - 1.0), 0.0)"
            )
            continue
        if moment.against is not None:
            lines += between(moment, "tl.where")
            lines.append(f"{moment.name} = tl.sum({moment.name}_j)")
            continue
        if moment.form is None:
            body = f"v{plain.index(moment)}" if sweep.level > 1 else body
            inside = "others" if sweep.carries_pivot and whole_row else "valid"
            body = f"tl.where({inside}, {body}, 0.0)"
        elif moment.kappa == 0:
            inside = _inside(sweep, moment)
            if moment.weight != 1:  # 0·∞ is 0: a class of weight zero may be masked
                inside = f"({inside}) & ({printer(moment.weight, 2)} != 0.0)"
            body = f"tl.where({inside}, {body}, 0.0)"
        elif moment.weight != 1 or moment.centre is not None:
            body = f"tl.where(e{moment.form} > 0.0, {body}, 0.0)"
        lines.append(f"{moment.name} = tl.sum({body})")
    return lines


def between(moment: Moment, where: str, function: str = "dl.") -> list[str]:
    """What a class adds to a sum of two softmaxes, as {name}_j."""
    i, k, name = moment.form, moment.against, moment.name
    if not moment.gap:
        return [f"{name}_j = {where}(e{i} > 0.0, e{i} * (t{i} - t{k}), 0.0)"]
    return [
        f"{name}_j = t{k} - t{i}",
        f"{name}_j = {_gap(f'{name}_j', f'e{i}', f'e{k}', where, function)}",
    ]


def _gap(apart: str, e: str, other: str, where: str, function: str) -> str:
    """exp(t') - exp(t) with ``apart`` = t' - t; NaN of two masked classes is not near."""
    near = f"({apart} > -1.0) & ({apart} < 1.0)"
    close = f"{e} * {function}expm1({function}clip({apart}, -1.0, 1.0))"
    return f"{where}({near}, {close}, {other} - {e})"


def _inside(sweep: Sweep, moment: Moment) -> str:
    return "others" if sweep.carries_pivot and moment.form is not None else "valid"


def _integrand(moment: Moment, printer: Printer) -> str:
    i, parts = moment.form, []
    if i is not None and moment.kappa != 0:
        count = whole(moment.kappa)
        exponential = f"tl.exp({printer(moment.kappa, 2)} * u{i})"
        parts += [f"e{i}"] * count if 0 < count <= 4 else [exponential]
    parts += [f"u{i}" if moment.kappa != 0 else f"t{i}"] * moment.power
    parts += [moment.centre.name] if moment.centre is not None else []
    if moment.weight != 1:
        parts.append(printer(moment.weight, 2))
    return " * ".join(parts) or "1.0"


# ---------------------------------------------------------------------------- merge
def merge(sweep: Sweep) -> list[str]:
    """One state from two: rescale both to the larger maximum."""
    printer, lines = Printer(TRITON), []
    for form in sweep.forms:
        i = form.index
        lines.append(f"m{i} = tl.maximum(m{i}_a, m{i}_b)")
        for s in "ab":  # an empty side (m = -inf) must not make inf - inf
            empty = f"(m{i}_{s} == m{i}) | (m{i}_{s} == {_EMPTY})"
            distance = scaled(form, f"m{i}_{s} - m{i}", printer)
            lines.append(f"d{i}_{s} = tl.where({empty}, 0.0, {distance})")
        lines += [f"k{i}_{s} = tl.exp(d{i}_{s})" for s in "ab"]
    if sweep.carries_pivot:
        lines += _merge_pivot(sweep, printer)
    for moment in sweep.moments:
        text = " + ".join(_rescaled(sweep, moment, side, printer) for side in "ab")
        if moment.rest:  # the smaller maximum of two joins what is beside the larger
            both = f"(m{moment.form}_a > {_EMPTY}) & (m{moment.form}_b > {_EMPTY})"
            text += f" + tl.where({both}, tl.minimum(k{moment.form}_a, k{moment.form}_b), 0.0)"
        if sweep.carries_pivot and moment.form is not None:
            text += f" + {_joining(moment, printer)}"
        lines.append(f"{moment.name} = {text}")
    for k, largest in sweep.maxes:
        if largest.below is None:
            lines += [
                f"max{k} = tl.maximum(max{k}_a, max{k}_b)",
                f"index{k} = tl.where(max{k}_a >= max{k}_b, index{k}_a, index{k}_b)",
            ]
        else:  # the loser among the largest, or the second of its side
            n = largest.below
            lines += [
                f"near{k} = tl.where(max{n}_a >= max{n}_b, max{k}_a, max{k}_b)",
                f"near_at{k} = tl.where(max{n}_a >= max{n}_b, index{k}_a, index{k}_b)",
                f"far{k} = tl.minimum(max{n}_a, max{n}_b)",
                f"far_at{k} = tl.where(max{n}_a >= max{n}_b, index{n}_b, index{n}_a)",
                f"max{k} = tl.maximum(near{k}, far{k})",
                f"index{k} = tl.where((near{k} > far{k}) | "
                f"((near{k} == far{k}) & (near_at{k} < far_at{k})), near_at{k}, far_at{k})",
            ]
    return lines


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
    wanted |= {s.name for c in model.centres for s in c.expr.free_symbols}
    for name in model.at_y:
        if name.removesuffix("_y") in wanted:
            lines.append(f"{name.removesuffix('_y')} = tl.where(first, {name}_b, {name}_a)")
    for centre in model.centres:
        lines += _delta(centre, printer, "tl.where")
    for form in sweep.forms:
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
    return lines


def _joining(moment: Moment, printer: Printer) -> str:
    """What the pivot that lost adds to a sum over the other classes."""
    i, k = moment.form, moment.against
    if moment.gap:
        return f"tl.where(lost, {_gap(f'(d{k} - d{i})', f'k{i}', f'k{k}', 'tl.where', 'dl.')}, 0.0)"
    if k is not None:
        return f"tl.where(lost & (k{i} > 0.0), k{i} * (d{i} - d{k}), 0.0)"
    factor = _factor(moment, f"d{i}", f"k{i}", printer)
    parts = [*([factor] if factor else []), *[f"d{i}"] * moment.power]
    parts += [moment.centre.name] if moment.centre is not None else []
    parts += [printer(moment.weight, 2)] if moment.weight != 1 else []
    inside = "lost" if moment.kappa == 0 else f"lost & (k{i} > 0.0)"
    return f"tl.where({inside}, {' * '.join(parts) or '1.0'}, 0.0)"


def _factor(moment: Moment, d: str, k: str, printer: Printer) -> str:
    """exp(kappa·d) as text, "" for 1."""
    if moment.kappa == 0 or moment.form is None:
        return ""
    count = whole(moment.kappa)
    if 0 < count <= 4:
        return " * ".join([k] * count)
    return f"tl.exp({printer(moment.kappa, 2)} * {d})"


def _rescaled(sweep: Sweep, moment: Moment, side: str, printer: Printer) -> str:
    i, n = moment.form, moment.power
    if i is None:
        return f"{moment.name}_{side}"
    if moment.against is not None:
        return _moved(moment, side)
    d, terms = f"d{i}_{side}", []
    moves = sweep.carries_pivot and moment.centre is not None
    for power in range(n, -1, -1):
        scale = [str(float(comb(n, power)))] if comb(n, power) > 1 else []
        name = f"{moment.name if moment.rest else sweep.model.lower(moment, power)}_{side}"
        if moves:  # the loser's centre moves by c_lost - c_y
            still = f"{sweep.model.lower(moment, power, centred=False)}_{side}"
            gone = "first" if side == "b" else "~first"
            moved = f"tl.where({gone} & lost & ({still} != 0.0), {moment.centre}, 0.0)"
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
    """The same of two softmaxes, whose maxima move by d and d'."""
    i, k, name = moment.form, moment.against, f"{moment.name}_{side}"
    d, factor = (f"d{n}_{side}" for n in (i, k)), (f"k{n}_{side}" for n in (i, k))
    (one, other), (e, e_other) = d, factor
    if moment.gap:
        scale = _gap(f"({other} - {one})", e, e_other, "tl.where", "dl.")
        return f"({e} * {name} + {scale} * a{k}_{side})"
    return f"tl.where({e} > 0.0, {e} * ({name} + ({one} - {other}) * a{i}_{side}), 0.0)"


# ---------------------------------------------------------------------------- gradient
def exponentials(model: RowModel, names: set[str], printer: Printer, level: int) -> list[str]:
    """t, logp, p and R of the softmaxes that are known after ``level`` sweeps, where used."""
    lines: list[str] = []
    for form in model.forms:
        i = form.index
        if form.level > level or not {f"p{i}", f"r{i}", form.logp.name} & names:
            continue
        base = printer(model.named(form.base), 1)
        lines.append(f"t{i} = {scaled(form, f'{base} - m{i}', printer)}")
        if form.logp.name in names:
            lines.append(f"{form.logp} = tl.maximum(t{i}, {FLOOR}) - lam{i}")
        if {f"p{i}", f"r{i}"} & names:
            lines.append(f"e{i} = tl.exp(t{i})")
        lines += [f"p{i} = e{i} * pinv{i}"] if f"p{i}" in names else []
        lines += [f"r{i} = e{i} * rinv{i}"] if f"r{i}" in names else []
    return lines


def gradient(model: RowModel) -> list[str]:
    """The gradients of one tile, before the values at y are written."""
    names, printer = model.gradient_names, Printer(TRITON_TILE)
    lines = ["index = cols.to(tl.float32)"] if model.needs_index else []
    lines += exponentials(model, names, printer, model.levels[-1])
    for k, largest in enumerate(model.maxes):
        if largest.select.name in names:
            lines.append(f"{largest.select} = tl.where(cols == index{k}, 1.0, 0.0)")
        if largest.rise.name in names:
            i, at = largest.form, f"cols == index{k}"
            lines.append(f"{largest.rise} = tl.where({at}, -dl.expm1(-top{i}), -p{i})")
    lines += deltas(model, names, printer, "tl.where")
    targets: list[tuple[str, Expr]] = []
    for entry in model.plan.gradients:
        targets.append((f"grad_{entry.stream}", model.named(entry.expr)))
    return lines + assignments(targets, printer)
