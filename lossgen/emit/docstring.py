"""The docstring of a generated function, as far as it is of this loss: formula, declared arguments
and source.  ``runtime.documentation`` adds what all losses share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lossgen.emit.text import python_docstring
from lossgen.passes.masks import counted_masks
from lossgen.spec.model import Batch, LossSpec

__all__ = ["docstring"]


def docstring(spec: LossSpec, batch: Batch | None = None) -> str:
    """The literal, indented as the function's body; with ``batch``, of the loss of all rows."""
    wrapped = []
    for line in _lines(spec, batch):
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        wrapped += textwrap.wrap(line, 90, subsequent_indent=indent, break_long_words=False) or [""]
    lines = (f"    {w}".rstrip() if k else w for k, w in enumerate(wrapped))
    return python_docstring("\n".join([*lines, "    "]))


def _lines(spec: LossSpec, batch: Batch | None) -> Iterator[str]:
    yield f"{spec.title}{'' if batch or not spec.batch else ', what is summed of each row'}."
    yield ""
    if batch:
        yield from _of_the_batch(spec, batch)
        return
    for term in spec.terms:
        yield f"    {term.source}" + (f"   (times {term.weight})" if term.weight else "")
    for output in spec.outputs:
        yield f"    {output.name} = {output.source}"
    if arguments := [*_arguments(spec)]:
        yield from ("", "Args:", *arguments)
    if spec.reference:
        yield from ("", f"Source: {spec.reference}")


def _of_the_batch(spec: LossSpec, batch: Batch) -> Iterator[str]:
    rows = f"the mean of {spec.formulas[batch.rows].text}, plus " if batch.rows else ""
    yield f"    {rows}{batch.source}"
    for name, text in spec.let_sources.items():
        yield f"    with {name} = {text}"
    if arguments := [*_arguments(spec, batch)]:
        yield from ("", "Args:", *arguments)
    if spec.reference:
        yield from ("", f"Source: {spec.reference}")


def _arguments(spec: LossSpec, batch: Batch | None = None) -> Iterator[str]:
    counted = " and ".join(counted_masks(spec))
    but = [f"But a masked class counts in {counted}."] if counted else []
    if but or spec.min_classes > 1:
        least = [f"V at least {spec.min_classes}."] if spec.min_classes > 1 else []
        yield f"    logits: {' '.join([*but, *least])}"
    inputs, parameters = (batch or spec).inputs, (batch or spec).parameters
    for name, entry in inputs.items():
        if entry.kind == "class":
            gradient = "Gets a gradient" if entry.differentiable else "Gets no gradient"
            domain = f" Domain {entry.domain}." if entry.domain else ""
            shape = "[*, V], any of these dtypes"
            yield f"    {name}: {shape}.{_sentence(entry.doc)}{domain} {gradient}."
    for name, parameter in parameters.items():
        yield f"    {name}:{_sentence(parameter.doc)} Domain {parameter.domain}."
    for name, entry in inputs.items():
        if entry.kind != "class":
            shape = "[V]" if entry.kind == "vocab" else "[*]"
            optional = "" if entry.off is None else f" None stands for {entry.off:g}."
            gets = " Gets a gradient." if entry.differentiable else ""
            yield f"    {name}: {shape}.{_sentence(entry.doc)}{optional}{gets}"


def _sentence(text: str) -> str:
    return f" {text.rstrip('.')}." if text else ""
