"""The literal formula of one row in mpmath: as many digits as the caller works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import mpmath as mp

from lossgen.ir.ops import BUILTINS, OPS
from lossgen.spec.expr import Call, Name, NameKind, walk
from lossgen.spec.model import LossSpec

__all__ = ["literal_mpmath"]


def literal_mpmath(
    spec: LossSpec,
    logits: Sequence[float],
    target: int | None,
    parameters: Mapping[str, float],
    inputs: Mapping[str, Any],
    gradient: bool = True,
    *,
    by: str = "logits",
    output: int = 0,
) -> tuple[Any, list[Any]]:
    """(loss, gradient) of one row at the caller's precision.

    Args:
        inputs: numbers, and lists [V] for vocab and class inputs.
        by: what the gradient is with respect to: the logits, or a class input's name.
        output: which one, where the spec has outputs.

    The gradient is a central difference at 1e-30: work with at least 90 digits.  At a closed end
    of a class input's domain it is one-sided.
    """
    base = _Precise(spec, [mp.mpf(v) for v in logits], target, parameters, inputs, output)
    loss = base.total()
    vector = base.x if by == "logits" else [mp.mpf(v) for v in inputs[by]]
    domain = spec.inputs[by].domain if by in spec.inputs else None
    slopes = []
    step = mp.mpf(10) ** -30
    for j in range(len(vector) if gradient else 0):
        if mp.isinf(vector[j]):
            slopes.append(mp.mpf(0))
            continue
        ends = []
        for sign in (1, -1):
            moved = list(vector)
            moved[j] = moved[j] + sign * step
            if domain and not domain.contains(moved[j]):
                ends.append((vector[j], loss))
                continue
            again = replace(
                base,
                x=moved if by == "logits" else base.x,
                inputs=inputs if by == "logits" else {**inputs, by: moved},
                frozen=base.recorded,
                recorded=[],
                lets={},
            )
            ends.append((moved[j], again.total()))
        (above, high), (below, low) = ends
        slopes.append((high - low) / (above - below))
    return loss, slopes


@dataclass
class _Precise:
    """Class vectors are lists of mpf, everything else is an mpf."""

    spec: LossSpec
    x: list[Any]
    target: int | None
    parameters: Mapping[str, float]
    inputs: Mapping[str, Any]
    output: int = 0
    frozen: list[Any] | None = None  # the values under stop_gradient, in order of evaluation
    recorded: list[Any] = field(default_factory=list)
    lets: dict[str, Any] = field(default_factory=dict)
    unknowns: dict[str, Any] = field(default_factory=dict)

    def total(self) -> Any:
        if self.spec.outputs:
            return walk(self.spec.outputs[self.output].expr, self)
        total = mp.mpf(0)
        for term in self.spec.terms:
            weight = mp.mpf(self.parameters[term.weight]) if term.weight else mp.mpf(1)
            total += weight * walk(term.expr, self) if weight else 0  # 0·∞ is 0
        return total

    def number(self, value: Fraction) -> Any:
        return mp.mpf(value.numerator) / value.denominator

    def name(self, name: str, kind: NameKind) -> Any:
        match kind:
            case NameKind.LOGITS:
                return self.x
            case NameKind.PARAMETER:
                return mp.mpf(self.parameters[name])
            case NameKind.CLASSES:
                return mp.mpf(len(self.x))
            case NameKind.CONSTANT:
                return mp.pi
            case NameKind.ONEHOT:
                return [mp.mpf(int(j == self.target)) for j in range(len(self.x))]
            case NameKind.INDEX:
                return [mp.mpf(j) for j in range(len(self.x))]
            case NameKind.UNKNOWN:
                return self.unknowns[name]
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.spec.let[name], self)
                return self.lets[name]
        value = self.inputs[name]
        if kind in (NameKind.VOCAB_INPUT, NameKind.STREAM):
            return [mp.mpf(v) for v in value]
        return mp.mpf(value)

    def _map(self, function: Callable[..., Any], *values: Any) -> Any:
        if not any(isinstance(v, list) for v in values):
            return function(*values)
        size = len(self.x)
        columns = [v if isinstance(v, list) else [v] * size for v in values]
        return [function(*row) for row in zip(*columns, strict=True)]

    def negate(self, operand: Any) -> Any:
        return self._map(lambda a: -a, operand)

    def binary(self, op: str, left: Any, right: Any) -> Any:
        table: dict[str, Callable[[Any, Any], Any]] = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "/": lambda a, b: a / b,
            "*": lambda a, b: mp.mpf(0) if a == 0 or b == 0 else a * b,
            "**": lambda a, b: mp.power(a, b),
        }
        return self._map(table[op], left, right)

    def compare(self, op: str, left: Any, right: Any) -> Any:
        table: dict[str, Callable[[Any, Any], bool]] = {
            "<": lambda a, b: a < b,
            "<=": lambda a, b: a <= b,
            ">": lambda a, b: a > b,
            ">=": lambda a, b: a >= b,
            "==": lambda a, b: a == b,
            "!=": lambda a, b: a != b,
        }
        return self._map(lambda a, b: mp.mpf(int(table[op](a, b))), left, right)

    def gather(self, vector: Any) -> Any:
        assert self.target is not None
        return vector[self.target]

    def call(self, node: Call, args: tuple[Any, ...]) -> Any:
        func, first = node.func, args[0]
        if func == "root":
            return self._root(node, *args)
        if func in _REDUCTIONS:
            return _REDUCTIONS[func](
                [v for j, v in enumerate(first) if not node.others or j != self.target]
            )
        if func == "argmax":
            kept = [j for j in range(len(first)) if not node.others or j != self.target]
            return mp.mpf(max(kept, key=lambda j: first[j], default=0))
        if func in ("softmax", "log_softmax"):
            kept = [j for j in range(len(first)) if not node.others or j != self.target]
            total = _logsumexp([first[j] for j in kept])
            logs = [first[j] - total if j in kept else -mp.inf for j in range(len(first))]
            return logs if func == "log_softmax" else [mp.exp(v) for v in logs]
        if func == "stop_gradient":
            return self._freeze(first)
        if func == "log_sigmoid":
            return self._map(lambda a: -OPS["softplus"].mp(-a), first)
        twin = {"abs": "absf", "sign": "sgn"}.get(func, func)
        table = OPS | BUILTINS
        return self._map(table[twin].mp, *args)

    def _root(self, node: Call, low: Any, high: Any) -> Any:
        """By bisection, until nothing is between the ends; of a row that was moved by a step of a
        difference the root may be just outside of those that are written."""
        unknown, equation = node.args[:2]
        assert isinstance(unknown, Name)
        outer, self.unknowns = self.unknowns, {unknown.name: low}
        walk(equation, self)  # whatever lets it has are known from here on
        before = len(self.recorded)
        walk(equation, self)
        self.unknowns, held = outer, self.recorded[before:]
        outside = (high - low) * mp.mpf(10) ** -9
        low, high = low - outside, high + outside
        while True:
            middle = (low + high) / 2
            if not low < middle < high:
                return low
            own = replace(self, frozen=held, recorded=[], unknowns={unknown.name: middle})
            value = walk(equation, own)
            if value == 0:
                return middle
            low, high = (middle, high) if value > 0 else (low, middle)

    def _freeze(self, value: Any) -> Any:
        kept = value if self.frozen is None else self.frozen[len(self.recorded)]
        self.recorded.append(kept)
        return kept


def _logsumexp(values: list[Any]) -> Any:
    top = max(values, default=-mp.inf)
    if mp.isinf(top):
        return top
    return top + mp.log(mp.fsum(mp.exp(v - top) for v in values))


_REDUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": mp.fsum,
    "mean": lambda v: mp.fsum(v) / len(v),
    "max": lambda v: max(v, default=-mp.inf),
    "second_max": lambda v: sorted(v)[-2] if len(v) > 1 else -mp.inf,
    "logsumexp": _logsumexp,
    "norm": lambda v: mp.sqrt(mp.fsum(a * a for a in v)),
}
