"""Row programs as source text of Python: Triton and torch.  ``emit.c_text`` is that of C.

A language is a table: how it spells the operations of ``ir.program`` that are not operators, and
the prefix of its twins of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lossgen.ir.ops import OPS
from lossgen.ir.program import Call, Line, Name, Node, Number
from lossgen.lower.constants import FLOOR

__all__ = ["TORCH", "TRITON", "Printer"]

_BINARY = {
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 1),
    "|": 2,
    "&": 3,
    **dict.fromkeys("+-", 4),
    **dict.fromkeys("*/", 5),
}
_UNARY = {"neg": "-", "~": "~"}
_BEFORE, _ATOM = 6, 9  # the strength of a unary operator, and of what needs no parentheses


@dataclass(frozen=True)
class Printer:
    """Prints expressions and lines; ``spellings`` have a place for each argument."""

    spellings: Mapping[str, str]
    prefix: str

    def __call__(self, node: Node, level: int = 0) -> str:
        """The text of an expression, in parentheses where it is weaker than ``level``."""
        text, own = self._print(node)
        return f"({text})" if own < level else text

    def lines(self, lines: Iterable[Line]) -> list[str]:
        """One assignment each."""
        return [f"{line.name} = {self(line.value)}" for line in lines]

    def _print(self, node: Node) -> tuple[str, int]:
        match node:
            case Name(name=name):
                return name, _ATOM
            case Number(value=value):
                return _number(value)
            case Call(op=op, args=[left, right]) if op in _BINARY:
                own = _BINARY[op]
                least = own + (own == 1)  # comparisons do not associate
                return f"{self(left, least)} {op} {self(right, own + 1)}", own
            case Call(op=op, args=[operand]) if op in _UNARY:
                return f"{_UNARY[op]}{self(operand, _BEFORE)}", _BEFORE
            case Call(op=op, args=args):
                spelled = self.spellings.get(op)
                if spelled is None:
                    spelled = f"{self.prefix}{OPS[op].name}({', '.join(['{}'] * len(args))})"
                inner = _ATOM if spelled.startswith("{") else 0
                return spelled.format(*(self(a, inner) for a in args)), _ATOM
        raise AssertionError(node)


def _number(value: float) -> tuple[str, int]:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")', _ATOM
    return repr(value), _BEFORE if value < 0 else _ATOM


TRITON = Printer(
    {
        "exp": "dl.exp_accurate({})",
        "exp_tile": "dl.exp_tile({})",
        "exp_below": "dl.exp_tile({})",
        "exp2": "tl.exp2({})",
        "expm1_half": "dl.expm1_half({})",
        "reciprocal": "dl.reciprocal({})",
        "log": "dl.log_accurate({})",
        "log_complement": "dl.log_complement({})",
        "sqrt": "dl.sqrt({})",
        "power": "dl.power({}, {})",
        "select": "tl.where({}, {}, {})",
        "fmax": "tl.maximum({}, {})",
        "fmin": "tl.minimum({}, {})",
        "number": "{}.to(tl.float32)",
        "index": "{}.to(tl.int32)",
        "row_sum": "dl.row_sum({})",
        "row_max": "dl.row_max({})",
        "row_max_or_nan": "dl.row_max_or_nan({})",
        "row_min": "dl.row_min({})",
        "take": "dl.row_sum(tl.where(cols == {1}, {0}, 0.0))",
    },
    "dl.",
)
TORCH = Printer(
    {
        **{op: f"el.{op}({{}})" for op in ("exp", "log", "sqrt")},
        "exp_tile": "el.exp({})",
        "exp_below": "el.exp({})",
        "power": "el.power({}, {})",
        "select": "torch.where({}, {}, {})",
        "floored": f"{{}}.clamp_min({FLOOR})",
    },
    "el.",
)
