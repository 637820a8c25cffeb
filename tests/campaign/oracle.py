"""The value and the gradient of a formula at one row, in mpmath, by dual numbers.

Shares nothing with lossgen but the meaning of its words.  A class of logit -inf is taken as a
limit: the caller evaluates at two large numbers and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mpmath as mp

from tests.campaign.duals import FUNCTIONS, OPERATIONS, Dual, Kink, NotReal, holds, larger
from tests.campaign.trees import Call, Compare, Gather, Leaf, Node, Number, Operation

__all__ = ["Dual", "Kink", "NotReal", "evaluate"]

_add, _sub, _div = OPERATIONS["+"], OPERATIONS["-"], OPERATIONS["/"]
_square = FUNCTIONS["square"]
_exp, _log, _sqrt = FUNCTIONS["exp"], FUNCTIONS["log"], FUNCTIONS["sqrt"]


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
    largest: Any = mp.inf,
) -> Dual:
    """The loss of one row.

    Args:
        classes: class and vocab inputs by name.
        scalars: parameters by name.
        differentiable: the class inputs whose partial derivatives follow those of the logits.
        largest: a number that nothing on the way may exceed.

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
    for values in row.memo.values():
        for dual in values if isinstance(values, list) else [values]:
            if max(map(abs, (dual.value, *dual.slopes))) > largest:
                raise NotReal
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
            return _each(OPERATIONS[op], _value(left, row), _value(right, row))
        case Call(func="where", args=(Compare(op=op, left=left, right=right), a, b)):
            a, b = _value(a, row), _value(b, row)
            left, right = _value(left, row), _value(right, row)
            return _each(lambda p, q, r, s: r if holds(op, p, q) else s, left, right, a, b)
        case Call(func=func, args=args, others=others) if func in _OVER_CLASSES:
            vector = _value(args[0], row)
            vector = list(vector) if isinstance(vector, list) else [vector] * len(row.x)
            return _OVER_CLASSES[func](vector, row, others)
        case Call(func=func, args=args):
            return _each(FUNCTIONS[func], *(_value(a, row) for a in args))
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
        case "index":
            return [row.constant(j) for j in range(len(row.x))]
        case "V":
            return row.constant(len(row.x))
        case "pi":
            return row.constant(mp.pi)
    return row.names[name]


def _each(function: Callable[..., Dual], *values: Any) -> Any:
    if not any(isinstance(v, list) for v in values):
        return function(*values)
    width = max(len(v) for v in values if isinstance(v, list))
    spread = [v if isinstance(v, list) else [v] * width for v in values]
    return [function(*entries) for entries in zip(*spread, strict=True)]


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
        best = larger(best, value)
    return best


def _mean(vector: list[Dual], row: _Row, others: bool) -> Dual:
    kept = _kept(vector, row, others)
    if not kept:
        raise NotReal
    return _div(_total(kept, row), row.constant(len(kept)))


def _norm(vector: list[Dual], row: _Row, others: bool) -> Dual:
    return _sqrt(_total([_square(v) for v in _kept(vector, row, others)], row))


def _variance(vector: list[Dual], row: _Row, others: bool) -> Dual:
    """numpy's: divided by the number of classes."""
    middle = _mean(vector, row, others)
    return _mean([_square(_sub(v, middle)) for v in vector], row, others)


def _standard_deviation(vector: list[Dual], row: _Row, others: bool) -> Dual:
    return _sqrt(_variance(vector, row, others))


def _negated(vector: list[Dual]) -> list[Dual]:
    return [FUNCTIONS["neg"](v) for v in vector]


def _min(vector: list[Dual], row: _Row, others: bool) -> Dual:
    return FUNCTIONS["neg"](_max(_negated(vector), row, others))


def _argmax(vector: list[Dual], row: _Row, others: bool) -> Dual:
    """The first of those that are the same number for every row."""
    best = _max(vector, row, others)
    places = [j for j, v in enumerate(vector) if v == best and not (others and j == row.y)]
    return row.constant(places[0])


def _second_max(vector: list[Dual], row: _Row, others: bool) -> Dual:
    kept = _kept(vector, row, others)
    if len(kept) < 2:
        raise NotReal
    best = _max(kept, row, False)
    kept.remove(best)
    return _max(kept, row, False)


_OVER_CLASSES: dict[str, Callable[..., Any]] = {
    "sum": lambda v, row, others: _total(_kept(v, row, others), row),
    "mean": _mean,
    "average": _mean,
    "max": _max,
    "amax": _max,
    "min": _min,
    "amin": _min,
    "argmax": _argmax,
    "argmin": lambda v, row, others: _argmax(_negated(v), row, others),
    "second_max": _second_max,
    "var": _variance,
    "std": _standard_deviation,
    "norm": _norm,
    "logsumexp": _log_sum,
    "lse": _log_sum,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsoftmax": _log_softmax,
}
