"""Where the z of a softmax has to be finite: functions that are NaN at ±∞ and finite near it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sympy import Expr

from lossgen.ir.evaluate import evaluated
from lossgen.ir.stages import StableLoss
from lossgen.lower.constants import CLAMP
from lossgen.passes.points import parameter_points

__all__ = ["clamped"]


def clamped(stable: StableLoss) -> StableLoss:
    """The same with the clamping that it needs."""
    return replace(
        stable,
        clamp_loss=_needs_clamp(stable, list(stable.results)),
        clamp_gradient=_needs_clamp(stable, list(stable.coefficients)),
    )


def _needs_clamp(stable: StableLoss, exprs: list[Expr]) -> bool:
    """Is a function NaN at z = ±inf, but finite at ±``CLAMP``, for any parameters and with
    any statistic at 0.5?"""
    if not stable.forms:
        return False
    names = stable.vocabulary
    ends = np.array([[np.inf, -np.inf, CLAMP, -CLAMP]], np.float32)
    for expr in exprs:
        if not expr.free_symbols & {f.z for f in stable.forms}:
            continue
        used = [n for n, s in names.parameters.items() if s in expr.free_symbols]
        points = parameter_points(stable.spec, used)
        env: dict[Any, Any] = dict.fromkeys(expr.free_symbols, np.float32(0.5))
        env |= {names.parameters[n]: np.array([[p[n]] for p in points], np.float32) for n in used}
        env |= {f.z: ends for f in stable.forms}
        values = np.broadcast_to(evaluated(expr, env), (len(points), 4))
        if (np.isnan(values[:, :2]) & np.isfinite(values[:, 2:])).any():
            return True
    return False
