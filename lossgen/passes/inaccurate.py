"""The refusal of a loss that no arithmetic holds to its bound: what is off, where, what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lossgen.errors import CompileError, Location
from lossgen.ir.stages import StableLoss
from lossgen.spec.model import LossSpec

__all__ = ["Inaccurate", "check_defaults"]


_ONE_CLASS = re.compile(r"logits \[[^,]*\]")  # in the words for a row


class Inaccurate(CompileError):
    """Loss or gradient is farther from the truth than the bound allows."""

    template = "{of}the {which} is not accurate in {arithmetic}: {judged}"

    def __init__(
        self,
        *,
        of: str = "",
        location: Location | None = None,
        enough: float | None = None,
        **fields: Any,
    ) -> None:
        self.fields = fields
        self.cheapest: StableLoss | None = None
        self.narrow = 0.0
        scaled = float(fields["scaled"]) if enough is None else enough
        judged = _judged(**fields)
        hint = _enough(scaled, masked="-inf" in fields["where"])
        if _ONE_CLASS.search(fields["where"]):
            hint += "; if a row of one class makes no sense, say so in the spec: `min_classes: 2`"
        super().__init__(of=of, location=location, hint=hint, judged=judged, **fields)

    def of_rungs(self, cheapest: StableLoss, narrow: float) -> Inaccurate:
        """The same, with the program that was tried first, and how far off float32 is."""
        self.cheapest, self.narrow = cheapest, narrow
        return self

    @property
    def scaled(self) -> float:
        """The error in ulp, divided by 1 + condition number."""
        return float(self.fields["scaled"])

    def at(self, location: Location, what: str, enough: float) -> Inaccurate:
        """The same, with its place, the part of the loss that is to blame ("" is all of it), and
        the bound that the worst rows keep."""
        of = f"of {what}, " if what else ""
        return type(self)(of=of, location=location, enough=enough, **self.fields)


def _judged(*, ulp: float, scaled: float, where: str, bound: float, **_: Any) -> str:
    """The error, in words."""
    if not math.isfinite(ulp):
        return f"it is not finite at {where}"
    times = f"which is {scaled:.3g} times (1 + condition number)"
    return f"off by {ulp:.3g} ulp, {times}, at {where}; {bound:g} are allowed"


def _enough(scaled: float, masked: bool) -> str:
    """What to do about an error of so many ulp, at a row with or without a masked class."""
    if scaled == math.inf and masked:
        return (
            "a class at -inf makes it, or a value on the way to it, 0·∞ or ∞ - ∞: leave it out of "
            "what it must not spoil, as in norm(where(x > -1e4, x, 0)); no bound accepts this"
        )
    if scaled == math.inf:
        return (
            "it, or a value on the way to it, overflows, or is 0·∞ or ∞ - ∞: narrow the domain of "
            "a parameter or an input, or bound the logits there, as in exp(clip(x, -50, 50)); no "
            "bound accepts this"
        )
    digits = 10 ** (math.floor(math.log10(scaled)) - 1)
    bound = math.ceil(scaled * 1.2 / digits) * digits
    return (
        "large terms of nearly equal size leave few digits; narrow the domain of a parameter or an "
        f'input, or state that it is enough: `accuracy: {{ulp: {bound:g}, reason: "..."}}`'
    )


def check_defaults(spec: LossSpec, tried: Iterable[Mapping[str, float]]) -> None:
    """Refuse a loss that is a number for some parameters, and for the defaults never.

    Args:
        tried: the parameters of the points where the true loss is a finite real number.

    Raises:
        CompileError: at the default that is to blame.
    """
    apart = [
        {n for n, v in point.items() if v != float(np.float32(spec.parameters[n].default))}
        for point in tried
    ]
    if not apart or not all(apart):
        return
    name = sorted(sorted(apart, key=len)[0])[0]
    default = spec.parameters[name].default
    raise CompileError(
        f"the loss is infinite, or no number, at the default {name} = {default:g}",
        location=spec.location_of_value("parameters", name, "default"),
        hint="choose a default for which the formula has a value, or write its limit there with "
        "where(…)",
    )
