"""Whole row programs on rows of numbers: the functions that are printed, called as kernels call
them, in float32, or in float64 and rounded at the end.

Rows of one number of classes are computed together: a row value is [N, 1], a class value [N, V].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossgen.ir.evaluate import Real, real_of
from lossgen.ir.execute import execute
from lossgen.ir.plan import SWEEPS, KernelPlan
from lossgen.ir.rows import COTANGENTS, Row
from lossgen.lower.functions import RowProgram, lowered
from lossgen.lower.model import RowModel

__all__ = ["RoundedRows"]

Array = NDArray[Any]
Known = dict[str, Any]


@dataclass(frozen=True)
class RoundedRows:
    """Evaluates a plan: called with rows, it gives results [N, n] and gradients [N, V], one per
    differentiable stream, rounded to float32.

    ``tiles``: parts of a row that are reduced one by one and merged; 1: the whole row at once.
    """

    plan: KernelPlan
    tiles: int = 1

    @cached_property
    def model(self) -> RowModel:
        return RowModel(self.plan, "")

    @cached_property
    def functions(self) -> RowProgram:
        return lowered(self.model)

    @property
    def real(self) -> Real:
        return real_of(self.plan.stable.arithmetic)

    def __call__(self, rows: Sequence[Row]) -> tuple[Array, list[Array]]:
        known, columns = self._given(rows)
        states, known = self._reduced(known, columns)
        known |= states
        known |= execute(self.functions.finish, known, self.real)
        shape = (len(rows), 1)
        results = [np.broadcast_to(known[n], shape) for n in self.model.outputs]
        if self.model.coefficient_names:
            known |= execute(self.functions.coefficients, known, self.real)
        columns["own"] = columns["cols"] == self._pivot(known)
        slopes = execute(self.functions.gradient, known | columns, self.real)
        wide = [np.broadcast_to(v, columns["cols"].shape) for v in slopes.values()]
        with np.errstate(over="ignore"):
            gradients = [v.astype(np.float32) for v in wide]
            return np.concatenate(results, 1).astype(np.float32), gradients

    def _pivot(self, known: Known) -> Any:
        """The class [N, 1] that stands apart; -1 before it is known."""
        name = {"target": "y", "argmax": "pivot", "none": ""}[self.model.pivot]
        return known[name].astype(np.int64) if name in known else np.int64(-1)

    # ------------------------------------------------------------------ what kernels load
    def _given(self, rows: Sequence[Row]) -> tuple[Known, Known]:
        """Row values and class values by the names of the program."""
        real, model, names = self.real, self.model, self.plan.stable.vocabulary
        size, classes = len(rows), len(rows[0].x)
        along = [row.along() for row in rows]
        columns: Known = {
            pair[0].name: np.array([a[said] for a in along], real)
            for said, pair in {**names.streams, **names.vocab}.items()
            if said in along[0]
        }
        columns["cols"] = np.broadcast_to(np.arange(classes), (size, classes))
        known: Known = {"V": real(classes)}
        for symbols, values in (
            (names.parameters, [r.parameters for r in rows]),
            (names.rows, [r.rows for r in rows]),
        ):
            known |= {
                symbol.name: np.array([[v[said]] for v in values], real)
                for said, symbol in symbols.items()
                if said in values[0]
            }
        known |= dict(zip(model.cotangents, map(real, cycle(COTANGENTS)), strict=False))
        if model.pivot == "target":
            known["y"] = np.array([[row.y] for row in rows])
            known |= self._values_at(known["y"], columns)
        return known, columns

    def _values_at(self, y: Array, columns: Known) -> Known:
        """What the kernels load at the distinguished class."""
        shape, names = columns["cols"].shape, self.model.tile_streams
        wide = {n: np.broadcast_to(columns[n], shape) for n in names}
        found = {f"{n}_y": np.take_along_axis(v, y, 1) for n, v in wide.items()}
        if self.functions.context is not None:
            found |= execute(self.functions.context, found | {"y": y}, self.real)
        return found

    # ------------------------------------------------------------------ sweeps
    def _reduced(self, known: Known, columns: Known) -> tuple[Known, Known]:
        """The states of all sweeps, and what is known of the rows after them."""
        states: Known = {}
        for k, sweep in enumerate(self.model.sweep_models):
            found = self._repeated if sweep.roots else self._sweep
            states |= found(k, known | states, columns)
            if k < len(self.functions.betweens):
                known = known | execute(self.functions.betweens[k], known | states, self.real)
            if sweep.carries_pivot:
                at = states["pivot"].astype(np.int64)
                known = known | {"pivot": states["pivot"]} | self._values_at(at, columns)
        return states, known

    def _repeated(self, k: int, known: Known, columns: Known) -> Known:
        """The state of a sweep at the roots, and these."""
        start, step, state = self.functions.starts[k], self.functions.steps[k], Known()
        assert start is not None
        assert step is not None
        trial = execute(start, known, self.real)
        for _ in range(SWEEPS):
            state = self._sweep(k, known | trial, columns)
            trial = execute(step, known | state | trial, self.real)
            if not any(np.any(v > 0) for n, v in trial.items() if n.startswith("moving")):
                break
        roots = {r.symbol.name: trial[r.trial.name] for r in self.model.sweep_models[k].roots}
        return state | roots

    def _sweep(self, k: int, known: Known, columns: Known) -> Known:
        lift, merge = self.functions.lifts[k], self.functions.merges[k]
        state: Known | None = None
        columns = columns | {"valid": columns["cols"] != self._pivot(known)}
        for part in np.array_split(np.arange(columns["cols"].shape[1]), self.tiles):
            if not part.size:
                continue
            tile = {name: v[:, part] for name, v in columns.items()}
            found = execute(lift, known | tile, self.real)
            if state is not None:
                sides = _side(state, "_a") | _side(found, "_b")
                found = execute(merge, known | sides, self.real)
            state = found
        assert state is not None
        return state


def _side(state: Mapping[str, Any], side: str) -> Known:
    return {f"{name}{side}": value for name, value in state.items()}
