"""Where a loss is measured: parameters at the ends of their domains."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lossgen.spec.model import LossSpec

__all__ = ["parameter_points"]


def parameter_points(spec: LossSpec, names: Iterable[str]) -> list[dict[str, float]]:
    """The defaults, and each parameter at and near the ends of its range (or else of its domain),
    one at a time."""
    chosen = list(names)
    defaults = {n: float(np.float32(spec.parameters[n].default)) for n in chosen}
    points = [defaults]
    for name in chosen:
        entry = spec.parameters[name]
        domain, default = entry.tested, float(entry.default)
        default = default if np.isfinite(default) else 1.0  # as of a cap that caps nothing
        low = domain.lo if np.isfinite(domain.lo) else -4.0 * max(1.0, abs(default))
        high = domain.hi if np.isfinite(domain.hi) else 4.0 * max(1.0, abs(default))
        step = (high - low) * 2.0**-10
        ends = [low + step if domain.lo_open else low, high - step if domain.hi_open else high]
        ends += [low + 0.37 * (high - low), low + 0.8 * (high - low)]
        for end in ends:
            value = float(round(end)) if entry.integer else float(np.float32(end))
            if domain.contains(value) and value != defaults[name]:
                points.append(defaults | {name: value})
    return points
