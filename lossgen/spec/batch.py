"""The loss of a whole batch, taken apart: sums over its rows, and a formula of a few numbers.

    let:   {m: batch_mean(p)}               outputs: {m: sum(of_m*p)}
    batch: sum(m*log(m/prior))         →    formula: sum(m/n*log(m/n/prior)),  n the number of rows

The sums are results of a row program like any other.  Of class terms e_j the result is Σ_j v_j·e_j
for an input v of kind class: its gradient is e_j, so that the sum over the rows of these gradients
is the part; and with v = dF/dpart the gradient to the logits is that of the formula F.
"""

from __future__ import annotations

from typing import Any, NoReturn

from lossgen.errors import ConstantLoss, NotInLanguage, SpecError
from lossgen.spec.derived import free, written
from lossgen.spec.expr import Binary, Call, Expr, Gather, Name, NameKind, Rank, Span, children
from lossgen.spec.model import Batch, Input, LossSpec, Output, Part
from lossgen.spec.refused import NotOfTheBatch
from lossgen.spec.slopes import number, operation
from lossgen.spec.trees import mapped, names, nodes, reaches
from lossgen.spec.vocabulary import BATCH_WORDS

__all__ = ["taken_apart"]

_NOWHERE = Span(0, 0)
#: What has a number for each row.
_OF_ROWS = {
    NameKind.LOGITS: "the logits",
    NameKind.ONEHOT: "the target",
    NameKind.ROW_INPUT: "an input of kind row",
    NameKind.STREAM: "an input of kind class",
}
#: Made of class terms: what a formula gives is what it weighs them by.
_VECTOR = Input(
    kind="class",
    differentiable=True,
    doc="what the terms of a class count for",
    off=None,
    domain=None,
    range=(-2.0, 2.0),
)


def taken_apart(spec: LossSpec, formula: Expr) -> LossSpec:
    """The spec of the row program whose results are the parts of ``formula``, and of the mean of
    the rows where ``spec`` has terms.

    Raises:
        SpecError: something in the formula belongs to a row, or nothing in it is of the rows.
    """
    return _Apart(spec).made(formula)


