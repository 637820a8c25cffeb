"""The docstrings of generated functions: what all losses share is written here once.

A generated module says what its loss is, and what the arguments are that its spec declares; its
functions are completed when it is imported, so that ``help`` shows all of it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from inspect import cleandoc
from types import ModuleType
from typing import Any, TypeVar

from lossgen.runtime.refused import LossFile, without_rest

__all__ = ["documented"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)

#: Of arguments that no spec declares; of what a spec adds to one, see ``_entry``.
_SHARED = {
    "logits": "[*, V], float32, bfloat16 or float16 (float64 on CPU). Any strides; -inf masks a "
    "class.",
    "hidden": "[*, D], float32, bfloat16 or float16 (float64 on CPU).",
    "linear_weight": "[V, D], dtype of hidden; logits are hidden @ linear_weight.T.",
    "target": "[*], integer class in [0, V), or ``ignore_index``.",
    "linear_bias": "[V], added to the logits.",
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
    "ignore_index": "rows with this target have loss 0 and gradient 0.",
    "weight": "[V], what a row of each class counts for; as in torch, a mean divides by their sum.",
    "row_weight": "[*], what each row counts for, or a mask: 0 and False leave it out.",
    "normalizer": "what a mean divides by, as the tokens of all batches of a step.",
    "by": "[*], integers: rows of one value are a batch of their own; the result is their mean.",
    "batch_group": "a process group whose ranks hold other rows of the batch: the loss is that of "
    "the rows of all ranks; gradients are those that DDP and FSDP average.",
    "reduction": '"mean" (over what the rows count for), "sum", "none", or "batchmean" (the sum '
    "over the length of the first axis).",
    "backend": '"auto" (Triton on CUDA, C on CPU), "triton", "c" or "torch".',
    "inplace_grad": "let the gradient overwrite ``logits``.",
    "class_dim": "the axis of the classes in logits and class inputs, 1 for torch's [N, C, H, W]. "
    "None: the last, refused where the shapes fit axis 1 as well.",
    "group": "a process group whose ranks hold the classes one after the other (vocabulary "
    "parallel): rows over the classes and the layer are this rank's, all else is whole. "
    "``lossgen.ClassShards`` where the sizes are known.",
}
_STREAM = "[*, V], any of these dtypes"  # what a class input is
_LISTED = ", or a ``lossgen.Entries`` of K classes a row"
_MADE = f"{_LISTED}, or a tuple (hidden, weight[, bias]) that makes it"
_OF_LOGITS = ("logits", "linear_weight")  # what a spec says of ``logits`` stands with these


def documented(function: _Function) -> _Function:
    """The function with its whole docstring: its own part, or that of the function of logits with
    the same name behind ``linear_``, and what every loss has; and without what it refuses in its
    signature."""
    module = sys.modules.get(function.__module__)
    if type(module) is ModuleType:
        module.__class__ = LossFile
    signed = without_rest(function)
    function.__signature__ = signed  # type: ignore[attr-defined]
    names = tuple(signed.parameters)
    linear = "hidden" in names
    source = function.__globals__[function.__name__[len("linear_") :]] if linear else function
    own = source.__dict__.setdefault("__own_doc__", source.__doc__)
    if own is not None:  # else python -OO
        function.__doc__ = "\n".join(_lines(cleandoc(own), names, linear))
    return function


def _lines(own: str, names: tuple[str, ...], linear: bool) -> Iterator[str]:
    rest, marked, source = own.rpartition("\nSource: ")
    head, _, declared = (rest if marked else own).rstrip().partition("\n\nArgs:\n")
    title, *formula = head.splitlines() or [""]
    yield f"{title.rstrip('.')}, of a linear layer without its logits." if linear else title
    yield from formula
    yield from ("", "Args:")
    _, *parts = _ENTRY.split(declared)
    entries = dict(zip(parts[::2], parts[1::2], strict=True))
    whole = "by" in names and "reduction" not in names  # a loss of the batch
    results = "reduction" not in names and not whole
    for name in names:
        text = _entry(name, entries, results)
        made = text.replace(_STREAM, f"{_STREAM}{_MADE if linear else _LISTED}", 1)
        yield from _filled(f"    {name}: {made}")
    yield from ("", "Returns:")
    if whole:
        yield "    A scalar, float32 (float64 for float64 logits)."
    elif results:
        yield "    A named tuple of these, each [*], float32 (float64 for float64 logits)."
    else:
        yield "    float32 (float64 for float64 logits): a scalar, or [*] for ``reduction='none'``."
    integer = ", a target that is not integer" if "target" in names else ""
    yield from ("", "Raises:")
    yield "    ValueError: a parameter outside its domain, shapes or devices that do not fit."
    yield f"    TypeError: logits that are not floating point{integer}."
    if "target" in names:
        yield "    IndexError: a target outside [0, V) (on CPU; on a GPU that row's loss is NaN)."
    if marked:
        yield from ("", *_filled(f"Source: {source}"))


def _entry(name: str, declared: dict[str, str], results: bool) -> str:
    """Of an argument: what all losses say of it, then what this one says."""
    own = declared.get("logits" if name in _OF_LOGITS else name, "")
    shared = _SHARED.get(name, "")
    if results and name == "ignore_index":
        shared = shared.replace("loss 0", "results 0")
    return " ".join(f"{shared} {own}".split())


def _filled(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        " ".join(line.split()),
        90,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
    )
