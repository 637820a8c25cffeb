"""The local names that templates and emitted lines share, and what parameters may not be called.

Per form i: ``l{i}`` exponent, ``m{i}`` its running maximum over j ≠ y (0 where there is none),
``t{i}`` = l - m, ``e{i}`` = exp(t), ``a{i}`` = Σ e, ``la{i}`` = log a, ``ly{i}`` = l_y, ``z{i}``,
``lam{i}`` = L - m, ``L{i}``, ``p{i}`` = p_j, ``r{i}`` = R_j.  ``b{n}`` are the other moments,
``T{n}`` finished sums, ``c{n}`` row coefficients of the gradient, ``w{n}`` shared subexpressions.
"""

from __future__ import annotations

import builtins
import keyword
import re

from sympy import Expr, Integer, Symbol, cse, exp, numbered_symbols

from lossgen.emit.printers import Printer
from lossgen.errors import CompileError
from lossgen.ir.stages import StableLoss
from lossgen.ir.statistics import Form

__all__ = ["assignments", "check_names", "named_weights"]

_NUMBERED = re.compile(
    r"(l|m|t|u|e|a|b|c|d|f|g|k|v|la|ly|z|zc|lam|lamu|logu|loguy|L|p|r|pinv|rinv|T|w|max|index|is_max|delta|rest|"
    r"lse|o|B|ref|top|joint|rise|apart|even|kept|near|reduced|same|smaller|turned)\d+"
)
# Names of C, and of templates/row_c.jinja.
_C = {
    "auto",
    "case",
    "char",
    "const",
    "default",
    "do",
    "double",
    "enum",
    "extern",
    "goto",
    "inline",
    "int",
    "long",
    "real",
    "register",
    "restrict",
    "short",
    "signed",
    "sizeof",
    "static",
    "struct",
    "switch",
    "typedef",
    "union",
    "unsigned",
    "void",
    "volatile",
    "BACKWARD",
    "FORWARD",
    "FUSED",
    "INFINITY",
    "INT_MAX",
    "NAN",
    "SAME",
    "call",
    "first",
    "in_range",
    "kept",
    "late",
    "own",
    "out",
    "padded",
    "program",
    "scratch",
    "want",
    "width",
}
_RESERVED = _C | {
    "x",
    "x_y",
    "x_ref",
    "lost",
    "sunk",
    "index",
    "index_y",
    "WANT",
    "y",
    "V",
    "row",
    "cols",
    "inside",
    "valid",
    "others",
    "base",
    "loss",
    "saved",
    "state",
    "logits",
    "target",
    "grad",
    "grad_rows",
    "grad_logits",
    "scale",
    "g",
    "n_rows",
    "n_classes",
    "ignore_index",
    "ignored",
    "in_range",
    "split",
    "start",
    "stop",
    "stride_row",
    "stride_grad",
    "stride_grad_rows",
    "stride_target",
    "pivot",
    "SPLITS",
    "BLOCK",
    "ONE_TILE",
    "torch",
    "tl",
    "dl",
    "el",
    "rt",
    "nn",
    "Tensor",
    "LOSS",
    "reduction",
    "backend",
    "inplace_grad",
    "class_dim",
    "hidden",
    "linear_weight",
    "linear_bias",
    "shift",
    "memory_budget",
    "schedule",
    "filter",
    # templates/tiled_triton.jinja
    "at_y",
    "bias_sums",
    "cap_slope",
    "class_share",
    "class_tile",
    "counts_there",
    "first_col",
    "first_of_stripe",
    "first_row",
    "grad_bias",
    "grad_sums",
    "grad_weight",
    "least_slope",
    "n_counted",
    "n_programs",
    "n_slots",
    "row_at",
    "row_coef",
    "row_merged",
    "source_row",
    "stride_out",
    "sums_at",
    "sums_begun",
    "tile_counts",
    "tile_lives",
    "tile_slots",
    "tiles",
    "tiles_alive",
    "tiles_of_classes",
    "tiles_of_rows",
    "work_unit",
    "x_cap",
    "x_scale",
}


def check_names(stable: StableLoss) -> None:
    """Refuse names that the generated code needs for itself."""
    spec = stable.spec
    declared = [*spec.parameters, *spec.inputs]
    at_y = {f"{n}_y" for n in ("x", *spec.inputs)}
    for name in declared:
        taken = name in _RESERVED or _NUMBERED.fullmatch(name) or name in at_y
        if taken or keyword.iskeyword(name) or name in vars(builtins):
            raise CompileError(f"the name {name!r} is taken by the generated code; choose another")
    if spec.outputs and {spec.name, spec.class_name} & (_RESERVED | {"NamedTuple"}):
        raise CompileError("the names of the function and its results are taken by the module")


def assignments(targets: list[tuple[str, Expr]], printer: Printer, prefix: str = "w") -> list[str]:
    """``name = expression`` lines with common subexpressions named once, in order."""
    if not targets:
        return []
    shared, reduced = cse(
        [e for _, e in targets], symbols=numbered_symbols(prefix, real=True), order="canonical"
    )
    lines = [f"{symbol} = {printer(expr)}" for symbol, expr in shared]
    return lines + [
        f"{name} = {printer(expr)}" for (name, _), expr in zip(targets, reduced, strict=True)
    ]


def named_weights(expr: Expr, forms: tuple[Form, ...]) -> tuple[Expr, set[str]]:
    """Write exp(logp) as ``p``, exp(2·logp) as p², R as ``r``; and say which names occur."""
    table: dict[Expr, Expr] = {}
    for form in forms:
        p = Symbol(f"p{form.index}", positive=True)
        table[form.R] = Symbol(f"r{form.index}", positive=True)
        for node in expr.atoms(exp):
            kappa = node.args[0].coeff(form.logp)
            if node.args[0] != kappa * form.logp:
                continue
            if kappa.is_Integer and 1 <= kappa <= 4:
                table[node] = p ** Integer(kappa)
    result = expr.xreplace(table)
    return result, {s.name for s in result.free_symbols}
