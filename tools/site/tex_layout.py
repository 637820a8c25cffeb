"""A whole loss as LaTeX: its terms, its lets, its outputs, on as many lines as it takes."""

from __future__ import annotations

from collections.abc import Iterator

from lossgen.spec.expr import Binary, Expr, Rank
from lossgen.spec.model import Batch, LossSpec, Term
from tools.site.tex import Binds, Piece, formula, indexed, name_of, negated

__all__ = ["Line", "loss_in_tex"]

Line = tuple[str, str]
_ROWS = r"\sum_{i}"  # over the rows, whose index the formulas leave out
_WIDE = 120  # characters of LaTeX on a line, roughly


def loss_in_tex(spec: LossSpec) -> list[Line]:
    """The loss of a row, or its outputs, and below them its lets.

    Returns:
        Lines of a left and a right side; a line whose left side is empty goes on with the last.
    """
    vectors = frozenset(name for name, expr in spec.let.items() if expr.rank is Rank.CLASS)
    if spec.batch:
        return [*_of_a_batch(spec, spec.batch, vectors), *_lets(spec, vectors)]
    lines: list[Line] = []
    if spec.terms:
        summands = [piece for term in spec.terms for piece in _weighted(term, vectors)]
        lines += _broken(r"\ell", summands)
    for output in spec.outputs:
        lines += _broken(rf"\mathrm{{{_escaped(output.name)}}}", _summands(output.expr, vectors))
    return [*lines, *_lets(spec, vectors)]


def _lets(spec: LossSpec, vectors: frozenset[str]) -> Iterator[Line]:
    for name, expr in spec.let.items():
        left = indexed(name_of(name), "j") if name in vectors else name_of(name)
        yield from _broken(left, _summands(expr, vectors))


def _of_a_batch(spec: LossSpec, batch: Batch, vectors: frozenset[str]) -> Iterator[Line]:
    """The formula of the sums over n rows, with the mean of the rows before it, and the sums."""
    wide = frozenset(part.name for part in batch.parts if part.vector)
    summands = [*_summands(batch.formula, wide)]
    for output in (o for o in spec.outputs if o.name == batch.rows):
        rows = formula(output.expr, vectors).within(Binds.PRODUCT)
        summands = [Piece(rf"\frac{{1}}{{n}} \, {_ROWS} {rows}", Binds.PRODUCT, True), *summands]
    yield from _broken(r"\ell", summands)
    for part in batch.parts:
        left = indexed(name_of(part.name), "j") if part.vector else name_of(part.name)
        yield left, f"= {_ROWS} {formula(part.expr, vectors).within(Binds.PRODUCT)}"


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _weighted(term: Term, vectors: frozenset[str]) -> list[Piece]:
    if term.weight is None:
        return [*_summands(term.expr, vectors)]
    piece = formula(term.expr, vectors)
    text = rf"{name_of(term.weight)} \, {piece.within(Binds.PRODUCT)}"
    return [Piece(text, Binds.PRODUCT, piece.open, piece.tall)]


def _summands(expr: Expr, vectors: frozenset[str]) -> Iterator[Piece]:
    """What an expression adds up, each with its sign."""
    if isinstance(expr, Binary) and expr.op in "+-":
        yield from _summands(expr.left, vectors)
        if expr.op == "+":
            yield from _summands(expr.right, vectors)
        else:
            yield negated(formula(expr.right, vectors))
    else:
        yield formula(expr, vectors)


def _broken(left: str, summands: list[Piece] | Iterator[Piece]) -> list[Line]:
    """left = Σ summands, cut into lines."""
    first, *rest = summands
    lines, right = [], f"= {first.text}"
    for piece in rest:
        text = f"- {piece.text[1:]}" if piece.of else f"+ {piece.text}"
        if len(right) + len(text) > _WIDE:
            lines.append((left, right))
            left, right = "", rf"\quad {{}} {text}"
        else:
            right += f" {text}"
    return [*lines, (left, right)]
