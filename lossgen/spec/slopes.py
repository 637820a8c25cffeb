"""The derivative of a formula with respect to a number in it, or along the logits or a class
input, as a formula of the same language.

    (1 - p[y]**q) / q   →   -p[y]**q*log(p[y])/q - (1 - p[y]**q)/q**2        with respect to q
                        →   p[y]**(q - 1)*p[y]*sum(p*(v - v[y]))             along v

A function is one line of ``RULES``: for each argument, the derivative of the call where that
argument's is ``slope``.  Those of elementwise functions are in ``lossgen.spec.functions``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from lossgen.errors import CompileError
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
from lossgen.spec.functions import SLOPES
from lossgen.spec.vocabulary import ARGUMENTS, CLASS_MAPS, LEAVES, REDUCTIONS, ROOT

__all__ = ["RULES", "NoSlope", "Slopes", "frozen", "number", "operation"]


class NoSlope(CompileError):
    id = "LG203"
    template = "no derivative with respect to {name} is formed of {func}(…)"
    advice = "pass a number, or write the function in others"


_NOWHERE = Span(0, 0)

#: function -> the derivative with respect to each of its arguments, times that argument's ``slope``
RULES: dict[str, tuple[str, ...]] = {
    **SLOPES,
    # over the classes
    "softmax": ("softmax(e)*(slope - sum(softmax(e)*slope))",),
    "log_softmax": ("slope - sum(softmax(e)*slope)",),
    "logsumexp": ("sum(softmax(e)*slope)",),
    "sum": ("sum(slope)",),
    "mean": ("mean(slope)",),
    "norm": ("where(norm(e) > 0, sum(e*slope)/norm(e), 0)",),
    "max": ("sum(where(index == argmax(e), slope, 0))",),
    "argmax": ("0",),
}
#: what moves all classes alike goes through as it is, or moves nothing
_SHIFTED = ("mean", "max", "second_max", "logsumexp")
_FIXED = ("softmax", "log_softmax", "argmax")
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.Gt: ">", ast.Eq: "=="}


# ---------------------------------------------------------------------------- trees
def number(value: float | Fraction) -> Expr:
    return Number(Rank.PARAMETER, _NOWHERE, Fraction(value))


_ZERO, _ONE = number(0), number(1)


def frozen(expr: Expr) -> Expr:
    """A value without derivative."""
    return Call(expr.rank, _NOWHERE, "stop_gradient", (expr,))


def operation(op: str, left: Expr, right: Expr) -> Expr:
    """One operation, without what adds and multiplies nothing."""
    if op in "*/" and _ZERO in (left, right):
        return _ZERO
    if op in "+*" and left == (_ZERO if op == "+" else _ONE):
        return right
    if right == (_ZERO if op in "+-" else _ONE):
        return left
    if op == "-" and left == _ZERO:
        return _negative(right)
    return Binary(max(left.rank, right.rank), _NOWHERE, op, left, right)


def _negative(operand: Expr) -> Expr:
    if isinstance(operand, Number):
        return number(-operand.value)
    if isinstance(operand, Unary):
        return operand.operand
    return Unary(operand.rank, _NOWHERE, "-", operand)


def _call(func: str, args: tuple[Expr, ...], others: bool = False) -> Expr:
    rank = max(a.rank for a in args)
    if func == "sum" and rank < Rank.CLASS:  # as often as there are classes
        classes = _leaf("V")
        count = operation("-", classes, _ONE) if others else classes
        return operation("*", count, args[0])
    over = func in REDUCTIONS or func in CLASS_MAPS
    return Call(Rank.ROW if func in REDUCTIONS else rank, _NOWHERE, func, args, others and over)


def _leaf(name: str) -> Expr:
    kind, rank = LEAVES[name]
    return Name(rank, _NOWHERE, name, kind)


@lru_cache
def _template(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _filled(node: ast.expr, given: Mapping[str, Expr], others: bool) -> Expr:
    """The tree of a rule, with trees for its names."""

    def fill(part: ast.expr) -> Expr:
        return _filled(part, given, others)

    match node:
        case ast.Constant(value=int(value) | float(value)):
            return number(value)
        case ast.Name(id=name):
            return given[name] if name in given else _leaf(name)
        case ast.UnaryOp(operand=operand):
            return _negative(fill(operand))
        case ast.BinOp(left=a, op=op, right=b):
            return operation(_OPERATORS[type(op)], fill(a), fill(b))
        case ast.Compare(left=a, ops=[relation], comparators=[b]):
            left, right = fill(a), fill(b)
            rank = max(left.rank, right.rank)
            return Compare(rank, _NOWHERE, _COMPARE[type(relation)], left, right)
        case ast.Call(func=ast.Name(id=func), args=args):
            return _call(func, tuple(map(fill, args)), others)
    raise TypeError(f"not a rule: {ast.unparse(node)}")


# ---------------------------------------------------------------------------- derivatives
class Slopes:
    """Derivatives of the formulas of a spec with respect to ``name``, times ``along``: of one
    number, which is moved by 1, or of the logits or a class input, moved along a row. 0 where there
    is none."""

    def __init__(self, let: Mapping[str, Expr], name: str, along: Expr = _ONE) -> None:
        self.let, self.name, self.along = let, name, along
        self.known: dict[Expr, Expr] = {}

    def of(self, expr: Expr) -> Expr:
        """The derivative of a formula. Raises NoSlope."""
        if expr not in self.known:
            self.known[expr] = self._of(expr)
        return self.known[expr]

    def _of(self, expr: Expr) -> Expr:
        match expr:
            case Name(kind=NameKind.LET, name=name):
                return self.of(self.let[name])
            case Name(kind=NameKind.UNKNOWN):
                return _ZERO
            case Name(name=name) if name == self.name:
                return self.along
            case Unary(operand=operand):
                slope = self.of(operand)
                return _ZERO if slope == _ZERO else _negative(slope)
            case Gather(vector=Call(func="softmax" | "log_softmax", others=False) as vector):
                return self._normalised(expr, vector)
            case Gather(vector=vector):
                slope = self.of(vector)
                return slope if slope.rank < Rank.CLASS else Gather(Rank.ROW, _NOWHERE, slope)
            case Binary():
                return self._operation(expr)
            case Call(func="where", args=(condition, a, b)):
                one, other = self.of(a), self.of(b)
                return one if one == other else _call("where", (condition, one, other))
            case Call():
                return self._function(expr)
        return _ZERO

    def _normalised(self, expr: Gather, vector: Call) -> Expr:
        """Of a softmax or its logarithm at y: Σ p·(e'_y - e'), in which offsets of e' cancel class
        by class, and not after the sum."""
        slope = self.of(vector.args[0])
        if slope.rank < Rank.CLASS:
            return _ZERO
        apart = operation("-", slope, Gather(Rank.ROW, _NOWHERE, slope))
        mean = _call("sum", (operation("*", _call("softmax", vector.args), apart),))
        return _negative(mean if vector.func == "log_softmax" else operation("*", expr, mean))

    def _operation(self, expr: Binary) -> Expr:
        a, b = expr.left, expr.right
        one, other = self.of(a), self.of(b)
        match expr.op:
            case "+" | "-":
                return operation(expr.op, one, other)
            case "*":
                return operation("+", operation("*", one, b), operation("*", a, other))
            case "/":
                square = operation("**", b, number(2))
                moved = operation("/", operation("*", a, other), square)
                return operation("-", operation("/", one, b), moved)
        logarithm = _ZERO if one == _ZERO else self._of_logarithm(a)
        if logarithm is not None:
            by_base = operation("*", operation("*", b, expr), logarithm)
        else:
            lower = number(b.value - 1) if isinstance(b, Number) else operation("-", b, _ONE)
            by_base = operation("*", operation("*", b, operation("**", a, lower)), one)
        by_power = operation("*", operation("*", expr, _call("log", (a,))), other)
        return operation("+", by_base, by_power)

    def _of_logarithm(self, base: Expr) -> Expr | None:
        """The derivative of log p or log(1 - p_y): that of p**q is q·p**q times it, where p may
        vanish and p**(q - 1) be infinite."""
        match base:
            case Name(kind=NameKind.LET, name=name):
                return self._of_logarithm(self.let[name])
            case Call(func="softmax"):
                return self.of(replace(base, func="log_softmax"))
            case Gather(vector=Call(func="softmax") as vector):
                return self.of(replace(base, vector=replace(vector, func="log_softmax")))
            case Binary(
                op="-",
                left=Number(value=1),
                right=Gather(vector=Call(func="softmax", others=False) as vector) as own,
            ):
                slope = self.of(vector.args[0])
                if slope.rank < Rank.CLASS:
                    return _ZERO
                apart = operation("-", slope, Gather(Rank.ROW, _NOWHERE, slope))
                others = operation("*", replace(vector, others=True), apart)
                return operation("*", own, _call("sum", (others,), others=True))
        return None

    def _function(self, expr: Call) -> Expr:
        slopes = [self.of(a) for a in expr.args]
        if expr.func in ROOT and any(slope != _ZERO for slope in slopes):
            raise NoSlope(name=self.name, func=expr.func)
        total = _ZERO
        given = dict(zip(ARGUMENTS[expr.func], expr.args, strict=True))
        for k, slope in enumerate(slopes):
            if slope == _ZERO or (slope.rank < Rank.CLASS and expr.func in _FIXED):
                continue
            if slope.rank < Rank.CLASS and expr.func in _SHIFTED:
                return slope
            if expr.func not in RULES:
                raise NoSlope(name=self.name, func=expr.func)
            rule = _template(RULES[expr.func][k])
            part = _filled(rule, {**given, "slope": slope}, expr.others)
            total = operation("+", total, part)
        return total
