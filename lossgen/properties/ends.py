"""What the gradient does at the two ends: where the target is hopeless, and where it is certain.

∂loss/∂x_y with the other classes alike, of the formula in mpmath, far out: a limit, or the power of
p_y (or of 1 − p_y) with which it vanishes or grows.
"""

from __future__ import annotations

from typing import Any

import mpmath as mp

from lossgen.properties.model import Statement, number
from lossgen.properties.setting import Setting

__all__ = ["ends"]

_FAR = (60.0, 120.0)  # how far the target's logit is from the others
_DIGITS = 220
_CONSTANT = 2e-3  # of a power: less is 0


def ends(setting: Setting) -> Statement:
    """∂loss/∂x_y as p_y → 0 and as p_y → 1."""
    parts, data = [], {}
    for sign, where, power_of in ((-1, "p_y → 0", "p_y"), (1, "p_y → 1", "(1 − p_y)")):
        try:
            limit, power = _end(setting, sign)
        except (ArithmeticError, ValueError, TypeError):
            parts.append(f"not known as {where}")
            continue
        shown = number(limit) if power == 0 else f"{number(limit)}, like {power_of}^{number(power)}"
        parts.append(f"{shown} as {where}")
        data[where] = {"limit": limit, "power": power}
    return Statement("gradient at the ends", "∂loss/∂x_y →", "search", "; ".join(parts), data=data)


def _end(setting: Setting, sign: int) -> tuple[float, float]:
    """The limit, and the power with which it is approached; 0 where it is a number but 0."""
    slopes = [_slope(setting, sign * far) for far in _FAR]
    if all(s == 0 for s in slopes):
        return 0.0, 0.0
    if any(s == 0 for s in slopes):
        raise ValueError
    power = float(mp.log(abs(slopes[1] / slopes[0])) / (_FAR[0] - _FAR[1]))
    if abs(power) < _CONSTANT:
        return float(slopes[1]), 0.0
    limit = 0.0 if power > 0 else float(mp.sign(slopes[1]) * mp.inf)
    return limit, round(power, 1 if abs(power - round(power, 1)) < 0.03 else 2)


def _slope(setting: Setting, at: float) -> Any:
    x = [at] + [0.0] * (setting.classes - 1)
    return setting.precise(x, 0, digits=_DIGITS)[1][0]
