"""The largest errors that a certificate has met, and what an error is."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np

from lossgen.ir.rows import Row
from lossgen.ir.stages import Certificate
from lossgen.passes.inaccurate import Inaccurate
from lossgen.spec.model import LossSpec

__all__ = ["ALIKE", "BOUND", "ENOUGH", "LARGEST", "LEAST", "TINY", "Worst", "off"]

BOUND = 4.0  # unless the spec states another
ENOUGH = 16.0  # where no program meets it: sooner than twice the time in float64, or a refusal
TINY = 1e-37
#: In float64 terms of size 10 cancel to 4 ulp of this: what float64 autograd of the formula gives.
LEAST = 1e-8
ALIKE = 8.0  # times what the formula as written loses in float64: another order of evaluation
_ULP = 2.0**-23
#: What dominates a row: without a target the pivot is class 0, where there is one of its own.
_OTHER = {True: "another class", False: "another class than the first"}
LARGEST = mp.mpf(2) ** 128 * (1 - mp.mpf(2) ** -25)  # from here on float32 rounds to ∞


class Worst:
    """The largest errors so far."""

    def __init__(
        self,
        spec: LossSpec,
        arithmetic: str = "float32",
        masks: str = "limit",
        bound: float = BOUND,
    ) -> None:
        self.arithmetic, self.masks, self.has_target = arithmetic, masks, spec.has_target
        self.scale = spec.accuracy.scale if spec.accuracy else 0.0
        if arithmetic == "float64":
            self.scale = max(self.scale, LEAST)
        self.strict = {"loss": (0.0, 0.0), "gradient": (0.0, 0.0)}  # relative on every row
        self.bound = spec.accuracy.ulp if spec.accuracy else bound
        self.loss = (0.0, 0.0, "")
        self.gradient = (0.0, 0.0, "")
        self.rows: dict[str, Row] = {}  # where they were found
        self.points = 0
        self.real = 0  # how often the true loss was a finite real number

    def unit(self, gold: Any) -> Any:
        """What an error of a number is relative to."""
        return max(abs(gold), mp.mpf(self.scale), mp.mpf(TINY))

    def ulp(self, error: Any, unit: Any) -> float:
        """An error in ulp of what it is relative to."""
        return float(error / unit / _ULP) if mp.isfinite(error) else float("inf")

    def add(
        self, which: str, error: float, kappa: float, where: str, row: Row | None = None
    ) -> None:
        scaled = error / (1.0 + kappa)
        if scaled > getattr(self, which)[1]:
            setattr(self, which, (error, scaled, where))
            if row is not None:
                self.rows[which] = row

    def add_strict(self, which: str, error: float, kappa: float) -> None:
        """The same, relative to the true value where another class dominates too."""
        if error / (1.0 + kappa) > self.strict[which][1]:
            self.strict[which] = error, error / (1.0 + kappa)

    def check(self) -> None:
        """Raises Inaccurate where the bound is exceeded."""
        if max(self.loss[1], self.gradient[1]) <= self.bound:
            return
        which = "loss" if self.loss[1] >= self.gradient[1] else "gradient"
        ulp, kappa, where = self.loss if which == "loss" else self.gradient
        raise Inaccurate(
            which=which,
            ulp=ulp,
            scaled=kappa,
            where=where,
            bound=self.bound,
            arithmetic=self.arithmetic,
        )

    def certificate(self) -> Certificate:
        """What holds of every row, if it is within the bound; else with errors that are relative to
        1 at least, a gradient's to the loss, on the rows where another class dominates."""
        dominated = max(scaled for _, scaled in self.strict.values()) > self.bound
        found = {"loss": self.loss[:2], "gradient": self.gradient[:2]}
        (loss, loss_kappa), (gradient, gradient_kappa) = (
            found if dominated else self.strict
        ).values()
        return Certificate(
            loss_ulp=loss,
            loss_kappa=loss_kappa,
            gradient_ulp=gradient,
            gradient_kappa=gradient_kappa,
            points=self.points,
            bound=self.bound,
            scale=self.scale,
            masks=self.masks,
            dominated=_OTHER[self.has_target] if dominated and self.scale < 1.0 else "",
        )


def off(value: float, gold: Any) -> Any:
    """The error of a float32 number; a true value that float32 cannot hold is rightly ±inf."""
    if np.isfinite(value):
        return abs(mp.mpf(value) - gold)
    beyond = np.isinf(value) and abs(gold) >= LARGEST and (value > 0) == (gold > 0)
    return mp.mpf(0) if beyond else mp.inf
