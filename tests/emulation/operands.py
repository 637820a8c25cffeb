"""What an operand of a statement stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.emulation.machine import Machine
from tests.emulation.numbers import KINDS

__all__ = ["Array", "Mask", "Source", "address_of", "name_of", "parts_of", "source"]

Array = NDArray[Any]
Mask = Array | None
Source = Callable[[Machine], Array]
_ADDRESS = re.compile(r"\[\s*(\S+?)\s*(?:\+\s*(-?\d+))?\s*\]")


def name_of(operand: str) -> str:
    """Of a register."""
    return operand.lstrip("%")


def parts_of(operand: str) -> list[str]:
    """Of a vector."""
    return [part.strip() for part in operand.strip("{}").split(",")]


def source(operand: str, kind: str) -> Source:
    """A register or a number, read as ``kind``."""
    wanted = np.dtype(KINDS[kind])
    if operand[0] != "%":
        constant = _constant(operand, wanted)
        return lambda machine: constant
    if "." in operand:
        return lambda machine: machine.special[operand]
    name = name_of(operand)

    def read(machine: Machine) -> Array:
        held = machine.registers[name]
        if held.dtype.itemsize > wanted.itemsize:  # the lower half
            held = held.astype(f"u{wanted.itemsize}")
        return held.view(wanted)

    return read


def _constant(operand: str, kind: np.dtype) -> Array:
    if operand[:2] in ("0f", "0d"):
        return np.array([int(operand[2:], 16)], f"u{len(operand[2:]) // 2}").view(kind)
    if operand.startswith("global_smem"):  # where a program's shared memory begins
        return np.array([int(operand[len("global_smem") :] or 0)], kind)
    bits = int(operand, 0) & ((1 << 8 * kind.itemsize) - 1)
    return np.array([bits], np.uint64).astype(f"u{kind.itemsize}").view(kind)


def address_of(operand: str) -> Source:
    """A register or a symbol, and a number added."""
    found = _ADDRESS.match(operand)
    if found is None:
        raise KeyError(operand)
    base = source(found[1], "s64" if found[1].startswith("%rd") else "u32")
    offset = int(found[2] or 0)
    return lambda machine: base(machine).astype(np.int64) + offset
