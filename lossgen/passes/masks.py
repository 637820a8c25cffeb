"""What a class at -∞ is not left out of, though its probability is 0.

    norm(x), mean(x), sum((x - t)**2)     a masked class makes them infinite
    sum(p * x), sum(relu(x)), max(x)      it does not

A reduction whose argument mentions the logits themselves is tried at a row with one class far below
the others: it counts that class if the argument grows there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lossgen.ir.literal import formula
from lossgen.ir.rows import Row
from lossgen.passes.samples import is_free, plain_rows
from lossgen.spec.expr import Call, Expr, Name, NameKind, children
from lossgen.spec.model import LossSpec
from lossgen.spec.trees import nodes, unknowns

__all__ = ["counted_masks"]

_ADDS = ("sum", "mean", "norm")
_SOFT = ("softmax", "log_softmax")
_FAR = 1e6


def counted_masks(spec: LossSpec) -> list[str]:
    """The reductions that count a masked class, as the author wrote them, each once."""
    row = plain_rows((spec,))[0]
    at = (row.y + 1) % len(row.x)
    near, far = (_masked(spec, row, at, -k * _FAR) for k in (1, 2))
    found = []
    for label, expr in _formulas(spec):
        for node in nodes(expr):
            if not isinstance(node, Call) or node.func not in _ADDS or not _is_raw(node, spec):
                continue
            if unknowns(node):  # it has a value where its equation is solved alone
                continue
            values = [_value(spec, node.args[0], moved, at) for moved in (near, far)]
            if None not in values and abs(values[1]) > 1.5 * abs(values[0]) > 1:
                found.append(spec.formulas[label].text[node.span.start : node.span.end])
    return list(dict.fromkeys(found))


def _formulas(spec: LossSpec) -> Iterator[tuple[str, Expr]]:
    yield from spec.let.items()
    yield from ((term.name or term.role, term.expr) for term in spec.terms)
    yield from ((output.name, output.expr) for output in spec.outputs)


def _is_raw(expr: Expr, spec: LossSpec) -> bool:
    """Does it mention the logits other than in a softmax?"""
    if isinstance(expr, Name):
        if expr.kind is NameKind.LET:
            return _is_raw(spec.let[expr.name], spec)
        return expr.kind is NameKind.LOGITS
    if isinstance(expr, Call) and expr.func in _SOFT:
        return False
    return any(_is_raw(child, spec) for child in children(expr))


def _masked(spec: LossSpec, row: Row, at: int, far: float) -> Row:
    """The row with a class far below the others, in other rows of logits too; an input that may be
    0 leaves it out."""
    streams = {}
    for name, values in row.streams.items():
        entry = spec.inputs[name]
        zero = 0.0 in entry.values or (entry.domain is not None and entry.domain.contains(0.0))
        own = 1.25 * far if is_free(entry) else 0.0 if zero else values[at]
        streams[name] = _with(values, at, own)
    return replace(row, x=_with(row.x, at, far), streams=streams)


def _with(values: tuple[float, ...], at: int, value: float) -> tuple[float, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _value(spec: LossSpec, expr: Expr, row: Row, at: int) -> Any:
    """Of the masked class; None where the formula has none."""
    given = {**row.rows, **row.vocab, **row.streams}
    try:
        value = formula(spec, expr, row.x, row.y, given)
    except (ZeroDivisionError, ValueError, TypeError, OverflowError):
        return None
    return value[at] if len(value) > 1 else None
