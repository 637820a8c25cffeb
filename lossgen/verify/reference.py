"""The literal formula, evaluated without the compiler: torch under autograd, and mpmath.

Both walk the parsed formula as the author wrote it and share nothing with the passes: no
rewrite, no statistic, no derivative.

Conventions where the formula alone is silent: 0·∞ is 0 (a masked class contributes nothing), the
maximum's subgradient goes to the first index, minimum and maximum split ties, relu'(0) = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import mpmath as mp
import torch
from torch import Tensor

from lossgen.ir.ops import BUILTINS, OPS
from lossgen.spec.expr import Call, Expr, NameKind, walk
from lossgen.spec.model import LossSpec

__all__ = ["Arguments", "literal", "literal_mpmath"]

Value = Any  # float, or Tensor: row [N, 1], vocab [1, V], class [N, V]


@dataclass(frozen=True)
class Arguments:
    """One call: logits [N, V], target [N] (a class in every row), values of the other names."""

    logits: Tensor
    target: Tensor | None
    parameters: Mapping[str, float]
    inputs: Mapping[str, Tensor]  # vocab [V], row [N]


def literal(spec: LossSpec, arguments: Arguments) -> Tensor:
    """Loss per row [N] in the dtype of the logits; differentiable."""
    algebra = _Torch(spec, arguments)
    total: Value = 0.0
    for term in spec.terms:
        value = walk(term.expr, algebra)
        total = total + (arguments.parameters[term.weight] if term.weight else 1.0) * value
    rows = arguments.logits.shape[0]
    return torch.as_tensor(total, dtype=arguments.logits.dtype).expand(rows, 1).squeeze(1)


class _Torch:
    def __init__(self, spec: LossSpec, arguments: Arguments) -> None:
        self.spec, self.given = spec, arguments
        self.lets: dict[str, Value] = {}

    @property
    def x(self) -> Tensor:
        return self.given.logits

    def tensor(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=self.x.dtype)

    # ------------------------------------------------------------------ leaves
    def number(self, value: Fraction) -> Value:
        return float(value)

    def name(self, name: str, kind: NameKind) -> Value:
        match kind:
            case NameKind.LOGITS:
                return self.x
            case NameKind.PARAMETER:
                return float(self.given.parameters[name])
            case NameKind.CLASSES:
                return float(self.x.shape[1])
            case NameKind.CONSTANT:
                return math.pi
            case NameKind.ONEHOT:
                assert self.given.target is not None
                return torch.nn.functional.one_hot(self.given.target, self.x.shape[1]).to(
                    self.x.dtype
                )
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.spec.let[name], self)
                return self.lets[name]
        vector = self.given.inputs[name].to(self.x.dtype)
        return vector[None, :] if kind is NameKind.VOCAB_INPUT else vector[:, None]

    # ------------------------------------------------------------------ elementwise
    def negate(self, operand: Value) -> Value:
        return -operand

    def binary(self, op: str, left: Value, right: Value) -> Value:
        if op == "*":
            return self._times(left, right)
        table: dict[str, Callable[[Value, Value], Value]] = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "/": lambda a, b: a / b,
            "**": lambda a, b: a**b,
        }
        return table[op](left, right)

    def _times(self, a: Value, b: Value) -> Value:
        """The product, with 0·∞ = 0."""
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return a * b
        void = ((a == 0) & b.isinf()) | ((b == 0) & a.isinf())
        if not void.any():
            return a * b
        return torch.where(void, 0.0, a) * torch.where(void, 0.0, b)

    def compare(self, op: str, left: Value, right: Value) -> Value:
        a, b = self.tensor(left), self.tensor(right)
        table = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
        return table[op]

    def gather(self, vector: Value) -> Value:
        assert self.given.target is not None
        return vector.expand(self.x.shape).gather(1, self.given.target[:, None])

    def call(self, node: Call, args: tuple[Value, ...]) -> Value:
        reduce = getattr(self, f"_{node.func}", None)
        if reduce is not None:
            return reduce(args[0], node.others)
        if node.func == "where":
            return torch.where(args[0], self.tensor(args[1]), self.tensor(args[2]))
        if not any(isinstance(a, Tensor) for a in args):
            return self._elementwise(node.func, [torch.tensor(a).double() for a in args]).item()
        return self._elementwise(node.func, [self.tensor(a) for a in args])

    def _elementwise(self, func: str, args: list[Tensor]) -> Tensor:
        first = args[0]
        log_sigmoid = torch.nn.functional.logsigmoid
        table: dict[str, Callable[[], Tensor]] = {
            "relu": lambda: torch.relu(first),
            "sign": lambda: torch.sign(first),
            # torch's softplus is the identity above 20
            "softplus": lambda: -log_sigmoid(-first),
            "log_sigmoid": lambda: log_sigmoid(first),
            "minimum": lambda: torch.minimum(*args),
            "maximum": lambda: torch.maximum(*args),
            "clip": lambda: torch.clamp(first, args[1], args[2]),
            "softcap": lambda: (
                first if bool(args[1].isinf().all()) else args[1] * torch.tanh(first / args[1])
            ),
            "mercator": lambda: torch.stack(
                [first**k / k for k in range(1, int(args[1].item()) + 1)]
            ).sum(0),
            "stop_gradient": lambda: first.detach(),
        }
        return table[func]() if func in table else getattr(torch, func)(first)

    # ------------------------------------------------------------------ over classes
    def _over(self, value: Value, others: bool) -> Tensor:
        full = self.tensor(value).expand(self.x.shape)
        if not others:
            return full
        assert self.given.target is not None
        rows, classes = self.x.shape
        keep = torch.arange(classes)[None, :] != self.given.target[:, None]
        return full[keep].reshape(rows, classes - 1)

    def _softmax(self, value: Value, others: bool) -> Value:
        return self._scatter(self._over(value, others).softmax(1), others, 0.0)

    def _log_softmax(self, value: Value, others: bool) -> Value:
        return self._scatter(self._over(value, others).log_softmax(1), others, -math.inf)

    def _scatter(self, value: Tensor, others: bool, at_y: float) -> Tensor:
        if not others:
            return value
        assert self.given.target is not None
        keep = torch.arange(self.x.shape[1])[None, :] != self.given.target[:, None]
        return torch.full_like(self.x, at_y).masked_scatter(keep, value)

    def _logsumexp(self, value: Value, others: bool) -> Value:
        return self._over(value, others).logsumexp(1, keepdim=True)

    def _sum(self, value: Value, others: bool) -> Value:
        return self._over(value, others).sum(1, keepdim=True)

    def _mean(self, value: Value, others: bool) -> Value:
        return self._over(value, others).mean(1, keepdim=True)

    def _norm(self, value: Value, others: bool) -> Value:
        return (self._over(value, others) ** 2).sum(1, keepdim=True).sqrt()

    def _max(self, value: Value, others: bool) -> Value:
        over = self._over(value, others)
        if over.shape[1] == 0:
            return torch.full_like(self.x[:, :1], -math.inf)
        return over.max(1, keepdim=True).values


# ---------------------------------------------------------------------------- mpmath
def literal_mpmath(
    spec: LossSpec,
    logits: Sequence[float],
    target: int | None,
    parameters: Mapping[str, float],
    inputs: Mapping[str, Any],
    gradient: bool = True,
) -> tuple[Any, list[Any]]:
    """(loss, gradient) of one row at the caller's precision.

    The gradient is a central difference at 1e-30: work with at least 90 digits.
    """
    base = _Precise(spec, [mp.mpf(v) for v in logits], target, parameters, inputs)
    loss = base.total()
    slopes = []
    step = mp.mpf(10) ** -30
    for j in range(len(logits) if gradient else 0):
        if math.isinf(logits[j]):
            slopes.append(mp.mpf(0))
            continue
        ends = []
        for sign in (1, -1):
            moved = list(base.x)
            moved[j] = moved[j] + sign * step
            again = _Precise(spec, moved, target, parameters, inputs, frozen=base.recorded)
            ends.append(again.total())
        slopes.append((ends[0] - ends[1]) / (2 * step))
    return loss, slopes


@dataclass
class _Precise:
    """Class vectors are lists of mpf, everything else is an mpf."""

    spec: LossSpec
    x: list[Any]
    target: int | None
    parameters: Mapping[str, float]
    inputs: Mapping[str, Any]
    frozen: list[Any] | None = None  # the values under stop_gradient, in order of evaluation
    recorded: list[Any] = field(default_factory=list)
    lets: dict[str, Any] = field(default_factory=dict)

    def total(self) -> Any:
        total = mp.mpf(0)
        for term in self.spec.terms:
            weight = mp.mpf(self.parameters[term.weight]) if term.weight else mp.mpf(1)
            total += weight * walk(term.expr, self)
        return total

    def evaluate(self, expr: Expr) -> Any:
        return walk(expr, self)

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
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.spec.let[name], self)
                return self.lets[name]
        value = self.inputs[name]
        if kind is NameKind.VOCAB_INPUT:
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
        if func in _REDUCTIONS:
            return _REDUCTIONS[func](
                [v for j, v in enumerate(first) if not node.others or j != self.target]
            )
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
    "logsumexp": _logsumexp,
    "norm": lambda v: mp.sqrt(mp.fsum(a * a for a in v)),
}
