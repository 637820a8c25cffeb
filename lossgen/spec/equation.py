"""root(t, e, low, high): a call that binds a name, which its equation alone knows."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from lossgen.errors import NotInLanguage
from lossgen.spec.expr import Call, Expr, Name, NameKind, Rank, Span
from lossgen.spec.source import shorten
from lossgen.spec.trees import unknowns

if TYPE_CHECKING:
    from lossgen.spec.parser import Builder

__all__ = ["equation"]


def equation(builder: Builder, node: ast.Call, span: Span, depth: int) -> Expr:
    """root(t, e, low, high): e alone knows t."""
    first, residual, *ends = node.args
    name, at = getattr(first, "id", ""), builder.span(first)
    if not name:
        hint = "a name that means nothing else, as t in root(t, sum(relu(x - t)) - 1, -1, 0)"
        builder.wrong_arguments(at, "the first argument of root names what it is solved for", hint)
    if name in builder.taken or name in builder.unknowns:
        hint = "the unknown of root has a name of its own"
        builder.wrong_arguments(at, f"'{shorten(name)}' is the name of something else", hint)
    bounds = [builder.visit(end, depth + 1) for end in ends]
    builder.unknowns.append(name)
    body = builder.visit(residual, depth + 1)
    builder.unknowns.pop()
    if body.rank == Rank.CLASS:
        hint = f"add up its classes: root({name}, sum(…) - 1, low, high)"
        builder.rank_error("root needs an equation of the row", body, hint)
    for end in (end for end in bounds if end.rank == Rank.CLASS):
        hint = "the root lies between two row values, as max(x) - 1 and max(x)"
        builder.rank_error("root needs ends of the row", end, hint)
    if name not in unknowns(body):
        hint = f"an equation has its unknown in it, as sum(relu(x - {name})) - 1"
        builder.wrong_arguments(body.span, f"'{shorten(name)}' is not in the equation", hint)
    if others := sorted(unknowns(body).union(*map(unknowns, bounds)) - {name}):
        what = f"an equation in another, which both have '{shorten(others[0])}' in them, is"
        builder.fail(NotInLanguage, span, what=what, hint="solve one of them alone")
    unknown = Name(Rank.ROW, at, name, NameKind.UNKNOWN)
    return Call(Rank.ROW, span, "root", (unknown, body, *bounds))
