"""What a loss takes, and the checks of a call: before any launch, with errors like torch's."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossgen.runtime import remedies
from lossgen.runtime.layout import lead_of
from lossgen.runtime.layout import shape_text as _shape

__all__ = [
    "Input",
    "Parameter",
    "Tiled",
    "Variant",
    "check_call",
    "check_input",
    "differs",
    "integer",
    "is_number",
    "is_scalar",
    "no_tensor",
    "numbers",
    "warn_constant",
]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REDUCTIONS = ("mean", "sum", "none", "batchmean")
BACKENDS = ("auto", "triton", "c", "torch")


@dataclass(frozen=True)
class Interval:
    """Numbers from ``lo`` to ``hi``, each end in or out. NaN is outside."""

    lo: float = -math.inf
    hi: float = math.inf
    lo_open: bool = True
    hi_open: bool = True

    def __str__(self) -> str:
        left, right = "(" if self.lo_open else "[", ")" if self.hi_open else "]"
        return f"{left}{self.lo:g}, {self.hi:g}{right}"

    def contains(self, value: float) -> bool:
        above = value > self.lo or (value == self.lo and not self.lo_open)
        return above and (value < self.hi or (value == self.hi and not self.hi_open))

    @property
    def everything(self) -> bool:
        """Are there no bounds?"""
        return math.isinf(self.lo) and math.isinf(self.hi)


@dataclass(frozen=True)
class Parameter:
    """A run-time scalar and its domain; ``off`` is the value that compiles its term out.  One of an
    ``inline`` loss was declared in Python, by ``lossgen.loss``."""

    name: str
    default: float
    lo: float = -math.inf
    hi: float = math.inf
    lo_open: bool = True
    hi_open: bool = True
    off: float | None = None
    integer: bool = False
    inline: bool = False

    @property
    def domain(self) -> Interval:
        return Interval(self.lo, self.hi, self.lo_open, self.hi_open)


@dataclass(frozen=True)
class Input:
    """A tensor beside the logits: kind "class" is [N, V], "vocab" [V], "row" one number per row.

    With ``off`` the input is optional, and None stands for that constant.  It may be
    ``differentiable``.  The domain of a class input is checked on the CPU, and so are ``values``
    and ``integer`` of the other kinds, which are small.
    """

    name: str
    kind: str
    off: float | None = None
    differentiable: bool = False
    lo: float = -math.inf
    hi: float = math.inf
    lo_open: bool = True
    hi_open: bool = True
    integer: bool = False
    values: tuple[float, ...] = ()  # all that it may hold; none: any number of the domain

    @property
    def domain(self) -> Interval:
        return Interval(self.lo, self.hi, self.lo_open, self.hi_open)


@dataclass(frozen=True)
class Tiled:
    """The kernels of logits that exist on chip only; see ``templates/tiled_triton.jinja``."""

    sweeps: tuple[tuple[Any, Any, int], ...]  # reduce, merge, numbers per row, of each sweep
    n_coefficients: int
    row: Any  # None: the gradient needs no row scalars
    gradient: Any
    sparse: tuple[bool, ...]  # of each gradient: may tiny tiles be left out?
    work: int  # operations on a tile


@dataclass(frozen=True)
class Variant:
    """One compiled plan: its kernels, and the parameters and inputs that they take, in order.

    ``streams`` are all class inputs of the loss.  There is no ``merge_kernel`` where a row takes
    several sweeps: one program then does the whole row.  ``from_first``: the loss has no target,
    and the program takes class 0 for it.  ``indexed``: each class's number is computed with.
    """

    uses: frozenset[str]
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    streams: tuple[str, ...]
    n_saved: int
    n_state: int
    #: (x, …, g=None) → results, and what is saved or, with g, the gradients; (x, …, saved, g) →
    #: the gradients.
    torch_rows: Callable[..., tuple[Tensor, Any]]
    torch_backward: Callable[..., tuple[Tensor, ...]]
    forward_kernel: Any
    merge_kernel: Any
    backward_kernel: Any
    fused_kernel: Any
    arithmetic: str = "float32"  # or float64: of numbers that are read and written narrower
    bound: float = 4.0  # ulp / (1 + kappa) of its certificate
    absolute: bool = False  # ulp of 1 at least, where another class than the target is far above it
    c_source: str = ""  # a module written by hand may have none: torch on the CPU
    tiled: Tiled | None = None
    from_first: bool = False
    indexed: bool = False


def numbers(loss: str, declared: Sequence[Parameter], values: Sequence[Any]) -> list[Any]:
    """The values of the parameters, in which None is the value that turns a parameter off, and a
    tensor of no axes is its number.

    Raises TypeError, ValueError.
    """
    found: list[Any] = []
    for parameter, given in zip(declared, values, strict=True):
        if type(given) is float and (
            given == parameter.off
            or (parameter.lo < given < parameter.hi and not parameter.integer)
        ):
            found.append(given)  # what nearly every call has
            continue
        value: Any = parameter.off if given is None else given
        if isinstance(value, Tensor) and is_scalar(value):
            if torch.compiler.is_compiling():
                found.append(value)  # its number is known when the graph runs
                continue
            value = value.item()
        if isinstance(value, (Tensor, bool)) or not is_number(value):
            raise TypeError(
                f"{loss}: {parameter.name} must be a number, not {type(value).__name__}"
                f"{remedies.of_a_number(parameter.name, value, parameter.default)}"
            )
        if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
            value = float(value)  # of numpy, a fraction, a decimal
        if not parameter.domain.contains(value):
            raise ValueError(
                f"{loss}: {parameter.name} = {value:g} is outside its domain {parameter.domain}"
                f"{_widened(parameter, value) if parameter.inline else ''}"
            )
        if parameter.integer and value != int(value):
            raise ValueError(f"{loss}: {parameter.name} = {value:g} must be a whole number")
        found.append(value)
    return found


def _widened(parameter: Parameter, value: float) -> str:
    """How a domain with ``value`` is declared, where that is done in Python."""
    name, default, domain = parameter.name, parameter.default, parameter.domain
    if math.isnan(value):
        return ""
    below, above = value <= domain.lo, value >= domain.hi
    lo, lo_open = (value, False) if below else (domain.lo, domain.lo_open)
    hi, hi_open = (value, False) if above else (domain.hi, domain.hi_open)
    wider = Interval(lo, hi, lo_open, hi_open)
    return f"; to allow it, declare {name}=({default:g}, '{wider}')"


def is_scalar(value: Tensor) -> bool:
    """Does it hold one real number?"""
    return value.dim() == 0 and not value.dtype.is_complex and value.dtype is not torch.bool


def differs(value: Any, off: float | None) -> bool:
    """Is a parameter on? A tensor may be, where its number is not known yet."""
    return isinstance(value, Tensor) or value != off


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) or (
        hasattr(value, "__float__") and not hasattr(value, "__len__")
    )


def integer(loss: str, name: str, value: Any) -> Any:
    """An int of Python, numpy or a tracer. Raises TypeError, and ValueError beyond 64 bits."""
    if isinstance(value, torch.SymInt):
        return value
    if not isinstance(value, (bool, Tensor)):
        try:
            found = operator.index(value)
        except TypeError:
            pass
        else:
            if not -(2**63) <= found < 2**63:  # C would take it modulo 2^64
                raise ValueError(f"{loss}: {name} = {found} is no integer of 64 bits")
            return found
    raise TypeError(f"{loss}: {name} must be an integer, not {type(value).__name__}")


def check_call(
    loss: str,
    logits: Any,
    target: Any,
    inputs: Sequence[tuple[Input, Any]],
    has_target: bool,
    min_classes: int,
    reduction: Any,
    backend: Any,
    inplace_grad: bool,
    axis: int,
    hint: bool,
) -> None:
    """Shapes, dtypes, devices and options, of classes on ``axis``; ``hint``: at class_dim, where
    another axis fits. Raises TypeError, ValueError."""
    if not isinstance(logits, Tensor):
        raise no_tensor(loss, "logits", logits)
    if logits.dtype not in _FLOATS:
        raise TypeError(
            f"{loss}: logits must be float32, bfloat16, float16 or float64, not {_name(logits)}"
            f"{remedies.of_logits(logits, target)}"
        )
    if logits.dim() == 0:
        raise ValueError(f"{loss}: logits must have a class axis, but they have no axes")
    classes, lead = logits.shape[axis], lead_of(logits.shape, axis)
    if classes < min_classes:
        raise ValueError(
            f"{loss}: logits have {classes} classes; at least {min_classes} are needed"
        )
    if has_target:
        _check_target(loss, logits, target, lead, axis, hint)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{loss}: reduction must be one of {_list(REDUCTIONS)}, not {reduction!r}")
    if backend not in BACKENDS:
        raise ValueError(f"{loss}: backend must be one of {_list(BACKENDS)}, not {backend!r}")
    for declared, value in inputs:
        check_input(loss, logits, lead, classes, declared, value)
    if inplace_grad and logits.requires_grad and logits.is_leaf:
        raise ValueError(f"{loss}: inplace_grad would overwrite logits that are a leaf of autograd")


def no_tensor(loss: str, name: str, value: Any) -> TypeError:
    kind = type(value).__name__
    return TypeError(
        f"{loss}: {name} must be a tensor, not {kind}{remedies.of_no_tensor(name, value)}"
    )


def _check_device(loss: str, logits: Tensor, name: str, value: Tensor) -> None:
    if value.device != logits.device:
        raise ValueError(
            f"{loss}: {name} is on {value.device}, but logits are on {logits.device}; pass "
            f"{name}.to({str(logits.device)!r})"
        )


def _check_target(
    loss: str, logits: Tensor, target: Any, lead: torch.Size, axis: int, hint: bool
) -> None:
    if not isinstance(target, Tensor):
        raise no_tensor(loss, "target", target)
    if target.dtype.is_floating_point or target.dtype.is_complex or target.dtype is torch.bool:
        raise TypeError(
            f"{loss}: target must have an integer dtype, not {_name(target)}"
            f"{remedies.of_a_target(target, logits, axis)}"
        )
    if target.shape != lead:
        raise ValueError(
            f"{loss}: target has shape {_shape(target.shape)}, but logits of shape "
            f"{_shape(logits.shape)} need {_shape(lead)}"
            f"{remedies.of_a_target_shape(target, logits, lead, hint)}"
        )
    _check_device(loss, logits, "target", target)


def check_input(
    loss: str, logits: Tensor, lead: torch.Size, classes: int, declared: Input, value: Any
) -> None:
    name = declared.name
    if value is None:
        if declared.off is None:
            raise ValueError(f"{loss}: {name} is required")
        return
    if not isinstance(value, Tensor):
        raise no_tensor(loss, name, value)
    if declared.kind == "class":
        _check_stream(loss, logits, declared, value)
        return
    shape = torch.Size([classes]) if declared.kind == "vocab" else lead
    if value.shape != shape:
        raise ValueError(
            f"{loss}: {name} has shape {_shape(value.shape)}, but logits of shape "
            f"{_shape(logits.shape)} need {_shape(shape)}, one number per "
            f"{'class' if declared.kind == 'vocab' else 'row'}"
        )
    if value.dtype.is_complex or value.dtype is torch.bool:
        raise TypeError(f"{loss}: {name} must hold real numbers, not {_name(value)}")
    _check_device(loss, logits, name, value)
    if value.requires_grad and torch.is_grad_enabled() and not declared.differentiable:
        raise ValueError(f"{loss}: no gradient is computed for {name}; pass {name}.detach()")


def _check_stream(loss: str, logits: Tensor, declared: Input, value: Tensor) -> None:
    name = declared.name
    if not value.dtype.is_floating_point:
        raise TypeError(
            f"{loss}: {name} must be floating point, not {_name(value)}"
            f"{remedies.of_a_stream(name, value, logits)}"
        )
    if value.dtype not in _FLOATS:
        raise TypeError(
            f"{loss}: {name} must be float32, bfloat16, float16 or float64, not {_name(value)}"
        )
    if value.shape != logits.shape:
        raise ValueError(
            f"{loss}: {name} has shape {_shape(value.shape)}, but logits have shape "
            f"{_shape(logits.shape)}"
        )
    _check_device(loss, logits, name, value)
    if value.requires_grad and torch.is_grad_enabled() and not declared.differentiable:
        warn_constant(loss, name)


_WARNED: set[tuple[str, str]] = set()


def warn_constant(loss: str, name: str) -> None:
    """A class input that requires grad where nothing computes one is taken as a constant, as
    torch's users detach a teacher; said once."""
    if torch.compiler.is_compiling() or (loss, name) in _WARNED:
        return
    _WARNED.add((loss, name))
    warnings.warn(
        f"{loss}: {name} requires a gradient, but none is computed for it: it is taken as a "
        f"constant. Pass {name}.detach() to say so",
        stacklevel=2,
    )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _list(options: Sequence[str]) -> str:
    return ", ".join(repr(o) for o in options)
