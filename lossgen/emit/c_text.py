"""Emitted row expressions, which are Python, as C text.

The language is what the Triton emitters write: arithmetic, comparisons, ``&`` and ``|`` of
conditions, the vocabulary of ``lossgen.runtime.device`` and ``tl.where``, ``tl.exp``,
``tl.maximum``, ``.to(...)``.  Anything else is a compiler bug.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from lossgen.errors import CompilerBug

__all__ = ["CText", "assignment", "is_condition"]

_BINARY = {
    ast.Add: ("+", 4),
    ast.Sub: ("-", 4),
    ast.Mult: ("*", 5),
    ast.Div: ("/", 5),
    ast.BitAnd: ("&&", 1),
    ast.BitOr: ("||", 0),
}
_COMPARE = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_RENAMED = {"exp_accurate": "exp", "log_accurate": "log"}
_CASTS = {"float32": "real", "int32": "int"}
_UNARY, _ATOM = 6, 9
_EXPONENT = re.compile(r"t\d+(_\d+)?")


def assignment(line: str) -> tuple[str, ast.expr]:
    """Name and value of an emitted line."""
    match ast.parse(line).body:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            return name, value
    raise CompilerBug(f"not an assignment: {line}")


def is_condition(node: ast.expr, conditions: set[str]) -> bool:
    """Is it true or false? ``conditions`` are the names that are."""
    if isinstance(node, ast.Name):
        return node.id in conditions
    logical = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr))
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert)
    return isinstance(node, ast.Compare) or logical or negated


@dataclass(frozen=True)
class CText:
    """Prints expressions; numbers of a tile have the type ``real``, of a row they are double."""

    tile: bool

    def __call__(self, node: ast.expr, level: int = 0) -> str:
        text, own = self._print(node)
        return f"({text})" if own < level else text

    def _print(self, node: ast.expr) -> tuple[str, int]:
        match node:
            case ast.Name(id=name):
                return name, _ATOM
            case ast.Constant(value=float() as value):
                return (f"R({value!r})" if self.tile else repr(value)), _ATOM
            case ast.Constant(value=int() as value):
                return ("INT_MAX" if value == 2**31 - 1 else repr(int(value))), _ATOM
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                sign, own = _BINARY[type(op)]
                return f"{self(left, own)} {sign} {self(right, own + 1)}", own
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"-{self(operand, _UNARY + 1)}", _UNARY
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return f"!{self(operand, _UNARY + 1)}", _UNARY
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return f"{self(left, 4)} {_COMPARE[type(op)]} {self(right, 4)}", 2
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                return f"{name}[(int64_t){self(index, _UNARY)}]", _ATOM
            case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)]):
                return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}[text], _UNARY
            case ast.Call(func=ast.Attribute(attr="to"), args=[ast.Attribute(attr=kind)]):
                return f"({_CASTS[kind]})({self(_receiver(node))})", _UNARY
            case ast.Call(func=ast.Attribute(attr="where"), args=[c, a, b]):
                return f"{self(c, 1)} ? {self(a, 1)} : {self(b, 1)}", -1
            case ast.Call(func=ast.Attribute(attr="clip"), args=[x, _, high]) if _within(node):
                return f"f_clamp({self(x)}, {self(high)})", _ATOM
            case ast.Call(func=ast.Attribute(attr=name), args=args):
                listed = ", ".join(self(a) for a in args)
                return f"f_{self._function(name, args[0])}({listed})", _ATOM
        raise CompilerBug(f"no C spelling of {ast.unparse(node)}")

    def _function(self, name: str, argument: ast.expr) -> str:
        """By its name in the vocabulary; without bounds of its own where the argument has them:
        t = l - max l is at most 0 where its exponential counts."""
        name = _RENAMED.get(name, name)
        if self.tile and name == "exp" and _EXPONENT.fullmatch(ast.unparse(argument)):
            return "exp_below"
        bound = _within(argument)
        return "expm1_within" if name == "expm1" and bound and bound <= 80.0 else name


def _within(node: ast.expr) -> float | None:
    """c where this is clip(…, -c, c)."""
    match node:
        case ast.Call(
            func=ast.Attribute(attr="clip"),
            args=[_, ast.UnaryOp(ast.USub(), ast.Constant(float() as low)), ast.Constant(high)],
        ):
            return low if low == high else None
    return None


def _receiver(node: ast.Call) -> ast.expr:
    assert isinstance(node.func, ast.Attribute)
    return node.func.value
