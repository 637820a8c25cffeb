"""What a label leaves of a probability, or of its logarithm, where the two agree.

    softplus(u) - t·u              →   t·softplus(-u) + (1 - t)·softplus(u)       0 <= t <= 1
    σ(u) - t                       →   (1 - t)·σ(u) - t·σ(-u)
    softplus(u) - where(c, u, b)   →   softplus(s·u) - where(c, 0, b)        s = where(c, -1, 1)
    σ(u) - where(c, 1, b)          →   s·σ(s·u) - where(c, 0, b)             so of a t of 0 and 1
    Σ a - Σ b                      →   Σ (a - b)       where one of these applies

On rows that are sure of every label both terms are large and what is left is small.  P is the σ of
its own softmax, and Q what it leaves of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from sympy import Add, Expr, Integer, Mul

from lossgen.ir.ops import sigmoid, softplus, where

if TYPE_CHECKING:
    from lossgen.passes.subsets import Subsets

__all__ = ["Labels"]

#: (f(u), what it is less, f(u) less that)
Part = tuple[Expr, Expr, Expr]


class Labels:
    """The rules, beside those of ``subsets``."""

    def __init__(self, subsets: Subsets) -> None:
        self.subsets = subsets

    def total(self, expr: Expr) -> Expr:
        """A sum in its accurate form."""
        if not isinstance(expr, Add):
            return expr
        for term in expr.args:
            for part in self._parts(term):
                scale = term / part[0]
                for other in expr.args:
                    left = None if other is term else self._left(part, -other / scale)
                    if left is not None:
                        return self.total(expr - term - other + scale * left)
        return self._of_sums(expr)

    def _parts(self, term: Expr) -> list[Part]:
        halves = {f.P: f.Q for f in self.subsets.built.forms}
        found: list[Part] = []
        for factor in Mul.make_args(term):
            if isinstance(factor, softplus):
                u = factor.args[0]
                found.append((factor, u, softplus(-u)))
            elif isinstance(factor, sigmoid):
                found.append((factor, Integer(1), -sigmoid(-factor.args[0])))
            elif factor in halves:
                found.append((factor, Integer(1), -halves[factor]))
        return found

    def _left(self, part: Part, taken: Expr) -> Expr | None:
        """f(u) - taken, if that is known where the label says so."""
        node, whole, left = part
        share = taken / whole
        if self._is_label(share, isinstance(node, softplus)):
            if self.subsets.is_bit(share):
                return _chosen(part, share, (True, False))
            return share * left + (1 - share) * node
        nodes = [f for f in Mul.make_args(taken) if isinstance(f, where)]
        if len(nodes) != 1:
            return None
        scale = taken / nodes[0]
        c, *branches = nodes[0].args
        agrees = [branch != 0 and scale * branch == whole for branch in branches]
        if not any(agrees):
            return None
        rest = where(c, *(0 if same else b for same, b in zip(agrees, branches, strict=True)))
        return _chosen(part, c, agrees) - scale * rest

    def _is_label(self, share: Expr, may_be_fixed: bool) -> bool:
        """Is it between 0 and 1, and no number; nor, unless it may be, a parameter, as a margin?"""
        fixed = set(self.subsets.built.vocabulary.parameters.values())
        if share.is_number or (share.free_symbols <= fixed and not may_be_fixed):
            return False
        return self.subsets.is_share(share)

    def _of_sums(self, expr: Expr) -> Expr:
        """Two sums over the same classes as one, where their bodies make one."""
        bodies = {s.symbol: s.body for s in self.subsets.built.sums if s.form is None}
        held = [(t, *t.as_coeff_Mul()) for t in expr.args]
        sums = [(t, number, bodies[s]) for t, number, s in held if s in bodies]
        for (one, a, body), (other, b, taken) in permutations(sums, 2):
            if not body.has(softplus, sigmoid):
                continue
            plain = a * body + b * taken
            joint = self.total(plain)
            if joint != plain:
                return self.total(expr - one - other + self.subsets.built.sum(joint))
        return expr


def _chosen(part: Part, condition: Expr, agrees: Sequence[bool]) -> Expr:
    """What is left where the label agrees, and f(u) elsewhere."""
    node, _, left = part
    sign = where(condition, *(-1 if same else 1 for same in agrees))
    if isinstance(node, softplus):
        return softplus(sign * node.args[0])
    if isinstance(node, sigmoid):
        return sign * sigmoid(sign * node.args[0])
    return where(condition, *(left if same else node for same in agrees))
