"""The arguments that only ``linear_<name>_loss`` has, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lossgen.runtime.arguments import Input, Parameter, Variant, integer, numbers, warn_constant
from lossgen.runtime.entries import Entries
from lossgen.runtime.remedies import of_no_tensor
from lossgen.runtime.shards import ClassShards

__all__ = [
    "Factors",
    "LinearOptions",
    "Source",
    "autocast",
    "check_linear",
    "check_scaled",
    "chunk_rows",
    "constant",
    "factor_names",
    "is_tiled",
    "parts_of",
    "shifted",
    "stand_in",
]

#: Rows of a chunk unless memory_budget says otherwise: GPUs want long products; on a CPU the chunk
#: should be in cache between the products (benchmarks/linear.py).
_ROWS = {"cpu": 512}
_ROWS_ON_GPU = 2048
#: Products of fewer rows than this leave a GPU idle.
_FEWEST_ROWS = 256
SCHEDULES = ("auto", "chunked", "tiled")
_SCALING = (
    Parameter("softcap", math.inf, lo=0.0, hi_open=False, off=math.inf),
    Parameter("temperature", 1.0, lo=0.0),
)


class Factors(NamedTuple):
    """Logits hidden · weightᵀ + bias that do not exist."""

    hidden: Tensor  # [*, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None = None  # [V]


#: Of the logits and each class input: rows [*, V], or what makes them.
Source: TypeAlias = Tensor | Factors | Entries


@dataclass(frozen=True)
class LinearOptions:
    """``softcap`` and ``temperature`` act on the logits of ``hidden``, not on other streams."""

    softcap: float | None = None
    temperature: float = 1.0
    shift: int = 0
    memory_budget: int | None = None
    schedule: str = "auto"
    filter: bool = True
    skip_ignored: bool | None = None
    #: of ranks that hold other classes of the same rows; ClassShards once it is checked
    group: Any = None


def check_linear(
    loss: str, sources: Sequence[tuple[Input | None, Any]], options: LinearOptions
) -> LinearOptions:
    """Of the logits (whose declaration is None) and each class input, factors or rows; the options
    as Python's numbers, with None for a softcap that caps nothing. Raises TypeError, ValueError."""
    scaling = (options.softcap, options.temperature)
    for option, value in zip(_SCALING, scaling, strict=True):
        if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{loss}: no gradient is computed for {option.name}; pass "
                f"{option.name}.detach(), or a loss with a parameter of this meaning"
            )
    softcap, temperature = numbers(loss, _SCALING, scaling)
    counts: dict[str, Any] = {"shift": options.shift, "memory_budget": options.memory_budget}
    for name, value in counts.items():
        if value is None and name == "memory_budget":
            continue
        counts[name] = integer(loss, name, value)
        if value < 0:
            raise ValueError(f"{loss}: {name} = {value} must not be negative")
    if options.schedule not in SCHEDULES:
        raise ValueError(
            f"{loss}: schedule must be one of {', '.join(map(repr, SCHEDULES))}, not "
            f"{options.schedule!r}"
        )
    flags: tuple[tuple[str, Any], ...] = (
        ("filter", options.filter),
        ("skip_ignored", options.skip_ignored),
    )
    for name, flag in flags:
        if not isinstance(flag, bool) and not (flag is None and name == "skip_ignored"):
            raise TypeError(f"{loss}: {name} must be a bool, not {type(flag).__name__}")
    for declared, source in sources:
        if isinstance(source, Factors):
            _check_factors(loss, source, declared)
        elif isinstance(source, Entries) and options.schedule == "tiled":
            name = declared.name if declared else "logits"
            why = f"reads rows of {name}, which is given by its entries"
            raise ValueError(f"{loss}: schedule 'tiled' {why}; use schedule 'chunked'")
    cap = None if softcap == math.inf else softcap
    return replace(options, softcap=cap, temperature=temperature, **counts)


def factor_names(declared: Input | None) -> tuple[str, ...]:
    """What messages call the factors of the logits (None), or those of a class input."""
    if declared is None:
        return "hidden", "linear_weight", "linear_bias"
    return tuple(f"the {part} of {declared.name}" for part in Factors._fields)


def _check_factors(loss: str, factors: Factors, declared: Input | None) -> None:
    hidden, weight, bias = factors
    names = rows, layer, shift = factor_names(declared)
    for name, value in zip(names, factors if bias is not None else factors[:2], strict=False):
        if not isinstance(value, Tensor):
            kind, remedy = type(value).__name__, of_no_tensor(name, value)
            raise TypeError(f"{loss}: {name} must be a tensor, not {kind}{remedy}")
        if value.dtype != hidden.dtype:
            whole = not value.dtype.is_floating_point
            order = f"; the order is {rows}, {layer}, target" if whole and not declared else ""
            raise TypeError(
                f"{loss}: {name} is {_name(value)}, but {rows} is {_name(hidden)}{order}"
            )
        if value.device != hidden.device:
            raise ValueError(
                f"{loss}: {name} is on {value.device}, but {rows} is on {hidden.device}"
            )
    if not hidden.dtype.is_floating_point:
        raise TypeError(f"{loss}: {rows} must be floating point, not {_name(hidden)}")
    if hidden.dim() == 0:
        raise ValueError(f"{loss}: {rows} must have a feature axis, but it has no axes")
    if hidden.shape[-1] == 0:
        raise ValueError(f"{loss}: {rows} must have features, but it has 0")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        turned = weight.dim() == 2 and weight.shape[0] == hidden.shape[-1]
        raise ValueError(
            f"{loss}: {layer} has shape {[*weight.shape]}, but {rows} of shape {[*hidden.shape]} "
            f"needs [V, {hidden.shape[-1]}]{'; pass its transpose' if turned else ''}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{loss}: {shift} has shape {[*bias.shape]}, but {layer} of shape {[*weight.shape]} "
            f"needs [{weight.shape[0]}]"
        )


