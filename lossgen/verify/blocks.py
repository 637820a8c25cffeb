"""The values of a Triton program on a CPU: blocks of numbers, and pointers into tensors.

Types follow Triton's rules: a number of Python's takes the type of the block beside it, integers
beside floats become these, bfloat16 and float16 round after every operation, ``//`` and ``%`` of
integers truncate.  A lane that is read or written outside its tensor's storage is an error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["KINDS", "Block", "Half", "Kind", "Pointer", "block", "checking", "observed", "pair"]


@dataclass(frozen=True)
class Kind:
    """An element type; ``element_ty`` is that of the pointers to it, as in Triton."""

    name: str
    held: Any = field(repr=False)  # the numpy type of its values

    @property
    def element_ty(self) -> Kind:
        return self


_NUMPY = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"]
KINDS = {
    **{name: Kind(name, np.dtype(name)) for name in _NUMPY},
    "int1": Kind("int1", np.dtype(np.bool_)),
    "bfloat16": Kind("bfloat16", np.dtype(np.float32)),
}
_OF = {kind.held: kind for name, kind in KINDS.items() if name != "bfloat16"}
_SINGLE, _WHOLE = np.dtype(np.float32), np.dtype(np.int32)


def _rounded(values: Any) -> Any:
    """To the nearest bfloat16, ties to even; NaN stays NaN. Float32 in and out."""
    values = np.asarray(values, dtype=np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
    return np.where(np.isnan(values), values, upper.view(np.float32))


def _common(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values of one type: the float's where one is an integer, else the wider one."""
    of_a, of_b = a.dtype, b.dtype
    if (of_a.kind == "f") == (of_b.kind == "f"):
        to = np.promote_types(of_a, of_b)
    else:
        to = of_a if of_a.kind == "f" else of_b
    return a.astype(to), b.astype(to)


def _beside(value: float, a: Any) -> tuple[Any, Any]:
    """A number of Python's beside ``a``: of its type, unless it is no integer and ``a`` is."""
    if a.dtype.kind == "f":
        return a, a.dtype.type(value)
    if type(value) is float:
        return a.astype(_SINGLE), np.float32(value)
    if a.dtype.kind == "b" and type(value) is int:
        a = a.astype(_WHOLE)
    fits = a.dtype.kind == "b" or -(2**31) <= value < 2**31
    return (a, a.dtype.type(value)) if fits else (a.astype(np.int64), np.int64(value))


def pair(left: Any, right: Any) -> tuple[Any, Any]:
    """The data of two operands, of one type."""
    if type(left) is type(right) is Block:
        a, b = left.data, right.data
        return (a, b) if a.dtype is b.dtype else _common(a, b)
    if isinstance(left, Block) and isinstance(right, Block):  # bfloat16
        return _common(left.data, right.data)
    if isinstance(left, Block):
        return _beside(right, left.data)
    if isinstance(right, Block):
        b, a = _beside(left, right.data)
        return a, b
    return _common(block(left).data, block(right).data)


class Block:
    """Numbers of one type: a numpy array, or a numpy scalar."""

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: Any) -> None:
        self.data = data

    @property
    def dtype(self) -> Kind:
        return _OF[self.data.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def to(self, kind: Kind, bitcast: bool = False) -> Block:
        if bitcast:
            return Block(self.data.view(kind.held))
        if kind.name == "bfloat16":
            return Half(_rounded(self.data))
        return self if self.data.dtype is kind.held else Block(self.data.astype(kind.held))

    def __getitem__(self, at: Any) -> Block:
        return type(self)(self.data[at])

    def __bool__(self) -> bool:
        return bool(self.data)

    def __index__(self) -> int:
        return int(self.data)

    def __neg__(self) -> Block:
        return type(self)(-self.data)

    def __invert__(self) -> Block:
        return Block(~self.data)


class Half(Block):
    """bfloat16 values, held as float32; every result is rounded."""

    __slots__ = ()

    @property
    def dtype(self) -> Kind:
        return KINDS["bfloat16"]

    def to(self, kind: Kind, bitcast: bool = False) -> Block:
        return self if kind.name == "bfloat16" else Block(self.data).to(kind, bitcast)


def block(value: Any) -> Block:
    """A number of Python's by itself: int32 or int64, float32, or a condition."""
    if isinstance(value, Block):
        return value
    if isinstance(value, bool):
        return Block(np.bool_(value))
    if isinstance(value, int):
        return Block(np.int32(value) if -(2**31) <= value < 2**31 else np.int64(value))
    return Block(np.float32(value))


# ------------------------------------------------------------------------------- operators
def _is_half(left: Any, right: Any) -> bool:
    """Is the result bfloat16?"""
    halves = isinstance(left, Half), isinstance(right, Half)
    other = right if halves[0] else left
    whole = not isinstance(other, Block) or other.data.dtype.kind != "f"
    return all(halves) or (any(halves) and whole)


def _operator(function: Callable[[Any, Any], Any], comparing: bool = False) -> Any:
    def operation(left: Any, right: Any) -> Any:
        if type(left) is Block:
            a = left.data
            if type(right) is Block:
                b = right.data
                if a.dtype is b.dtype:
                    return Block(function(a, b))
            elif type(right) is float and a.dtype is _SINGLE:
                return Block(function(a, right))
        if isinstance(left, Pointer) or isinstance(right, Pointer):
            return NotImplemented
        result = function(*pair(left, right))
        return Block(result) if comparing or not _is_half(left, right) else Half(_rounded(result))

    return operation


def _truncated(a: Any, b: Any) -> Any:
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype)


def _divided(a: Any, b: Any) -> Any:
    return a / b if a.dtype.kind == "f" else a.astype(_SINGLE) / b.astype(_SINGLE)


_BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": lambda a, b: a / b if type(b) is float else _divided(a, b),
    "floordiv": _truncated,
    "mod": lambda a, b: a - _truncated(a, b) * b,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
}
_COMPARING = {name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")}


def _install_operators() -> None:
    for name, function in _BINARY.items():
        operation = _operator(function)
        setattr(Block, f"__{name}__", operation)
        setattr(Block, f"__r{name}__", lambda self, other, of=operation: of(other, self))
    for name, function in _COMPARING.items():
        setattr(Block, f"__{name}__", _operator(function, comparing=True))


_install_operators()


@contextmanager
def checking() -> Iterator[None]:
    """A result of + - * that int32 cannot hold is an error meanwhile, in all threads."""

    def checked(name: str, stock: Any) -> Any:
        def operation(left: Any, right: Any) -> Any:
            result = stock(left, right)
            if isinstance(result, Block) and result.data.dtype is _WHOLE:
                exact = _BINARY[name](*(block(v).data.astype(np.int64) for v in (left, right)))
                if np.any(exact != result.data):
                    raise OverflowError(f"int32 overflow detected for operation {name}")
            return result

        return operation

    stock = {name: vars(Block)[f"__{name}__"] for name in ("add", "sub", "mul")}
    mirrored = {name: vars(Block)[f"__r{name}__"] for name in stock}
    try:
        for name, function in stock.items():
            operation = checked(name, function)
            setattr(Block, f"__{name}__", operation)
            setattr(Block, f"__r{name}__", lambda self, other, of=operation: of(other, self))
        yield
    finally:
        for name in stock:
            setattr(Block, f"__{name}__", stock[name])
            setattr(Block, f"__r{name}__", mirrored[name])


# ------------------------------------------------------------------------------- memory
Observer = Callable[["np.ndarray[Any, Any]", int, bool], None]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tell ``observer`` the addresses of each access: (uint64 addresses, bytes each, written)."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


class Pointer:
    """Addresses of elements of a tensor's storage."""

    __slots__ = ("array", "at", "dtype", "first")

    def __init__(self, array: Any, at: Any, dtype: Kind, first: int) -> None:
        self.array, self.at, self.dtype, self.first = array, at, dtype, first

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Pointer:
        """To the first element of a CPU tensor."""
        storage = tensor.untyped_storage()
        whole = torch.empty(0, dtype=tensor.dtype, device="cpu")
        whole.set_(storage, 0, (storage.nbytes() // tensor.element_size(),), (1,))
        kind = {"bool": "int1"}.get(name := str(tensor.dtype).removeprefix("torch."), name)
        array = whole.view(torch.uint16) if kind == "bfloat16" else whole
        return cls(array.numpy(), tensor.storage_offset(), KINDS[kind], storage.data_ptr())

    def __add__(self, other: Any) -> Pointer:
        step = other.data if isinstance(other, Block) else other
        if not isinstance(step, int) and step.dtype is not _LONG:
            step = step.astype(np.int64)
        return Pointer(self.array, self.at + step, self.dtype, self.first)

    __radd__ = __add__

    def __getitem__(self, key: Any) -> Pointer:
        return Pointer(self.array, self.at[key], self.dtype, self.first)

    # ---------------------------------------------------------------- access
    def load(self, mask: Any, other: Any) -> Block:
        """What is there; ``other`` where ``mask`` is false, or NaN: it must not be used."""
        at, lanes = self._lanes(mask)
        held = self.array.dtype
        if lanes is None:
            found = self.array[self._inside(at, written=False)]
        else:
            found = np.zeros(at.shape, held)
            found[lanes] = self.array[self._inside(at[lanes], written=False)]
        half = self.dtype.name == "bfloat16"
        if half:
            found = (found.astype(np.uint32) << 16).view(np.float32)
        if lanes is not None and (other is not None or found.dtype.kind == "f"):
            beside = np.nan if other is None else getattr(other, "data", other)
            found = np.where(lanes, found, np.asarray(beside).astype(found.dtype))
        return (Half if half else Block)(found if np.ndim(found) else found[()])

    def store(self, value: Any, mask: Any) -> None:
        """Write where ``mask`` is true, converted to the pointer's type."""
        value = block(value).to(self.dtype).data
        if self.dtype.name == "bfloat16":
            value = (np.asarray(value).view(np.uint32) >> 16).astype(np.uint16)
        at, lanes = self._lanes(mask)
        if lanes is None:
            self.array[self._inside(at, written=True)] = value
        else:
            value = np.broadcast_to(value, at.shape)
            self.array[self._inside(at[lanes], written=True)] = value[lanes]

    def _lanes(self, mask: Any) -> tuple[Any, Any]:
        """Indices, and which of them count; None: all."""
        if mask is None:
            return self.at, None
        lanes = np.asarray(mask.data if isinstance(mask, Block) else mask)
        if lanes.all():
            return (self.at, None) if np.ndim(self.at) >= lanes.ndim else self._spread(lanes)
        return self._spread(lanes)

    def _spread(self, lanes: Any) -> tuple[Any, Any]:
        at, lanes = np.broadcast_arrays(self.at, lanes)
        return at, lanes

    def _inside(self, at: Any, written: bool) -> Any:
        indices = np.asarray(at, dtype=np.int64)
        if indices.size:
            largest = int(indices.view(np.uint64).max())  # a negative index is a large one
            if largest >= self.array.size:
                raise IndexError(
                    f"{'write' if written else 'read'} outside a tensor: element "
                    f"{largest - 2**64 if largest >= 2**63 else largest} of {self.array.size}"
                )
        for observer in _observers:
            size = self.array.itemsize
            observer((np.atleast_1d(indices) * size + self.first).astype(np.uint64), size, written)
        return at


_LONG = np.dtype(np.int64)
