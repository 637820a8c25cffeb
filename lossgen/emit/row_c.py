"""What ``templates/row_c.jinja`` renders of one variant: loops and row values as C lines."""

from __future__ import annotations

import textwrap

from lossgen.emit.kept_c import Keys, keep
from lossgen.emit.mixture_c import pair_logarithms
from lossgen.emit.sweep_c import CSweep, GradientLoop, row_lines
from lossgen.lower.constants import FAR, MASKED
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import finished_maxima

__all__ = ["CRow", "wrapped"]


class CRow:
    """The C view of a ``RowModel``."""

    def __init__(self, model: RowModel) -> None:
        scalars, results = RowScalars(model, sums_pivot=False), model.outputs
        factors = model.cotangents or ["g"]
        known = dict.fromkeys([*model.at_y, *model.state, *model.saved, *results, *factors])
        for sweep in model.sweep_models:
            known |= dict.fromkeys(sweep.known)
        self.variables = list(known)
        self.results = results
        declared = set(known)
        self.sweeps = []
        for sweep in model.sweep_models:
            lines = finished_maxima(sweep)
            if sweep.level < len(model.sweep_models):
                lines += scalars.between(sweep.level)
            self.sweeps.append(CSweep(sweep, set(known), row_lines(lines, declared)))
        finish, coefficients = scalars.results(), scalars.coefficients(saved=True)
        self.finish = row_lines(finish, set(known))
        self.finished = [n for n in known if n in {line.name for line in finish}]
        declared = set(known)
        self.coefficients = row_lines(coefficients, declared)
        self.coefficient_names = list(dict.fromkeys(line.name for line in coefficients))
        self.held = list(dict.fromkeys([*known, *model.rows, *self.coefficient_names]))
        self.gradient = GradientLoop(model, declared)
        self.gradient_kept = self.gradient.loop.copy()
        loops = [loop for sweep in self.sweeps for loop in sweep.loops]
        loops.append(self.gradient_kept)
        table: dict[str, str] = {}
        keys = [Keys(loop.program, set(known), table) for loop in loops]
        self.kept = keep(loops, keys)
        for loop, key in zip([*loops, self.gradient.loop], [*keys, keys[-1]], strict=True):
            pair_logarithms(loop, key)
        self.at_target = _values_at(model, "y") if model.pivot == "target" else []
        self.reload = [f"{n} = saved(r, {k});" for k, n in enumerate(model.saved)]
        if model.pivot == "argmax":
            self.reload += _values_at(model, "(int64_t)pivot")
        self.cotangents = [f"{name} = slope(r, {k});" for k, name in enumerate(factors)]


def _values_at(model: RowModel, at: str) -> list[str]:
    """The streams' values at the pivot."""
    lines = [f"{n}_y = {n}_ptr[{at}];" for n in model.tile_streams]
    if model.needs_reference:
        lines.append(f"x_ref = x_y > {MASKED} ? x_y : 0.0;")
        lines.append("x_own = x_y - x_ref;")
    if model.needs_index:
        lines.append(f"index_y = {at};")
    return lines + [f"{n}_y = f_maximum({n}_y, {FAR});" for n in model.floored]


def wrapped(text: str) -> str:
    """C text with lines of at most 100 characters, and no trailing blanks."""
    lines: list[str] = []
    for line in text.splitlines():
        own = line[: len(line) - len(line.lstrip())]
        end = " \\" if line.startswith("#") else ""
        parts = textwrap.wrap(
            line.strip(),
            100 - len(own) - len(end),
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [own + part + end for part in parts[:-1]]
        lines.append(own + parts[-1] if parts else "")
    return "\n".join(lines) + "\n"
