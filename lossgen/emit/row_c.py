"""What ``templates/row_c.jinja`` renders of one variant: loops and row values as C lines."""

from __future__ import annotations

import textwrap

from lossgen.emit.kept_c import Keys, keep
from lossgen.emit.mixture_c import pair_logarithms
from lossgen.emit.normalizer import normalizer_of_row
from lossgen.emit.sweep_c import CSweep, GradientLoop, row_lines
from lossgen.lower.constants import FAR, MASKED
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import finished_maxima

__all__ = ["CRow", "wrapped"]


class CRow:
    """The C view of a ``RowModel``."""

    def __init__(self, model: RowModel) -> None:
        scalars, self.results = RowScalars(model, sums_pivot=False), model.outputs
        self.slopes = model.cotangents or ["g"]
        begun = [*model.at_y, *model.state, *model.saved, *self.results, *self.slopes]
        begun += [name for sweep in model.sweep_models for name in sweep.known]
        known = set(begun)
        self.begun = list(dict.fromkeys([*begun, *model.rows]))
        sweeps, declared = list[CSweep](), set(known)  # what stands between sweeps is in one block
        for sweep in model.sweep_models:
            lines = finished_maxima(sweep)
            if sweep.level < len(model.sweep_models):
                lines += scalars.between(sweep.level)
            number = 1 + sum(len(s.loops) for s in sweeps)
            alone, repeated = len(model.sweep_models) == 1, None
            if sweep.roots:
                own = {*known}
                before = row_lines(scalars.started(sweep), own)
                after = [*finished_maxima(sweep), *scalars.stepped(sweep)]
                repeated = before, row_lines(after, own)
            between = row_lines(lines, declared)
            sweeps.append(CSweep(sweep, known, between, number, alone, repeated))
        coefficients = scalars.coefficients(saved=True)
        gradient = GradientLoop(model)
        loops = [*(loop for sweep in sweeps for loop in sweep.loops), gradient.loop]
        self.loops = loops  # in the order they run in; the last is the gradient's
        table: dict[str, str] = {}
        trials = {n for sweep in model.sweep_models for n in sweep.trial}
        keys = [Keys(loop.program, known | trials, table) for loop in loops]
        once = [loop for sweep in sweeps if not sweep.repeated for loop in sweep.loops]
        once.append(gradient.loop)  # what runs again would write over what it reads
        buffers = keep(once, [key for loop, key in zip(loops, keys, strict=True) if loop in once])
        self.kept = [(buffer, name) for name, buffer in buffers.items()]
        self.buffers = 1 + max(buffers.values(), default=-1)
        for loop, key in zip(loops, keys, strict=True):
            pair_logarithms(loop, key)
        self.lists = [line for sweep in sweeps for line in sweep.lists]
        self.sweeps = [line for sweep in sweeps for line in sweep.lines]
        self.finish = row_lines(scalars.results(), set(known))
        read = gradient.reads | {f"grad_{g.stream}_y" for g in model.gradients}
        named = dict.fromkeys(line.name for line in coefficients)
        self.found = [n for n in named if n in read and n not in known]
        self.coefficients = row_lines(coefficients, {*known, *self.found})
        self.before, self.gradient = gradient.lines({*self.begun, *self.found})
        self.factor = "1" if model.cotangents else "g"
        self.at_target = _values_at(model, "y") if model.pivot == "target" else []
        self.at_pivot = _values_at(model, "(int64_t)pivot") if model.pivot == "argmax" else []
        self.apart = {"target": "y", "argmax": "(int64_t)pivot"}.get(model.pivot)
        self.inputs = [(model.inputs.index(n), n) for n in model.rows]
        self.vectors = [(model.inputs.index(n), n) for n in model.vocab]
        self.numbers = [(f"parameter[{k}]", n) for k, n in enumerate(model.parameters)]
        self.numbers += [("classes", "V")] if model.needs_classes else []
        self.weight = normalizer_of_row(model.plan.stable.spec, model.inputs)


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
