"""Triton kernels run on the CPU, one program after the other, in numpy.

``install`` takes the place of Triton's own interpreter, which computes on bfloat16 bit patterns,
lets maxima propagate NaN, has exponentials off by a few ulp, reads and writes outside of tensors,
and takes some 15 microseconds for an operation.  Here a kernel is the Python function that it was
written as, with another language in place of ``triton.language``: :mod:`lossgen.verify.blocks` and
the functions below, all of it that the kernels use.  That the kernels are Triton, with its types,
is shown by compiling them (``lossgen build --aot``), not here.
"""

from __future__ import annotations

import builtins
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from lossgen.errors import VerificationError
from lossgen.verify.blocks import KINDS, Block, Pointer, block, checking, pair

__all__ = ["active", "install", "overflow_checks"]


_installed = False


def active() -> bool:
    """Was Triton imported with TRITON_INTERPRET=1?"""
    try:
        import triton
    except ImportError:
        return False
    return bool(triton.knobs.runtime.interpret)


def install() -> None:
    """Run the kernels of this process here.

    Raises:
        VerificationError: Triton was imported without TRITON_INTERPRET=1.
    """
    global _installed
    if _installed:
        return
    if not active():
        raise VerificationError(
            "Triton's interpreter is not active",
            hint="set TRITON_INTERPRET=1 before triton is imported",
        )
    from triton.runtime.interpreter import InterpretedFunction

    InterpretedFunction.run = _run
    _installed = True


@contextmanager
def overflow_checks() -> Iterator[None]:
    """An int32 overflow is an error meanwhile; a GPU would wrap, and read somewhere else."""
    with checking():
        yield


# ------------------------------------------------------------------------------- running
_program = threading.local()


def _run(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
    """One launch: every program of the grid, the first axis the fastest."""
    function = kernel.fn
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = {**dict(zip(names, args, strict=False)), **options}
    given = {name: value for name, value in given.items() if name in names}
    kinds = function.__annotations__
    values = {
        name: (_value if "constexpr" in str(kinds.get(name)) else _argument)(value)
        for name, value in given.items()
    }
    axes = grid(given) if callable(grid) else grid
    sizes = (*axes, 1, 1)[:3]
    if warmup:
        return
    body = _translated(function)
    with np.errstate(all="ignore"):  # 0·inf under a mask is no news
        for z in range(sizes[2]):
            for y in range(sizes[1]):
                for x in range(sizes[0]):
                    _program.at = x, y, z
                    body(**values)


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Pointer.of(value.detach())
    return value if value is None else block(value)


# ------------------------------------------------------------------------------- translation
_known: WeakKeyDictionary[Any, FunctionType] = WeakKeyDictionary()


def _translated(function: Any) -> FunctionType:
    """The function with this language in place of Triton's, in all that it calls too."""
    if function in _known:
        return _known[function]
    scope: dict[str, Any] = {"__builtins__": builtins, "range": _range}
    cells = tuple(CellType(_value(c.cell_contents)) for c in function.__closure__ or ())
    made = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, cells or None
    )
    made.__kwdefaults__ = function.__kwdefaults__
    _known[function] = made
    for name in function.__code__.co_names:
        if name in function.__globals__:
            scope[name] = _value(function.__globals__[name])
    return made


def _value(found: Any) -> Any:
    """What stands for a global of a kernel."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    if found is tl:
        return _LANGUAGE
    if isinstance(found, InterpretedFunction):
        return _translated(found.fn)
    if isinstance(found, ModuleType):
        return _Module(found)
    return found.value if isinstance(found, tl.constexpr) else found


class _Module:
    """A module's members, translated when they are first asked for."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = _value(getattr(self._module, name))
        setattr(self, name, value)
        return value


# ------------------------------------------------------------------------------- the language
def _range(*ends: Any) -> Iterator[Block]:
    """A loop's variable is a number of the program; that of a static one is Python's."""
    return map(block, range(*ends))


def _mathematics(function: Callable[[Any], Any]) -> Callable[[Any], Block]:
    """Correctly rounded, through float64."""

    def operation(value: Any) -> Block:
        data = block(value).data
        return Block(np.asarray(function(data.astype(np.float64))).astype(data.dtype)[()])

    return operation


def _numbers(*values: Any) -> list[Any]:
    """Data of one type; numbers of Python's are float32 here, or int32, whatever is beside them."""
    data = [block(v).data for v in values]
    kind = np.result_type(*data)
    return [d if d.dtype is kind else d.astype(kind) for d in data]


