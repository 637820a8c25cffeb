"""A call as Python text that can be pasted, tensors and all.

import lossgen, torch
x = torch.tensor([[0.5, -1.0]], requires_grad=True)
loss = lossgen.load("gce").gce_loss(x, torch.tensor([1]), q=0.7, backend="c")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen import paths
from lossgen.spec.model import LossSpec

__all__ = ["Called", "named", "python"]

_DEFAULT = (torch.float32, torch.int64, torch.bool)


@dataclass(frozen=True)
class Called:
    """A call that was made: its function, and what it was given."""

    function: str
    given: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits or hidden states."""
        return tuple(self.given[0].shape)


def named(spec: LossSpec) -> str:
    """What ``lossgen.load`` calls a spec: a name of the catalogue, or a path."""
    if spec.path is None or spec.path.resolve().parent == paths.specs_dir():
        return spec.name
    return str(spec.path)


def python(source: str, call: Called) -> str:
    """The lines that make ``call`` on what ``lossgen.load(source)`` gives."""
    first, *others = call.given
    words = ["x", *map(_text, others)]
    words += [f"{name}={_text(value)}" for name, value in call.keywords.items()]
    lines = [
        "import lossgen, torch",
        f"x = {_text(first)}",
        f"loss = lossgen.load({json.dumps(source)}).{call.function}({', '.join(words)})",
    ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_text, value))
        return f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return json.dumps(value)
    return str(value) if isinstance(value, torch.dtype) else repr(value)


def _tensor(value: Tensor) -> str:
    dtype = "" if value.dtype in _DEFAULT else f", dtype={value.dtype}"
    grad = ", requires_grad=True" if value.requires_grad else ""
    if not value.numel():
        return f"torch.empty({', '.join(map(str, value.shape))}{dtype}{grad})"
    plain = value.detach().cpu()
    if plain.is_floating_point() and plain.dtype is not torch.float64:
        plain = plain.float()
    return f"torch.tensor({_nested(plain.numpy())}{dtype}{grad})"


def _nested(values: Any) -> str:
    if values.ndim == 0:
        return _number(values)
    return f"[{', '.join(map(_nested, values))}]"


def _number(value: Any) -> str:
    """The shortest text that is read as the same number of the same precision."""
    text = str(value)
    return f'float("{text}")' if text.lstrip("-") in ("inf", "nan") else text