class _Apart:
    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec
        self.parts: dict[Expr, Part] = {}
        self.outputs: list[Output] = []
        self.inputs = dict(spec.inputs)
        self.formulas = dict(spec.formulas)
        self.label = "batch"  # of the formula that is being read

    def made(self, formula: Expr) -> LossSpec:
        spec = self.spec
        for term in spec.terms:
            self._of_one_row(term.expr, term.name or term.role)
        rows = self._rows()
        opened = self._opened(formula)
        moving = ["x", *(n for n, i in spec.inputs.items() if i.differentiable)]
        if not any(reaches(part.expr, spec.let, moving) for part in self.parts.values()):
            self._fail(ConstantLoss, formula, what="the formula", vectors="the logits")
        let = {name: tree for name, tree in spec.let.items() if not self._summed(tree)}
        used = self._used([o.expr for o in self.outputs], let)
        batch = Batch(
            class_name=spec.class_name,
            formula=opened,
            source=spec.formulas["batch"].text,
            parts=tuple(self.parts.values()),
            rows=rows,
            parameters=spec.parameters,
            inputs=spec.inputs,
        )
        own: dict[str, Any] = {
            "class_name": f"{spec.class_name.removesuffix('Loss')}Parts",
            "parameters": {n: p for n, p in spec.parameters.items() if n in used},
            "inputs": {n: i for n, i in self.inputs.items() if n in used},
            "let": {n: tree for n, tree in let.items() if n in used},
            "terms": (),
            "outputs": tuple(self.outputs),
            "variants": tuple(dict.fromkeys(uses & used for uses in spec.variants)),
            "batch": batch,
            "formulas": self.formulas,
        }
        return spec.model_copy(update=own)

    def _used(self, trees: list[Expr], let: dict[str, Expr]) -> frozenset[str]:
        """The names in trees and in the lets that they use."""
        found: set[str] = set()
        stack = list(trees)
        while stack:
            new = names(stack.pop()) - found
            found |= new
            stack += [let[name] for name in new if name in let]
        return frozenset(found)

    def _rows(self) -> str | None:
        """The output that is the loss of one row, if there is one."""
        if not self.spec.terms:
            return None
        first, expr = self.spec.terms[0], _total(self.spec)
        label = self._named("rows", expr)
        self.formulas[label] = self.spec.formulas[first.name or first.role]
        return label

    def _named(self, wanted: str, expr: Expr) -> str:
        """A new output."""
        taken = {o.name for o in self.outputs} | {*self.inputs}
        plain = wanted if wanted[0] != "_" and wanted not in ("count", "index") else "part"
        label = plain if plain == wanted else free(plain, self.spec, taken)
        self.outputs.append(Output(name=label, expr=expr, source=written(expr)))
        return label

    # ------------------------------------------------------------------ the formula
    def _opened(self, expr: Expr) -> Expr:
        """The formula with its lets opened and parts by name."""
        match expr:
            case Call(func=func, args=(terms,)) if func in BATCH_WORDS:
                return self._part(func, terms)
            case Name(kind=NameKind.LET, name=name):
                outer, self.label = self.label, name
                found = self._opened(self.spec.let[name])
                self.label = outer
                return found
            case Name(kind=kind) if kind in _OF_ROWS:
                self._fail(NotOfTheBatch, expr, what=_OF_ROWS[kind])
            case Gather():
                self._fail(NotOfTheBatch, expr, what="the target")
            case Call(others=True):
                self._fail(NotOfTheBatch, expr, what="over=others")
        return mapped(expr, self._opened)

    def _part(self, func: str, terms: Expr) -> Expr:
        self._of_one_row(terms, self.label)
        count = Name(Rank.ROW, _NOWHERE, "", NameKind.PART)
        if terms.rank == Rank.PARAMETER:
            of_all = self._opened(terms)
            return (
                of_all if func == "batch_mean" else Binary(Rank.ROW, _NOWHERE, "*", of_all, count)
            )
        if terms not in self.parts:
            self.parts[terms] = self._new(terms)
        found = Name(terms.rank, _NOWHERE, self.parts[terms].name, NameKind.PART)
        return found if func == "batch_sum" else Binary(terms.rank, _NOWHERE, "/", found, count)

    def _new(self, terms: Expr) -> Part:
        spec, vector, expr = self.spec, None, terms
        let = spec.let.get(self.label)
        alone = let is not None and sum(map(_is_sum, nodes(let))) == 1
        named = alone and self.label not in self._taken()
        wanted = self.label if named else free(f"part{len(self.parts)}", spec, self._taken())
        if terms.rank == Rank.CLASS:
            vector = free(f"of_{wanted}", spec, self._taken())
            weight = Name(Rank.CLASS, _NOWHERE, vector, NameKind.STREAM)
            expr = Call(
                Rank.ROW, _NOWHERE, "sum", (Binary(Rank.CLASS, terms.span, "*", weight, terms),)
            )
            self.inputs[vector] = _VECTOR
        label = self._named(wanted, expr)
        self.formulas[label] = self.formulas[self.label]
        return Part(name=label, vector=vector, expr=terms)

    def _taken(self) -> set[str]:
        return {o.name for o in self.outputs} | {*self.inputs}

    # ------------------------------------------------------------------ what is of one row
    def _of_one_row(self, expr: Expr, label: str) -> None:
        """Refuse sums over the batch in the formula of a row."""
        outer, self.label = self.label, label
        for node in nodes(expr):
            let = self.spec.let.get(node.name) if isinstance(node, Name) else None
            if _is_sum(node) or (let is not None and self._summed(let)):
                what = "a sum over the batch in the formula of one row is"
                hint = "write such a term in `batch:`, with batch_mean around what is of a row"
                self._fail(NotInLanguage, node, what=what, hint=hint)
        self.label = outer

    def _summed(self, expr: Expr) -> bool:
        """Does it hold a sum over the batch?"""
        if _is_sum(expr):
            return True
        if isinstance(expr, Name) and expr.kind is NameKind.LET:
            return self._summed(self.spec.let[expr.name])
        return any(map(self._summed, children(expr)))

    def _fail(self, error: type[SpecError], expr: Expr, **fields: Any) -> NoReturn:
        raise error(location=self.spec.location_of(self.label, expr.span), **fields)


def _is_sum(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.func in BATCH_WORDS


def _total(spec: LossSpec) -> Expr:
    """The loss of a row."""
    total = number(0)
    for term in spec.terms:
        value = term.expr
        if term.weight is not None:
            weight = Name(Rank.PARAMETER, _NOWHERE, term.weight, NameKind.PARAMETER)
            value = operation("*", weight, value)
        total = operation("+", total, value)
    return total