def _fma(x: Any, y: Any, z: Any) -> Block:
    a, b, c = _numbers(x, y, z)
    if a.dtype.kind != "f" or a.dtype.itemsize == 8:
        return Block(a * b + c)
    return Block((a.astype(np.float64) * b + c).astype(a.dtype))


def _extreme(dropping: Any, keeping: Any) -> Callable[..., Block]:
    def operation(a: Any, b: Any, propagate_nan: Any = None) -> Block:
        function = keeping if propagate_nan == "all" else dropping
        return Block(function(*_numbers(a, b)))

    return operation


def _where(condition: Any, a: Any, b: Any) -> Block:
    a, b = pair(a, b)
    test = block(condition).data
    if test.ndim == a.ndim == b.ndim == 0:
        return Block(a if test else b)
    return Block(np.where(test, a, b))


def _reduction(function: Any) -> Callable[..., Block]:
    """Of numpy: over all elements, or an axis of them."""

    def operation(value: Block, axis: int | None = None, keep_dims: bool = False) -> Block:
        data = value.data
        return Block(function.reduce(data, axis=axis, keepdims=keep_dims, dtype=data.dtype))

    return operation


def _reduce(value: Any, axis: int, combine: Any, keep_dims: bool = False) -> Any:
    """Of one block or several at once, by halves, as there are a power of two along an axis."""
    blocks = value if isinstance(value, tuple) else (value,)
    data = [b.data for b in blocks]
    while (width := data[0].shape[axis]) > 1:
        sides = zip(*(np.split(d, [width // 2], axis=axis) for d in data), strict=True)
        found = combine(*(Block(d) for side in sides for d in side))
        data = [b.data for b in (found if isinstance(found, tuple) else (found,))]
    ends = tuple(Block(d if keep_dims else d.squeeze(axis)[()]) for d in data)
    return ends if isinstance(value, tuple) else ends[0]


def _dot(a: Block, b: Block, total: Any = None, input_precision: Any = None) -> Block:
    """Of factors of any float type, in float32."""
    product = np.matmul(a.data.astype(np.float32), b.data.astype(np.float32))
    return Block(product if total is None else product + total.data)


def _full(shape: Any, value: Any, kind: Any) -> Block:
    data = block(value).data.astype(kind.held)
    return Block(np.full(shape, data) if len(shape) else data)


def _assert(condition: Any, message: str = "") -> None:
    if not condition:
        raise AssertionError(message)


_erf = np.vectorize(math.erf, otypes=[np.float64])

_LANGUAGE = SimpleNamespace(
    **KINDS,
    abs=lambda v: type(block(v))(np.abs(block(v).data)),
    arange=lambda start, end: Block(np.arange(start, end, dtype=np.int32)),
    cdiv=lambda a, b: (a + b - 1) // b,
    constexpr=None,  # an annotation
    cos=_mathematics(np.cos),
    debug_barrier=lambda: None,  # one program is one thread here
    div_rn=lambda a, b: Block(np.divide(*_numbers(a, b))),
    dot=_dot,
    erf=_mathematics(_erf),
    exp=_mathematics(np.exp),
    exp2=_mathematics(np.exp2),
    floor=lambda v: Block(np.floor(block(v).data)),
    fma=_fma,
    full=_full,
    join=lambda a, b: type(a)(np.stack(np.broadcast_arrays(*pair(a, b)), axis=-1)),
    load=lambda pointer, mask=None, other=None: pointer.load(mask, other),
    log=_mathematics(np.log),
    log2=_mathematics(np.log2),
    max=_reduction(np.fmax),
    maximum=_extreme(np.fmax, np.maximum),
    min=_reduction(np.fmin),
    minimum=_extreme(np.fmin, np.minimum),
    program_id=lambda axis: Block(np.int32(_program.at[axis])),
    PropagateNan=SimpleNamespace(ALL="all", NONE=None),
    reduce=_reduce,
    reshape=lambda v, shape: type(v)(v.data.reshape(tuple(map(int, shape)))),
    rsqrt=_mathematics(lambda v: 1.0 / np.sqrt(v)),
    sin=_mathematics(np.sin),
    sqrt=_mathematics(np.sqrt),
    sqrt_rn=_mathematics(np.sqrt),
    static_assert=_assert,
    static_range=range,
    store=lambda pointer, value, mask=None: pointer.store(value, mask),
    sum=_reduction(np.add),
    trans=lambda v: type(v)(v.data.T),
    where=_where,
    zeros=lambda shape, kind: _full(shape, 0, kind),
    zeros_like=lambda v: Block(np.zeros_like(v.data)),
)
