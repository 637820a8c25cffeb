"""Row programs from the text that tests write them in: assignments in Python's syntax."""

from __future__ import annotations

import ast

from lossgen.ir.program import Call, Line, Name, Node, Number

__all__ = ["lines_of", "node_of"]

_BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.BitAnd: "&",
    ast.BitOr: "|",
}
_COMPARE = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


def lines_of(*texts: str) -> list[Line]:
    """``["t0 = x - m0", "e0 = exp_below(t0)"]`` as lines; operations are called by their names."""
    found = []
    for text in texts:
        match ast.parse(text).body:
            case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
                found.append(Line(name, _node(value)))
            case _:
                raise ValueError(text)
    return found


def node_of(text: str) -> Node:
    """One expression."""
    return _node(ast.parse(text, mode="eval").body)


def _node(node: ast.expr) -> Node:
    match node:
        case ast.Name(id="inf"):
            return Number(float("inf"))
        case ast.Name(id=name):
            return Name(name)
        case ast.Constant(value=value):
            return Number(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _node(operand)
            return Number(-inner.value) if isinstance(inner, Number) else -inner
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return ~_node(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return Call(_BINARY[type(op)], (_node(left), _node(right)))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return Call(_COMPARE[type(op)], (_node(left), _node(right)))
        case ast.Call(func=ast.Name(id=name), args=args):
            return Call(name, tuple(map(_node, args)))
    raise ValueError(ast.unparse(node))
