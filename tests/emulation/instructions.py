"""What the instructions of a row kernel do: each statement as a function of a machine.

Only those that the kernels have; any other is a ``Fault`` when it is read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.emulation import numbers
from tests.emulation.exchanges import load, load_matrices, reduce, shuffle, store
from tests.emulation.machine import Machine, Step
from tests.emulation.memory import Fault
from tests.emulation.numbers import KINDS
from tests.emulation.operands import Array, Mask, name_of, parts_of, source
from tests.emulation.ptx import Program, Statement

__all__ = ["decoded"]

Decoder = Callable[[list[str], tuple[str, ...]], Step]

_ROUNDINGS = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_KEEPING = {"min": np.minimum, "max": np.maximum}  # NaN
_UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "not": np.invert,
}
_APPROXIMATE: dict[str, Callable[..., Array]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": np.reciprocal,
    "div": np.divide,
    "sqrt": np.sqrt,
    "rsqrt": lambda v: 1.0 / np.sqrt(v),
}
_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def decoded(program: Program) -> list[Step]:
    """One function per statement."""
    return [_step(statement, program) for statement in program.statements]


def _step(statement: Statement, program: Program) -> Step:
    op, operands = statement.op, statement.operands
    if op.startswith("bra"):
        to = program.labels[operands[0]]
        return lambda machine, mask: machine.branch(to, mask)
    if op == "ret":
        end = len(program.statements)
        return lambda machine, mask: machine.branch(end, mask)
    if op == "bar.sync":
        return lambda machine, mask: machine.barrier()
    if op == "bar.warp.sync":  # lanes of a warp are never apart here, but where they branch
        return lambda machine, mask: machine.whole_warps()
    parts = op.split(".")
    decoder = _DECODERS.get(parts[0])
    try:
        if decoder is not None:
            return decoder(parts, operands)
    except (KeyError, IndexError):
        pass
    raise Fault(f"not known here: {statement}")


# ------------------------------------------------------------------------------- arithmetic
def _floating(parts: list[str], function: Callable[..., Array]) -> Callable[..., Array]:
    """With subnormal numbers flushed, where the instruction says so."""
    if "ftz" not in parts:
        return function
    return lambda *values: numbers.flushed(function(*map(numbers.flushed, values)))


def _simple(kind: str, function: Callable[..., Array], operands: tuple[str, ...]) -> Step:
    """Operands of one kind."""
    target = name_of(operands[0])
    sources = [source(operand, kind) for operand in operands[1:]]

    def step(machine: Machine, mask: Mask) -> None:
        machine.write(target, function(*(read(machine) for read in sources)), mask)

    return step


def _binary(parts: list[str], operands: tuple[str, ...]) -> Step:
    kind, function = parts[-1], (_KEEPING if "NaN" in parts else _BINARY)[parts[0]]
    if "wide" in parts:
        return _wide(parts, operands)
    if {"hi", "rz", "rm", "rp", "sat"} & set(parts):
        raise KeyError(parts[0])
    return _simple(kind, _floating(parts, function), operands)


def _wide(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Products of twice the width, and a third number added."""
    kind = parts[-1]
    double = np.dtype(f"{kind[0].replace('s', 'i')}{int(kind[1:]) // 4}")
    factors = [source(operand, kind) for operand in operands[1:3]]
    summands = [source(operand, f"{kind[0]}{2 * int(kind[1:])}") for operand in operands[3:]]
    target = name_of(operands[0])

    def step(machine: Machine, mask: Mask) -> None:
        a, b = (factor(machine).astype(double) for factor in factors)
        machine.write(target, sum((s(machine) for s in summands), a * b), mask)

    return step


def _multiply_add(parts: list[str], operands: tuple[str, ...]) -> Step:
    if "wide" in parts:
        return _wide(parts, operands)
    kind = parts[-1]
    if kind[0] != "f":
        return _simple(kind, lambda a, b, c: a * b + c, operands)
    if kind != "f32" or "rn" not in parts:
        raise KeyError(kind)

    def function(a: Array, b: Array, c: Array) -> Array:  # rounded twice, which shows rarely
        return (a.astype(np.float64) * b + c).astype(np.float32)

    return _simple(kind, _floating(parts, function), operands)


def _unary(parts: list[str], operands: tuple[str, ...]) -> Step:
    return _simple(parts[-1], _floating(parts, _UNARY[parts[0]]), operands)


def _special(parts: list[str], operands: tuple[str, ...]) -> Step:
    """Of the unit of approximate functions, or correctly rounded."""
    name, kind = parts[0], parts[-1]
    if kind != "f32":
        raise KeyError(kind)
    if "approx" in parts or "full" in parts:
        exact = _APPROXIMATE[name]
        function = _floating(parts, lambda *values: numbers.approximate(name, exact, *values))
    else:
        function = _floating(parts, _APPROXIMATE[name])
    return _simple(kind, function, operands)


