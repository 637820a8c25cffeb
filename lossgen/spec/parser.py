"""Formula text → typed expression tree, through Python's ``ast`` and an allow-list.

A spec may come from a stranger: nothing is ever evaluated.  Length, nesting, node count and the
size of numbers are limited before SymPy sees anything.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NoReturn

from lossgen.spec.expr import (
    Binary,
    Call,
    Compare,
    Expr,
    Gather,
    Name,
    NameKind,
    Number,
    Rank,
    Span,
    Unary,
)

__all__ = ["ELEMENTWISE", "REDUCTIONS", "VOCABULARY", "FormulaError", "parse_formula"]

MAX_LENGTH, MAX_DEPTH, MAX_NODES, MAX_DIGITS, MAX_EXPONENT = 4000, 60, 1000, 40, 400

ELEMENTWISE: dict[str, int] = dict.fromkeys(
    ["exp", "log", "log1p", "expm1", "sqrt", "tanh", "abs", "relu", "sigmoid", "softplus",
     "log_sigmoid", "erf", "sign", "stop_gradient"], 1,
) | {"minimum": 2, "maximum": 2, "softcap": 2, "mercator": 2, "clip": 3, "where": 3}
REDUCTIONS = ("sum", "mean", "max", "logsumexp", "norm", "argmax")
_SOFTMAX = ("softmax", "log_softmax")
_NAMES = ("x", "p", "logp", "u", "V", "onehot", "pi")
VOCABULARY = frozenset({*ELEMENTWISE, *REDUCTIONS, *_SOFTMAX, *_NAMES, "y", "others"})

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


class FormulaError(Exception):
    """What is wrong with a formula, and where in its text."""

    def __init__(self, message: str, span: Span, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.span, self.hint = message, span, hint


def parse_formula(text: str, names: Mapping[str, Name], uses_target: bool = True) -> Expr:
    """The tree of ``text``; ``names`` are the declared parameters, inputs and lets.

    Raises:
        FormulaError: with the span of the offending characters.
    """
    _check_text(text)
    try:
        node = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        column = max(0, (error.offset or 1) - 1)
        raise FormulaError(
            f"syntax error: {error.msg}", Span(min(column, len(text) - 1), column + 1)
        ) from None
    except (ValueError, MemoryError, RecursionError):
        raise FormulaError("this text cannot be parsed", Span(0, len(text))) from None
    return _Reader(text.strip(), names)(node.body)


def _check_text(text: str) -> None:
    if not text.strip():
        raise FormulaError("the formula is empty", Span(0, 1))
    if len(text) > MAX_LENGTH:
        raise FormulaError(
            f"the formula has {len(text)} characters; at most {MAX_LENGTH} are allowed",
            Span(0, 1), "name parts of it with `let`",
        )
    strange = next((k for k, c in enumerate(text) if not c.isascii() or c in "\0\\"), None)
    if strange is not None:
        raise FormulaError(f"the character {text[strange]!r}", Span(strange, strange + 1))
    depth = 0
    for k, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth > MAX_DEPTH:
            raise FormulaError(
                f"more than {MAX_DEPTH} nested parentheses", Span(k, k + 1),
                "name parts of the formula with `let`",
            )
    for match in re.finditer(r"[\d_]+(?:\.\d*)?(?:[eE][-+]?(\d+))?", text):
        if len(match[0]) > MAX_DIGITS or int(match[1] or 0) > MAX_EXPONENT:
            raise FormulaError("a number of this size", Span(*match.span()))


@dataclass
class _Reader:
    text: str
    names: Mapping[str, Name]
    count: int = 0

    def __call__(self, node: ast.expr) -> Expr:
        return self.visit(node, 0)

    def span(self, node: ast.expr) -> Span:
        return Span(node.col_offset, node.end_col_offset or node.col_offset + 1)

    def source(self, node: ast.expr) -> str:
        span = self.span(node)
        text = self.text[span.start:span.end]
        return text if len(text) <= 60 else text[:57] + "..."

    def fail(self, message: str, node: ast.expr, hint: str = "") -> NoReturn:
        raise FormulaError(message, self.span(node), hint)

    def visit(self, node: ast.expr, depth: int) -> Expr:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            self.fail("the formula is too large", node, "name parts of it with `let`")
        handler = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:
            self.fail(f"{self._kind(node)} is not part of the spec language", node)
        result: Expr = handler(node, depth + 1)
        return result

    @staticmethod
    def _kind(node: ast.expr) -> str:
        return {
            "Attribute": "attribute access", "Lambda": "a lambda", "List": "a list",
            "Tuple": "a tuple", "Dict": "a dictionary", "IfExp": "a conditional expression",
            "BoolOp": "and/or", "Starred": "a starred expression", "JoinedStr": "a string",
            "ListComp": "a comprehension", "GeneratorExp": "a comprehension",
            "NamedExpr": "an assignment",
        }.get(type(node).__name__, type(node).__name__)

    # ------------------------------------------------------------------ leaves
    def _constant(self, node: ast.Constant, depth: int) -> Expr:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            kind = "a string" if isinstance(node.value, (str, bytes)) else repr(node.value)
            self.fail(f"{kind} is not part of the spec language", node)
        return Number(Rank.PARAMETER, self.span(node), Fraction(self.source(node)))

    def _name(self, node: ast.Name, depth: int) -> Expr:
        span, name = self.span(node), node.id
        logits = Name(Rank.CLASS, span, "x", NameKind.LOGITS)
        if name == "x":
            return logits
        if name in ("p", "logp"):
            return Call(Rank.CLASS, span, "softmax" if name == "p" else "log_softmax", (logits,))
        if name == "u":
            gap = Binary(Rank.CLASS, span, "-", logits, Gather(Rank.ROW, span, logits))
            return Call(Rank.ROW, span, "sum", (Call(Rank.CLASS, span, "exp", (gap,)),), True)
        if name == "V":
            return Name(Rank.PARAMETER, span, "V", NameKind.CLASSES)
        if name == "pi":
            return Name(Rank.PARAMETER, span, "pi", NameKind.CONSTANT)
        if name == "onehot":
            return Name(Rank.CLASS, span, "onehot", NameKind.ONEHOT)
        if name == "y":
            self.fail("y is the target class and stands only in brackets", node,
                      "write p[y], or onehot for the indicator of the target")
        if name in self.names:
            return replace(self.names[name], span=span)
        known = [*self.names, *_NAMES]
        close = difflib.get_close_matches(name, known, 1)
        if name in VOCABULARY:
            self.fail(f"{name} is a function: call it", node, f"{name}(...)")
        self.fail(f"unknown name {name!r}", node,
                  f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")

    # ------------------------------------------------------------------ operators
    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Expr:
        operand = self.visit(node.operand, depth)
        if isinstance(node.op, ast.UAdd):
            return operand
        if not isinstance(node.op, ast.USub):
            self.fail("only + - * / ** are operators of the spec language", node)
        return Unary(operand.rank, self.span(node), "-", operand)

    def _binop(self, node: ast.BinOp, depth: int) -> Expr:
        op = _BINARY.get(type(node.op))
        if op is None:
            hint = "a power is written **" if isinstance(node.op, ast.BitXor) else ""
            self.fail("only + - * / ** are operators of the spec language", node, hint)
        left, right = self.visit(node.left, depth), self.visit(node.right, depth)
        if op == "**":
            exponent = _constant_value(right)
            if _constant_value(left) is not None and (exponent is None or abs(exponent) > 64):
                if exponent is not None:
                    self.fail("a constant power of this size", node)
            if exponent is not None and abs(exponent) > 64:
                self.fail("an exponent of this size", node.right)
        if op == "/" and _constant_value(right) == 0:
            self.fail("division by zero", node)
        return Binary(max(left.rank, right.rank), self.span(node), op, left, right)

    def _compare(self, node: ast.Compare, depth: int) -> Expr:
        self.fail("a comparison stands only as the first argument of where", node,
                  "where(a < b, value, other)")

    def _condition(self, node: ast.expr, depth: int) -> Expr:
        if not isinstance(node, ast.Compare) or len(node.ops) != 1:
            self.fail("the first argument of where is one comparison", node,
                      "where(a < b, value, other)")
        op = _COMPARE.get(type(node.ops[0]))
        if op is None:
            self.fail("a comparison is one of < <= > >= == !=", node)
        left, right = self.visit(node.left, depth), self.visit(node.comparators[0], depth)
        return Compare(max(left.rank, right.rank), self.span(node), op, left, right)

    def _subscript(self, node: ast.Subscript, depth: int) -> Expr:
        if not (isinstance(node.slice, ast.Name) and node.slice.id == "y"):
            self.fail("the only subscript is [y], the target class", node)
        vector = self.visit(node.value, depth)
        if vector.rank is not Rank.CLASS:
            self.fail(f"[y] takes an entry of a class vector, but {self.source(node.value)} has "
                      f"rank {vector.rank}", node.value)
        return Gather(Rank.ROW, self.span(node), vector)

    # ------------------------------------------------------------------ calls
    def _call(self, node: ast.Call, depth: int) -> Expr:
        if not isinstance(node.func, ast.Name):
            self.fail(f"{self._kind(node.func)} is not part of the spec language", node.func)
        func = node.func.id
        arity = 1 if func in (*REDUCTIONS, *_SOFTMAX) else ELEMENTWISE.get(func)
        if arity is None:
            known = [*ELEMENTWISE, *REDUCTIONS, *_SOFTMAX]
            close = difflib.get_close_matches(func, known, 1)
            self.fail(f"unknown function {func!r}", node.func,
                      f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")
        if len(node.args) != arity or any(isinstance(a, ast.Starred) for a in node.args):
            self.fail(f"{func} takes {arity} argument{'s' if arity > 1 else ''}, "
                      f"not {len(node.args)}", node)
        others = self._others(node, func)
        first = (self._condition if func == "where" else self.visit)(node.args[0], depth)
        args = (first, *(self.visit(a, depth) for a in node.args[1:]))
        span = self.span(node)
        if func in REDUCTIONS or func in _SOFTMAX:
            if args[0].rank is not Rank.CLASS:
                self.fail(f"{func} runs over the classes, but {self.source(node.args[0])} has "
                          f"rank {args[0].rank}", node.args[0],
                          "reduce a class vector such as p, logp or x")
            rank = Rank.CLASS if func in _SOFTMAX else Rank.ROW
            return Call(rank, span, func, args, others)
        return Call(max(a.rank for a in args), span, func, args)

    def _others(self, node: ast.Call, func: str) -> bool:
        for keyword in node.keywords:
            value = keyword.value
            reduces = func in REDUCTIONS or func in _SOFTMAX
            if keyword.arg != "over" or not reduces:
                self.fail(f"{func} takes no argument {keyword.arg!r}", value,
                          "reductions and softmax take over=others")
            if not (isinstance(value, ast.Name) and value.id == "others"):
                self.fail("over is others: the classes that are not the target", value)
        return bool(node.keywords)


def _constant_value(node: Expr) -> Fraction | None:
    """The value of an expression of numbers, if it is small enough to have one."""
    match node:
        case Number(value=value):
            return value
        case Unary(operand=operand):
            inner = _constant_value(operand)
            return None if inner is None else -inner
        case Binary(op=op, left=left, right=right):
            a, b = _constant_value(left), _constant_value(right)
            if a is None or b is None:
                return None
            if op == "**":
                size = len(str(a.numerator)) + len(str(a.denominator))
                whole = b.denominator == 1 and abs(b) * size <= 400 and (a != 0 or b > 0)
                return a ** int(b) if whole else Fraction(10**9)
            if op == "/":
                return a / b if b else None
            return a + b if op == "+" else a - b if op == "-" else a * b
    return None
