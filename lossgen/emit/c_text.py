"""Row programs as C text."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lossgen.errors import CompilerBug
from lossgen.ir.ops import BUILTINS, OPS
from lossgen.ir.program import NO_CLASS, Call, Name, Node, Number

__all__ = ["CText", "function"]

_BINARY = {
    "|": ("||", 0),
    "&": ("&&", 1),
    **{op: (op, 2) for op in ("<", "<=", ">", ">=", "==", "!=")},
    **{op: (op, 4) for op in "+-"},
    **{op: (op, 5) for op in "*/"},
}
_UNARY = {"neg": "-", "~": "!"}
_CASTS = {"number": "real", "index": "int"}
_CHOICE, _BEFORE, _ATOM = -1, 6, 9
_FUNCTIONS = {
    **{name: name for name in (*OPS, *BUILTINS)},
    "exp_tile": "exp",
    "exp_below": "exp",
    "fmax": "maximum",
    "fmin": "minimum",
    "expm1_within": "expm1_within",
}


def function(node: Node) -> str | None:
    """The function of the vocabulary that an expression calls."""
    return _FUNCTIONS.get(node.op) if isinstance(node, Call) else None


@dataclass(frozen=True)
class CText:
    """Prints expressions; numbers of a tile have the type ``real``, of a row they are double.

    ``names``: what else a name is called.  In the text of a tile ``rows`` are row values, and
    ``integers`` those of them that are classes.
    """

    tile: bool
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Collection[str] = ()
    integers: Collection[str] = ()

    def __call__(self, node: Node, level: int = 0) -> str:
        text, own = self._print(node)
        return f"({text})" if own < level else text

    def _print(self, node: Node) -> tuple[str, int]:
        match node:
            case Name(name=name):
                return self._name(name)
            case Number():
                return self._number(node)
            case Call(op=op, args=[left, right]) if op in _BINARY:
                sign, own = _BINARY[op]
                least = 4 if own == 2 else own
                return f"{self(left, least)} {sign} {self(right, max(least, own + 1))}", own
            case Call(op=op, args=[operand]) if op in _UNARY:
                return f"{_UNARY[op]}{self(operand, _BEFORE + 1)}", _BEFORE
            case Call(op="at", args=[vector, Name(name="cols")]):
                return f"{self(vector)}[cols]", _ATOM
            case Call(op="at", args=[vector, index]):
                return f"{self(vector)}[(int64_t){self(index, _BEFORE)}]", _ATOM
            case Call(op="index", args=[Name(name=name)]) if name in self.integers:
                return self._name(name)
            case Call(op=op, args=[value]) if op in _CASTS:
                return f"({_CASTS[op]})({self(value)})", _BEFORE
            case Call(op="select" | "where", args=[c, a, b]):
                return f"{self(c, 1)} ? {self(a, 1)} : {self(b, 1)}", _CHOICE
            case Call(op="clip", args=[x, _, high]) if _within(node):
                return f"f_clamp({self(x)}, {self(high)})", _ATOM
            case Call(op=op, args=args) if op in _FUNCTIONS:
                return f"f_{self._spelled(op, args[0])}({', '.join(map(self, args))})", _ATOM
        raise CompilerBug(f"no C spelling of {node}")

    def _name(self, name: str) -> tuple[str, int]:
        text = self.names.get(name, name)
        if name not in self.rows or name == "y":
            return text, _ATOM
        return (f"(int){text}", _BEFORE) if name in self.integers else (f"R({text})", _ATOM)

    def _number(self, node: Number) -> tuple[str, int]:
        value = node.value
        if isinstance(value, int):
            return ("INT_MAX" if node == NO_CLASS else repr(value)), _ATOM
        if not math.isfinite(value):
            return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}[repr(value)], _BEFORE
        text = f"R({abs(value)!r})" if self.tile else repr(abs(value))
        return (f"-{text}", _BEFORE) if math.copysign(1.0, value) < 0 else (text, _ATOM)

    def _spelled(self, op: str, argument: Node) -> str:
        """Without bounds of its own where the argument has them."""
        if self.tile and op == "exp_below":
            return op
        bound = _within(argument)
        return "expm1_within" if op == "expm1" and bound and bound <= 80.0 else _FUNCTIONS[op]


def _within(node: Node) -> float | None:
    """c where this is clip(…, -c, c)."""
    match node:
        case Call(op="clip", args=[_, Number(value=low), Number(value=high)]):
            return high if low == -high else None
    return None
