"""What a rendered module may consist of: checked after rendering, whatever its spec says.

Texts and names enter by functions that cannot be left (``emit.text``, ``spec.spelling``); if one
could, this would be the second lock.  At module level a module imports, binds names to strings,
defines functions and classes, and calls what the template calls, nothing else.
"""

from __future__ import annotations

import ast
import re

from lossgen.emit.allowed_c import check_program
from lossgen.errors import CompilerBug

__all__ = ["check_module"]

_FROM = re.compile(r"__future__|typing|torch|lossgen(_|\.)runtime(\.deferred)?")
_EXPRESSIONS = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Subscript),
    *(ast.Call, ast.keyword, ast.Starred, ast.Slice),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
_STATEMENTS = (
    *(ast.Assign, ast.AugAssign, ast.Return, ast.If, ast.For, ast.Expr),
    *(ast.arguments, ast.arg),
)
#: Calls at module level: the runtime's table of the loss, and what stands in it.
_CALLED = {"RowLoss", "BatchLoss", "Part", "Parameter", "Input", "Variant", "Tiled"}
_BUILTINS = {"frozenset", "float"}
#: Called by name inside functions; all other calls are of attributes or of the module's own.
_INSIDE = {"float", "range"}


def check_module(text: str) -> None:
    """Raises CompilerBug unless ``text`` has the kinds of nodes that the templates write."""
    tree = ast.parse(text)
    defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    bound = {
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    for position, node in enumerate(tree.body):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if position == 0:
                pass
            case ast.Import(names=[ast.alias(name=name)]) if _FROM.fullmatch(name):
                pass
            case ast.ImportFrom(module=str() as name, level=0) if _FROM.fullmatch(name):
                pass
            case ast.FunctionDef():
                _function(node, defined | bound)
            case ast.ClassDef():
                _class(node, defined | bound)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                _table(value)
                if name.startswith("_C_SOURCE"):
                    check_program(ast.literal_eval(value))
            case _:
                _refuse(node)


def _table(value: ast.expr) -> None:
    """What a name is bound to at module level."""
    for node in ast.walk(value):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(), attr=name)) if name in _CALLED:
                pass
            case ast.Call(func=ast.Name(id=name)) if name in _BUILTINS:
                pass
            case ast.Call():
                _refuse(node)
            case ast.Name() | ast.Attribute() | ast.Constant() | ast.Tuple() | ast.List():
                pass
            case ast.keyword() | ast.expr_context() | ast.UnaryOp() | ast.unaryop():
                pass
            case _:
                _refuse(node)


def _class(node: ast.ClassDef, known: set[str]) -> None:
    keywords = [k.value for k in node.keywords]
    if node.decorator_list or len(node.bases) != 1 or not set(map(_name, keywords)) <= known:
        _refuse(node)
    _kinds([node.bases[0]], known)
    for part in node.body:
        match part:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.AnnAssign(target=ast.Name(), value=None, annotation=annotation):
                _kinds([annotation], known)
            case _:
                _refuse(part)


def _function(node: ast.FunctionDef, known: set[str]) -> None:
    for decorator in node.decorator_list:
        match decorator:
            case ast.Attribute(value=ast.Name(), attr="jit" | "kernel" | "documented"):
                pass
            case _:
                _refuse(decorator)
    _kinds([node.args, *node.body], known)
    if node.returns is not None:
        _kinds([node.returns], known)


def _kinds(nodes: list[ast.AST], known: set[str]) -> None:
    for root in nodes:
        for node in ast.walk(root):
            if not isinstance(node, (*_EXPRESSIONS, *_STATEMENTS)):
                _refuse(node)
            if isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Constant, ast.Call)):
                _refuse(node)
            named = node.func if isinstance(node, ast.Call) else None
            if isinstance(named, ast.Name) and named.id not in known | _INSIDE:
                _refuse(node)


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _refuse(node: ast.AST) -> None:
    line = getattr(node, "lineno", 0)
    raise CompilerBug(f"a rendered module has {type(node).__name__} on line {line}")
