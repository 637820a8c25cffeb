"""Python's tree of a formula in the words of torch or numpy → a tree of the language."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence

from lossgen.spec.vocabulary import (
    ALIASES,
    CLASS_MAPS,
    FUNCTIONS,
    LEAVES,
    LIBRARIES,
    OVER_CLASSES,
    REDUCTIONS,
    SUGAR,
)

__all__ = ["Meant", "Unclear"]

_TARGETS = {"y", "target", "targets", "label", "labels"}
#: methods that give back what they are called on
_SAME = {"float", "double", "half", "to", "type_as", "contiguous", "clone", "unsqueeze", "squeeze"}
_SAME |= {"view", "reshape", "flatten", "expand", "expand_as", "t", "item", "cpu", "cuda", "tensor"}
_SAME |= {"as_tensor", "array", "asarray"}
_SAME_ATTRIBUTES = {"T", "mT", "data", "values", "grad"}
_BINARY: dict[str, type[ast.operator]] = {
    **dict.fromkeys(("add",), ast.Add),
    **dict.fromkeys(("sub", "subtract"), ast.Sub),
    **dict.fromkeys(("mul", "multiply"), ast.Mult),
    **dict.fromkeys(("div", "divide", "true_divide"), ast.Div),
}
_PRODUCTS = {"dot", "matmul", "mm", "bmm", "inner", "vdot"}
_OVER = {"dim", "axis", "keepdim", "keepdims", "dtype", "out", "_stacklevel", "device"}
_NUMPY = {"np", "numpy", "jnp", "jax", "scipy"}
_MODULES = {"ReLU": "relu", "Softmax": "softmax", "LogSoftmax": "log_softmax", "GELU": "gelu"}
_MODULES |= {"Sigmoid": "sigmoid", "LogSigmoid": "log_sigmoid", "Tanh": "tanh", "SiLU": "silu"}
_MODULES |= {"Softplus": "softplus", "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss"}
_ONE_OF_TWO = {"max": "maximum", "min": "minimum"}
_NESTED = {"maximum", "minimum", "logaddexp"}
_TESTS = {"eq": ast.Eq, "ne": ast.NotEq, "gt": ast.Gt, "ge": ast.GtE, "lt": ast.Lt, "le": ast.LtE}


class Unclear(Exception):
    """Nothing of this kind is in the language."""


class Meant(ast.NodeTransformer):
    """Python's tree → a tree of the language, and what was changed where."""

    def __init__(self, text: str, declared: Sequence[str]) -> None:
        self.text, self.declared = text, {*declared}
        self.changed: list[tuple[int, int, ast.expr]] = []

    def visit(self, node: ast.AST) -> ast.expr:
        before = ast.unparse(node)
        found: ast.expr = super().visit(node)
        if isinstance(node, ast.expr) and ast.unparse(found) != before:
            self.changed.append((node.col_offset, node.end_col_offset or 0, found))
        return found

    # ------------------------------------------------------------------ leaves
    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool):
            return _number(int(node.value))
        if not isinstance(node.value, (int, float)):
            raise Unclear
        return ast.Name(self.text[node.col_offset : node.end_col_offset])  # as it is written

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.declared:
            return node
        if node.id in _TARGETS:
            return ast.Subscript(ast.Name("index"), ast.Name("y"))
        return ast.Name(ALIASES.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if _is_library(node.value):
            return ast.Name({"e": "exp(1)"}.get(node.attr, node.attr))
        if node.attr == "shape":
            return ast.Name("V")
        if node.attr == "indices" and isinstance(node.value, ast.Call):
            return _call("argmax", self.visit(node.value.args[0]))
        if node.attr in _SAME_ATTRIBUTES:
            return self.visit(node.value)
        raise Unclear

    # ------------------------------------------------------------------ indices
    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        places = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        named = [p for p in places if isinstance(p, ast.Name) and p.id in _TARGETS]
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            return ast.Name("V")
        if not named and _is_pair(node.value) and len(places) == 1:  # torch.max(x, dim=1)[0]
            first = isinstance(places[0], ast.Constant) and places[0].value == 0
            value = self.visit(node.value)
            if first:
                return value
            if isinstance(value, ast.Call):
                return _call("argmax", *value.args)
        if len(named) != 1:
            raise Unclear
        return ast.Subscript(self.visit(node.value), ast.Name("y"))

    # ------------------------------------------------------------------ choices
    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return self._choice(node.test, self.visit(node.body), self.visit(node.orelse))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        return self._choice(node, _number(1), _number(0))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return self._choice(node, _number(1), _number(0))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, (ast.Not, ast.Invert)):
            return self._choice(node, _number(1), _number(0))
        return ast.UnaryOp(node.op, self.visit(node.operand))

    def _choice(self, test: ast.expr, yes: ast.expr, no: ast.expr) -> ast.expr:
        """where(test, yes, no), with one comparison in each."""
        match test:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                if isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)):
                    raise Unclear
                compared = ast.Compare(self.visit(left), [op], [self.visit(right)])
                return _call("where", compared, yes, no)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                pairs = zip([left, *rights[:-1]], ops, rights, strict=True)
                tests = [ast.Compare(a, [op], [b]) for a, op, b in pairs]
                return self._all(tests, yes, no)
            case ast.BoolOp(op=ast.And(), values=tests):
                return self._all(tests, yes, no)
            case ast.BoolOp(op=ast.Or(), values=tests):
                return self._any(tests, yes, no)
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self._all([left, right], yes, no)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._any([left, right], yes, no)
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return self._choice(operand, no, yes)
            case ast.Call(func=ast.Attribute(attr=name)) if name in _TESTS:
                raise Unclear
        return _call("where", ast.Compare(self.visit(test), [ast.NotEq()], [_number(0)]), yes, no)

    def _all(self, tests: Sequence[ast.expr], yes: ast.expr, no: ast.expr) -> ast.expr:
        for test in reversed(tests):
            yes = self._choice(test, yes, no)
        return yes

    def _any(self, tests: Sequence[ast.expr], yes: ast.expr, no: ast.expr) -> ast.expr:
        for test in reversed(tests):
            no = self._choice(test, yes, no)
        return no

    # ------------------------------------------------------------------ operators
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            return self._choice(node, _number(1), _number(0))
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.MatMult):
            return _call("sum", ast.BinOp(left, ast.Mult(), right))
        if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)):
            raise Unclear
        return ast.BinOp(left, node.op, right)

    # ------------------------------------------------------------------ calls
    def visit_Call(self, node: ast.Call) -> ast.expr:
        own: list[ast.expr] = []
        torchs = False
        match node.func:
            case ast.Name(id=name):
                if name in self.declared or name in {*LEAVES, *SUGAR}:
                    return self._times(node)
            case ast.Attribute(value=value, attr=name):
                own = [] if _is_library(value) else [value]
                torchs = not _is_library(value, _NUMPY)
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if _is_library(value):
                name = _MODULES.get(name, "")
            case _:
                return self._times(node)
        given = [a for a in node.args if not _is_none(a)]
        keywords = {k.arg or "**": k.value for k in node.keywords if not _is_none(k.value)}
        if not (own or given) or any(isinstance(a, ast.Starred) for a in given):
            raise Unclear
        if name in ("var", "std"):
            return self._spread(name, [*own, *given], keywords, torchs)
        keywords.pop("reduction", None)
        return self._called(name, [*own, *given], keywords, torchs)

    def _times(self, node: ast.Call) -> ast.expr:
        """2(a + b), p(y)"""
        if len(node.args) != 1 or node.keywords:
            raise Unclear
        left, (right,) = self.visit(node.func), node.args
        if isinstance(right, ast.Name) and right.id == "y":
            return ast.Subscript(left, right)
        return ast.BinOp(left, ast.Mult(), self.visit(right))

    def _called(
        self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr], method: bool
    ) -> ast.expr:
        if name in ("one_hot", "onehot"):
            return ast.Name("onehot")
        if name in ("size", "len"):
            return ast.Name("V")
        if name in _SAME and given:
            return self.visit(given[0])
        if name in ("gather", "nll_loss", "cross_entropy", "take_along_axis", "take_along_dim"):
            return self._at_target(name, given, keywords)
        if name == "where" and len(given) == 3:
            return self._choice(given[0], self.visit(given[1]), self.visit(given[2]))
        if name in ("clamp", "clip", "clamp_min", "clamp_max"):
            return self._clipped(name, given, keywords)
        name = ALIASES.get(name, name)
        if name in OVER_CLASSES:
            return self._reduced(name, given, keywords, method)
        if set(keywords) - _OVER:
            raise Unclear
        return self._plainly(name, [self.visit(a) for a in given])

    def _plainly(self, name: str, given: list[ast.expr]) -> ast.expr:
        """A function that goes over no classes."""
        if len(given) == 2 and name in _BINARY:
            return ast.BinOp(given[0], _BINARY[name](), given[1])
        if len(given) == 2 and name in _TESTS:
            return _call("where", ast.Compare(given[0], [_TESTS[name]()], [given[1]]), *_flags())
        if len(given) == 2 and name in _PRODUCTS:
            return _call("sum", ast.BinOp(given[0], ast.Mult(), given[1]))
        if len(given) == 2 and name in ("mse_loss", "l1_loss"):
            apart = ast.BinOp(given[0], ast.Sub(), given[1])
            squared = ast.BinOp(apart, ast.Pow(), _number(2))
            return _call("mean", squared if name == "mse_loss" else _call("abs", apart))
        if len(given) == 2 and name == "log":  # to a base
            return ast.BinOp(_call("log", given[0]), ast.Div(), _call("log", given[1]))
        while len(given) > 2 and name in _NESTED:
            given = [_call(name, *given[:2]), *given[2:]]
        if name not in FUNCTIONS:
            raise Unclear
        return _call(name, *given)

    def _at_target(
        self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr]
    ) -> ast.expr:
        index = keywords.pop("index", keywords.pop("target", given[-1] if given[1:] else None))
        named = {n.id for n in ast.walk(index) if isinstance(n, ast.Name)} if index else set()
        if not given or not named & _TARGETS or set(keywords) - _OVER:
            raise Unclear
        vector = self.visit(given[0])
        if name == "cross_entropy":
            vector = _call("log_softmax", vector)
        found = ast.Subscript(vector, ast.Name("y"))
        negative = name in ("nll_loss", "cross_entropy")
        return ast.UnaryOp(ast.USub(), found) if negative else found

    def _clipped(self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr]) -> ast.expr:
        value, *ends = given
        low, high = [*ends, None, None][:2]
        if name == "clamp_max":
            low, high = None, low
        for label in ("min", "a_min", "low"):
            low = keywords.get(label, low)
        for label in ("max", "a_max", "high"):
            high = keywords.get(label, high)
        found = [self.visit(a) for a in (value, low, high) if a is not None]
        if low is None and high is None:
            raise Unclear
        return _call("clip" if len(found) == 3 else "minimum" if low is None else "maximum", *found)

    def _spread(
        self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr], torchs: bool
    ) -> ast.expr:
        """Over V, or over V - 1, as torch has it unless told otherwise."""
        said = [keywords.pop(k) for k in ("unbiased", "correction", "ddof") if k in keywords]
        less = all(map(_is_one, said)) if said else torchs or "dim" in keywords
        found = self._reduced(name, given, keywords, True)
        if not less:
            return found
        ratio = ast.BinOp(ast.Name("V"), ast.Div(), ast.BinOp(ast.Name("V"), ast.Sub(), _number(1)))
        return ast.BinOp(found, ast.Mult(), _call("sqrt", ratio) if name == "std" else ratio)

    def _reduced(
        self, name: str, given: list[ast.expr], keywords: dict[str, ast.expr], method: bool
    ) -> ast.expr:
        """A function that goes over the classes, without the axis."""
        first, *more = given
        power = keywords.pop("p", keywords.pop("ord", None))
        if name == "norm" and more and not method:
            power = more[0]
        if name in _ONE_OF_TWO and more and not (method and all(map(_is_axis, more))):
            return self._plainly(_ONE_OF_TWO[name], [self.visit(a) for a in given])
        over = keywords.pop("over", None)
        axes = all(_is_axis(a) for a in more)
        if set(keywords) - _OVER or not (axes or name == "norm"):
            raise Unclear
        value = self.visit(first)
        if method and name in ("mean", "sum") and not more and not keywords and _is_row(value):
            return value  # over the rows of a batch: that is the ``reduction`` of a call
        if power is not None and _is_one(power):
            return _call("sum", _call("abs", value))
        if power is not None and not (isinstance(power, ast.Constant) and power.value == 2):
            raise Unclear
        found = _call(name, value)
        found.keywords = [] if over is None else [ast.keyword("over", over)]
        return found


