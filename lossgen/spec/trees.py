"""Questions about expression trees: what they use, and where a rank comes from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from lossgen.spec.expr import (
    Binary,
    Call,
    Compare,
    Expr,
    Gather,
    Name,
    NameKind,
    Rank,
    Unary,
    children,
)

__all__ = [
    "culprit",
    "depends_on",
    "mapped",
    "names",
    "needs_others",
    "nodes",
    "reaches",
    "unknowns",
    "uses_target",
]


def mapped(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The node with other operands."""
    match expr:
        case Unary(operand=operand):
            return replace(expr, operand=change(operand))
        case Binary(left=left, right=right) | Compare(left=left, right=right):
            return replace(expr, left=change(left), right=change(right))
        case Call(args=args):
            return replace(expr, args=tuple(map(change, args)))
        case Gather(vector=vector):
            return replace(expr, vector=change(vector))
    return expr


def nodes(expr: Expr) -> Iterator[Expr]:
    """All nodes of a tree, parents first, left to right."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def names(expr: Expr) -> set[str]:
    """The names that occur, the language's own among them; lets are not opened."""
    return {node.name for node in nodes(expr) if isinstance(node, Name)}


def unknowns(expr: Expr) -> set[str]:
    """The unknowns of equations around it that occur; a root's own is not known outside of it."""
    if isinstance(expr, Name):
        return {expr.name} if expr.kind is NameKind.UNKNOWN else set()
    if isinstance(expr, Call) and expr.func == "root":
        return set()
    return set().union(*map(unknowns, children(expr)))


def uses_target(expr: Expr) -> bool:
    """Whether the target class occurs: e[y], onehot, over=others, u."""
    return any(
        isinstance(node, Gather)
        or (isinstance(node, Call) and node.others)
        or (isinstance(node, Name) and node.kind is NameKind.ONEHOT)
        for node in nodes(expr)
    )


def needs_others(expr: Expr) -> bool:
    """Whether it has no value without another class: a mean or a log-softmax over the others."""
    return any(
        isinstance(node, Call) and node.others and node.func in ("mean", "log_softmax")
        for node in nodes(expr)
    )


def depends_on(expr: Expr, let: Mapping[str, Expr], vectors: Collection[str]) -> bool:
    """Whether one of ``vectors`` (x, or streams) occurs, in ``expr`` or in its lets."""
    return _occurs(expr, let, vectors, everywhere=True)


def reaches(expr: Expr, let: Mapping[str, Expr], vectors: Collection[str]) -> bool:
    """Whether a gradient reaches one of ``vectors``: not under stop_gradient or in a condition."""
    return _occurs(expr, let, vectors, everywhere=False)


def _occurs(
    expr: Expr, let: Mapping[str, Expr], vectors: Collection[str], everywhere: bool
) -> bool:
    seen: set[str] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        match node:
            case Name(kind=NameKind.LOGITS | NameKind.STREAM, name=name) if name in vectors:
                return True
            case Name(kind=NameKind.LET, name=name) if name not in seen:
                seen.add(name)
                stack.append(let[name])
            case Call(func="stop_gradient" | "sign" | "argmax") | Compare() if not everywhere:
                continue
        stack.extend(children(node))
    return False


def culprit(expr: Expr) -> Expr:
    """The smallest subexpression that gives a class-rank expression its rank."""
    while True:
        guilty = [child for child in children(expr) if child.rank == Rank.CLASS]
        is_softmax = isinstance(expr, Call) and expr.func in ("softmax", "log_softmax")
        if len(guilty) != 1 or is_softmax:
            return expr
        expr = guilty[0]
