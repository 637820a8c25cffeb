"""What became of a case, as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["Outcome"]

#: Verdicts that a campaign must not end with.
BAD = frozenset({"wrong", "crash", "bug", "slow"})


@dataclass(frozen=True)
class Outcome:
    """``verdict``: right, refused, or one of ``BAD``.

    ``kind`` groups findings (an error's id, a backend); ``detail`` is enough to run it again.
    """

    verdict: str
    kind: str = ""
    detail: str = ""
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return self.verdict in BAD

    def line(self) -> str:
        return json.dumps(asdict(self))
