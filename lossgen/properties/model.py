"""What a property sheet holds: one statement for each property, with a proof or a witness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NO", "NOT_FOUND", "YES", "Statement", "number", "vector"]

YES, NO = "yes", "no"
#: The verdict of a search that found nothing against a property: less than yes.
NOT_FOUND = "not refuted"


@dataclass(frozen=True)
class Statement:
    """What is said about one property.

    ``basis`` says what stands behind the verdict: "proof" (an argument that was carried out on
    the formula), "witness" (numbers that show it), "search" (nothing else was found in so many
    tries), or nothing where the property does not apply.
    """

    name: str
    verdict: str
    basis: str = ""
    because: str = ""
    witness: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "property": self.name,
            "verdict": self.verdict,
            "basis": self.basis,
            "because": self.because,
            "witness": list(self.witness),
            **self.data,
        }


def number(value: float) -> str:
    """Four digits; infinities as ∞, and zeros that are rounding errors as 0."""
    value = float(value)
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "-∞"
    text = f"{0.0 if abs(value) < 1e-12 else value:.4g}"
    return "0" if text == "-0" else text


def vector(values: Sequence[float]) -> str:
    """(0.6, 0.3, 0.1)."""
    return f"({', '.join(number(v) for v in values)})"
