"""The formula of a batch as a function of torch, of parts [G, V] or [G, 1] of n [G, 1] rows each.

  lam*sum(m*log(m/prior))   →   u_lam * rt.xlogy(s_m / n, s_m / n / u_prior).sum(1, keepdim=True)

It is a formula of few numbers, which torch differentiates; s_ stands before what is summed over
rows, u_ before what the spec declares, so that neither meets a name of Python or of the module.
"""

from __future__ import annotations

from collections.abc import Iterator

from lossgen.errors import SpecError
from lossgen.spec.expr import (
    Binary,
    Call,
    Compare,
    Expr,
    Name,
    NameKind,
    Number,
    Unary,
    children,
)
from lossgen.spec.functions import ELEMENTWISE
from lossgen.spec.model import LossSpec
from lossgen.spec.spelling import spelled

__all__ = ["arguments", "formula"]

#: they take a whole number, which is no tensor
_REFUSED = {"mercator", "polygamma"}
#: {0}, {1}, …: the arguments; what is not here has torch's name
_WRITTEN = {
    "softplus": "torch.logaddexp({0}, torch.zeros_like({0}))",
    "log_sigmoid": "(-torch.logaddexp(-{0}, torch.zeros_like({0})))",
    "logcosh": "(torch.logaddexp({0}, -{0}) - 0.6931471805599453)",
    "clip": "torch.minimum(torch.maximum({0}, {1}), {2})",
    "softcap": "({1} * torch.tanh({0} / {1}))",
    "where": "torch.where({0}, {1}, {2})",
    "stop_gradient": "{0}.detach()",
    "softmax": "torch.softmax({0}, 1)",
    "log_softmax": "torch.log_softmax({0}, 1)",
    "sum": "{0}.sum(1, keepdim=True)",
    "mean": "{0}.mean(1, keepdim=True)",
    "max": "{0}.max(1, keepdim=True).values",
    "second_max": "torch.nn.functional.pad({0}, (0, 1), value=-torch.inf).topk(2, 1).values[:, 1:]",
    "argmax": "{0}.argmax(1, keepdim=True).to(n.dtype)",
    "logsumexp": "torch.logsumexp({0}, 1, keepdim=True)",
    "norm": "torch.linalg.vector_norm({0}, 2, 1, True)",
}


class NotOfFewNumbers(SpecError):
    id = "LG158"
    template = "{func} has no place in the formula of a batch"
    advice = "it may stand in batch_sum(e) and batch_mean(e)"


def arguments(spec: LossSpec) -> list[str]:
    """Of the function, in order."""
    assert spec.batch is not None
    batch = spec.batch
    vocab = [spelled(n) for n, i in batch.inputs.items() if i.kind == "vocab"]
    parts = [f"s_{part.name}" for part in batch.parts]
    return [*parts, "n", "V", *map(spelled, batch.parameters), *vocab]


def formula(spec: LossSpec) -> str:
    """Its value [G, 1]."""
    assert spec.batch is not None
    return _Text(spec).of(spec.batch.formula)


class _Text:
    """Every part is a value of torch, of two axes or none; numbers stay Python's."""

    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec

    def of(self, expr: Expr) -> str:
        match expr:
            case Number(value=value):
                return repr(float(value))
            case Name():
                return self._name(expr)
            case Unary(operand=operand):
                return f"(-{self.of(operand)})"
            case Compare(op=op, left=left, right=right):
                return f"({self.of(left)} {op} {self.of(right)})"
            case Binary(op="*"):
                return self._product(expr)
            case Binary(op=op, left=left, right=right):
                return f"({self.of(left)} {op} {self.of(right)})"
            case Call(func=func, args=args):
                return self._call(expr, func, args)
        raise TypeError(f"not of a batch: {expr!r}")

    def _name(self, expr: Name) -> str:
        match expr.kind:
            case NameKind.PART:
                return f"s_{expr.name}" if expr.name else "n"
            case NameKind.CLASSES:
                return "V"
            case NameKind.CONSTANT:
                return "3.141592653589793"
            case NameKind.INDEX:
                return "torch.arange(V, dtype=n.dtype, device=n.device)[None]"
        return spelled(expr.name)

    def _product(self, expr: Binary) -> str:
        """a·log b is 0 where a is 0, whatever b; so are a·(-log b) and a·(log b/c)."""
        factors = list(_factors(expr))
        logs = [f for f in factors if _holds_log(f)]
        if not logs:
            return f"({self.of(expr.left)} * {self.of(expr.right)})"
        rest = [self.of(f) for f in factors if f is not logs[-1]]
        return self._weighted(" * ".join(rest), logs[-1])

    def _weighted(self, weight: str, expr: Expr) -> str:
        """weight·expr, whose logarithm takes the weight."""
        match expr:
            case Call(args=args):
                return f"rt.xlogy({weight}, {self._tensor(args[0])})"
            case Unary(operand=operand):
                return f"(-{self._weighted(weight, operand)})"
            case Binary(left=left, right=right):
                return f"({self._weighted(weight, left)} / {self.of(right)})"
        raise TypeError(f"no logarithm: {expr!r}")

    def _call(self, expr: Call, func: str, args: tuple[Expr, ...]) -> str:
        given = [self._tensor(a) for a in args]
        if func in ELEMENTWISE.keys() - _WRITTEN.keys() - _REFUSED:
            return f"torch.{func}({', '.join(given)})"
        if func not in _WRITTEN:
            location = self.spec.location_of("batch", expr.span)
            raise NotOfFewNumbers(func=func, location=location)
        return _WRITTEN[func].format(*given)

    def _tensor(self, expr: Expr) -> str:
        """What torch's functions take: a number that nothing varies is none."""
        text = self.of(expr)
        return text if _varies(expr) else f"n.new_tensor({text})"


def _factors(expr: Expr) -> Iterator[Expr]:
    if isinstance(expr, Binary) and expr.op == "*":
        yield from _factors(expr.left)
        yield from _factors(expr.right)
    else:
        yield expr


def _holds_log(expr: Expr) -> bool:
    """Is it log b, or that with a sign and a divisor?"""
    match expr:
        case Call(func=func):
            return func == "log"
        case Unary(operand=operand):
            return _holds_log(operand)
        case Binary(op="/", left=left):
            return _holds_log(left)
    return False


def _varies(expr: Expr) -> bool:
    """Is it a tensor: does it hold anything but numbers, V and pi?"""
    if isinstance(expr, Name):
        return expr.kind not in (NameKind.CLASSES, NameKind.CONSTANT)
    return isinstance(expr, Call) or any(map(_varies, children(expr)))
