"""What lossgen is compared with: the losses as they are written by hand in PyTorch.

``composite_source`` writes a loss's formula as a plain function of torch operations, in the order
of the formula, from the spec alone: no derivation, no rewriting.  In float32 that is the eager
peer and, through ``torch.compile``, the compiled one; in float64 it is the reference of a
machine that has torch but not the compiler.  ``benchmarks/composites.py`` holds the whole
catalogue so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isinf

from lossgen.spec.expr import Call, Name, NameKind, walk
from lossgen.spec.functions import ELEMENTWISE
from lossgen.spec.model import Input, LossSpec, Parameter

__all__ = ["HEADER", "composite_source", "composites_module"]

HEADER = """from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _at(e: Tensor, y: Tensor) -> Tensor:
    return e.expand(y.shape[0], -1).gather(-1, y)


def _hot(y: Tensor, classes: int) -> Tensor:
    return torch.arange(classes, device=y.device) == y


def _root(e: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    low, high = low.detach(), high.detach()
    for _ in range(60):
        middle = (low + high) / 2
        below = e(middle).detach() >= 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    with torch.enable_grad():
        t = low.clone().requires_grad_()
        (slope,) = torch.autograd.grad(e(t).sum(), t)
    return low - e(low) / slope
"""

_WIDTH = 88  # of a line of a function's body


@dataclass(frozen=True)
class Value:
    """Text of a Python expression; ``constant`` if its value is known, ``tensor`` if it is one.

    ``log`` names the logarithm where it is at hand: p[y] is written exp(logp[y]), not by a
    softmax of its own.
    """

    text: str
    tensor: bool
    constant: Fraction | float | None = None
    log: str | None = None


def _constant(value: Fraction | float) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1:
        text = f"{value.numerator}.0"
    elif isinf(value):
        text = "math.inf" if value > 0 else "-math.inf"
    else:
        text = repr(float(value))
    return Value(f"({text})" if value < 0 else text, False, value)


_MATH = {name: f"math.{name}" for name in ELEMENTWISE if hasattr(math, name)}
_MATH |= {"abs": "abs", "minimum": "min", "maximum": "max"}
_TORCH = {name: f"torch.{name}" for name in ELEMENTWISE} | {
    "softplus": "F.softplus",
    "log_sigmoid": "F.logsigmoid",
}
_REDUCTIONS = {  # text, and what the target's place holds under over=others
    "sum": ("{e}.sum(-1, keepdim=True)", "0.0"),
    "mean": ("{e}.sum(-1, keepdim=True) / {n}", "0.0"),
    "max": ("{e}.max(-1, keepdim=True).values", "-math.inf"),
    "logsumexp": ("torch.logsumexp({e}, -1, keepdim=True)", "-math.inf"),
    "norm": ("torch.linalg.vector_norm({e}, dim=-1, keepdim=True)", "0.0"),
    "argmax": ("{e}.argmax(-1, keepdim=True)", "-math.inf"),
    "second_max": ("{e}.topk(2, -1).values[..., 1:]", "-math.inf"),
}


class _Writer:
    """An algebra of :func:`lossgen.spec.expr.walk` whose values are Python text, line by line."""

    def __init__(self, constants: dict[str, float]) -> None:
        self.lines: list[str] = []
        self.logs: dict[str, str] = {}  # argument of a log_softmax → its name
        self.known = {name: _constant(_exact(value)) for name, value in constants.items()}

    def _assign(self, text: str, tensor: bool = True) -> Value:
        name = f"t{len(self.lines) + 1}"
        self.lines.append(f"{name} = {text}")
        return Value(name, tensor)

    def number(self, value: Fraction) -> Value:
        return _constant(value)

    def name(self, name: str, kind: NameKind) -> Value:
        if name in self.known:
            return self.known[name]
        texts = {
            NameKind.LOGITS: "x",
            NameKind.CLASSES: "float(x.shape[-1])",
            NameKind.ONEHOT: "_hot(y, x.shape[-1]).to(x.dtype)",
            NameKind.CONSTANT: "math.pi",
            NameKind.INDEX: "torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)[None]",
        }
        scalar = kind in (NameKind.PARAMETER, NameKind.CLASSES, NameKind.CONSTANT)
        return Value(texts.get(kind, name), not scalar)

    def negate(self, operand: Value) -> Value:
        if operand.constant is not None:
            return _constant(-operand.constant)
        return self._assign(f"-{operand.text}", operand.tensor)

    def binary(self, op: str, left: Value, right: Value) -> Value:
        a, b = left.constant, right.constant
        if a is not None and b is not None and not (op == "/" and b == 0):
            folded = {"+": a + b, "-": a - b, "*": a * b}.get(op)
            return _constant(folded if folded is not None else a / b if op == "/" else a**b)
        if op in "+-" and b == 0:
            return left
        if op == "+" and a == 0:
            return right
        if (op == "*" and 0 in (a, b)) or (op == "/" and a == 0):
            return _constant(Fraction(0))
        if op == "*" and -1 in (a, b):
            return self.negate(right if a == -1 else left)
        if (op == "*" and a == 1) or (op in ("*", "/", "**") and b == 1):
            return right if op == "*" and a == 1 else left
        tensor = left.tensor or right.tensor
        return self._assign(f"{left.text} {op} {right.text}", tensor)

    def compare(self, op: str, left: Value, right: Value) -> Value:
        tensor = left.tensor or right.tensor
        return self._assign(f"{left.text} {op} {right.text}", tensor)

    def gather(self, vector: Value) -> Value:
        if not vector.tensor:
            return vector
        if vector.log is not None:
            return self._assign(f"torch.exp(_at({vector.log}, y))")
        return self._assign(f"_at({vector.text}, y)")

    def call(self, node: Call, args: tuple[Value, ...]) -> Value:
        func, texts = node.func, [arg.text for arg in args]
        if func == "root":
            return self._root(node, texts)
        if func in _REDUCTIONS:
            return self._reduce(func, texts[0], node.others)
        if func in ("softmax", "log_softmax"):
            masked = self._masked(texts[0], "-math.inf") if node.others else texts[0]
            if masked not in self.logs:
                self.logs[masked] = self._assign(f"torch.log_softmax({masked}, -1)").text
            log = self.logs[masked]
            if func == "log_softmax":
                return Value(log, True)
            return replace(self._assign(f"torch.softmax({masked}, -1)"), log=log)
        if func == "softcap" and args[1].constant == inf:
            return args[0]
        if func == "stop_gradient":
            return self._assign(f"{texts[0]}.detach()") if args[0].tensor else args[0]
        return self._elementwise(func, args, texts)

    def _root(self, node: Call, ends: list[str]) -> Value:
        """The equation is one expression, of the unknown."""
        unknown, equation = node.args[:2]
        assert isinstance(unknown, Name)
        inside = _Writer({})
        inside.known = {**self.known, unknown.name: Value(unknown.name, True)}
        value = walk(equation, inside)
        text = value.text
        for line in reversed(inside.lines):
            name, _, part = line.partition(" = ")
            text = re.sub(rf"\b{name}\b", f"({part})".replace("\\", r"\\"), text)
        low, high = (f"torch.zeros_like(x[:, :1]) + {end}" for end in ends)
        return self._assign(f"_root(lambda {unknown.name}: {text}, {low}, {high})")

    def _masked(self, text: str, fill: str) -> str:
        whole = text if text == "x" else f"torch.broadcast_to({text}, x.shape)"
        return f"{whole}.masked_fill(_hot(y, x.shape[-1]), {fill})"

    def _reduce(self, func: str, text: str, others: bool) -> Value:
        pattern, fill = _REDUCTIONS[func]
        size = "(x.shape[-1] - 1)" if others else "x.shape[-1]"
        body = self._masked(text, fill) if others else f"torch.broadcast_to({text}, x.shape)"
        if not others and text.isidentifier():
            body = text
        return self._assign(pattern.format(e=body, n=size))

    def _elementwise(self, func: str, args: tuple[Value, ...], texts: list[str]) -> Value:
        tensor = any(arg.tensor for arg in args)
        joined = ", ".join(texts)
        if func == "where":
            if args[0].tensor:
                return self._assign(f"torch.where({joined})")
            return self._assign(f"{texts[1]} if {texts[0]} else {texts[2]}", tensor)
        if func == "softcap":
            return self._assign(f"{texts[1]} * torch.tanh({texts[0]} / {texts[1]})")
        if func == "mercator":
            series = f"{texts[0]} ** _k / _k for _k in range(1, int({texts[1]}) + 1)"
            return self._assign(f"sum({series})", tensor)
        if func == "polygamma":
            point = texts[1] if tensor else f"torch.tensor({texts[1]}, dtype=torch.float64)"
            value = f"torch.polygamma(int({texts[0]}), {point})"
            return self._assign(value if tensor else f"float({value})", tensor)
        if func == "clip" and tensor:
            return self._assign(f"torch.clamp({joined})")
        if func == "clip":
            return self._assign(f"min(max({texts[0]}, {texts[1]}), {texts[2]})", False)
        if not tensor:
            return self._assign(self._scalar(func, joined), False)
        if func in ("minimum", "maximum"):
            if all(arg.tensor for arg in args):
                return self._assign(f"torch.{func}({joined})")
            values = texts if args[0].tensor else texts[::-1]
            bound = "max" if func == "minimum" else "min"
            return self._assign(f"torch.clamp({values[0]}, {bound}={values[1]})")
        if func == "logaddexp":
            both = (
                t if a.tensor else f"x.new_tensor({t})" for t, a in zip(texts, args, strict=True)
            )
            return self._assign(f"torch.logaddexp({', '.join(both)})")
        return self._assign(f"{_TORCH[func]}({joined})")

    def _scalar(self, func: str, joined: str) -> str:
        if func in _MATH:
            return f"{_MATH[func]}({joined})"
        return f"float({_TORCH[func]}(torch.tensor({joined}, dtype=torch.float64)))"


def _exact(value: float) -> Fraction | float:
    return float(value) if isinf(value) else Fraction(str(value))


def composite_source(spec: LossSpec) -> str:
    """``spec``'s base variant as a Python function of torch operations.

    Options that have an ``off`` value are set to it and vanish where that is a neutral element.
    """
    parameters = {n: p for n, p in spec.parameters.items() if p.off is None}
    inputs = {n: i for n, i in spec.inputs.items() if i.off is None}
    every: list[tuple[str, Parameter | Input]] = [*spec.parameters.items(), *spec.inputs.items()]
    writer = _Writer({name: entry.off for name, entry in every if entry.off is not None})
    for name, entry in inputs.items():
        shape = {"class": "", "vocab": "[None]", "row": "[:, None]"}[entry.kind]
        writer.lines.append(f"{name} = {name}.to(x.dtype){shape}")
    for name, expr in spec.let.items():
        writer.known[name] = walk(expr, writer)
    total = _constant(Fraction(0))
    for term in spec.terms:
        weight = Fraction(1) if term.weight is None else None
        factor = writer.known.get(term.weight or "", Value(term.weight or "", False, weight))
        scale = _constant(weight) if weight is not None else factor
        if scale.constant != 0:
            total = writer.binary("+", total, writer.binary("*", scale, walk(term.expr, writer)))
    tensors = ["x", *(["y"] if spec.has_target else []), *inputs]
    typed = [f"{n}: Tensor" for n in tensors] + [f"{n}: float" for n in parameters]
    setup = ["y = y[:, None]"] if spec.has_target else []
    result = f"return {total.text}.expand(x.shape[0], 1).squeeze(-1)"
    if spec.outputs:
        columns = ", ".join(walk(o.expr, writer).text for o in spec.outputs)
        result = f"return torch.cat([{columns}], -1)"
    body = [*setup, *_tidy(writer.lines, result)]
    head = f"def {spec.name}({', '.join(typed)}) -> Tensor:"
    return "\n".join([head, *(f"    {line}" for line in body)]) + "\n"


def _tidy(lines: list[str], result: str) -> list[str]:
    """What ``result`` needs, with assignments that are used once put where they are used."""
    body = [*lines, result]
    for at in range(len(lines) - 1, -1, -1):
        name, _, text = body[at].partition(" = ")
        pattern = re.compile(rf"\b{name}\b")
        users = [k for k in range(at + 1, len(body)) if pattern.search(body[k])]
        uses = sum(len(pattern.findall(body[k])) for k in users)
        if name == "y" or text.startswith(f"{name}."):
            continue  # an argument, reshaped
        if uses == 1:
            inner = f"({text})" if " " in re.sub(r"\(.*\)", "", text) or text[0] == "-" else text
            joined = pattern.sub(inner, body[users[0]])
            if len(joined) > _WIDTH:
                continue
            body[users[0]] = joined
        if uses <= 1:
            del body[at]
    return body


def composites_module(specs: Iterable[LossSpec]) -> str:
    """The text of a module with one function per loss."""
    return "\n\n".join([HEADER, *map(composite_source, specs)])
