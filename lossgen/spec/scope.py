"""What the names of a formula may mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lossgen.spec.domain import Interval
from lossgen.spec.expr import NameKind, Rank

__all__ = ["Scope"]


@dataclass(frozen=True)
class Scope:
    """The names that a formula may use besides the language's own words."""

    names: Mapping[str, tuple[NameKind, Rank]] = field(default_factory=dict)
    integers: Mapping[str, Interval] = field(default_factory=dict)  # integer parameters' domains
    later: frozenset[str] = frozenset()  # lets that are declared further down
    outputs: frozenset[str] = frozenset()  # results of the spec, which no formula may use
    batch: bool = False  # may it sum over the rows of a batch?
