"""The normaliser of a spec as lines of torch and of C, from its tree.

weight[y] * r   →   u_weight_y = inputs['weight'][target].to(dtype), …, return (u_weight_y * u_r)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

from lossgen.emit.text import python_string
from lossgen.ir.ops import BUILTINS, OPS
from lossgen.spec.expr import Algebra, NameKind, walk
from lossgen.spec.model import LossSpec
from lossgen.spec.spelling import spelled
from lossgen.spec.trees import names

__all__ = ["literal", "normalizer", "normalizer_of_row"]

_COMPARE = {"<": "lt", "<=": "le", ">": "lt", ">=": "le", "==": "eq", "!=": "ne"}
_CALLED = {"abs": "absf", "sign": "sgn"} | {name: name for name in (*OPS, *BUILTINS)}


def normalizer(spec: LossSpec) -> list[str]:
    """The body of ``_normalizer(target, inputs, dtype)``; empty for one per row."""
    if spec.normalizer is None:
        return []
    algebra: Algebra[str] = _Text(spec, "el.")
    lines, used = [], names(spec.normalizer)
    for name, entry in spec.inputs.items():
        if name not in used:
            continue
        given = f"inputs[{python_string(name)}]"
        local = algebra.name(name, NameKind.ROW_INPUT)
        value = f"{given}[target]" if entry.kind == "vocab" else given
        if entry.off is None:
            lines.append(f"{local} = {value}.to(dtype)")
            continue
        constant = f"torch.full_like(target, {literal(entry.off)}, dtype=dtype)"
        lines.append(f"{local} = {constant} if {given} is None else {value}.to(dtype)")
    return [*lines, f"return {walk(spec.normalizer, algebra)}"]


def normalizer_of_row(spec: LossSpec, given: Sequence[str]) -> list[str]:
    """The same of one row in C, by a program that is ``given`` some of the inputs, as it spells
    them; the others have the value that turns them off. Empty where it is the same for all rows."""
    used = names(spec.normalizer) if spec.normalizer else ()
    entries = {name: entry for name, entry in spec.inputs.items() if name in used}
    if spec.normalizer is None or not any(spelled(name) in given for name in entries):
        return []
    algebra: Algebra[str] = _Text(spec, "f_")
    lines = []
    for name, entry in entries.items():
        value = literal(entry.off or 0.0).replace('float("inf")', "INFINITY")
        if spelled(name) in given:
            of = "class_entry" if entry.kind == "vocab" else "row_entry"
            value = f"{of}(call, {given.index(spelled(name))}, row)"
        lines.append(f"const double {algebra.name(name, NameKind.ROW_INPUT)} = {value};")
    return [*lines, f"counts = {walk(spec.normalizer, algebra)};"]


def literal(value: float) -> str:
    """A number as Python has it."""
    if value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(float(value))


class _Text:
    """The Algebra that spells a row expression of inputs; every part is an atom.

    ``prefix``: of the vocabulary's twins in a language.
    """

    def __init__(self, spec: LossSpec, prefix: str) -> None:
        self.spec, self.prefix = spec, prefix

    def number(self, value: Any) -> str:
        return repr(float(value))

    def name(self, name: str, kind: NameKind) -> str:
        if kind is NameKind.CONSTANT:
            return repr(pi)
        return f"{spelled(name)}{'_y' if self.spec.inputs[name].kind == 'vocab' else ''}"

    def negate(self, operand: str) -> str:
        return f"(-{operand})"

    def binary(self, op: str, left: str, right: str) -> str:
        return self.function("power", left, right) if op == "**" else f"({left} {op} {right})"

    def compare(self, op: str, left: str, right: str) -> str:
        ends = (right, left) if op[0] == ">" else (left, right)
        return self.function(_COMPARE[op], *ends)

    def gather(self, vector: str) -> str:
        return vector  # names of vectors are their values at the target

    def call(self, node: Any, args: tuple[str, ...]) -> str:
        if node.func == "log_sigmoid":
            return f"(-{self.function('softplus', f'-{args[0]}')})"
        return self.function(_CALLED[node.func], *args)

    def function(self, name: str, *args: str) -> str:
        return f"{self.prefix}{name}({', '.join(args)})"
