"""The symbols of a spec: the author's names, each with the assumptions that its domain allows."""

from __future__ import annotations

from math import isinf

from sympy import Expr, Rational, Symbol, sympify

from lossgen.ir.given import Given
from lossgen.ir.stages import Vocabulary
from lossgen.spec.model import LossSpec

__all__ = ["exact", "vocabulary"]


def vocabulary(spec: LossSpec) -> Vocabulary:
    """Symbols of the logits, inputs and parameters, and of what every row has."""

    def real(
        name: str, low: float | None = None, strict: bool = False, *, added: str = ""
    ) -> Symbol:
        if low is not None and (low > 0 or (low == 0 and strict)):
            return Given.of(name, added, positive=True)
        if low == 0:
            return Given.of(name, added, nonnegative=True)
        return Given.of(name, added, real=True)

    streams = {"x": (Symbol("x", real=True), Symbol("x_y", real=True))}
    vocab: dict[str, tuple[Symbol, Symbol]] = {}
    rows: dict[str, Symbol] = {}
    for name, entry in spec.inputs.items():
        domain = entry.domain
        low = (domain.lo, domain.lo_open) if domain else (None, False)
        if entry.values and domain is None:
            low = (min(entry.values), False)
        if entry.kind == "row":
            rows[name] = real(name, *low)
        else:
            table = vocab if entry.kind == "vocab" else streams
            table[name] = (real(name, *low), real(name, *low, added="_y"))
    parameters = {
        name: real(name, entry.domain.lo, entry.domain.lo_open)
        for name, entry in spec.parameters.items()
    }
    differentiable = [n for n, i in spec.inputs.items() if i.kind == "class" and i.differentiable]
    return Vocabulary(
        streams=streams,
        differentiable=("x", *differentiable),
        vocab=vocab,
        rows=rows,
        parameters=parameters,
        classes=Symbol("V", positive=True, integer=True),
        index=(Symbol("index", nonnegative=True), Symbol("index_y", nonnegative=True)),
        cotangents=tuple(Symbol(f"g{k}", real=True) for k in range(len(spec.outputs))),
    )


def exact(number: float) -> Expr:
    """A number as its author wrote it."""
    return sympify(number) if isinf(number) else Rational(str(number))
