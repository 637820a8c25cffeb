"""All the functions of one variant of a loss, with what they take and return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lossgen.ir.program import Function, Line
from lossgen.lower.merge import merge
from lossgen.lower.model import RowModel, Sweep
from lossgen.lower.scalars import RowScalars
from lossgen.lower.sweep import gradient, lift

__all__ = ["RowProgram", "lowered"]


@dataclass(frozen=True)
class RowProgram:
    """The functions of a row; those of sweeps in the order of the sweeps.

    lifts: a tile of classes → its state.
    merges: two states → one.
    betweens: the states so far → what the next sweep knows of the row; none after the last.
    finish: all states → results, and what is saved.
    coefficients: what was saved → the row values of the gradient.
    gradient: a tile → its gradients, before the values at y are written.
    """

    lifts: tuple[Function, ...]
    merges: tuple[Function, ...]
    betweens: tuple[Function, ...]
    finish: Function
    coefficients: Function
    gradient: Function


def lowered(model: RowModel) -> RowProgram:
    """The functions of a model."""
    sweeps, scalars = model.sweep_models, RowScalars(model)
    state = set(model.state)
    finished = [n for n in model.saved if n not in state]
    pivot = ["pivot", *model.at_y] if model.pivot == "argmax" else []
    results = [f"grad_{g.stream}" for g in model.gradients]
    return RowProgram(
        lifts=tuple(_function(_lift_arguments(s), lift(s), s.state) for s in sweeps),
        merges=tuple(_function(_merge_arguments(s), merge(s), s.state) for s in sweeps),
        betweens=tuple(
            _function(
                [*model.row_context, *(n for e in sweeps[: s.level] for n in e.state)],
                scalars.between(s.level),
                sweeps[s.level].known,
            )
            for s in sweeps[:-1]
        ),
        finish=_function(
            [*model.row_context, *model.state], scalars.results(), [*model.outputs, *finished]
        ),
        coefficients=_function(
            [*model.row_context, *model.cotangents, *model.saved],
            scalars.coefficients(saved=True),
            model.coefficient_names,
        ),
        gradient=_function(
            ["cols", *_target(model), *pivot, *model.tile_context, *model.coefficient_names],
            gradient(model),
            results,
        ),
    )


def _function(arguments: Iterable[str], lines: list[Line], results: Iterable[str]) -> Function:
    return Function(tuple(dict.fromkeys(arguments)), tuple(lines), tuple(results))


def _target(model: RowModel) -> list[str]:
    return ["y"] if model.pivot == "target" else []


def _lift_arguments(sweep: Sweep) -> list[str]:
    return ["cols", "inside", *_target(sweep.model), *sweep.context]


def _merge_arguments(sweep: Sweep) -> list[str]:
    sides = [f"{name}{side}" for side in ("_a", "_b") for name in sweep.state]
    return [*sweep.merge_context, *sides]