def _flags() -> tuple[ast.expr, ast.expr]:
    return _number(1), _number(0)


def _number(value: int) -> ast.expr:
    return ast.Constant(value)


def _call(name: str, *given: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name), list(given), [])


def _is_library(node: ast.expr, known: Collection[str] = LIBRARIES) -> bool:
    """torch, torch.nn.functional, …"""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in known


def _is_pair(node: ast.expr) -> bool:
    """max over an axis, which is values and indices."""
    names = {getattr(node, "attr", ""), getattr(getattr(node, "func", None), "attr", "")}
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.keywords
    names |= {getattr(node.func, "id", "")} if isinstance(node, ast.Call) and named else set()
    return bool(names & {"max", "min"})


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (1, True)


def _is_axis(node: ast.expr) -> bool:
    """-1, 1, (0, 1), True: an axis, or whether to keep it."""
    match node:
        case ast.Constant(value=int()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            return True
        case ast.Tuple(elts=places) | ast.List(elts=places):
            return all(map(_is_axis, places))
    return False


def _is_row(node: ast.expr) -> bool:
    """One number per row, by its looks."""
    match node:
        case ast.Subscript():
            return True
        case ast.Call(func=ast.Name(id=name), args=given):
            return name in REDUCTIONS or (name not in CLASS_MAPS and all(map(_is_row, given)))
        case ast.BinOp(left=left, right=right):
            return all(_is_row(a) or _is_number(a) for a in (left, right))
        case ast.UnaryOp(operand=operand):
            return _is_row(operand)
    return False


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id[0].isdigit())
