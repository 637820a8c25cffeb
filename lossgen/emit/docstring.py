"""The docstring of a generated function: formula, shapes, domains, errors, source."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lossgen.emit.text import python_docstring
from lossgen.passes.masks import counted_masks
from lossgen.spec.model import LossSpec

__all__ = ["docstring"]


_LINEAR = {
    "softcap": "logits become softcap * tanh(logits / softcap).",
    "temperature": "logits are divided by it, after the softcap.",
    "shift": "row s is judged by target[..., s + shift], and by the row inputs there: 1 for causal "
    "language models. Results have shift rows fewer.",
    "memory_budget": "bytes for chunks of logits, by default 512 rows on a CPU, 2048 on a GPU; "
    "tiled: for the gradients of some classes, by default 256 MiB, and float32 sums [N, D].",
    "schedule": '"chunked": the logits of one chunk of rows exist at a time; "tiled" (Triton): '
    'none do, tiles of them stay on chip, which takes the least memory; "auto": tiled if the '
    "backend is Triton and memory_budget holds fewer than 256 rows, else chunked.",
    "filter": "of the tiled schedule: leave out tiles whose derivatives of a row's loss are all "
    "below eps/32 of the dtype, where they fall with the probabilities (never the target's tile); "
    "False: every tile.",
    "skip_ignored": "leave ignored rows out before the first product, which asks the device how "
    "many there are; None: on a CPU only. Without it a call can be captured in a CUDA graph.",
}


def docstring(spec: LossSpec, linear: list[str] | None = None) -> str:
    """The literal, indented as the function's body; of the linear function where ``linear`` names
    its options."""
    wrapped = []
    for line in _lines(spec, linear):
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
    lines = (f"    {w}".rstrip() if k else w for k, w in enumerate(wrapped))
    return python_docstring("\n".join([*lines, "    "]))


def _lines(spec: LossSpec, linear: list[str] | None) -> Iterator[str]:
    yield f"{spec.title}{'' if linear is None else ', of a linear layer without its logits'}."
    yield ""
    for term in spec.terms:
        yield f"    {term.source}" + (f"   (times {term.weight})" if term.weight else "")
    for output in spec.outputs:
        yield f"    {output.name} = {output.source}"
    yield from ("", "Args:")
    kinds = "float32, bfloat16 or float16 (float64 on CPU)"
    least = f" V at least {spec.min_classes}." if spec.min_classes > 1 else ""
    if linear is None:
        counted = counted_masks(spec)
        but = f", but {' and '.join(counted)} count{'s'[len(counted) > 1 :]} it" if counted else ""
        yield f"    logits: [*, V], {kinds}. Any strides; -inf masks a class{but}.{least}"
    else:
        yield f"    hidden: [*, D], {kinds}."
        made = "dtype of hidden; logits are hidden @ linear_weight.T"
        yield f"    linear_weight: [V, D], {made}.{least}"
    if spec.has_target:
        yield "    target: [*], integer class in [0, V), or ``ignore_index``."
    for name, entry in spec.inputs.items():
        if entry.kind == "class":
            gradient = "Gets a gradient" if entry.differentiable else "Gets no gradient"
            domain = f" Domain {entry.domain}." if entry.domain else ""
            shape = "[*, V], any of these dtypes"
            shape += "" if linear is None else ", or a tuple (hidden, weight[, bias]) that makes it"
            yield f"    {name}: {shape}. {_sentence(entry.doc)}{domain} {gradient}."
    for name, parameter in spec.parameters.items():
        yield f"    {name}: {parameter.doc.rstrip('.')}. Domain {parameter.domain}."
    for name, entry in spec.inputs.items():
        if entry.kind != "class":
            shape = "[V]" if entry.kind == "vocab" else "[*]"
            optional = "" if entry.off is None else f" None stands for {entry.off:g}."
            yield f"    {name}: {shape}. {_sentence(entry.doc)}{optional}"
    if linear is not None:
        yield "    linear_bias: [V], added to the logits."
        yield from (f"    {name}: {_LINEAR[name]}" for name in linear)
    if spec.has_target:
        what = "results" if spec.outputs else "loss"
        yield f"    ignore_index: rows with this target have {what} 0 and gradient 0."
    if not spec.outputs:
        yield '    reduction: "mean" (over the rows that count), "sum" or "none".'
    yield '    backend: "auto" (Triton on CUDA, C on CPU), "triton", "c" or "torch".'
    if linear is None and not spec.outputs:
        yield "    inplace_grad: let the gradient overwrite ``logits``."
    if linear is None:
        yield (
            "    class_dim: the axis of the classes in logits and class inputs, 1 for torch's "
            "[N, C, H, W]. None: the last, refused where the shapes fit axis 1 as well."
        )
    yield from ("", "Returns:")
    if spec.outputs:
        names = ", ".join(o.name for o in spec.outputs)
        yield f"    A named tuple of {names}: each [*], float32 (float64 for float64 logits)."
    else:
        yield "    float32 (float64 for float64 logits): a scalar, or [*] for ``reduction='none'``."
    yield from ("", "Raises:")
    yield "    ValueError: a parameter outside its domain, shapes or devices that do not fit."
    integer = ", a target that is not integer" if spec.has_target else ""
    yield f"    TypeError: logits that are not floating point{integer}."
    if spec.has_target:
        yield "    IndexError: a target outside [0, V) (on CPU; on a GPU that row's loss is NaN)."
    yield ""
    yield f"Source: {spec.reference}"


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}." if text else ""
