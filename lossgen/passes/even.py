"""Softmaxes of what all classes but the target have alike, as a·onehot: numbers of the row.

log Σ exp(e)   →   logaddexp(e_y, e + log(V - 1))          e + log V without a target
over=others    →   e + log(V - 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sympy import Expr, Integer, exp, log, oo

from lossgen.ir.ops import logaddexp, maximum
from lossgen.ir.stages import Cls, Pivot

if TYPE_CHECKING:
    from lossgen.passes.reductions import Reductions

__all__ = ["even"]


def even(func: str, value: Cls, others: bool, built: Reductions) -> Cls | Expr | None:
    """softmax, log_softmax or logsumexp of ``value``; None where its classes differ."""
    if built.varies(value.o):
        return None
    classes = built.vocabulary.classes
    rest = value.o + log(classes - 1)
    if func == "logsumexp":
        return rest if others else _total(value, rest, built)
    if others:
        count = maximum(classes - 1, 1)
        return Cls(1 / count, Integer(0)) if func == "softmax" else Cls(-log(count), -oo)
    total = _total(value, rest, built)
    logs = Cls(value.o - total, value.y - total)
    return logs if func == "log_softmax" else Cls(exp(logs.o), exp(logs.y))


def _total(value: Cls, rest: Expr, built: Reductions) -> Expr:
    if built.pivot is Pivot.NONE:
        return value.o + log(built.vocabulary.classes)
    return logaddexp(value.y, rest)
