"""The docstring of a generated function: formula, shapes, domains, errors, source."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lossgen.spec.model import LossSpec

__all__ = ["docstring"]


def docstring(spec: LossSpec) -> str:
    """The text between the quotes, indented as the function's body."""
    wrapped = []
    for line in _lines(spec):
        indent = " " * (len(line) - len(line.lstrip()))
        wrapped += (
            textwrap.wrap(
                line,
                90,
                subsequent_indent=indent + "    ",
                break_long_words=False,
            )
            if line.strip()
            else [""]
        )
    return "\n".join(f"    {w}".rstrip() if k else w for k, w in enumerate(wrapped))


def _lines(spec: LossSpec) -> Iterator[str]:
    yield f"{spec.title}."
    yield ""
    for term in spec.terms:
        yield f"    {term.source}" + (f"   (times {term.weight})" if term.weight else "")
    for output in spec.outputs:
        yield f"    {output.name} = {output.source}"
    yield from ("", "Args:")
    yield "    logits: [*, V], float32, bfloat16 or float16 (float64 on CPU)."
    yield "        Any strides; -inf masks a class."
    if spec.has_target:
        yield "    target: [*], integer class in [0, V), or ``ignore_index``."
    for name, entry in spec.inputs.items():
        if entry.kind == "class":
            gradient = "Gets a gradient" if entry.differentiable else "Gets no gradient"
            domain = f" Domain {entry.domain}." if entry.domain else ""
            what = f"[*, V], dtype of the logits. {_sentence(entry.doc)}{domain}"
            yield f"    {name}: {what} {gradient}."
    for name, parameter in spec.parameters.items():
        yield f"    {name}: {parameter.doc.rstrip('.')}. Domain {parameter.domain}."
    for name, entry in spec.inputs.items():
        if entry.kind != "class":
            shape = "[V]" if entry.kind == "vocab" else "[*]"
            optional = "" if entry.off is None else f" None stands for {entry.off:g}."
            yield f"    {name}: {shape}. {_sentence(entry.doc)}{optional}"
    if spec.has_target:
        what = "results" if spec.outputs else "loss"
        yield f"    ignore_index: rows with this target have {what} 0 and gradient 0."
    if not spec.outputs:
        yield '    reduction: "mean" (over the rows that count), "sum" or "none".'
    yield '    backend: "auto" (Triton on CUDA, C on CPU), "triton", "c" or "torch".'
    if not spec.outputs:
        yield "    inplace_grad: let the gradient overwrite ``logits``."
    yield from ("", "Returns:")
    if spec.outputs:
        names = ", ".join(o.name for o in spec.outputs)
        yield f"    A named tuple of {names}: each [*], float32 (float64 for float64 logits)."
    else:
        yield "    float32 (float64 for float64 logits): a scalar, or [*] for ``reduction='none'``."
    yield from ("", "Raises:")
    yield "    ValueError: a parameter outside its domain, shapes or devices that do not fit."
    yield "    TypeError: logits that are not floating point, a target that is not integer."
    if spec.has_target:
        yield "    IndexError: a target outside [0, V) (on CPU; on a GPU that row's loss is NaN)."
    yield ""
    yield f"Source: {spec.reference}"


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}." if text else ""