def check_scaled(loss: str, declared: Input, options: LinearOptions) -> None:
    """ValueError where the logits of ``hidden`` are capped or scaled and those of a class input
    that is given by its factors would not be."""
    scaled = {
        "softcap": options.softcap not in (None, math.inf),
        "temperature": options.temperature != 1.0,
    }
    for name in (n for n, on in scaled.items() if on):
        remedy = f"pass the logits of {declared.name}, scaled as you mean them"
        if name == "temperature":
            remedy += f", or divide its hidden states and its bias by {options.temperature:g}"
        raise ValueError(
            f"{loss}: {name} acts on the logits of hidden, not on those of {declared.name}, which "
            f"is given by its factors: {remedy}"
        )


def constant(loss: str, declared: Input, source: Source) -> Source:
    """A class input, detached where no gradient is computed for it."""
    if declared.differentiable or isinstance(source, Entries):  # those are when they are checked
        return source
    if isinstance(source, Tensor):
        return source.detach()
    parts = [part for part in source if part is not None]
    if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
        warn_constant(loss, declared.name)
    return Factors(*(None if part is None else part.detach() for part in source))


def parts_of(source: Source) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The three tensors of a source that autograd holds."""
    if isinstance(source, Tensor):
        return source, None, None
    return (*source[:2], None) if isinstance(source, Entries) else source


def stand_in(
    source: Source, shards: ClassShards | None = None, logits: Tensor | None = None
) -> Tensor:
    """A tensor of the shape, dtype and device of the logits, without their memory, with the classes
    of all shards; of entries, beside these ``logits``."""
    found = _of_rank(source, logits)
    if shards is None or isinstance(source, Entries):
        return found
    lead, own = found.shape[:-1], shards.sizes[shards.rank]
    classes = shards.classes if found.shape[-1] == own else found.shape[-1]
    return found.detach().new_zeros(()).expand(*lead, classes)


def _of_rank(source: Source, logits: Tensor | None) -> Tensor:
    """The same with the classes that this process has."""
    if isinstance(source, Tensor):
        return source
    if isinstance(source, Entries):
        assert logits is not None
        dtype = logits.dtype if source.values is None else source.values.dtype
        return logits.detach().new_zeros((), dtype=dtype).expand(logits.shape)
    hidden, weight, _ = source
    return hidden.detach().new_zeros(()).expand(*hidden.shape[:-1], weight.shape[0])


def is_tiled(loss: str, backend: str, variant: Variant, options: LinearOptions, row: int) -> bool:
    """Does the call run by the tile? ``auto``: where ``memory_budget`` holds fewer than 256 rows of
    ``row`` bytes and the backend is Triton. Raises ValueError."""
    if options.schedule == "tiled" and backend != "triton":
        raise ValueError(
            f"{loss}: schedule 'tiled' has no {backend!r} program; use backend 'triton' or "
            "schedule 'chunked'"
        )
    if options.schedule == "tiled" and variant.tiled is None:
        why = "has no program of the parts of a batch, nor of a loss with a root in its formula"
        if variant.arithmetic == "float64":
            why = "makes float32 logits on chip, and this loss is computed in float64"
        raise ValueError(f"{loss}: schedule 'tiled' {why}; use schedule 'chunked'")
    if options.schedule != "auto" or backend != "triton" or variant.tiled is None:
        return options.schedule == "tiled"
    return options.memory_budget is not None and options.memory_budget < _FEWEST_ROWS * row


def chunk_rows(loss: str, logits: Tensor, budget: int | None, row: int) -> int:
    """Rows of ``row`` bytes to a chunk of at most ``budget`` bytes. Raises ValueError."""
    if budget is None:
        return _ROWS.get(logits.device.type, _ROWS_ON_GPU)
    if budget < row:
        raise ValueError(f"{loss}: memory_budget = {budget} bytes, but one row takes {row}")
    return budget // row


def autocast(source: Source) -> Source:
    """Under ``torch.autocast``: factors in its dtype, but for float64, as
    ``torch.nn.functional.linear`` does; rows as they are."""
    if not isinstance(source, Factors) or not isinstance(source.hidden, Tensor):
        return source
    kind = source.hidden.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return source
    dtype = torch.get_autocast_dtype(kind)
    return Factors(*(t.to(dtype) if isinstance(t, Tensor) and _is_cast(t) else t for t in source))


def _is_cast(value: Tensor) -> bool:
    """Does autocast touch it?"""
    return value.dtype.is_floating_point and value.dtype is not torch.float64


def shifted(value: Tensor, kind: str, shift: int) -> Tensor:
    """A target or row input [*, S] from the ``shift``-th position on; a vocab input as it is."""
    return value[..., shift:] if shift and kind != "vocab" else value


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
