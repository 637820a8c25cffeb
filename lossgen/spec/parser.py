"""Formula text → expression tree, with ranks.  Nothing is ever evaluated as code.

A formula passes three gates: its characters and words are checked first (length, nesting,
numbers, only the language's operators), so that Python's parser sees nothing dangerous; then
``ast.parse`` orders the operations; then an allow-list turns the nodes it knows into
:mod:`lossgen.spec.expr`, checking names, arguments and ranks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from lossgen.errors import (
    BareFunction,
    BareTarget,
    FormulaSyntax,
    FormulaTooLarge,
    Location,
    MisplacedComparison,
    NotAFunction,
    NotInLanguage,
    RankError,
    SpecError,
    UnknownFunction,
    UnknownName,
    WrongArguments,
)
from lossgen.paths import spec_names
from lossgen.spec.constants import Constants
from lossgen.spec.definitions import DEFINED, Definition, tree
from lossgen.spec.equation import equation
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
    children,
)
from lossgen.spec.scope import Scope
from lossgen.spec.source import shorten
from lossgen.spec.vocabulary import (
    ARGUMENTS,
    BATCH_WORDS,
    CLASS_MAPS,
    CLASS_WORDS,
    FUNCTIONS,
    LEAVES,
    OVER_CLASSES,
    REDUCTIONS,
    RESERVED,
    ROOT,
    SUGAR,
    repair,
    repair_call,
    usual,
)
from lossgen.spec.words import check_words

__all__ = ["Scope", "parse"]

MAX_DEPTH = 100
#: of functions of a whole number: its place among the arguments, the least, the most, and a hint
_ORDERS = {
    "mercator": (1, 0, 16, None),
    "polygamma": (0, 1, 6, "digamma(e) is the one of order 0"),
}
MAX_WRITTEN_OUT = 4000  # nodes of a formula once its words of ``definitions`` are written out

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_NO_LOSSES = "a formula calls no losses: write out the transform of its spec"
_KEYWORD_HINTS = dict.fromkeys(
    ("dim", "axis", "keepdim", "keepdims"), "remove it: reductions go over the classes"
)
_MEANING = {
    Rank.PARAMETER: "one number per call",
    Rank.ROW: "one number per row",
    Rank.CLASS: "one number per row and class",
}


def parse(text: str, scope: Scope, locate: Callable[[Span], Location]) -> Expr:
    """The typed tree of a formula; any rank (see ``check`` for what each place requires).

    Args:
        text: the formula, on one line and stripped; spans count its characters.
        scope: the names it may use.
        locate: where a span stands in the spec.

    Raises:
        SpecError: with the place of the character, word or subexpression that is wrong.
    """
    check_words(text, locate)
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        start = max(0, min((error.offset or 1) - 1, len(text) - 1))
        raise FormulaSyntax(
            problem="a value or an operator is misplaced",
            location=locate(Span(start, start + 1)),
        ) from None
    except (RecursionError, MemoryError, ValueError):
        raise FormulaTooLarge(
            what="operations nest too deeply", location=locate(Span(0, 1))
        ) from None
    return Builder(text, scope, locate).visit(tree.body, 0)


class Builder:
    """Python's syntax tree → ours, one visit per node."""

    def __init__(self, text: str, scope: Scope, locate: Callable[[Span], Location]) -> None:
        self.text, self.scope, self.locate = text, scope, locate
        self.constants = Constants()
        self.counts: dict[int, tuple[Expr, int]] = {}  # of nodes, by identity of the root
        self.known = sorted({*scope.names, *LEAVES, *SUGAR})
        self.unknowns: list[str] = []  # of the equations around this place
        self.taken = frozenset((*scope.names, *scope.later, *RESERVED))  # no unknown is called so

    def fail(self, error: type[SpecError], span: Span, **fields: Any) -> NoReturn:
        raise error(location=self.locate(span), **fields)

    def words(self, span: Span) -> str:
        return shorten(self.text[span.start : span.end])

    def span(self, node: ast.expr | ast.keyword) -> Span:
        return Span(node.col_offset, node.end_col_offset or node.col_offset + 1)

    def number(self, node: ast.Constant) -> Fraction:
        return Fraction(self.text[node.col_offset : node.end_col_offset])

    def visit(self, node: ast.expr, depth: int) -> Expr:
        span = self.span(node)
        if depth > MAX_DEPTH:
            what = f"operations nest more than {MAX_DEPTH} deep"
            self.fail(FormulaTooLarge, span, what=what)
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return self.checked(Number(Rank.PARAMETER, span, self.number(node)))
            case ast.Name(id=name):
                return self.name(name, span)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.visit(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.visit(operand, depth + 1)
                return self.checked(Unary(inner.rank, span, "-", inner))
            case ast.BinOp(left=a, op=op, right=b) if type(op) in _BINARY:
                left, right = self.visit(a, depth + 1), self.visit(b, depth + 1)
                rank = max(left.rank, right.rank)
                return self.checked(Binary(rank, span, _BINARY[type(op)], left, right))
            case ast.Compare():
                self.fail(MisplacedComparison, span)
            case ast.Subscript(value=vector, slice=index):
                return self.gather(vector, index, span, depth)
            case ast.Call(func=ast.Name(id=name) as function):
                return self.call(name, function, node, span, depth)
            case ast.Call():
                self.fail(
                    NotInLanguage,
                    span,
                    what="calling an expression is",
                    hint="multiplication is written with *",
                )
            case ast.Tuple() | ast.List():
                hint = "several results of a row are outputs, each with a name"
                self.fail(NotInLanguage, span, what="a list of values is", hint=hint)
            case ast.Starred():
                self.fail(NotInLanguage, span, what="unpacking with * is")
        self.fail(NotInLanguage, span, what=f"{type(node).__name__} expressions are")

    def checked(self, expr: Expr) -> Expr:
        """Refuse constants that are no finite number, or too large to be worth forming."""
        if error := self.constants.record(expr):
            self.fail(
                error.kind,
                error.span,
                text=self.words(error.span),
                what=f"'{self.words(error.span)}' {error.problem}",
            )
        return expr

    def name(self, name: str, span: Span) -> Expr:
        if name in self.unknowns:
            return Name(Rank.ROW, span, name, NameKind.UNKNOWN)
        if name in LEAVES:
            kind, rank = LEAVES[name]
            return self.checked(Name(rank, span, name, kind))
        if name in SUGAR:
            return _Written(self, {}, span, False).visit(tree(SUGAR[name]), 0)
        if name in self.scope.names:
            kind, rank = self.scope.names[name]
            return Name(rank, span, name, kind)
        if name == "y":
            self.fail(BareTarget, span)
        hint: str | None
        if name in self.scope.later:
            hint = "a let may use only the lets above it"
        elif name in self.scope.outputs:
            hint = "a formula cannot use an output; name the value with let"
        elif name in FUNCTIONS:
            self.fail(BareFunction, span, name=name, hint=f"write {usual(name)}")
        elif name == "others":
            hint = "it stands only in over=others"
        else:
            hint = repair(name, self.known)
            stem = name.removesuffix("_loss")
            if hint is None and stem in spec_names():
                hint = f"a formula uses no other loss: this one is lossgen.load('{stem}')"
        self.fail(UnknownName, span, name=shorten(name), hint=hint)

    def gather(self, vector: ast.expr, index: ast.expr, span: Span, depth: int) -> Expr:
        if not (isinstance(index, ast.Name) and index.id == "y"):
            start, end = index.col_offset, index.end_col_offset or index.col_offset + 1
            shown = self.words(Span(vector.col_offset, vector.end_col_offset or 0))
            number = isinstance(index, ast.Constant)
            if number:
                self.visit(vector, depth + 1)  # sort(x)[0]: there is no sort
            hint = f"the target class is y: write {shown}[y]"
            if number:  # one class by its number
                at = self.words(Span(start, end))
                hint = f"write sum(where(index == {at}, {shown}, 0))"
            self.fail(NotInLanguage, Span(start, end), what="an index other than [y] is", hint=hint)
        inner = self.visit(vector, depth + 1)
        if inner.rank < Rank.CLASS:
            self.rank_error("[y] takes one class of a class vector", inner, "remove the [y]")
        return Gather(Rank.ROW, span, inner)

    def rank_error(self, what: str, expr: Expr, hint: str) -> NoReturn:
        self.fail(
            RankError,
            expr.span,
            what=what,
            text=self.words(expr.span),
            rank=expr.rank,
            meaning=_MEANING[expr.rank],
            hint=hint,
        )

    def call(self, name: str, function: ast.expr, node: ast.Call, span: Span, depth: int) -> Expr:
        where = Span(function.col_offset, function.end_col_offset or 0)
        if name not in FUNCTIONS:
            what = "the target class" if name == "y" else "a value"
            if name in self.scope.names or name in SUGAR or name in LEAVES or name == "y":
                at_target = [getattr(a, "id", "") for a in node.args] == ["y"] and name != "y"
                hint = f"write {name}[y]" if at_target else None
                self.fail(NotAFunction, where, name=name, what=what, hint=hint)
            hint = repair_call(name, sorted(FUNCTIONS))
            if name.removesuffix("_loss") in spec_names():
                hint = _NO_LOSSES
            self.fail(UnknownFunction, where, name=shorten(name), hint=hint)
        if name in BATCH_WORDS and not self.scope.batch:
            hint = "it stands in `batch:`, the formula of all rows together, and in lets for that"
            self.fail(NotInLanguage, where, what=f"{name} in the formula of one row is", hint=hint)
        others = self.over_others(name, node)
        if any(isinstance(a, ast.Starred) for a in node.args):
            self.fail(NotInLanguage, span, what="unpacking with * is")
        self.check_count(name, len(node.args), span)
        if name in DEFINED:
            return self.written_out(DEFINED[name], node, span, others, depth)
        if name in ROOT:
            return equation(self, node, span, depth)
        if name == "where":
            arguments = (
                self.condition(node.args[0], depth + 1),
                *(self.visit(a, depth + 1) for a in node.args[1:]),
            )
        else:
            arguments = tuple(self.visit(a, depth + 1) for a in node.args)
        rank = max(a.rank for a in arguments)
        if name in REDUCTIONS or name in CLASS_MAPS:
            if rank < Rank.CLASS:
                hint = f"remove the {name}, or give it a class vector such as x, p or logp"
                self.rank_error(f"{name} needs a class vector", arguments[0], hint)
            rank = Rank.CLASS if name in CLASS_MAPS else Rank.ROW
        if name in _ORDERS:
            self.check_order(name, arguments)
        return self.checked(Call(rank, span, name, arguments, others))

    def check_count(self, name: str, given: int, span: Span) -> None:
        word = DEFINED.get(name)
        wanted = word.arguments if word else (ARGUMENTS | BATCH_WORDS)[name]
        fewest, most = word.required if word else len(wanted), len(wanted)
        if fewest <= given <= most:
            return
        hint = {
            "max": "maximum(a, b) is the elementwise one",
            "min": "minimum(a, b) is the elementwise one",
            "norm": "norm(e) is the root of the sum of squares",
            "root": "e is 0 at a t between the row values low and high",
        }.get(name)
        count = f"{most}" if fewest == most else f"{fewest} to {most}"
        problem = f"{usual(name)} takes {count} argument{'s'[: most > 1]}, not {given}"
        self.wrong_arguments(span, problem, hint)

    def written_out(
        self, word: Definition, node: ast.Call, span: Span, others: bool, depth: int
    ) -> Expr:
        """The formula of a word of ``definitions``, in place of its call."""
        values = (self.visit(a, depth + 1) for a in node.args)
        given = dict(zip(word.arguments, values, strict=False))
        if word.name in CLASS_WORDS and max(a.rank for a in given.values()) < Rank.CLASS:
            hint = f"remove the {word.name}, or give it a class vector such as x, p or logp"
            self.rank_error(f"{word.name} needs a class vector", given[word.arguments[0]], hint)
        for name, text in word.defaults.items():
            given.setdefault(name, self.checked(Number(Rank.PARAMETER, span, Fraction(text))))
        expr = _Written(self, given, span, others).visit(tree(word.formula), depth + 1)
        if self.count(expr) > MAX_WRITTEN_OUT:
            what = f"written out in other functions, '{self.words(span)}' has more than "
            self.fail(FormulaTooLarge, span, what=f"{what}{MAX_WRITTEN_OUT} operations")
        return expr

    def count(self, expr: Expr) -> int:
        """The nodes of a tree; those it has twice count twice."""
        if id(expr) not in self.counts:
            self.counts[id(expr)] = expr, 1 + sum(map(self.count, children(expr)))
        return self.counts[id(expr)][1]

    def over_others(self, name: str, node: ast.Call) -> bool:
        for entry in node.keywords:
            span = self.span(entry)
            if entry.arg is None:
                self.fail(NotInLanguage, span, what="unpacking with ** is")
            if entry.arg != "over":
                problem = f"{name} takes no keyword '{shorten(entry.arg)}'"
                hint = _KEYWORD_HINTS.get(entry.arg, "the only keyword is over=others")
                self.wrong_arguments(span, problem, hint)
            if not (isinstance(entry.value, ast.Name) and entry.value.id == "others"):
                problem = "the only value of over is others: the classes besides the target"
                self.wrong_arguments(span, problem, "without it, all classes are meant")
            if name in CLASS_WORDS and name not in OVER_CLASSES:
                hint = "without it, all classes are meant"
                self.wrong_arguments(span, f"{name} has no value at a class left out", hint)
            if name not in OVER_CLASSES:
                hint = f"functions that do: {', '.join(CLASS_MAPS + REDUCTIONS)}"
                self.wrong_arguments(span, f"{name} does not look over the classes", hint)
        return bool(node.keywords)

    def wrong_arguments(self, span: Span, problem: str, hint: str | None = None) -> NoReturn:
        self.fail(WrongArguments, span, problem=problem, hint=hint)

    def condition(self, node: ast.expr, depth: int) -> Expr:
        span = self.span(node)
        if not isinstance(node, ast.Compare):
            self.wrong_arguments(
                span, "the first argument of where must be a comparison", "one of < <= > >= == !="
            )
        if len(node.ops) > 1:
            self.fail(
                NotInLanguage,
                span,
                what="a chain of comparisons is",
                hint="write where(0 < e, where(e < 1, a, b), b)",
            )
        left, right = self.visit(node.left, depth), self.visit(node.comparators[0], depth)
        rank = max(left.rank, right.rank)
        return Compare(rank, span, _COMPARE[type(node.ops[0])], left, right)

    def check_order(self, name: str, arguments: tuple[Expr, ...]) -> None:
        place, least, most, hint = _ORDERS[name]
        order = arguments[place]
        domain = self.scope.integers.get(order.name) if isinstance(order, Name) else None
        if domain is not None and domain.lo >= least and domain.hi <= most:
            return
        number = order.value if isinstance(order, Number) else Fraction(1, 2)
        if number.denominator == 1 and least <= number <= most:
            return
        problem = f"the order of {name} must be a whole number, or an integer parameter, "
        self.wrong_arguments(order.span, f"{problem}between {least} and {most}", hint)


class _Written(Builder):
    """A builder for the formula of a word: its arguments are trees, its place is the word's."""

    def __init__(self, outer: Builder, given: dict[str, Expr], span: Span, others: bool) -> None:
        super().__init__(outer.text, outer.scope, outer.locate)
        self.constants, self.counts = outer.constants, outer.counts
        self.given, self.site, self.others = given, span, others
        self.taken = frozenset()  # nobody else's formula is in it

    def span(self, node: ast.expr | ast.keyword) -> Span:
        return self.site

    def number(self, node: ast.Constant) -> Fraction:
        return Fraction(str(node.value))

    def name(self, name: str, span: Span) -> Expr:
        return self.given[name] if name in self.given else super().name(name, span)

    def over_others(self, name: str, node: ast.Call) -> bool:
        return bool(node.keywords) or (self.others and name in OVER_CLASSES)
