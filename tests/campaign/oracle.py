"""The value and the gradient of a formula at one row, in mpmath, by dual numbers.

Shares nothing with lossgen but the meaning of its words.  A class of logit -inf is taken as a
limit: the caller evaluates at two large numbers and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mpmath as mp

from tests.campaign.grammar import Call, Compare, Gather, Leaf, Node, Number, Operation

__all__ = ["Dual", "Kink", "NotReal", "evaluate"]

_CLOSE = mp.mpf(10) ** -15  # relative distance from a kink at which its side is anybody's guess


class NotReal(Exception):
    """The formula has no real value there."""


class Kink(Exception):
    """The row lies on a kink or a jump: nothing can be said."""


@dataclass(frozen=True)
class Dual:
    """A number and its partial derivatives."""

    value: Any
    slopes: tuple[Any, ...]

    def map(self, value: Any, slope: Any) -> Dual:
        if slope == 0:
            return Dual(value, (mp.mpf(0),) * len(self.slopes))
        return Dual(value, tuple(slope * s for s in self.slopes))


@dataclass
class _Row:
    x: Sequence[Dual]
    y: int
    names: Mapping[str, Any]  # Dual, or a sequence of Dual for class rank
    zero: Dual
    one: Dual
    memo: dict[int, Any] = field(default_factory=dict)

    def constant(self, number: Any) -> Dual:
        return Dual(mp.mpf(number), self.zero.slopes)


def evaluate(
    formula: Node,
    y: int,
    logits: Sequence[Any],
    classes: Mapping[str, Sequence[Any]],
    scalars: Mapping[str, Any],
    differentiable: Sequence[str] = (),
) -> Dual:
    """The loss of one row.

    Args:
        classes: class and vocab inputs by name.
        scalars: parameters by name.
        differentiable: the class inputs whose partial derivatives follow those of the logits.

    Raises:
        NotReal, Kink.
    """
    width = len(logits)
    total = width * (1 + len(differentiable))
    zeros = (mp.mpf(0),) * total

    def unit(k: int) -> tuple[Any, ...]:
        return (*zeros[:k], mp.mpf(1), *zeros[k + 1 :])

    x = [Dual(mp.mpf(v), unit(j)) for j, v in enumerate(logits)]
    names: dict[str, Any] = {n: Dual(mp.mpf(v), zeros) for n, v in scalars.items()}
    for name, values in classes.items():
        start = width * (1 + differentiable.index(name)) if name in differentiable else None
        names[name] = [
            Dual(mp.mpf(v), zeros if start is None else unit(start + j))
            for j, v in enumerate(values)
        ]
    row = _Row(x, y, names, Dual(mp.mpf(0), zeros), Dual(mp.mpf(1), zeros))
    found = _value(formula, row)
    assert isinstance(found, Dual)
    return found


# ------------------------------------------------------------------------------- the walk
def _value(node: Node, row: _Row) -> Any:
    if id(node) not in row.memo:
        row.memo[id(node)] = _compute(node, row)
    return row.memo[id(node)]


def _compute(node: Node, row: _Row) -> Any:
    match node:
        case Number(text=text):
            return row.constant(text)
        case Leaf(name=name):
            return _leaf(name, row)
        case Gather(vector=vector):
            value = _value(vector, row)
            return value[row.y] if isinstance(value, list) else value
        case Operation(op=op, left=left, right=right):
            return _each(_OPERATIONS[op], _value(left, row), _value(right, row))
        case Call(func="where", args=(Compare(op=op, left=left, right=right), a, b)):
            a, b = _value(a, row), _value(b, row)
            left, right = _value(left, row), _value(right, row)
            return _each(lambda p, q, r, s: r if _holds(op, p, q) else s, left, right, a, b)
        case Call(func=func, args=args, others=others) if func in _OVER_CLASSES:
            vector = _value(args[0], row)
            vector = list(vector) if isinstance(vector, list) else [vector] * len(row.x)
            return _OVER_CLASSES[func](vector, row, others)
        case Call(func=func, args=args):
            return _each(_FUNCTIONS[func], *(_value(a, row) for a in args))
    raise TypeError(node)


def _leaf(name: str, row: _Row) -> Any:
    match name:
        case "x":
            return list(row.x)
        case "p":
            return _softmax(list(row.x), row, False)
        case "logp":
            return _log_softmax(list(row.x), row, False)
        case "u":
            terms = [_exp(_sub(v, row.x[row.y])) for j, v in enumerate(row.x) if j != row.y]
            return _total(terms, row)
        case "onehot":
            return [row.one if j == row.y else row.zero for j in range(len(row.x))]
        case "V":
            return row.constant(len(row.x))
    return row.names[name]


def _each(function: Callable[..., Dual], *values: Any) -> Any:
    if not any(isinstance(v, list) for v in values):
        return function(*values)
    width = max(len(v) for v in values if isinstance(v, list))
    spread = [v if isinstance(v, list) else [v] * width for v in values]
    return [function(*entries) for entries in zip(*spread, strict=True)]


# ------------------------------------------------------------------------------- arithmetic
def _add(a: Dual, b: Dual) -> Dual:
    return Dual(a.value + b.value, tuple(p + q for p, q in zip(a.slopes, b.slopes, strict=True)))


def _sub(a: Dual, b: Dual) -> Dual:
    return Dual(a.value - b.value, tuple(p - q for p, q in zip(a.slopes, b.slopes, strict=True)))


def _mul(a: Dual, b: Dual) -> Dual:
    slopes = tuple(p * b.value + a.value * q for p, q in zip(a.slopes, b.slopes, strict=True))
    return Dual(a.value * b.value, slopes)


def _div(a: Dual, b: Dual) -> Dual:
    if b.value == 0:
        raise NotReal
    inverse = 1 / b.value
    return _mul(a, b.map(inverse, -inverse * inverse))


def _pow(a: Dual, b: Dual) -> Dual:
    if any(b.slopes):
        return _exp(_mul(_log(a), b))
    exponent = b.value
    if exponent == 0:
        return a.map(mp.mpf(1), mp.mpf(0))
    if a.value < 0 and exponent != mp.floor(exponent):
        raise NotReal
    if a.value == 0:
        if exponent < 1 and (exponent < 0 or any(a.slopes)):
            raise Kink if exponent > 0 else NotReal
        return a.map(mp.mpf(0), mp.mpf(1 if exponent == 1 else 0))
    return a.map(a.value**exponent, exponent * a.value ** (exponent - 1))


def _exp(a: Dual) -> Dual:
    value = mp.exp(a.value)
    return a.map(value, value)


def _log(a: Dual) -> Dual:
    if a.value <= 0:
        raise NotReal
    return a.map(mp.log(a.value), 1 / a.value)


def _log1p(a: Dual) -> Dual:
    if a.value <= -1:
        raise NotReal
    return a.map(mp.log1p(a.value), 1 / (1 + a.value))


def _sqrt(a: Dual) -> Dual:
    if a.value < 0:
        raise NotReal
    if a.value == 0:
        raise Kink
    root = mp.sqrt(a.value)
    return a.map(root, 1 / (2 * root))


def _tanh(a: Dual) -> Dual:
    if abs(a.value) > 10**6:
        return a.map(mp.sign(a.value), mp.mpf(0))
    return a.map(mp.tanh(a.value), mp.sech(a.value) ** 2)


def _sigmoid(a: Dual) -> Dual:
    up = mp.exp(-abs(a.value))
    small, large = up / (1 + up), 1 / (1 + up)
    return a.map(large if a.value >= 0 else small, small * large)


def _softplus(a: Dual) -> Dual:
    value = mp.log1p(mp.exp(-abs(a.value))) + max(a.value, 0)
    return a.map(value, _sigmoid(a).value)


def _split(a: Dual, b: Dual) -> None:
    """Refuse to say which of two is larger where they are nearly equal."""
    if abs(a.value - b.value) <= _CLOSE * (abs(a.value) + abs(b.value) + mp.mpf(10) ** -300):
        raise Kink


def _larger(a: Dual, b: Dual) -> Dual:
    if a == b:
        return a
    _split(a, b)
    return a if a.value > b.value else b


def _smaller(a: Dual, b: Dual) -> Dual:
    return b if _larger(a, b) is a else a


def _relu(a: Dual) -> Dual:
    zero = a.map(mp.mpf(0), mp.mpf(0))
    if a.value == 0 and not any(a.slopes):
        return zero
    return _larger(a, zero)


def _abs(a: Dual) -> Dual:
    if a.value == 0:
        if any(a.slopes):
            raise Kink
        return a
    return a.map(abs(a.value), mp.sign(a.value))


def _holds(op: str, a: Dual, b: Dual) -> bool:
    _split(a, b)
    return (a.value < b.value) == (op in ("<", "<="))


def _frozen(a: Dual) -> Dual:
    return a.map(a.value, mp.mpf(0))


_OPERATIONS = {"+": _add, "-": _sub, "*": _mul, "/": _div, "**": _pow}
_FUNCTIONS: dict[str, Callable[..., Dual]] = {
    "exp": _exp,
    "expm1": lambda a: a.map(mp.expm1(a.value), mp.exp(a.value)),
    "log": _log,
    "log1p": _log1p,
    "sqrt": _sqrt,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": _relu,
    "abs": _abs,
    "minimum": _smaller,
    "maximum": _larger,
    "stop_gradient": _frozen,
}


# ------------------------------------------------------------------------------- over classes
def _kept(vector: list[Dual], row: _Row, others: bool) -> list[Dual]:
    return [v for j, v in enumerate(vector) if not (others and j == row.y)]


def _total(values: list[Dual], row: _Row) -> Dual:
    total = row.zero
    for value in values:
        total = _add(total, value)
    return total


def _log_sum(vector: list[Dual], row: _Row, others: bool) -> Dual:
    kept = _kept(vector, row, others)
    if not kept:
        raise NotReal
    top = max(v.value for v in kept)
    terms = [_exp(_sub(v, row.constant(top))) for v in kept]
    return _add(_log(_total(terms, row)), row.constant(top))


def _softmax(vector: list[Dual], row: _Row, others: bool) -> list[Dual]:
    total = _log_sum(vector, row, others)
    found = [_exp(_sub(v, total)) for v in vector]
    if others:
        found[row.y] = row.zero
    return found


def _log_softmax(vector: list[Dual], row: _Row, others: bool) -> list[Dual]:
    total = _log_sum(vector, row, others)
    return [_sub(v, total) for v in vector]


def _max(vector: list[Dual], row: _Row, others: bool) -> Dual:
    kept = _kept(vector, row, others)
    if not kept:
        raise NotReal
    best = kept[0]
    for value in kept[1:]:
        best = _larger(best, value)
    return best


def _mean(vector: list[Dual], row: _Row, others: bool) -> Dual:
    kept = _kept(vector, row, others)
    if not kept:
        raise NotReal
    return _div(_total(kept, row), row.constant(len(kept)))


_OVER_CLASSES: dict[str, Callable[..., Any]] = {
    "sum": lambda v, row, others: _total(_kept(v, row, others), row),
    "mean": _mean,
    "max": _max,
    "logsumexp": _log_sum,
    "norm": lambda v, row, others: _sqrt(_total([_mul(a, a) for a in _kept(v, row, others)], row)),
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}
