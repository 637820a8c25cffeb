"""Does the minimiser of the risk predict a most likely label, and at what regret if not?

A distribution at which other logits, predicting a less likely label, have the same risk shows that
the loss is not calibrated: T(β) = 0 at some β > 0 (``lossgen.properties.consistency``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lossgen.properties.conditional import conditional, softmax
from lossgen.properties.consistency import BETAS, Point, transform
from lossgen.properties.model import NO, NOT_FOUND, Statement, number, vector
from lossgen.properties.properness import distributions, minimisers
from lossgen.properties.setting import Setting

__all__ = ["calibration", "consistency", "regrets"]

_NOTHING = 1e-7  # of a regret, beside the risk's own size


def regrets(setting: Setting) -> list[Point]:
    """T at the betas of a sheet."""
    return transform(conditional(setting), (0.01, *BETAS))


def calibration(setting: Setting, points: list[Point]) -> Statement:
    """The minimiser's most likely class is q's, and by how much."""
    risk = conditional(setting)
    void = [p for p in points if p.regret <= _NOTHING * (1 + abs(risk.risk(p.free, p.q)))]
    if void:
        point = void[-1]
        because = f"no regret for predicting a label that is {number(point.beta)} less likely"
        line = f"q = {vector(point.q)}: x = {vector(point.x)} has risk"
        line += f" {number(risk.risk(point.x, point.q))}, the least found"
        line += f" is {number(risk.risk(point.free, point.q))}"
        data: dict[str, Any] = {"q": list(point.q), "x": list(point.x)}
        return Statement("calibrated", NO, "witness", because, (line,), data)
    q = distributions(setting.classes)
    x, _ = minimisers(risk, q)
    p = softmax(x[:1])[0]
    top = np.sort(p)[::-1]
    because = f"regret > 0 for every wrong prediction tried, the least {number(points[0].regret)}"
    because += f" at β = {number(points[0].beta)}"
    line = f"q = {vector(q[0].tolist())}: the minimiser p = {vector(p.tolist())} has margin"
    line += f" {number(top[0] - top[1])}"
    data = {"margin": float(top[0] - top[1])}
    return Statement("calibrated", NOT_FOUND, "search", because, (line,), data)


def consistency(setting: Setting, points: list[Point]) -> Statement:
    """T(β): the least surrogate regret found at zero-one regret β."""
    table = [{"beta": p.beta, "regret": p.regret, "q": list(p.q), "x": list(p.x)} for p in points]
    shown = ", ".join(f"{number(p.regret)}" for p in points)
    because = f"{shown} at β = {', '.join(number(p.beta) for p in points)}"
    data = {"table": table}
    return Statement("transform", "T(β) ≤", "search", because, data=data)
