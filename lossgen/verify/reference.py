"""The literal formula, evaluated without the compiler: torch under autograd, and mpmath.

Both (the second is in :mod:`lossgen.verify.precise`) walk the parsed formula as the author wrote
it and share nothing with the passes: no rewrite, no statistic, no derivative.

Conventions where the formula alone is silent: 0·∞ is 0 (a masked class contributes nothing), also
where the other factor is ∞ - ∞; the maximum's subgradient goes to the first index, the second
maximum's to the second occurrence; minimum and maximum split ties, relu'(0) = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lossgen.spec.expr import Call, Name, NameKind, walk
from lossgen.spec.model import LossSpec
from lossgen.verify.precise import literal_mpmath

__all__ = ["Arguments", "Literal", "literal", "literal_mpmath"]

_HALVINGS = 60  # of an interval: what is left of it is less than an ulp of float64
Value = Any  # float, or Tensor: row [N, 1], vocab and index [1, V], class [N, V]


@dataclass(frozen=True)
class Arguments:
    """One call: logits [N, V], target [N] (a class in every row), values of the other names."""

    logits: Tensor
    target: Tensor | None
    parameters: Mapping[str, float | Tensor]  # or one number per row [N, 1]
    inputs: Mapping[str, Tensor]  # vocab [V], row [N], class [N, V]

    def with_(self, **vectors: Tensor) -> Arguments:
        """With other logits, or other class inputs by name."""
        logits = vectors.pop("logits", self.logits)
        return replace(self, logits=logits, inputs={**self.inputs, **vectors})


def literal(spec: LossSpec, arguments: Arguments) -> Tensor:
    """Loss per row [N], or outputs [N, n_out], in the dtype of the logits; differentiable."""
    algebra = Literal(spec, arguments)
    if spec.outputs:
        return torch.cat([algebra.rows(walk(o.expr, algebra)) for o in spec.outputs], 1)
    total: Value = 0.0
    for term in spec.terms:
        value = walk(term.expr, algebra)
        factor = arguments.parameters[term.weight] if term.weight else 1.0
        zero = not isinstance(factor, Tensor) and factor == 0.0  # 0·∞ is 0
        total = total + (0.0 if zero else factor * value)
    return algebra.rows(total).squeeze(1)


class Literal:
    """The Algebra of torch: a call's formulas, as they are written."""

    def __init__(self, spec: LossSpec, arguments: Arguments) -> None:
        self.spec, self.given = spec, arguments
        self.lets: dict[str, Value] = {}
        self.unknowns: dict[str, Tensor] = {}

    @property
    def x(self) -> Tensor:
        return self.given.logits

    def tensor(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=self.x.dtype)

    def rows(self, value: Value) -> Tensor:
        """A row value as [N, 1]."""
        return self.tensor(value).expand(self.x.shape[0], 1)

    # ------------------------------------------------------------------ leaves
    def number(self, value: Fraction) -> Value:
        return float(value)

    def name(self, name: str, kind: NameKind) -> Value:
        match kind:
            case NameKind.LOGITS:
                return self.x
            case NameKind.PARAMETER:
                value = self.given.parameters[name]
                return value if isinstance(value, Tensor) else float(value)
            case NameKind.CLASSES:
                return float(self.x.shape[1])
            case NameKind.CONSTANT:
                return math.pi
            case NameKind.ONEHOT:
                assert self.given.target is not None
                return torch.nn.functional.one_hot(self.given.target, self.x.shape[1]).to(
                    self.x.dtype
                )
            case NameKind.INDEX:
                return torch.arange(self.x.shape[1], dtype=self.x.dtype)[None, :]
            case NameKind.UNKNOWN:
                return self.unknowns[name]
            case NameKind.LET:
                if name not in self.lets:
                    self.lets[name] = walk(self.spec.let[name], self)
                return self.lets[name]
        values = self.given.inputs[name].to(self.x.dtype)
        if kind is NameKind.STREAM:
            return values
        return values[None, :] if kind is NameKind.VOCAB_INPUT else values[:, None]

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
        """The product, with 0·∞ = 0 and 0·(∞ - ∞) = 0."""
        if not (isinstance(a, Tensor) or isinstance(b, Tensor)):
            return a * b
        a, b = self.tensor(a), self.tensor(b)
        void = ((a == 0) & ~b.isfinite()) | ((b == 0) & ~a.isfinite())
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
        if node.func == "root":
            return self._at_root(node, *args)
        reduce = getattr(self, f"_{node.func}", None)
        if reduce is not None:
            return reduce(args[0], node.others)
        if node.func == "where":
            return torch.where(args[0], self.tensor(args[1]), self.tensor(args[2]))
        if not any(isinstance(a, Tensor) for a in args):
            return self._elementwise(
                node.func, [torch.tensor(a, dtype=torch.float64) for a in args]
            ).item()
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
            "logcosh": lambda: first.abs() - log_sigmoid(2 * first.abs()) - math.log(2),
            "logaddexp": lambda: torch.logaddexp(*args),
            "minimum": lambda: torch.minimum(*args),
            "maximum": lambda: torch.maximum(*args),
            "clip": lambda: torch.clamp(first, args[1], args[2]),
            "softcap": lambda: (
                first if bool(args[1].isinf().all()) else args[1] * torch.tanh(first / args[1])
            ),
            "mercator": lambda: torch.stack(
                [first**k / k for k in range(1, int(args[1].item()) + 1)]
            ).sum(0),
            # torch reflects them at 0, and of its trigamma nine digits are right
            "lgamma": lambda: torch.lgamma(first) + _no_number_below_0(first),
            "digamma": lambda: torch.digamma(first) + _no_number_below_0(first),
            "polygamma": lambda: _polygamma(int(args[0].item()), args[1]),
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
        return torch.linalg.vector_norm(self._over(value, others), dim=1, keepdim=True)

    def _at_root(self, node: Call, low: Value, high: Value) -> Tensor:
        """By bisection; t - e(t)/e'(t) at the root has its derivative, with t and e' held."""
        unknown, equation = node.args[:2]
        assert isinstance(unknown, Name)
        ends = [self.rows(end).detach().clone() for end in (low, high)]
        outer = self.unknowns

        def at(t: Tensor) -> Tensor:
            self.unknowns = {unknown.name: t}
            value = self.rows(walk(equation, self))
            self.unknowns = outer
            return value

        for _ in range(_HALVINGS):
            middle = (ends[0] + ends[1]) / 2
            below = at(middle).detach() >= 0
            ends = [torch.where(below, middle, ends[0]), torch.where(below, ends[1], middle)]
        with torch.enable_grad():
            t = ends[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(at(t).sum(), t)
        found: Tensor = ends[0] - at(ends[0]) / slope
        return found

    def _max(self, value: Value, others: bool) -> Value:
        over = self._over(value, others)
        if over.shape[1] == 0:
            return torch.full_like(self.x[:, :1], -math.inf)
        return over.max(1, keepdim=True).values

    def _second_max(self, value: Value, others: bool) -> Value:
        over = self._over(value, others)
        if over.shape[1] < 2:
            return torch.full_like(self.x[:, :1], -math.inf)
        order = over.detach().sort(dim=1, descending=True, stable=True).indices
        return over.gather(1, order[:, 1:2])

    def _argmax(self, value: Value, others: bool) -> Value:
        over = self._over(value, others).detach()
        if over.shape[1] == 0:
            return torch.zeros_like(self.x[:, :1])
        first = over.argmax(1, keepdim=True)
        if others:
            assert self.given.target is not None
            first = first + (first >= self.given.target[:, None])
        return first.to(self.x.dtype)


def _no_number_below_0(a: Tensor) -> Tensor:
    return torch.where(a.detach() < 0, math.nan, 0.0).to(a.dtype)


def _polygamma(order: int, a: Tensor) -> Tensor:
    size = -math.factorial(order) * (-1) ** order
    far = a == math.inf
    series = torch.special.zeta(order + 1.0, torch.where(far, 1.0, a))
    return torch.where(far, 0.0, size * series) + _no_number_below_0(a)
