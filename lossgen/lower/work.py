"""What a class costs in a row program: operations, counted on the functions that run per tile.

An elementwise function counts as four operations, as its exponential or logarithm takes a unit that
data-centre GPUs have a quarter as many of; an operation in float64 as two.
"""

from __future__ import annotations

from lossgen.ir.plan import KernelPlan
from lossgen.ir.program import COMPARISONS, LOGIC, REDUCTIONS, Call, walk
from lossgen.lower.functions import lowered
from lossgen.lower.model import RowModel

__all__ = ["work_of"]

_PLAIN = {*COMPARISONS, *LOGIC, *REDUCTIONS, "+", "-", "*", "neg", "select", "fmax", "fmin"}
_PLAIN |= {"number", "index", "take", "put", "reciprocal"}
_FUNCTION = 4
_WIDE = 2


def work_of(plan: KernelPlan) -> float:
    """Operations per class, of all sweeps and the gradient."""
    program = lowered(RowModel(plan, ""))
    functions = (*program.lifts, program.gradient)
    nodes = [n for f in functions for line in f.lines for n in walk(line.value)]
    count = sum(1 if n.op in _PLAIN else _FUNCTION for n in nodes if isinstance(n, Call))
    return count * (_WIDE if plan.stable.arithmetic == "float64" else 1)
