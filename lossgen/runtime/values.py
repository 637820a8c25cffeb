"""The checks of what the tensors of a call hold: on the CPU, as elsewhere a look waits for the
device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import remedies
from lossgen.runtime.arguments import Input
from lossgen.runtime.entries import Entries

__all__ = [
    "check_held",
    "check_input_values",
    "check_listed",
    "check_stream_range",
    "check_target_range",
]


def check_held(
    loss: str,
    streams: Iterable[tuple[Input, Any]],
    others: Iterable[tuple[Input, Tensor | None]],
    target: Tensor | None,
    ignore_index: int,
    classes: int,
) -> None:
    """Of all tensors of a call. Raises ValueError, IndexError."""
    for declared, value in streams:
        if isinstance(value, Entries):
            check_listed(loss, declared, value, classes)
        elif isinstance(value, Tensor) and value.device.type == "cpu":
            check_stream_range(loss, declared, value)
    for declared, beside in others:
        if beside is not None and beside.device.type == "cpu":
            check_input_values(loss, declared, beside)
    if target is not None and target.device.type == "cpu":
        check_target_range(target.long(), ignore_index, classes)


def check_listed(loss: str, declared: Input, entries: Entries, classes: int) -> None:
    """What is listed of ``classes``, on the CPU. Raises IndexError, ValueError."""
    indices, values, _ = entries
    if indices.device.type != "cpu" or not indices.numel():
        return
    last = int(indices.long().max())
    if last >= classes:
        raise IndexError(
            f"{loss}: the indices of {declared.name} hold {last}, but the classes are 0 to "
            f"{classes - 1}; padding is below 0"
        )
    listed = indices >= 0
    held = listed.new_ones(1, dtype=torch.float32) if values is None else values[listed]
    check_stream_range(loss, declared, held)


def check_stream_range(loss: str, declared: Input, value: Tensor) -> None:
    """ValueError where an input leaves its domain (CPU tensors: it reads them)."""
    domain = declared.domain
    if domain.everything or value.numel() == 0:
        return
    low, high = (float(v) for v in value.detach().aminmax())
    if not (domain.contains(low) and domain.contains(high)):
        held = f"{low:g} to {high:g}" if low < high else f"{low:g}"
        raise ValueError(f"{loss}: {declared.name} has values outside its domain {domain}: {held}")


def check_input_values(loss: str, declared: Input, value: Tensor) -> None:
    """ValueError where a vocab or row input leaves its domain, is none of its values, or not whole
    (CPU tensors)."""
    if not declared.values:
        check_stream_range(loss, declared, value)
    held = value.detach()
    if declared.values:
        known = torch.tensor(declared.values, dtype=held.dtype, device=held.device)
        wrong = ~torch.isin(held, known)
        rule = f"one of {', '.join(f'{v:g}' for v in declared.values)}"
    elif declared.integer and held.dtype.is_floating_point:
        wrong = held != held.trunc()
        rule = "a whole number"
    else:
        return
    if bool(wrong.any()):
        raise ValueError(f"{loss}: {declared.name} holds {held[wrong][0]:g}, but must be {rule}")


def check_target_range(target: Tensor, ignore_index: int, n_classes: int) -> None:
    """IndexError like torch's where a target is neither a class nor ignored (CPU tensors)."""
    if target.numel() == 0:
        return
    low, high = target.aminmax()
    if low >= 0 and high < n_classes:  # one pass over the rows where none is ignored
        return
    wrong = ((target < 0) | (target >= n_classes)) & (target != ignore_index)
    if bool(wrong.any()):
        raise remedies.out_of_bounds(int(target[wrong][0]), n_classes, ignore_index)
