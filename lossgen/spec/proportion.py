"""How a term grows with an input: which terms a mean weighs and which it counts.

weight[y] * logp[y]   →   1, in weight     logsumexp(x)**2   →   0    weight[y] + logp[y]   →   None
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from lossgen.errors import SpecError
from lossgen.spec.expr import Call, Expr, NameKind, walk
from lossgen.spec.model import Input, Term
from lossgen.spec.vocabulary import ROOT

__all__ = ["BadCountedTerm", "degree", "disproportion"]


class BadCountedTerm(SpecError):
    id = "LG156"
    template = "a term with `normalizer: 1` has no place beside {problem}"
    advice = (
        "every input of the loss's normalizer (domain [0, inf)) must be a factor of it and of each "
        "term, and must not occur in those with `normalizer: 1`"
    )


#: f(k·a) = k·f(a) for every k > 0.
_HOMOGENEOUS = frozenset(
    {"sum", "mean", "max", "second_max", "norm", "abs", "relu", "stop_gradient"}
)
_ALIKE = frozenset({"maximum", "minimum"})


def disproportion(
    terms: tuple[Term, ...],
    normalizer: Expr | None,
    let: Mapping[str, Expr],
    shared: Mapping[str, Input],
) -> str | None:
    """Why terms cannot be counted: what does not grow with the normalizer's inputs ``shared``."""
    if normalizer is None or not shared:
        return "a loss without weights, whose mean is over rows anyway"
    for name, entry in shared.items():
        if not _scalable(entry):
            return f"the input '{name}', whose multiples are not values of it"
        if entry.off not in (None, 1):
            return f"the input '{name}', which is {entry.off:g} where it is absent"
        if degree(normalizer, let, name) != 1:
            return f"a normalizer that is not proportional to '{name}'"
        for term in terms:
            if degree(term.expr, let, name) != int(not term.counted):
                relation = "not independent of" if term.counted else "not proportional to"
                return f"the term '{term.name or term.role}', which is {relation} '{name}'"
    return None


def _scalable(entry: Input) -> bool:
    """Whether every positive multiple of a value of the input is a value of it."""
    if entry.kind == "class" or entry.integer or entry.values:
        return False
    ends = (entry.domain.lo, entry.domain.hi) if entry.domain else ()
    return all(end == 0 or math.isinf(end) for end in ends)


def degree(expr: Expr, let: Mapping[str, Expr], name: str) -> int | None:
    """``d`` where the value is multiplied by k**d as the input is by k > 0; None: by neither."""
    return walk(expr, _Degrees(let, name))


class _Degrees:
    """The Algebra of degrees."""

    def __init__(self, let: Mapping[str, Expr], scaled: str) -> None:
        self.let, self.scaled = let, scaled

    def number(self, value: Fraction) -> int | None:
        return 0

    def name(self, name: str, kind: NameKind) -> int | None:
        if kind is NameKind.LET:
            return walk(self.let[name], self)
        return int(name == self.scaled)

    def negate(self, operand: int | None) -> int | None:
        return operand

    def binary(self, op: str, left: int | None, right: int | None) -> int | None:
        if left is None or right is None:
            return None
        match op:
            case "*":
                return left + right
            case "/":
                return left - right
            case "**":
                return 0 if left == right == 0 else None
        return left if left == right else None

    def compare(self, op: str, left: int | None, right: int | None) -> int | None:
        return 0 if left == right and left is not None else None

    def gather(self, vector: int | None) -> int | None:
        return vector

    def call(self, node: Call, args: tuple[int | None, ...]) -> int | None:
        if node.func in ROOT:
            return None  # whatever its equation is made of
        if node.func in _HOMOGENEOUS:
            return args[0]
        same = args[1:] if node.func == "where" else args
        if node.func in _ALIKE or (node.func == "where" and args[0] == 0):
            return same[0] if len(set(same)) == 1 else None
        return 0 if set(args) == {0} else None