def _shift(parts: list[str], operands: tuple[str, ...]) -> Step:
    """By a width or more: nothing is left but the sign."""
    kind, left = parts[-1], parts[0] == "shl"
    value, count = source(operands[1], kind), source(operands[2], "u32")
    width = 8 * np.dtype(KINDS[kind]).itemsize
    target = name_of(operands[0])

    def step(machine: Machine, mask: Mask) -> None:
        number, by = value(machine), count(machine)
        most = np.minimum(by, width - 1).astype(number.dtype)
        found = number << most if left else number >> most
        if left or kind[0] != "s":
            found = np.where(by >= width, number.dtype.type(0), found)
        machine.write(target, found, mask)

    return step


# ------------------------------------------------------------------------------- selection
def _compare(parts: list[str], operands: tuple[str, ...]) -> Step:
    kind, word = parts[-1], parts[1]
    if word in ("num", "nan"):

        def compare(a: Array, b: Array) -> Array:
            return (np.isnan(a) | np.isnan(b)) == (word == "nan")
    else:
        unordered = kind[0] == "f" and len(word) == 3
        basic = _COMPARISONS[word[:2] if unordered else word]
        floating = kind[0] == "f"

        def compare(a: Array, b: Array) -> Array:
            if not floating:
                return basic(a, b)
            apart = np.isnan(a) | np.isnan(b)
            return basic(a, b) | apart if unordered else basic(a, b) & ~apart

    function = compare
    if len(operands) > 3 or len(parts) - ("ftz" in parts) > 3:
        raise KeyError("combined comparison")
    if "ftz" in parts:

        def function(a: Array, b: Array) -> Array:
            return compare(numbers.flushed(a), numbers.flushed(b))

    return _simple(kind, function, operands)


def _select(parts: list[str], operands: tuple[str, ...]) -> Step:
    kind, target = parts[-1], name_of(operands[0])
    first, second = (source(operand, kind) for operand in operands[1:3])
    test = source(operands[3], "pred")
    return lambda machine, mask: machine.write(
        target, np.where(test(machine), first(machine), second(machine)), mask
    )


# ------------------------------------------------------------------------------- moves
def _move(parts: list[str], operands: tuple[str, ...]) -> Step:
    kind = parts[-1]
    if operands[0][0] == "{":
        return _unpack(kind, parts_of(operands[0]), operands[1])
    if operands[1][0] == "{":
        return _pack(kind, operands[0], parts_of(operands[1]))
    return _simple(kind, lambda value: value, operands)


def _unpack(kind: str, targets: list[str], operand: str) -> Step:
    width = int(kind[1:]) // len(targets)
    value = source(operand, kind)

    def step(machine: Machine, mask: Mask) -> None:
        number = value(machine)
        for k, target in enumerate(targets):
            part = number >> number.dtype.type(k * width)
            machine.write(name_of(target), part.astype(KINDS[f"b{width}"]), mask)

    return step


def _pack(kind: str, target: str, operands: list[str]) -> Step:
    width = int(kind[1:]) // len(operands)
    sources = [source(operand, f"b{width}") for operand in operands]
    whole = KINDS[kind]

    def step(machine: Machine, mask: Mask) -> None:
        parts = (s(machine).astype(whole) << whole(k * width) for k, s in enumerate(sources))
        machine.write(name_of(target), sum(parts, whole(0)), mask)

    return step


def _convert(parts: list[str], operands: tuple[str, ...]) -> Step:
    to, kind, target = parts[-2], parts[-1], name_of(operands[0])
    if to == "bf16x2":
        return _convert_pair(operands)
    rounding = next((_ROUNDINGS[part] for part in parts if part in _ROUNDINGS), None)
    value = source(operands[1], kind)
    if "sat" in parts or (to == "f32" and kind == "f64"):
        raise KeyError(to)

    def step(machine: Machine, mask: Mask) -> None:
        number = value(machine)
        if kind == "bf16":
            number = numbers.from_bfloat16(number)
        if "ftz" in parts:
            number = numbers.flushed(number)
        if rounding is not None:
            number = rounding(number)
        machine.write(target, _converted(number, to), mask)

    return step


def _converted(number: Array, to: str) -> Array:
    if to == "bf16":
        return numbers.to_bfloat16(number)
    kind = KINDS[to]
    if number.dtype.kind == "f" and to[0] != "f":  # to the nearest there is; NaN: 0
        ends = np.iinfo(kind)
        number = np.clip(np.nan_to_num(number.astype(np.float64), nan=0.0), ends.min, ends.max)
    return number.astype(kind)


def _convert_pair(operands: tuple[str, ...]) -> Step:
    target = name_of(operands[0])
    high, low = (source(operand, "f32") for operand in operands[1:3])

    def step(machine: Machine, mask: Mask) -> None:
        upper, lower = (numbers.to_bfloat16(s(machine)).astype(np.uint32) for s in (high, low))
        machine.write(target, upper << np.uint32(16) | lower, mask)

    return step


_DECODERS: dict[str, Decoder] = {
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(("neg", "abs", "not"), _unary),
    **dict.fromkeys(_APPROXIMATE, _special),
    **dict.fromkeys(("mad", "fma"), _multiply_add),
    **dict.fromkeys(("shl", "shr"), _shift),
    "setp": _compare,
    "selp": _select,
    "mov": _move,
    "cvt": _convert,
    "ld": load,
    "st": store,
    "shfl": shuffle,
    "redux": reduce,
    "ldmatrix": load_matrices,
}
