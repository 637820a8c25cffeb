"""What the header of a generated module promises: no module is held to more, and none to less."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import ModuleType

__all__ = ["Promise", "promise_of"]

_FAR_ABOVE = 4.0  # docs/rewrites.md: a class that dominates is as far above the target


@dataclass(frozen=True)
class Promise:
    """The certificate's small print."""

    least: float = 0.0  # errors are relative to this at least
    dominated: bool = False  # relative to 1 at least where another class is far above the target
    first: bool = False  # the first class, where there is no target
    double: bool = False  # in float64: what the formula loses there as it is written, it may lose
    masked: bool = True  # a number where classes are masked
    undone: bool = False  # none where the formula as it is written overflows

    def floors(
        self,
        x: Sequence[float],
        y: int,
        classes: Mapping[str, Sequence[float]],
        scalars: Mapping[str, float],
        loss: float,
    ) -> tuple[float, float]:
        """What errors of the loss and of the gradient are relative to, at least."""
        y = 0 if self.first else y
        above = [
            v - vector[y] for vector in (x, *classes.values()) for v in vector if vector[y] > -inf
        ]
        hidden = self.first and x[0] == -inf  # any other class dominates it
        sizes = [abs(v) for v in scalars.values() if v]
        stretch = max((max(v, 1 / v) for v in sizes), default=1.0)  # an exponent may be tau * x
        if self.dominated and (hidden or max(above, default=inf) * stretch > _FAR_ABOVE):
            return max(self.least, 1.0), max(self.least, 1.0, abs(loss))
        return self.least, self.least


def promise_of(module: ModuleType) -> Promise:
    """As the file of the module has it."""
    assert module.__file__ is not None
    text = Path(module.__file__).read_text(encoding="utf-8")
    words, lines = " ".join(text.split()), text.splitlines()
    certificate = next(line for line in lines if line.startswith("# certificate: "))
    least = re.search(r"of max\(\|true value\|, ([\d.e-]+)\)", certificate)
    return Promise(
        least=float(least.group(1)) if least else 0.0,
        dominated="absolute where another class" in certificate,
        first="another class than the first" in certificate,
        undone="no number where" in certificate,
        double=any(line.startswith("# arithmetic: float64") for line in lines),
        masked="no number where" not in certificate
        and "a masked class counts in" not in words,  # mean(x) is infinite then
    )
