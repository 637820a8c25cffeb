"""A whole row program, statistics included, in mpmath, with sums as defined.

``lower.rows`` runs the program as the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import mpmath as mp
import numpy as np
from sympy import Expr, Symbol

from lossgen.ir.evaluate import evaluated, high_precision
from lossgen.ir.stages import GradedLoss, Pivot
from lossgen.ir.statistics import Max

__all__ = [
    "COTANGENTS",
    "MASKED",
    "Row",
    "classes",
    "levels",
    "over",
    "pairs",
    "raw_values",
    "rows_mpmath",
    "tile_values",
]


@dataclass(frozen=True)
class Row:
    """One row of inputs: logits, target class, and values for the other names of a program."""

    x: tuple[float, ...]
    y: int
    vocab: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, float]
    parameters: Mapping[str, float]
    streams: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # beside the logits

    def along(self) -> dict[str, tuple[float, ...]]:
        """Everything that has a value per class, by name."""
        return {"x": self.x, **self.streams, **self.vocab}


#: What a logit below this stands for is no logit.
MASKED = -4e3
#: What multiplies the outputs of a program that has several, to differentiate them at once.
COTANGENTS = (0.75, -1.25, 0.5, 2.0, -0.625, 1.5)


def pairs(program: GradedLoss) -> dict[str, tuple[Symbol, Symbol]]:
    return {**program.vocabulary.streams, **program.vocabulary.vocab}


def classes(program: GradedLoss, row: Row) -> tuple[int | None, list[int]]:
    if program.pivot is Pivot.NONE:
        return None, list(range(len(row.x)))
    y = row.y
    if program.pivot is Pivot.ARGMAX:
        names, along = pairs(program), row.along()
        env = _constants(program, row, np.float32)
        env |= {names[n][0]: np.array(along[n], np.float32) for n in names if n in along}
        y = int(np.argmax(evaluated(program.forms[0].base, env)))
    return y, [j for j in range(len(row.x)) if j != y]


def _constants(program: GradedLoss, row: Row, number: Callable[[float], Any]) -> dict[Symbol, Any]:
    names = program.vocabulary
    env: dict[Symbol, Any] = {names.classes: number(float(len(row.x)))}
    given = row.parameters
    env |= {s: number(given[n]) for n, s in names.parameters.items() if n in given}
    env |= {s: number(row.rows[n]) for n, s in names.rows.items() if n in row.rows}
    env |= {g: number(v) for g, v in zip(names.cotangents, cycle(COTANGENTS), strict=False)}
    return env


def raw_values(program: GradedLoss, row: Row, number: Callable[[float], Any]) -> dict[Symbol, Any]:
    names, env = program.vocabulary, _constants(program, row, number)
    y, _ = classes(program, row)
    if y is not None:
        along = row.along()
        env |= {s[1]: number(along[n][y]) for n, s in pairs(program).items() if n in along}
        env[names.index[1]] = number(float(y))
        env[names.x_ref] = number(row.x[y] if row.x[y] > MASKED else 0.0)
        env[names.x_own] = number(0.0 if row.x[y] > MASKED else row.x[y])
    return env


def tile_values(
    program: GradedLoss, row: Row, j: int, number: Callable[[float], Any]
) -> dict[Symbol, Any]:
    along = row.along()
    env = {s[0]: number(along[n][j]) for n, s in pairs(program).items() if n in along}
    return env | {program.vocabulary.index[0]: number(float(j))}


def levels(program: GradedLoss) -> range:
    return range(1, 1 + program.last_level)


def over(program: GradedLoss, largest: Max, others: list[int], size: int) -> list[int]:
    """The classes that a maximum runs over: an arg-max pivot is known after the first sweep."""
    all_of_them = program.pivot is not Pivot.TARGET and largest.level == 1
    return list(range(size)) if all_of_them else others


# ---------------------------------------------------------------------------- reference
def rows_mpmath(program: GradedLoss, row: Row) -> tuple[list[Any], list[list[Any]]]:
    """(results, gradient per stream) of the differentiated, not yet stabilised program."""
    number = mp.mpf
    env = raw_values(program, row, number)
    y, others = classes(program, row)
    tiles = {j: tile_values(program, row, j, number) for j in range(len(row.x))}

    def value(expr: Expr, extra: Mapping[Symbol, Any] | None = None) -> Any:
        known = env | dict(extra or {})
        symbols = sorted(expr.free_symbols, key=str)
        return high_precision(expr, symbols)(*(known[s] for s in symbols))

    for centre in program.centres if y is not None else ():
        for j in tiles if not centre.softmaxes else ():
            apart = value(centre.expr, tiles[j]) - value(centre.origin)
            tiles[j][centre.symbol] = value(centre.factor) * apart
    for level in levels(program):
        for form in (f for f in program.forms if f.level == level):
            ell_y = value(form.ell_y)
            low = mp.log(mp.fsum(mp.exp(value(form.ell, tiles[j])) for j in others))
            z = low - ell_y
            total = mp.log(mp.exp(low) + mp.exp(ell_y))
            env |= {
                form.z: z,
                form.L: total,
                form.O: low,
                form.joint: low
                - mp.fsum(value(rate * program.forms[k].L) for k, rate in form.parts),
                form.top: total - max((value(form.ell, tiles[j]) for j in others), default=low),
                form.P: 1 / (1 + mp.exp(z)),
                form.Q: 1 / (1 + mp.exp(-z)),
                form.s: mp.log1p(mp.exp(z)),
                form.r: mp.log1p(mp.exp(-z)),
            }
            env[form.m] = max((value(form.base, tiles[j]) for j in others), default=mp.mpf(0))
            for j in range(len(row.x)):
                ell = value(form.ell, tiles[j])
                tiles[j] |= {
                    form.logp: ell - total,
                    form.R: mp.exp(ell - low) if low > -mp.inf else mp.mpf(0),
                }
        for centre in (c for c in program.centres if c.softmaxes and c.level == level):
            whole = mp.fsum(sign * env[program.forms[k].L] for k, sign in centre.softmaxes)
            env[centre.lse] = whole - value(centre.factor) * value(centre.origin)
            for j in tiles:
                apart = value(centre.expr, tiles[j]) - value(centre.origin)
                tiles[j][centre.symbol] = value(centre.factor) * apart
        for entry in (e for e in program.sums if e.level == level):
            env[entry.symbol] = mp.fsum(value(entry.body, tiles[j]) for j in others)
        for largest in (m for m in program.maxes if m.level == level):
            left = over(program, largest, others, len(row.x))
            if largest.below is not None:
                left = [j for j in left if tiles[j][program.maxes[largest.below].select] == 0]
            values = [value(largest.body, tiles[j]) for j in left]
            best = max(values, default=-mp.inf)
            env[largest.symbol] = best
            first = next((j for j, v in zip(left, values, strict=True) if v == best), -1)
            env[largest.index] = number(max(first, 0))
            for j in tiles:
                tiles[j][largest.select] = mp.mpf(int(j == first))
                if largest.form is not None:
                    p = mp.exp(tiles[j][program.forms[largest.form].logp])
                    tiles[j][largest.rise] = tiles[j][largest.select] - p
    gradients = [
        [
            value(gradient.at_y)
            if j == y
            else mp.fsum(value(c) * value(b, tiles[j]) for c, b in gradient.terms)
            for j in range(len(row.x))
        ]
        for gradient in program.gradients
    ]
    return [value(e) for e in program.results], gradients
