"""All the functions of one variant of a loss, with what they take and return.

Their arguments stand in one order, that of ``lossgen.runtime.kernels.rows``: a tile, then the
values of the row (``RowModel.values``), then what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lossgen.ir.program import Function, Line, Name, call, where
from lossgen.lower.constants import FAR, MASKED
from lossgen.lower.fewer import fewer
from lossgen.lower.merge import merge
from lossgen.lower.model import RowModel
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import finished_maxima, gradient, lift
from lossgen.lower.sweep_model import Sweep

__all__ = ["RowProgram", "lowered"]


@dataclass(frozen=True)
class RowProgram:
    """The functions of a row; those of sweeps in the order of the sweeps.

    context: the values at a class → these as the others read them; None: as they are.
    lifts: a tile of classes, and which of them count → its state.
    merges: two states → one.
    betweens: the states so far → what the next sweep knows of the row; none after the last.
    starts, steps: of a sweep that is repeated (else None): the states before it → a trial; these,
        its own and the trial → the next one.
    finish: all states → results, and what is saved.
    coefficients: what was saved → the row values of the gradient.
    gradient: a tile, and which class stands apart → its gradients.
    """

    context: Function | None
    lifts: tuple[Function, ...]
    merges: tuple[Function, ...]
    betweens: tuple[Function, ...]
    starts: tuple[Function | None, ...]
    steps: tuple[Function | None, ...]
    finish: Function
    coefficients: Function
    gradient: Function


def lowered(model: RowModel) -> RowProgram:
    """The functions of a model."""
    sweeps, scalars, streams = model.sweep_models, RowScalars(model), model.tile_streams
    return RowProgram(
        context=_context(model),
        lifts=tuple(
            _by_class(model, _function(["cols", "valid", *streams, *s.values], lift(s), s.state))
            for s in sweeps
        ),
        merges=tuple(
            _by_class(model, _function(_merge_arguments(s), merge(s), s.state)) for s in sweeps
        ),
        betweens=tuple(
            _function(
                [*model.values_before, *(n for e in sweeps[: s.level] for n in e.found)],
                [*_finished(scalars, sweeps[: s.level]), *scalars.between(s.level)],
                sweeps[s.level].known,
            )
            for s in sweeps[:-1]
        ),
        starts=tuple(_start(scalars, sweeps, s) if s.roots else None for s in sweeps),
        steps=tuple(_step(scalars, sweeps, s) if s.roots else None for s in sweeps),
        finish=_function(
            [*model.values_before, *model.state],
            [*_finished(scalars, sweeps), *scalars.results()],
            [*model.outputs, *model.saved],
        ),
        coefficients=_function(
            [*model.row_context, *model.cotangents, *model.saved],
            scalars.coefficients(saved=True),
            model.coefficient_names,
        ),
        gradient=_by_class(model, _gradient(model)),
    )


def _start(scalars: RowScalars, sweeps: Sequence[Sweep], sweep: Sweep) -> Function:
    before = sweeps[: sweep.level - 1]
    return _function(
        [*scalars.model.values_before, *(n for e in before for n in e.found)],
        [*_finished(scalars, before), *scalars.started(sweep)],
        sweep.trial,
    )


def _step(scalars: RowScalars, sweeps: Sequence[Sweep], sweep: Sweep) -> Function:
    before = sweeps[: sweep.level - 1]
    given = [*scalars.model.values_before, *(n for e in before for n in e.found)]
    return _function(
        [*given, *sweep.state, *sweep.trial],
        [*_finished(scalars, sweeps[: sweep.level]), *scalars.stepped(sweep)],
        sweep.trial,
    )


def _function(arguments: Iterable[str], lines: list[Line], results: Iterable[str]) -> Function:
    return Function(tuple(dict.fromkeys(arguments)), tuple(lines), tuple(results))


def _by_class(model: RowModel, function: Function) -> Function:
    """A function that is called for each class, or state of a few: in fewer instructions."""
    if model.plan.stable.arithmetic == "float64":
        return function  # of which every operation is meant as it stands
    row = {
        *model.row_context,
        *model.coefficient_names,
        *(n for s in model.sweep_models for n in (*s.known, *s.trial)),
    }
    return fewer(function, [n for n in function.arguments if n not in row], model.vocab)


def _finished(scalars: RowScalars, sweeps: Sequence[Sweep]) -> list[Line]:
    """What stands after the last class of each sweep: what its softmaxes are apart at the largest
    class may be in units that the sweeps before it have found."""
    lines = list[Line]()
    for sweep in sweeps:
        units = {s.name for c in sweep.measured for s in c.factor.free_symbols}
        if sweep.level > 1 and not units <= set(sweep.model.row_context):
            lines += scalars.between(sweep.level - 1)
        lines += finished_maxima(sweep)
    return lines


def _context(model: RowModel) -> Function | None:
    """A row is measured from x_y where that is not masked; a masked target of a stream is far from
    the other classes, not infinitely so."""
    lines, x_y = list[Line](), Name("x_y")
    if model.needs_reference:
        lines += [
            Line("x_ref", where(x_y > MASKED, x_y, 0.0)),
            Line("x_own", x_y - Name("x_ref")),
        ]
    for name in model.floored:
        at_y = Name(f"{name}_y")
        lines.append(Line(at_y.name, where(at_y < FAR, FAR, at_y)))
    if model.needs_index:
        lines.append(Line("index_y", call("number", "y")))
    if not lines or model.pivot == "none":
        return None
    return _function(["y", *(f"{n}_y" for n in model.tile_streams)], lines, model.at_y)


def _gradient(model: RowModel) -> Function:
    lines = gradient(model)
    results = [f"grad_{g.stream}" for g in model.gradients]
    if model.pivot != "none":
        lines += [Line(name, where(Name("own"), f"{name}_y", name)) for name in results]
    return _function(
        ["cols", "own", *model.tile_streams, *model.row_context, *model.coefficient_names],
        lines,
        results,
    )


def _merge_arguments(sweep: Sweep) -> list[str]:
    sides = [f"{name}{side}" for side in ("_a", "_b") for name in sweep.state]
    return [*sweep.merge_context, *sides]
