"""Functions of the row program on numbers, every operation rounded to one type.

A row value is an array [N, 1] and a class value [N, V], of N rows at once.  The elementwise
functions are computed in float64 and rounded once; sums are numpy's.  What they give in float32
below 2^-123 is 0, as some of their twins flush it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lossgen.errors import CompilerBug
from lossgen.ir.evaluate import Real
from lossgen.ir.ops import BUILTINS, OPS
from lossgen.ir.program import Call, Function, Name, Node, Number

__all__ = ["execute"]

Array = np.ndarray[Any, Any]
_FLUSHED = 2.0**-123  # ``runtime.device``: a root of what is left out may be all that there is
_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "neg": np.negative,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "&": np.logical_and,
    "|": np.logical_or,
    "~": np.logical_not,
    "select": np.where,
    "reciprocal": np.reciprocal,
    "fmax": np.fmax,
    "fmin": np.fmin,
}
_EXPONENTIALS = dict.fromkeys(("exp_tile", "exp_below"), BUILTINS["exp"].numpy)
_EXPONENTIALS |= {
    "exp2": np.exp2,
    "expm1_half": np.expm1,
    "log_complement": lambda a: OPS["log1mexp"].numpy(-a),
}
_FUNCTIONS = {name: op.numpy for name, op in (OPS | BUILTINS).items()} | _EXPONENTIALS


def execute(function: Function, given: Mapping[str, Any], real: Real) -> dict[str, Any]:
    """The results of a function by name.

    Args:
        given: at least its arguments; arrays of type ``real``, of class indices or of conditions.
    """
    known = {name: given[name] for name in function.arguments}
    with np.errstate(all="ignore"):
        for line in function.lines:
            known[line.name] = _value(line.value, known, real)
    return {name: known[name] for name in function.results}


def _value(node: Node, known: Mapping[str, Any], real: Real) -> Any:
    if isinstance(node, Name):
        return known[node.name]
    if isinstance(node, Number):
        return np.int64(node.value) if isinstance(node.value, int) else real(node.value)
    assert isinstance(node, Call)
    args = [_value(a, known, real) for a in node.args]
    if node.op == "take":  # a tile has some of the classes
        return _sum(real, np.where(known["cols"] == args[1], args[0], real(0)))
    operation = _OPERATORS.get(node.op)
    if operation is not None:
        return operation(*args)
    if node.op in _FUNCTIONS:
        found = np.asarray(_FUNCTIONS[node.op](*(np.float64(a) for a in args))).astype(real)
        return np.where(np.abs(found) < _FLUSHED, real(0), found) if real is np.float32 else found
    try:
        return _OVER_CLASSES[node.op](real, *args)
    except KeyError:
        raise CompilerBug(f"no meaning of {node.op}") from None


def _reduced(function: Any, empty: float) -> Callable[..., Any]:
    def reduction(real: Real, values: Any) -> Any:
        start = {"initial": np.array(empty, values.dtype)} if values.dtype.kind == "f" else {}
        return function.reduce(values, axis=1, keepdims=True, **start)

    return reduction


def _sum(real: Real, values: Any) -> Any:
    return np.sum(values, axis=1, keepdims=True, dtype=real)


_OVER_CLASSES: dict[str, Callable[..., Any]] = {
    "row_sum": _sum,
    "row_max": _reduced(np.fmax, -np.inf),
    "row_max_or_nan": _reduced(np.maximum, -np.inf),
    "row_min": _reduced(np.minimum, np.inf),
    "number": lambda real, values: np.asarray(values).astype(real),
    "index": lambda real, values: np.asarray(values).astype(np.int64),
}
