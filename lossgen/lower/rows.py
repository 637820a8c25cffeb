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
from lossgen.ir.plan import KernelPlan
from lossgen.ir.rows import COTANGENTS, Row
from lossgen.ir.statistics import Form
from lossgen.lower.constants import FAR, MASKED
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
        known |= self._reduced(known, columns)
        known |= execute(self.functions.finish, known, self.real)
        shape = (len(rows), 1)
        results = [np.broadcast_to(known[n], shape) for n in self.model.outputs]
        if self.model.coefficient_names:
            known |= execute(self.functions.coefficients, known, self.real)
        slopes = execute(self.functions.gradient, known | columns, self.real)
        gradients = [self._written(known, columns, n, v) for n, v in slopes.items()]
        with np.errstate(over="ignore"):
            return np.concatenate(results, 1).astype(np.float32), gradients

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
        columns["inside"] = np.ones((size, classes), np.bool_)
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
        wide = {n: np.broadcast_to(v, columns["cols"].shape) for n, v in columns.items()}
        found = {f"{n}_y": np.take_along_axis(v, y, 1) for n, v in wide.items()}
        real, x_y = self.real, found["x_y"]
        found["x_ref"] = np.where(x_y > real(MASKED), x_y, real(0))
        found["x_own"] = x_y - found["x_ref"]
        found |= {f"{n}_y": np.fmax(found[f"{n}_y"], real(FAR)) for n in self.model.floored}
        return found | {"index_y": y.astype(real)}

    # ------------------------------------------------------------------ sweeps
    def _reduced(self, known: Known, columns: Known) -> Known:
        """The states of all sweeps."""
        found: Known = {}
        for k, sweep in enumerate(self.model.sweep_models):
            found |= self._sweep(k, known | found, columns)
            found |= {m: _finite(found[m], self.real) for m in map(_maximum, sweep.forms)}
            if k < len(self.functions.betweens):
                found |= execute(self.functions.betweens[k], known | found, self.real)
            if sweep.carries_pivot:
                found |= self._values_at(found["pivot"].astype(np.int64), columns)
        return found

    def _sweep(self, k: int, known: Known, columns: Known) -> Known:
        lift, merge = self.functions.lifts[k], self.functions.merges[k]
        state: Known | None = None
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

    def _written(self, known: Known, columns: Known, name: str, values: Any) -> Array:
        """A gradient, with its value at y."""
        found = np.broadcast_to(values, columns["cols"].shape).astype(self.real)
        if self.model.pivot != "none":
            y = known["y" if self.model.pivot == "target" else "pivot"].astype(np.int64)
            at_y = np.broadcast_to(known[f"{name}_y"], y.shape)
            np.put_along_axis(found, y, at_y.astype(self.real), 1)
        with np.errstate(over="ignore"):
            return found.astype(np.float32)


def _side(state: Mapping[str, Any], side: str) -> Known:
    return {f"{name}{side}": value for name, value in state.items()}


def _maximum(form: Form) -> str:
    return f"m{form.index}"


def _finite(maximum: Any, real: Real) -> Any:
    """0 where there is no other class."""
    return np.where(np.isneginf(maximum), real(0), maximum)
