"""Faults put into the PTX of kernels, each of which must show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.emulation.cases import F32, Case, outcome

__all__ = ["MUTANTS", "Mutant", "outcomes"]

#: Several warps to a row, tiles that are full and one that is not.
LONG = Case("gce", 5000, F32)


@dataclass
class Mutant:
    """What is looked for, and what takes its place: where it stands last in a kernel, or
    ``everywhere``.  ``applied``: in how many kernels it was found."""

    name: str
    pattern: str
    replacement: str
    everywhere: bool = False
    applied: int = field(default=0, init=False)

    def __call__(self, ptx: str) -> str:
        found = list(re.finditer(self.pattern, ptx))
        self.applied += bool(found)
        for at in reversed(found if self.everywhere else found[-1:]):
            ptx = ptx[: at.start()] + at.expand(self.replacement) + ptx[at.end() :]
        return ptx


MUTANTS = (
    Mutant(
        "the sign of a product",
        r"fma\.rn\.f32 \t(%\w+), (%\w+), (\S+), (\S+);",
        r"neg.f32 \1, \2; fma.rn.f32 \1, \1, \3, \4;",
    ),
    Mutant("a store without its mask", r"@%p\d+ (st\.global)", r"\1"),
    Mutant("a mask turned round", r"@%p(\d+ ld\.global\.v4)", r"@!%p\1"),
    Mutant("a comparison off by one", r"setp\.lt\.s32", "setp.le.s32", everywhere=True),
    Mutant("lanes exchanged twice", r"(shfl\.sync\.bfly\.b32 .*), 16, 31", r"\1, 8, 31"),
    Mutant("a minimum for a maximum", r"max\.f32", "min.f32"),
    Mutant("no barrier", r"bar\.sync \t0;", ""),
    Mutant("four bytes too far", r"(ld\.global\.v4\.b32 .*) \+ 0 \]", r"\1 + 4 ]"),
    Mutant("one thread for all", r"mov\.u32 \t(%\w+), %tid\.x;", r"mov.u32 \t\1, 0;"),
)


def outcomes() -> Iterator[dict[str, Any]]:
    """Of a case with each fault."""
    for mutant in MUTANTS:
        found = outcome(LONG, mutant)
        yield {**found, "fault": mutant.name, "applied": mutant.applied}
