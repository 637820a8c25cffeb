"""What callers pass as a tensor → memory that a kernel may read, or a refusal that names it.

``admitted`` stands at the entrance: kinds of tensor that have no rows in memory (sparse, quantized,
nested, wrappers with a ``__torch_dispatch__`` of their own) end there.  What comes out may still be
lazy (a negation or a conjugation that torch has put off); it keeps the version counter of what the
caller holds, so that autograd notices a later change.  ``in_memory`` stands before every pointer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "FORWARD_MODE",
    "PLAIN",
    "admitted",
    "check_tangent",
    "check_tracing",
    "in_memory",
    "in_transform",
    "outside_the_graph",
    "symbolic",
    "transformed",
    "watched",
]

PLAIN = (Tensor, torch.nn.Parameter)
_REMEDIES = {
    "DTensor": "pass {name}.full_tensor(), or {name}.to_local() where a rank has whole rows",
    "MaskedTensor": "pass {name}.get_data(), with -inf or ignore_index for what is masked",
    "NestedTensor": "pass {name}.values(), the rows of all parts, or pad it",
}
_OTHER = "pass the tensor that it wraps"
FORWARD_MODE = (
    "forward-mode derivatives (jvp, jacfwd, hessian) are not implemented for it; use reverse mode "
    "(grad, vjp, jacrev)"
)
_ASYNC = "torch.distributed._functional_collectives"


def admitted(function: str, name: str, value: Any, moves: bool = False) -> Any:
    """A strided tensor of torch's own class with the same values, gradient and version counter.

    What is no tensor is handed through, for the checks of types to name it.

    Raises:
        TypeError: a kind of tensor without rows in memory, by name and with the remedy.
        NotImplementedError: a tensor that carries a tangent (forward-mode derivatives), unless it
            ``moves`` the results.
    """
    if not isinstance(value, Tensor):
        return value
    if type(value) not in PLAIN:
        value = _unwrapped(function, name, value)
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.").removeprefix("_")
        raise TypeError(f"{function}: {name} has the layout {kind}; pass {name}.to_dense()")
    if value.is_nested:
        remedy = _REMEDIES["NestedTensor"].format(name=name)
        raise TypeError(f"{function}: {name} is a nested tensor; {remedy}")
    if value.is_quantized:
        raise TypeError(f"{function}: {name} is quantized; pass {name}.dequantize()")
    if not moves:
        check_tangent(function, name, value)
    return value


def check_tangent(function: str, name: str, value: Tensor) -> None:
    """NotImplementedError where forward-mode derivatives would be lost."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None:
        raise NotImplementedError(f"{function}: {name} carries a tangent, but {FORWARD_MODE}")


def _unwrapped(function: str, name: str, value: Tensor) -> Tensor:
    """A subclass that torch computes with as with any tensor is taken for its data; of the others
    only torch's own promise of a tensor, and its stand-ins without data."""
    kind = type(value)
    if kind.__torch_dispatch__ is Tensor.__torch_dispatch__:
        return value.as_subclass(Tensor)
    collectives = sys.modules.get(_ASYNC)
    if collectives is not None and isinstance(value, collectives.AsyncCollectiveTensor):
        return value.clone() if value.requires_grad else collectives.wait_tensor(value.elem)
    if symbolic(value):
        return value
    remedy = _REMEDIES.get(kind.__name__, _OTHER).format(name=name)
    raise TypeError(
        f"{function}: {name} is a {kind.__name__}, which has no rows in memory; {remedy}"
    )


def symbolic(value: Tensor) -> bool:
    """Does it have a shape and no data: a meta tensor, or one of a tracer?"""
    return value.is_meta or (type(value) not in PLAIN and type(value).__name__ in _TRACED)


_TRACED = ("FakeTensor", "FunctionalTensor")
_COUNTERS = ("CommDebugMode",)  # modes of torch that only count, as ``only_counts`` says of ours


def watched() -> bool:
    """Is a ``TorchDispatchMode`` at work, which must see the call as an operator? One that only
    counts what is made says so, and sees what the call does."""
    at = torch._C._get_dispatch_stack_at
    modes = map(at, range(torch._C._len_torch_dispatch_stack()))
    return not all(getattr(m, "only_counts", type(m).__name__ in _COUNTERS) for m in modes)


def transformed() -> bool:
    """Is a transform of ``torch.func`` at work, so that tensors are wrappers without memory?"""
    return bool(torch._C._are_functorch_transforms_active())


def in_transform() -> bool:
    """Is a transform at work around a call that is being compiled? For such calls only."""
    from lossgen.runtime import outside  # with torch._dynamo, which is there while it compiles

    return outside.in_transform()


def outside_the_graph(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call as without torch.compile. Where torch._dynamo is there already only."""
    from lossgen.runtime import outside

    return outside.transform_outside_the_graph(function, *arguments)


def check_tracing(function: str) -> None:
    """RuntimeError under ``torch.jit.trace``, which would record the labels as constants."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            f"{function}: torch.jit.trace would freeze the labels and options of this call in the "
            "graph; use torch.export or torch.compile, or trace the model without its loss"
        )


def in_memory(tensor: Tensor) -> Tensor:
    """The same values where their address says: pending signs carried out, zeros written down.

    Raises:
        TypeError: no memory to point at; ``admitted`` refuses what callers can pass, by name.
        RuntimeError: memory that has been freed.
    """
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor._is_zerotensor():
        tensor = tensor.clone()
    if type(tensor) not in PLAIN:
        tensor = admitted("lossgen", "a tensor", tensor)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or symbolic(tensor):
        raise TypeError("lossgen: a tensor of a transform or a trace has no memory to read")
    if not tensor.data_ptr() and tensor.numel():
        raise RuntimeError("lossgen: the memory of a tensor has been freed (its storage is empty)")
    return tensor
