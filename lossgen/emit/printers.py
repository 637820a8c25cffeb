"""SymPy expressions as source text: one printer, one table per language.

The printer knows numbers, symbols, + - * / **, exp, log and the vocabulary of ``ir.ops``; any
other node is a compiler bug and stops the build (no Heaviside, Derivative or Piecewise can
reach a kernel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sympy import Add, Expr, Function, Mul, Pow, Rational, Symbol, exp, log, nan, oo, pi

from lossgen.errors import CompilerBug
from lossgen.ir.evaluate import paired
from lossgen.ir.ops import OPS

__all__ = ["C_ROW", "TORCH", "TRITON", "TRITON_TILE", "Dialect", "Printer"]

_ADD, _MUL, _UNARY, _ATOM = 1, 2, 3, 9


@dataclass(frozen=True)
class Dialect:
    """How one language spells the functions that SymPy itself knows."""

    name: str
    exp: str
    log: str
    sqrt: str
    rsqrt: str
    power: str
    op: str  # attribute of ir.ops.Op with the function's name
    prefix: str
    sums_pivot: bool = True  # sums of the first sweep count an arg-max pivot: it is not known yet


TRITON = Dialect(
    "triton",
    "dl.exp_accurate",
    "dl.log_accurate",
    "dl.sqrt",
    "dl.safe_rsqrt",
    "dl.power",
    "triton",
    "dl.",
)
# On tiles of logits exp is ex2 of a product: the terms of a sum need no more.
TRITON_TILE = Dialect(
    "triton tile",
    "tl.exp",
    "dl.log_accurate",
    "dl.sqrt",
    "dl.safe_rsqrt",
    "dl.power",
    "triton",
    "dl.",
)
# Row values of the C program; ``emit.c_text`` respells them.
C_ROW = replace(TRITON, name="C", sums_pivot=False)
TORCH = Dialect(
    "torch",
    "el.exp",
    "el.log",
    "el.sqrt",
    "el.safe_rsqrt",
    "el.power",
    "torch",
    "el.",
)


class Printer:
    """Prints an expression; ``names`` gives the text of symbols (default: the symbol's name)."""

    def __init__(self, dialect: Dialect, names: Mapping[Symbol, str] | None = None) -> None:
        self.dialect = dialect
        self.names = dict(names or {})

    def __call__(self, expr: Expr, level: int = 0) -> str:
        text, own = self._print(expr)
        return f"({text})" if own < level else text

    def _print(self, expr: Expr) -> tuple[str, int]:
        if isinstance(expr, Symbol):
            text = self.names.get(expr, expr.name)
            return text, _ATOM if text.replace("_", "").isalnum() else 0
        if expr in (oo, -oo) or expr is nan:
            return f'float("{expr if expr is nan else "inf" if expr == oo else "-inf"}")', _ATOM
        if expr == pi or isinstance(expr, Rational) or expr.is_Number:
            return self._number(expr)
        if isinstance(expr, Add):
            return self._add(expr), _ADD
        if isinstance(expr, Mul):
            return self._mul(expr)
        if isinstance(expr, exp):
            return f"{self.dialect.exp}({self(expr.args[0])})", _ATOM
        if isinstance(expr, log):
            return f"{self.dialect.log}({self(expr.args[0])})", _ATOM
        if isinstance(expr, Pow):
            return self._pow(expr)
        if isinstance(expr, Function) and expr.func.__name__ in OPS:
            op = getattr(OPS[expr.func.__name__], self.dialect.op)
            args = ", ".join(self(a) for a in expr.args)
            return f"{self.dialect.prefix}{op}({args})", _ATOM
        raise CompilerBug(f"no {self.dialect.name} spelling of {type(expr).__name__}: {expr}")

    def _number(self, expr: Expr) -> tuple[str, int]:
        value = float(expr)
        return repr(value), _UNARY if value < 0 else _ATOM

    def _add(self, expr: Add) -> str:
        parts: list[str] = []
        terms = sorted(expr.args, key=_order)
        groups = paired(expr)
        for group in groups:
            if len(group) != 2 or len(terms) <= 2 or not group[1].could_extract_minus_sign():
                continue
            parts.append(f"{' + ' if parts else ''}({self(group[0])} - {self(-group[1])})")
            terms = [t for t in terms if t not in group]
        for term in terms:
            text = self(term, _ADD)
            if parts and text.startswith("-"):
                parts.append(f" - {self(-term, _MUL)}")
            else:
                parts.append(f" + {text}" if parts else text)
        return "".join(parts)

    def _mul(self, expr: Mul) -> tuple[str, int]:
        coefficient, rest = expr.as_coeff_Mul()
        sign = ""
        if coefficient.is_negative:
            sign, coefficient = "-", -coefficient
        above = [] if coefficient == 1 else [self(coefficient, _MUL)]
        below: list[str] = []
        for factor in Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            divides = not isinstance(factor, exp) and exponent.is_Number and exponent < 0
            if divides and exponent != Rational(-1, 2):
                below.append(self(base**-exponent, _UNARY))
            else:
                above.append(self(factor, _MUL))
        text = sign + (" * ".join(above) or "1.0")
        for divisor in below:
            text += f" / {divisor}"
        return text, _UNARY if sign and not below and len(above) == 1 else _MUL

    def _pow(self, expr: Pow) -> tuple[str, int]:
        base, exponent = expr.as_base_exp()
        if exponent == Rational(1, 2):
            return f"{self.dialect.sqrt}({self(base)})", _ATOM
        if exponent == Rational(-1, 2):
            return f"{self.dialect.rsqrt}({self(base)})", _ATOM
        if exponent.is_Integer and 2 <= exponent <= 4:
            return " * ".join([self(base, _UNARY)] * int(exponent)), _MUL
        if exponent.is_Rational and exponent < 0:
            return f"1.0 / {self(base**-exponent, _UNARY)}", _MUL
        if exponent.is_Rational and (2 * exponent).is_Integer and 0 < exponent < 4:
            whole = int(exponent - Rational(1, 2))
            root = f"{self.dialect.sqrt}({self(base)})"
            return " * ".join([*[self(base, _UNARY)] * whole, root]), _MUL
        return f"{self.dialect.power}({self(base)}, {self(exponent)})", _ATOM


def _order(term: Expr) -> tuple[bool, str]:
    """Positive terms first, then by text: reproducible, and never a leading minus by accident."""
    return str(term).startswith("-"), str(term)
