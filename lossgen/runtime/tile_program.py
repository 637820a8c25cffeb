"""The functions of a loss on tiles, run by torch.

``lossgen.runtime.kernels.rows`` says what each function takes and gives.  They are written for
Triton; here they run as they stand, on tensors [rows, V] in place of tiles and [rows, 1] in place
of the values of a row: only what the names ``tl`` and ``dl`` mean is another.  What a loss is made
of is read from its own entry kernels: they run with a stand-in for ``rows``, which keeps what it
is called with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lossgen.runtime import elementwise as el
from lossgen.runtime.arguments import Variant

__all__ = ["Program", "Sweep", "Values", "program_of"]

Values: TypeAlias = tuple[Tensor, ...]
Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Sweep:
    """One reduction over the classes, in any number of parts."""

    lift: Function
    merge: Function
    empty: tuple[float, ...]  # the state of no class
    kept: tuple[int, ...]  # which of the values of a row the merge reads
    start: Function | None = None  # of one that is run again until its roots are found
    step: Function | None = None
    most: int = 1  # times that it is run
    roots: int = 0

    def joined(self, values: Values, states: list[Values]) -> Values:
        """The states of all parts as one, in their order."""
        kept = tuple(values[k] for k in self.kept)
        whole = states[0]
        for state in states[1:]:
            whole = self.merge(*kept, *whole, *state)
        return whole


@dataclass(frozen=True)
class Program:
    """One variant: ``pivot`` is -2 where no class stands apart, -1 where the target does, else the
    place of the largest class in the state of the first sweep, with the ``carried`` values at it
    behind it."""

    sweeps: tuple[Sweep, ...]
    betweens: tuple[Function | None, ...]
    finish: Function
    coefficients: Function | None
    gradient: Function
    context: Function | None
    pivot: int
    carried: int
    results: int
    within: bool  # does the gradient hold the slopes of the results?
    counted: bool  # do the functions read the number of classes?
    has_target: bool
    blank: tuple[Any, ...]  # stands for the values at the target before they are known
    reads_target: bool  # does the first sweep read one of these?

    def apart(self, sweep: int) -> bool:
        """Is a class left out of it?"""
        return self.pivot == -1 or (self.pivot >= 0 and sweep > 0)


class _Unknown:
    """A value that nothing can be computed with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise TypeError("this value is not known yet")

    __ne__ = __eq__


@lru_cache(maxsize=256)
def program_of(variant: Variant) -> Program:
    forward, backward = (
        _called(kernel) for kernel in (variant.forward_kernel, variant.backward_kernel)
    )
    sweeps = [Sweep(s[0], s[1], *s[3:]) for s in forward["SWEEPS"]]
    read = len(forward["streams"]) + len(forward["vocab"])
    constants = len(forward["rows"]) + len(forward["parameters"]) + forward["COUNTED"]
    has_target = len(forward["labels"]) > 0
    one = (torch.zeros(1, 1),)
    y = torch.zeros(1, 1, dtype=torch.long)
    at = forward["CONTEXT"](y, *one * read) if forward["CONTEXT"] is not None else one * read
    blank = (_Unknown(),) * len(at) if has_target else ()
    reads_target = False
    try:
        sweeps[0].lift(y, y == 0, *one * read, *blank, *one * constants)
    except TypeError:
        reads_target = True
    return Program(
        sweeps=tuple(sweeps),
        betweens=forward["BETWEENS"],
        finish=forward["FINISH"],
        coefficients=backward["COEFFICIENTS"],
        gradient=backward["GRADIENT"],
        context=forward["CONTEXT"],
        pivot=forward["PIVOT"],
        carried=forward["CARRIED"],
        results=forward["RESULTS"],
        within=backward["WITHIN"],
        counted=forward["COUNTED"],
        has_target=has_target,
        blank=blank,
        reads_target=reads_target,
    )


# ------------------------------------------------------------------------------- functions
def _python(kernel: Any) -> FunctionType:
    """What Triton would compile, or has compiled or interpreted."""
    function: FunctionType = getattr(kernel, "function", None) or kernel.fn
    return function


def _is_kernel(value: Any) -> bool:
    return isinstance(getattr(value, "function", None) or getattr(value, "fn", None), FunctionType)


_SPACES: dict[int, dict[str, Any]] = {}


def _names(kernel: Any) -> dict[str, Any]:
    """The globals of the kernel's module, in which its functions run by torch."""
    given = _python(kernel).__globals__
    if id(given) not in _SPACES:
        space = dict(given)
        kernels = {name: value for name, value in given.items() if _is_kernel(value)}
        space |= {name: _moved(value, space) for name, value in kernels.items()}
        space |= {"tl": _LANGUAGE, "dl": _DEVICE}
        _SPACES[id(given)] = space
    return _SPACES[id(given)]


def _moved(kernel: Any, names: dict[str, Any]) -> FunctionType:
    function = _python(kernel)
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


def _called(kernel: Any) -> dict[str, Any]:
    """What an entry kernel calls its row kernel with."""
    found: dict[str, Any] = {}
    rows = SimpleNamespace(forward=found.update, backward=found.update)
    function = _moved(kernel, {**_names(kernel), "rows": rows})
    function(*[None] * function.__code__.co_argcount)
    return found


# ------------------------------------------------------------------------------ vocabulary
def _tensors(function: Function) -> Function:
    """Of a function of tensors, whose arguments may be numbers."""

    def taken(*given: Any) -> Any:
        like = next(value for value in given if isinstance(value, Tensor))
        return function(*(v if isinstance(v, Tensor) else like.new_tensor(v) for v in given))

    return taken


_LANGUAGE = SimpleNamespace(
    where=torch.where,
    maximum=_tensors(torch.fmax),
    minimum=_tensors(torch.fmin),
    exp2=torch.exp2,
    float32=torch.float32,
    float64=torch.float64,
)

_DEVICE = SimpleNamespace(
    **{name: getattr(el, name) for name in el.__all__},
    exp_accurate=el.exp,
    exp_tile=el.exp,
    expm1_half=el.expm1,
    log_accurate=el.log,
    log_complement=lambda a: el.log1mexp(-a),
    reciprocal=lambda a: 1.0 / a,
    row_max=lambda a: a.amax(-1, keepdim=True),
    row_max_or_nan=lambda a: a.amax(-1, keepdim=True),
    row_min=lambda a: a.amin(-1, keepdim=True),
    row_sum=lambda a: a.sum(-1, keepdim=True),
)
