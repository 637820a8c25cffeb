"""Random names of parameters and inputs: the loss must not depend on them, in any target."""

from __future__ import annotations

from tests.campaign.names import NAMES, check, random_names
from tests.campaign.outcome import Outcome

__all__ = ["case"]


def case(seed: int, index: int) -> Outcome:
    """The names that a person would try, then random ones."""
    names = NAMES[index] if index < len(NAMES) else random_names(1_000_003 * seed + index)
    try:
        check(names, ("c", "torch"))
    except Exception as error:
        return Outcome("wrong", type(error).__name__, f"{names}: {error}")
    return Outcome("right", "", " ".join(names))
