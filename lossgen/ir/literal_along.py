"""The truth of a derivative along a row, from the literal formula that it is the derivative of.

    D = Σ_j v_j·dL/dx_j       dD/dx = (dL/dx at x + h·v - dL/dx at x - h·v) / 2h       dD/dv = dL/dx

Three passes over the tape for the second derivatives of any formula, with so many digits more that
what the step h leaves out is far below what anybody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import mpmath as mp

from lossgen.ir.literal_rules import Vector

__all__ = ["Derivatives", "along"]

_MORE = 70  # digits
_STEP = 30  # h is 10**-30, and what it leaves out about its square
_ALIKE = mp.mpf(10) ** -12
_NOTHING = mp.mpf(10) ** -45


class Derivatives(Protocol):
    """Of a weighted sum of results."""

    @property
    def real(self) -> bool: ...
    @property
    def gradients(self) -> dict[str, Vector]: ...
    @property
    def largest(self) -> Any: ...


#: Of the row's values by name, of what the results are multiplied by, and of what is held.
Original = Callable[[Mapping[str, Any], Sequence[Any], dict[int, Vector] | None], Derivatives]


def along(
    original: Original,
    by: str,
    tangent: str,
    row: Mapping[str, Any],
    cotangents: Sequence[Any],
) -> tuple[list[Any], dict[str, Vector], Any]:
    """The derivative of each result of ``original`` along ``tangent`` of ``by``, the gradients of
    their sum times ``cotangents``, and the largest number that was added to another.

    Raises:
        ValueError: the gradient has a kink there, or the results are not finite.
    """
    count, moved = len(cotangents), [mp.mpf(v) for v in row[tangent]]
    weights = [[float(i == k) for i in range(count)] for k in range(count)]
    each = [original(row, own, None) for own in weights]
    if not all(one.real for one in each):
        raise ValueError("nothing to be differentiated")
    results = [mp.fdot(zip(moved, one.gradients[by], strict=True)) for one in each]
    with mp.workdps(max(mp.mp.dps, _STEP) + _MORE):
        h = mp.mpf(10) ** -_STEP
        held: dict[int, Vector] = {}  # as autograd holds what is detached
        here = original(row, cotangents, held)
        ahead, behind = (original(_at(row, by, moved, step), cotangents, held) for step in (h, -h))
        gradients = {
            name: [_slope(*g, h) for g in zip(here.gradients[name], *sides, strict=True)]
            for name in here.gradients
            for sides in [(ahead.gradients[name], behind.gradients[name])]
        }
    gradients[tangent] = here.gradients[by]
    return results, gradients, max(one.largest for one in each)


def _at(row: Mapping[str, Any], by: str, moved: Vector, step: Any) -> dict[str, Any]:
    return {**row, by: [mp.mpf(a) + step * v for a, v in zip(row[by], moved, strict=True)]}


def _slope(here: Any, ahead: Any, behind: Any, h: Any) -> Any:
    """Of a number between two others. Raises ValueError where its sides have not the same."""
    one, other = (ahead - here) / h, (here - behind) / h
    if not abs(one - other) <= _ALIKE * max(abs(one), abs(other)) + _NOTHING:
        raise ValueError("a kink")
    return (one + other) / 2
