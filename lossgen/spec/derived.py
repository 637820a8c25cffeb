"""The specs of a loss's derivatives: with respect to what stands beside its rows, and along them.

    transform: (1 - p[y]**q) / q   →   outputs: {d0_q: -p[y]**q*log(p[y])/q - …}        by q
                                   →   outputs: {d0_x: p[y]**q*sum(p*(v - v[y]))}       along v

It is a program of row results like any other, compiled and certified with the same passes, but for
its truth: that is the derivative of the *original* formula (``ir.literal``), which shares nothing
with the formulas here.  What the derivative is taken by has no neutral value: nothing is compiled
out.  The derivative along a row v is Σ_j v_j·dL/dx_j, whose own gradient is the product of L's
second derivatives with v; v is an input of kind class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction
from typing import Any

from lossgen.spec.expr import (
    Binary,
    Call,
    Compare,
    Expr,
    Gather,
    Name,
    NameKind,
    Number,
    Rank,
    Span,
    Unary,
)
from lossgen.spec.model import Accuracy, Input, LossSpec, Output
from lossgen.spec.slopes import Slopes, frozen, number, operation
from lossgen.spec.source import Formula, Source, compose
from lossgen.spec.trees import mapped

__all__ = ["KINDS", "along", "free", "slope", "spread", "written"]

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}
_UNARY, _ATOM = 3, 5
#: At least, of what is taken along rows: relative to 1e-3 where numbers are smaller.
_ALONG = Accuracy(ulp=16, scale=1e-3, reason="v may move a row hardly at all")
#: What rows are moved along: any numbers; the result is proportional to them.
_TANGENT = Input(
    kind="class",
    differentiable=True,
    doc="what the logits or a class input are moved along",
    off=None,
    domain=None,
    range=(-2.0, 2.0),
)


def slope(spec: LossSpec, by: str, uses: Collection[str] = ()) -> LossSpec:
    """The spec of the derivatives of each result by ``by``, a parameter or a row input.

    Its only variant is the one that keeps the optional parameters and inputs ``uses``.

    Raises:
        NoSlope: a formula has a function whose derivative is not known.
    """
    inputs = {n: i.model_copy(update={"differentiable": False}) for n, i in spec.inputs.items()}
    own = {
        "name": f"{spec.name}_slope",
        "class_name": f"{spec.class_name}Slope",
        "title": f"Derivative of {spec.title} by {by}",
        "inputs": inputs,
        **_results(spec, Slopes(spec.let, by), frozen),
    }
    return _required(spec.model_copy(update=own), by, uses)


def along(spec: LossSpec, by: str, uses: Collection[str] = ()) -> LossSpec:
    """The spec of the derivatives of each result along a row ``v`` of the class input ``by``, or of
    the logits ``x``: a last input of kind class, whatever it is called.

    Raises:
        NoSlope: a formula has a function whose derivative is not known.
    """
    tangent = free("v", spec)
    moved = Name(Rank.CLASS, Span(0, 0), tangent, NameKind.STREAM)
    own = {
        "name": f"{spec.name}_along",
        "class_name": f"{spec.class_name}Along",
        "title": f"Derivative of {spec.title} along {by}",
        "inputs": spec.inputs | {tangent: _TANGENT},
        "tangent": tangent,
        "accuracy": _accuracy(spec.accuracy),
        **_results(spec, Slopes(spec.let, by, moved), lambda expr: expr),
    }
    return _required(spec.model_copy(update=own), by, uses)


def _accuracy(stated: Accuracy | None) -> Accuracy:
    """Of a derivative along a row, and of second derivatives: where all of a row moves alike, what
    is left of them is a small difference."""
    ulp, scale = (stated.ulp, stated.scale) if stated else (0.0, 0.0)
    least = {"ulp": max(ulp, _ALONG.ulp), "scale": max(scale, _ALONG.scale)}
    return _ALONG.model_copy(update=least)


def _results(spec: LossSpec, slopes: Slopes, kept: Callable[[Expr], Expr]) -> dict[str, Any]:
    """What makes the derivative of each result a result."""
    by = slopes.name
    exprs = [slopes.of(o.expr) for o in spec.outputs] or [_total(spec, slopes)]
    outputs, formulas = [], dict(spec.formulas)
    for k, expr in enumerate(exprs):
        label = free(f"d{k}_{by}", spec)
        outputs.append(Output(name=label, expr=kept(expr), source=written(expr)))
        formulas[label] = _formula(spec, by, outputs[-1].source)
    return {"terms": (), "outputs": tuple(outputs), "formulas": formulas, "origin": spec}


def free(label: str, spec: LossSpec, taken: Collection[str] = ()) -> str:
    """A name that nothing else in a spec has, and none of ``taken``."""
    taken = {*spec.parameters, *spec.inputs, *spec.let, *taken}
    while label in taken:
        label += "_"
    return label


def spread(spec: LossSpec, by: str, uses: Collection[str] = ()) -> LossSpec:
    """The same loss, in which the numbers per class ``by`` may differ from row to row, so that
    they get a gradient as any input of kind class does."""
    entry = spec.inputs[by].model_copy(update={"kind": "class", "differentiable": True})
    lets = {name: _as_stream(expr, by) for name, expr in spec.let.items()}
    terms = [t.model_copy(update={"expr": _as_stream(t.expr, by)}) for t in spec.terms]
    outputs = [o.model_copy(update={"expr": _as_stream(o.expr, by)}) for o in spec.outputs]
    own = {
        "name": f"{spec.name}_spread",
        "class_name": f"{spec.class_name}Spread",
        "title": f"{spec.title}, with {by} of each row",
        "let": lets,
        "terms": tuple(terms),
        "outputs": tuple(outputs),
        "inputs": spec.inputs | {by: entry},
    }
    return _required(spec.model_copy(update=own), by, uses)


#: What the runtime asks for.
KINDS = {"slope": slope, "spread": spread, "along": along}


def _required(spec: LossSpec, by: str, uses: Collection[str]) -> LossSpec:
    """With ``by`` always given, and of rows alone: no mean, and no identities."""
    declared = {
        section: {
            n: e.model_copy(update={"off": None}) if n == by else e
            for n, e in getattr(spec, section).items()
        }
        for section in ("parameters", "inputs")
    }
    own = {
        "by": by,
        "batch": None,
        "limits": (),
        "normalizer": None,
        "normalizer_source": None,
        "shared": (),
        "variants": (frozenset(uses) - {by},),
        "source": f"{spec.source}\n# by {by}, with {', '.join(sorted(uses))}\n",
    }
    return spec.model_copy(update={**declared, **own})


def _as_stream(expr: Expr, name: str) -> Expr:
    """The tree with an input of kind class in place of one of kind vocab."""
    if isinstance(expr, Name) and (expr.kind, expr.name) == (NameKind.VOCAB_INPUT, name):
        return replace(expr, kind=NameKind.STREAM)
    return mapped(expr, lambda part: _as_stream(part, name))


def _total(spec: LossSpec, slopes: Slopes) -> Expr:
    """Of Σ weight·term."""
    total = number(0)
    for term in spec.terms:
        slope = slopes.of(term.expr)
        if term.weight is not None:
            weight = Name(Rank.PARAMETER, Span(0, 0), term.weight, NameKind.PARAMETER)
            own = term.expr if term.weight == slopes.name else number(0)
            slope = operation("+", operation("*", weight, slope), own)
        total = operation("+", total, slope)
    return total


def _formula(spec: LossSpec, name: str, text: str) -> Formula:
    """A text that no author wrote: it stands where ``name`` is declared."""
    root = compose(Source(spec.source, spec.file))
    section = root.get("parameters" if name in spec.parameters else "inputs")
    node = section.get(name) if section else None
    return Formula(text, (node.start if node else 0,) * max(1, len(text)))


def written(expr: Expr) -> str:
    """A tree as text of the language."""
    return _text(expr, 0)


def _text(expr: Expr, least: int) -> str:
    """In brackets where it binds less than ``least``."""
    binds, text = _ATOM, ""
    match expr:
        case Number(value=value):
            text, binds = _decimal(value)
        case Name(name=name):
            text = name
        case Unary(operand=operand):
            text, binds = f"-{_text(operand, _UNARY)}", _UNARY
        case Gather(vector=vector):
            text = f"{_text(vector, _ATOM)}[y]"
        case Compare(op=op, left=left, right=right):
            text = f"{written(left)} {op} {written(right)}"
        case Binary(op=op, left=left, right=right):
            binds = _PRECEDENCE[op]
            power = op == "**"
            sides = _text(left, binds + power), _text(right, binds + (not power))
            text = (f" {op} " if binds == 1 else op).join(sides)
        case Call(func=func, args=args, others=others):
            held = [*map(written, args), *(["over=others"] if others else [])]
            text = f"{func}({', '.join(held)})"
    return f"({text})" if binds < least else text


def _decimal(value: Fraction) -> tuple[str, int]:
    """A number, and how it binds."""
    places = next((k for k in range(40) if (value * 10**k).denominator == 1), None)
    if places is None:
        return str(value), _PRECEDENCE["/"]
    digits = f"{abs(int(value * 10**places)):0{places + 1}d}"
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return (f"-{text}", _UNARY) if value < 0 else (text, _ATOM)
