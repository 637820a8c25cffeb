"""What a well-formed spec must also satisfy: ranks, dependence on the logits, nothing unused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossgen.spec.expr import Expr, Name, NameKind, Rank
from lossgen.spec.model import LossSpec

if TYPE_CHECKING:
    from lossgen.spec.load import _Loader

__all__ = ["check_spec"]


def check_spec(spec: LossSpec, loader: _Loader) -> None:
    """Raises SpecError at the place that is wrong."""
    for term in spec.terms:
        name = term.name or term.role
        place = loader.inside(term.expr.span, *loader.paths[name])
        if term.expr.rank is Rank.CLASS:
            loader.fail(
                f"the {term.role} is one number per row, but {_short(term.source)} has rank class",
                place, "did you forget sum(...), or [y]?", "LG111",
            )
    used = _names([t.expr for t in spec.terms], spec)
    _check_logits(spec, loader, used)
    known = used | {t.weight for t in spec.terms if t.weight}
    normalizer = _names([spec.normalizer], spec) if spec.normalizer is not None else set()
    for where, table in (("parameters", spec.parameters), ("inputs", spec.inputs),
                         ("let", spec.let)):
        for name in table:
            if name not in known | (normalizer if where == "inputs" else set()):
                kind = {"parameters": "parameter", "inputs": "input", "let": "let"}[where]
                loader.fail(f"the {kind} {name!r} is not used in any formula",
                            loader.key(where, name), "use it, or remove it", "LG112")
    if spec.normalizer is not None:
        _check_normalizer(spec, loader)


def _check_logits(spec: LossSpec, loader: _Loader, used: set[str]) -> None:
    if "x" not in used:
        first = spec.terms[0]
        loader.fail("the loss does not depend on the logits: it is constant",
                    loader.inside(first.expr.span, *loader.paths[first.name or first.role]),
                    "write it in terms of x, p, logp or u", "LG113")


def _check_normalizer(spec: LossSpec, loader: _Loader) -> None:
    from lossgen.spec.load import nodes_of

    assert spec.normalizer is not None
    for node in nodes_of(spec.normalizer):
        bare_vector = isinstance(node, Name) and node.kind in (NameKind.LOGITS, NameKind.ONEHOT)
        if bare_vector or (isinstance(node, Name) and node.kind is NameKind.LET):
            loader.fail("the normalizer may use parameters, row inputs and vocab inputs at [y]",
                        loader.inside(node.span, "normalizer"), id="LG114")
    if spec.normalizer.rank is Rank.CLASS:
        loader.fail("the normalizer is one number per row",
                    loader.inside(spec.normalizer.span, "normalizer"),
                    "did you forget [y]?", "LG111")


def _names(trees: list[Expr], spec: LossSpec) -> set[str]:
    """Every name the trees mention, through lets."""
    from lossgen.spec.load import nodes_of

    found: set[str] = set()
    stack = list(trees)
    while stack:
        for node in nodes_of(stack.pop()):
            if isinstance(node, Name) and node.name not in found:
                found.add(node.name)
                if node.kind is NameKind.LET:
                    stack.append(spec.let[node.name])
    return found


def _short(source: str) -> str:
    text = " ".join(source.split())
    return text if len(text) <= 60 else text[:57] + "..."


