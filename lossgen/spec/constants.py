"""Constant subexpressions: found while parsing, so that none is infinite, complex or enormous.

``10**10**10`` and ``log(-1)`` are refused where they stand; nothing large is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from lossgen.errors import NotReal, NumberTooLarge, SpecError
from lossgen.spec.expr import Binary, Call, Expr, Name, NameKind, Number, Span, Unary
from lossgen.spec.functions import ELEMENTWISE

__all__ = ["Constants", "Problem"]

MAX_EXPONENT = 64  # of anything that is not itself constant: symbolic powers are expanded
MAX_BITS = 4096

Value = Fraction | float
_INFINITE_BITS = 1024


def _lgamma(a: float) -> float:
    """Python's goes on below 0, where the language has none."""
    if a <= 0:
        raise ValueError
    return math.lgamma(a)


_FUNCTIONS: dict[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ELEMENTWISE if hasattr(math, name)},
    "abs": abs,
    "lgamma": _lgamma,
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a constant, and where."""

    kind: type[SpecError]
    span: Span
    problem: str = "is too large a number"


class Constants:
    """The values of the constant nodes of one formula, by identity of the node."""

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._alive: list[Expr] = []  # identities stay unique while their nodes live

    def record(self, expr: Expr) -> Problem | None:
        """Take note of a node whose operands have been recorded; says what is wrong with it."""
        try:
            value = self._value(expr)
        except (ZeroDivisionError, ValueError):
            return Problem(NotReal, expr.span)
        except OverflowError:
            return Problem(NumberTooLarge, expr.span)
        if isinstance(value, _Exponent):
            return Problem(NumberTooLarge, expr.span, f"has an exponent beyond {MAX_EXPONENT}")
        if value is not None:
            self._values[id(expr)] = value
            self._alive.append(expr)
        return None

    def _value(self, expr: Expr) -> Value | _Exponent | None:
        match expr:
            case Number(value=value):
                return value
            case Name(kind=NameKind.CONSTANT):
                return math.pi
            case Unary(operand=operand):
                inner = self._values.get(id(operand))
                return None if inner is None else -inner
            case Binary(op=op, left=left, right=right):
                return self._binary(op, self._values.get(id(left)), self._values.get(id(right)))
            case Call(func=func, args=(argument,)) if func in _FUNCTIONS:
                inner = self._values.get(id(argument))
                return None if inner is None else _FUNCTIONS[func](float(inner))
        return None

    def _binary(self, op: str, left: Value | None, right: Value | None) -> Value | _Exponent | None:
        if right is None:
            return None
        if op == "/" and right == 0:
            raise ZeroDivisionError
        if left is None:
            too_high = op == "**" and abs(float(right)) > MAX_EXPONENT
            return _Exponent() if too_high else None
        if op == "**":
            return _power(left, right)
        table = {"+": left + right, "-": left - right, "*": left * right}
        return _finite(table[op] if op in table else left / right)


class _Exponent:
    """Marks a power of something that varies with too high an exponent."""


def _finite(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, Fraction):
        float(value)  # raises OverflowError
    return value


def _power(base: Value, exponent: Value) -> Value:
    if base < 0 and exponent != math.floor(exponent):
        raise ValueError
    if base == 0 and exponent < 0:
        raise ZeroDivisionError
    if base and abs(math.log2(abs(float(base)))) * abs(float(exponent)) > _INFINITE_BITS:
        raise OverflowError
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > MAX_BITS and base not in (0, 1, -1):
            raise OverflowError
        return base ** int(exponent)
    return float(base) ** float(exponent)
