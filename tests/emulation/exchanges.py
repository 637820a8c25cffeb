"""Instructions that read and write memory, and those by which lanes of a warp exchange values."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulation.machine import WARP, Machine, Step
from tests.emulation.memory import Fault
from tests.emulation.numbers import KINDS
from tests.emulation.operands import (
    Array,
    Mask,
    Source,
    address_of,
    name_of,
    parts_of,
    source,
)

__all__ = ["load", "load_matrices", "reduce", "shuffle", "store"]

_REDUCTIONS: dict[str, Any] = {"add": np.add, "min": np.minimum, "max": np.maximum}


def load(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Of a parameter, of tensors, of shared memory."""
    if parts[1] == "param":
        return _parameter(parts[-1], operands)
    targets, size, address = _access(parts, operands[0], operands[1])

    def step(machine: Machine, mask: Mask) -> None:
        some, at, memory = _lanes(machine, mask, parts[1], address)
        found = memory.load(at, [size] * len(targets), machine.place(some))
        for target, part in zip(targets, found, strict=True):
            width = machine.code.widths[name_of(target).rstrip("0123456789")]
            whole = np.zeros(machine.lanes, f"u{width // 8}")
            whole[some] = part
            machine.write(name_of(target), whole, mask)

    return step


def store(parts: list[str], operands: tuple[str, ...]) -> Step:
    """To tensors or shared memory."""
    given, size, address = _access(parts, operands[1], operands[0])
    sources = [source(operand, f"b{8 * size}") for operand in given]

    def step(machine: Machine, mask: Mask) -> None:
        some, at, memory = _lanes(machine, mask, parts[1], address)
        values = [np.broadcast_to(read(machine), machine.lanes)[some] for read in sources]
        memory.store(at, [size] * len(given), machine.place(some), values)

    return step


def _access(parts: list[str], values: str, place: str) -> tuple[list[str], int, Source]:
    """Registers, bytes of each, and where."""
    if parts[1] not in ("global", "shared") or parts[-1][0] not in "bus":
        raise KeyError(parts[1])
    return parts_of(values), int(parts[-1][1:]) // 8, address_of(place)


def _lanes(machine: Machine, mask: Mask, space: str, address: Source) -> tuple[Array, Array, Any]:
    """The lanes that take part, their addresses, and the memory that is meant."""
    some = np.arange(machine.lanes) if mask is None else np.flatnonzero(mask)
    at = np.broadcast_to(address(machine), machine.lanes)[some]
    if space == "global":
        return some, at, machine.tensors
    if (at >= machine.segment).any():
        raise Fault("beyond the program's shared memory")
    return some, at + machine.program[some] * machine.segment, machine.shared


def _parameter(kind: str, operands: tuple[str, ...]) -> Step:
    name = operands[1].strip("[] ")
    target = name_of(operands[0])

    def step(machine: Machine, mask: Mask) -> None:
        value = machine.parameters[name].view(KINDS[kind])
        width = machine.code.widths[target.rstrip("0123456789")]
        if kind[0] == "s":  # extended by its sign
            value = value.astype(f"i{width // 8}")
        machine.write(target, value, mask)

    return step


def load_matrices(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Matrices of 8 rows of 16 bytes; lane n has the address of row n, and gets 4 bytes of row
    n / 4 of each."""
    targets, address = parts_of(operands[0]), address_of(operands[1])
    if "m8n8" not in parts or "trans" in parts:
        raise KeyError("another shape")

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps()
        some, rows, memory = _lanes(machine, mask, "shared", address)
        rows = rows.reshape(-1, WARP)
        lane = np.arange(WARP)
        for k, target in enumerate(targets):
            at = (rows[:, 8 * k + lane // 4] + 4 * (lane % 4)).reshape(-1)
            (found,) = memory.load(at, [4], machine.place(some))
            whole = np.zeros(machine.lanes, np.uint32)
            whole[some] = found
            machine.write(name_of(target), whole, mask)

    return step


# ------------------------------------------------------------------------------- warps
def shuffle(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Values of the lanes across."""
    if parts[2] != "bfly" or int(operands[3]) != WARP - 1 or int(operands[4], 0) != -1:
        raise KeyError(parts[2])
    target, value, across = name_of(operands[0]), source(operands[1], "b32"), int(operands[2])

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps()
        held = np.broadcast_to(value(machine), machine.lanes)
        machine.write(target, held[np.arange(machine.lanes) ^ across], mask)

    return step


def reduce(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Of the values of a warp."""
    function, kind, target = _REDUCTIONS[parts[2]], parts[-1], name_of(operands[0])
    value = source(operands[1], kind)

    def step(machine: Machine, mask: Mask) -> None:
        machine.whole_warps()
        rows = np.broadcast_to(value(machine), machine.lanes).reshape(-1, WARP)
        machine.write(target, np.repeat(function.reduce(rows, axis=1), WARP), mask)

    return step
