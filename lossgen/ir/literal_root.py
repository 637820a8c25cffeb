"""The root of an equation in many digits, written for the certificate alone: false position, whose
end that stays counts less (Anderson and Björck), and a bisection where two such steps have not
halved the interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gmpy2

from lossgen.errors import CompileError
from lossgen.ir.reals import HALF, ONE, ZERO, ordered
from lossgen.spec.expr import Call, Name, walk

if TYPE_CHECKING:
    from lossgen.ir.literal import Literal, Node

__all__ = ["NoRoot", "at_root", "zero"]

_STEPS = 10_000
_GUARD = 8  # bits


class NoRoot(CompileError):
    id = "LG205"
    template = "root finds nothing: its equation is not {sign} 0 at its {end}, {value:.3g}"
    advice = (
        "root(t, e, low, high) needs an e that falls as t grows, from at least 0 at low to at most "
        "0 at high: change the ends, or the sign of e"
    )


def zero(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Where a function that falls is 0, at the precision of the context.

    Raises:
        NoRoot: it has one sign at both ends.
        ValueError: it is no number there.
    """
    f_low, f_high = function(low), function(high)
    ordered(f_low, f_high)
    digits = gmpy2.get_context().precision
    tiny = gmpy2.div_2exp(ONE, digits // 2)
    if f_low <= 0:
        _signs(f_low >= -tiny, "at least", "low", low)
        return low
    if f_high >= 0:
        _signs(f_high <= tiny, "at most", "high", high)
        return high
    width, side = high - low, 0
    for step in range(_STEPS):
        t = (low * f_high - high * f_low) / (f_high - f_low)
        if (step % 3 == 2 and 2 * (high - low) > width) or not low < t < high:
            t = (low + high) / 2
        if step % 3 == 2:
            width = high - low
        if step % 16 == 15 and low < (near := gmpy2.mpfr(t, digits // 4)) < high:
            t = near  # a corner of the function is at a number of the row
        close = gmpy2.mul_2exp(max(abs(low), abs(high)), _GUARD)
        if not low < t < high or gmpy2.mul_2exp(high - low, digits) <= close:
            break
        value = function(t)
        if value == ZERO:
            return t
        if value > 0:
            f_high *= _less(value / f_low) if side > 0 else 1
            low, f_low = t, value
        else:
            f_low *= _less(value / f_high) if side < 0 else 1
            high, f_high = t, value
        side = 1 if value > 0 else -1
    return low


def _less(ratio: Any) -> Any:
    """What the value at the end that stays counts, of the values at the other."""
    return 1 - ratio if ratio < 1 else HALF


def at_root(row: Literal, node: Call, low: Node, high: Node) -> Node:
    """t - e(t)/e'(t) at the root t, with t and e' held: its derivative is that of the root."""
    unknown, equation = node.args[:2]
    assert isinstance(unknown, Name)

    def at(t: Any, leaves: dict[str, Node]) -> tuple[Literal, Node]:
        own = replace(row, tape=[], leaves=leaves, totals={}, frozen=None)
        own.unknowns = {unknown.name: own.node([t])}
        return own, walk(equation, own)

    known = dict(row.leaves)
    found = zero(lambda t: at(t, known)[1].value[0], low.value[0], high.value[0])
    own, value = at(found, {})
    own.seed(value, ONE)
    own.backward()
    slope = own.slope(own.unknowns[unknown.name], 1)[0]
    outer, row.unknowns = row.unknowns, {unknown.name: row.node([found])}
    value = walk(equation, row)
    row.unknowns = outer
    return row.apply("-", row.node([found]), row.apply("/", value, row.node([slope])))


def _signs(holds: bool, sign: str, end: str, at: Any) -> None:
    if not holds:
        raise NoRoot(sign=sign, end=end, value=float(at))
