"""A stand-in for a generated module: the literal formula in float64, with a loss's interface.

The properties have to hold for it, and to notice each way of getting it wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lossgen.spec.model import LossSpec
from lossgen.verify.reference import Arguments, literal
from lossgen.verify.streams import LOGITS, streams, vectors

Twist = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def composite(
    spec: LossSpec, vectors_as: Twist = dict, result_as: Callable[[Tensor], Tensor] = lambda v: v
) -> Any:
    """A module whose function reads ``vectors_as(vectors)`` and returns ``result_as(rows)``."""
    names = streams(spec)

    def call(logits: Tensor, *given: Tensor, **options: Any) -> Any:
        target = given[0] if spec.has_target else None
        named = dict(zip(names, given[spec.has_target :], strict=True))
        constant = set(names) - set(vectors(spec))
        named |= {name: named[name].detach() for name in constant}
        for name in names:
            if named[name].dtype is not logits.dtype or named[name].shape != logits.shape:
                raise ValueError(f"{spec.name}: {name} is not like the logits")
        options.pop("backend")
        reduction = options.pop("reduction", "mean")
        ignore = options.pop("ignore_index", -100)
        options.pop("inplace_grad", None)
        with torch.autocast("cpu", enabled=False):
            held = vectors_as({LOGITS: logits, **named})
            kept = torch.ones(len(logits), dtype=torch.bool) if target is None else target != ignore
            rows = _rows(spec, held, target, kept, options)
        rows = result_as(rows.to(logits.dtype if logits.dtype is torch.float64 else torch.float32))
        if spec.outputs:
            return tuple(rows.unbind(1))
        if reduction == "none":
            return rows
        return rows.sum() / (kept.sum() if reduction == "mean" else 1)

    return SimpleNamespace(**{spec.function: call})


def _rows(
    spec: LossSpec,
    held: dict[str, Tensor],
    target: Tensor | None,
    kept: Tensor,
    options: dict[str, Any],
) -> Tensor:
    inputs = {n: options.pop(n) for n in list(options) if n in spec.inputs}
    inputs = {n: v if spec.inputs[n].kind == "vocab" else v[kept] for n, v in inputs.items()}
    inputs |= {n: v[kept].double() for n, v in held.items() if n != LOGITS}
    labels = None if target is None else target[kept].long()
    rows = literal(spec, Arguments(held[LOGITS][kept].double(), labels, options, inputs))
    shape = (len(kept), *rows.shape[1:])
    where = kept.reshape(-1, *[1] * (rows.dim() - 1)).expand(shape)
    return torch.zeros(shape, dtype=torch.float64).masked_scatter(where, rows)
