"""Rows of logits in every guise that torch has for a tensor: the right number, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen.losses import (
    CrossEntropyLoss,
    balanced_softmax_loss,
    cross_entropy_loss,
    gce_loss,
    reverse_kl_loss,
)
from lossgen.runtime.tensors import in_memory

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 7, generator=G)
Y = torch.randint(7, (6,), generator=G)
W = torch.rand(7, generator=G)
backends = pytest.mark.parametrize("backend", ["c", "torch", "triton"])


class Plain(Tensor):
    """A subclass that torch computes with as with any tensor."""


class Shouting(Tensor):
    """A subclass with functions of its own, which must not be asked."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(func)


class Wrapper(Tensor):
    """A tensor without memory of its own."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(func)


def wrapped(like: Tensor) -> Tensor:
    return Tensor._make_wrapper_subclass(Wrapper, like.shape, dtype=like.dtype)


def pending(values: Tensor) -> Tensor:
    """``values`` as the imaginary part of a conjugate: a negation that torch has put off."""
    return torch.complex(torch.zeros_like(values), -values).conj().imag


LAZY: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": lambda t: torch._neg_view(-t),
    "imaginary": pending,
    "subclass": lambda t: t.clone().as_subclass(Plain),
    "parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=False),
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "flipped": lambda t: t.flip(-1).flip(-1),
    "gapped": lambda t: torch.stack([t, t + 9], -1)[..., 0],
}


@backends
@pytest.mark.parametrize("kind", LAZY)
def test_lazy_tensors_are_their_values(kind: str, backend: str) -> None:
    """The sign was lost on C and Triton, of logits, class inputs, row inputs and gradients."""
    make = LAZY[kind]
    plain = {name: make(t).as_subclass(Tensor).clone() for name, t in (("x", X), ("w", W))}
    plain = {name: t.resolve_neg().contiguous() for name, t in plain.items()}
    leaf = plain["x"].clone().requires_grad_()
    expected = F.cross_entropy(leaf, Y, plain["w"])
    (gradient,) = torch.autograd.grad(expected, leaf)
    logits = make(X).detach().requires_grad_()
    loss = cross_entropy_loss(logits, Y, weight=make(W), backend=backend)
    assert type(loss) is Tensor
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found.as_subclass(Tensor).resolve_neg(), gradient)
    divergence = reverse_kl_loss(make(X), make(2 * X).detach(), backend=backend)
    expected = reverse_kl_loss(plain["x"], make(2 * X).as_subclass(Tensor).resolve_neg().clone())
    torch.testing.assert_close(divergence, expected)
    rows = gce_loss(logits, Y, reduction="none", backend=backend)
    ones = torch._neg_view(-torch.ones(6))
    (found,) = torch.autograd.grad(rows, logits, ones)
    leaf = plain["x"].clone().requires_grad_()
    gce_loss(leaf, Y, reduction="sum").backward()
    torch.testing.assert_close(found.as_subclass(Tensor).resolve_neg(), leaf.grad)


def test_functions_of_a_subclass_are_not_asked() -> None:
    shouting = [t.clone().as_subclass(Shouting) for t in (X, Y, W)]
    loss = cross_entropy_loss(shouting[0], shouting[1], weight=shouting[2])
    torch.testing.assert_close(loss, cross_entropy_loss(X, Y, weight=W))


@backends
def test_zeros_without_memory(backend: str) -> None:
    """Their address is 0: SIGSEGV."""
    zeros = torch._efficientzerotensor((6, 7))
    expected = gce_loss(torch.zeros(6, 7), Y)
    torch.testing.assert_close(gce_loss(zeros, Y, backend=backend), expected)
    total = gce_loss(X, torch._efficientzerotensor((6,), dtype=torch.int64), backend=backend)
    torch.testing.assert_close(total, gce_loss(X, torch.zeros(6, dtype=torch.int64)))


@backends
def test_inplace_gradient_of_a_negation(backend: str) -> None:
    """The gradient must not be written where its sign is turned when it is read."""
    grads = []
    for lazy in (False, True):
        leaf = X.clone().requires_grad_()
        logits = leaf * 1.0
        logits = torch._neg_view(-logits) if lazy else logits
        gce_loss(logits, Y, backend=backend, inplace_grad=True).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


REFUSED: list[tuple[str, Callable[[], Tensor], str]] = [
    (
        "sparse",
        lambda: gce_loss(X.to_sparse(), Y),
        "gce_loss: logits has the layout sparse_coo; pass logits.to_dense()",
    ),
    (
        "mkldnn",
        lambda: gce_loss(X.to_mkldnn(), Y),
        "gce_loss: logits has the layout mkldnn; pass logits.to_dense()",
    ),
    (
        "sparse_weight",
        lambda: cross_entropy_loss(X, Y, weight=W.to_sparse()),
        "cross_entropy_loss: weight has the layout sparse_coo; pass weight.to_dense()",
    ),
    (
        "quantized",
        lambda: gce_loss(torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), Y),
        "gce_loss: logits is quantized; pass logits.dequantize()",
    ),
    (
        "nested",
        lambda: gce_loss(torch.nested.nested_tensor([X, X]), Y),
        "gce_loss: logits is a nested tensor; pass logits.values(), the rows of all parts, or "
        "pad it",
    ),
    (
        "jagged",
        lambda: gce_loss(torch.nested.nested_tensor([X, X], layout=torch.jagged), Y),
        "gce_loss: logits is a NestedTensor, which has no rows in memory; pass logits.values(), "
        "the rows of all parts, or pad it",
    ),
    (
        "masked",
        lambda: gce_loss(torch.masked.masked_tensor(X, X > 0), Y),
        "gce_loss: logits is a MaskedTensor, which has no rows in memory; pass logits.get_data(), "
        "with -inf or ignore_index for what is masked",
    ),
    (
        "wrapper",
        lambda: gce_loss(wrapped(X), Y),
        "gce_loss: logits is a Wrapper, which has no rows in memory; pass the tensor that it wraps",
    ),
    (
        "wrapper_target",
        lambda: gce_loss(X, wrapped(Y)),
        "gce_loss: target is a Wrapper, which has no rows in memory; pass the tensor that it wraps",
    ),
    (
        "wrapper_stream",
        lambda: reverse_kl_loss(X, wrapped(X)),
        "reverse_kl_loss: teacher is a Wrapper, which has no rows in memory; pass the tensor that "
        "it wraps",
    ),
    (
        "wrapper_weight",
        lambda: balanced_softmax_loss(X, Y, counts=wrapped(W)),
        "balanced_softmax_loss: counts is a Wrapper, which has no rows in memory; pass the tensor "
        "that it wraps",
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("call", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_by_name(call: Callable[[], Tensor], text: str) -> None:
    """Most of these were a SIGSEGV."""
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == text


def test_the_last_gate() -> None:
    """What the entrance cannot see: freed memory, tensors of a transform."""
    freed = X.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="has been freed"):
        gce_loss(freed, Y, backend="c")
    with pytest.raises(TypeError, match="no memory to read"):
        torch.vmap(in_memory)(X)
    with pytest.raises(TypeError, match="no memory to read"):
        in_memory(X.to("meta"))


def test_collective_in_flight() -> None:
    """Its memory is waited for."""
    collectives = pytest.importorskip("torch.distributed._functional_collectives")
    promise = collectives.AsyncCollectiveTensor(X.clone())
    torch.testing.assert_close(gce_loss(promise, Y), gce_loss(X, Y))
    labels = collectives.AsyncCollectiveTensor(Y.clone())
    torch.testing.assert_close(gce_loss(X, labels), gce_loss(X, Y))


# ------------------------------------------------------------------------------ no data
@pytest.mark.parametrize("backend", ["auto", "c", "torch", "triton"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("fake", [False, True])
def test_shapes_flow_without_data(backend: str, reduction: str, fake: bool) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def run(like: Callable[[Tensor], Tensor]) -> None:
        logits = like(X).requires_grad_()
        options = {"weight": like(W), "backend": backend, "reduction": reduction}
        loss = cross_entropy_loss(logits, like(Y), label_smoothing=0.1, **options)
        assert loss.shape == (() if reduction == "mean" else (6,))
        assert loss.dtype is torch.float32
        loss.sum().backward()
        assert logits.grad is not None
        assert logits.grad.shape == X.shape
        assert logits.grad.device == logits.device

    if not fake:
        run(lambda t: t.to("meta"))
        return
    mode = FakeTensorMode()
    run(mode.from_tensor)
    with mode:
        run(mode.from_tensor)


@backends
def test_default_device_is_not_ours(backend: str) -> None:
    """Rows and scalars of our own were allocated on it: SIGSEGV on C."""
    expected = cross_entropy_loss(X, Y, weight=W, label_smoothing=0.1)
    with torch.device("meta"):
        leaf = X.clone().requires_grad_()
        options = {"weight": W, "label_smoothing": 0.1, "backend": backend}
        loss = cross_entropy_loss(leaf, Y, **options)
        loss.backward()
        rows = cross_entropy_loss(leaf, Y, reduction="none", **options)
        rows.sum().backward()
        reverse_kl_loss(X, 2 * X, backend=backend)
    torch.testing.assert_close(loss, expected)


def test_modes_see_an_operator() -> None:
    """A mode that records what it sees must not record the labels as constants."""
    from torch.fx.experimental.proxy_tensor import make_fx

    other, labels = X + 1, (Y + 1) % 7
    for mode in ("real", "symbolic"):
        graph = make_fx(lambda x, y: gce_loss(x, y), tracing_mode=mode)(X, Y)
        torch.testing.assert_close(graph(other, labels), gce_loss(other, labels))
    gradient = torch.func.grad(lambda x: gce_loss(x, Y))
    torch.testing.assert_close(make_fx(gradient)(X)(other), gradient(other))


# ------------------------------------------------------------------------------ tracing
class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss = CrossEntropyLoss(W)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y)


def test_traces_are_refused() -> None:
    """The graph held this call's labels."""
    with pytest.raises(RuntimeError) as caught:
        torch.jit.trace(lambda x, y: gce_loss(x, y), (X, Y))
    assert str(caught.value) == (
        "gce_loss: torch.jit.trace would freeze the labels and options of this call in the graph; "
        "use torch.export or torch.compile, or trace the model without its loss"
    )
    with pytest.raises(TypeError, match="logits must be a tensor, not Proxy"):
        torch.fx.symbolic_trace(Model())


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict: bool) -> None:
    program = torch.export.export(Model(), (X, Y), strict=strict).module()
    expected = F.cross_entropy(X + 1, (Y + 1) % 7, W)
    torch.testing.assert_close(program(X + 1, (Y + 1) % 7), expected)


# ------------------------------------------------------------------------------ numbers
def test_numbers_of_numpy_and_none() -> None:
    options = {"label_smoothing": np.float32(0.125), "ignore_index": np.int64(3)}
    found = cross_entropy_loss(X, Y, softcap=None, temperature=None, z_loss=None, **options)
    expected = F.cross_entropy(X, Y, label_smoothing=0.125, ignore_index=3)
    torch.testing.assert_close(found, expected)
    module = CrossEntropyLoss(W, softcap=None, label_smoothing=np.float64(0.1))
    torch.testing.assert_close(module(X, Y), F.cross_entropy(X, Y, W, label_smoothing=0.1))
    with pytest.raises(TypeError, match="q must be a number, not NoneType"):
        gce_loss(X, Y, q=None)
    with pytest.raises(TypeError, match="q must be a number, not Tensor"):
        gce_loss(X, Y, q=torch.tensor([0.5]))
    with pytest.raises(TypeError, match="ignore_index must be an integer, not Tensor"):
        gce_loss(X, Y, ignore_index=torch.tensor(3))


# ------------------------------------------------------------------- upstream gradients
@backends
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("upstream", [math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ignored_rows_stay_zero(
    backend: str, reduction: str, upstream: float, dtype: torch.dtype
) -> None:
    """0 · inf was NaN; torch writes 0."""
    target = Y.clone()
    target[2] = -100
    leaf = X.to(dtype).detach().clone().requires_grad_()
    loss = gce_loss(leaf, target, reduction=reduction, backend=backend)
    loss.backward(torch.full_like(loss, upstream))
    assert leaf.grad is not None
    assert not leaf.grad[2].any()
    assert not leaf.grad[[0, 1, 3, 4, 5]].isfinite().all(1).any()


def test_scaling_kernel_leaves_ignored_rows_zero() -> None:
    """The kernel of a GPU, in the interpreter."""
    from lossgen.runtime.kernels.scaling import scale_kernel

    for factor, expected in ((2.0, 2.0), (math.inf, math.inf), (1.0, 1.0)):
        grad = torch.ones(3, 5)
        grad[1] = 0
        strided = torch.tensor([4, 9, -100, 9, 2, 9])[::2]
        scale = torch.tensor(factor)
        options = {"HAS_TARGET": True, "BLOCK": 4}
        for programs in (1, 2):
            scaled = grad.clone()
            scale_kernel[(programs,)](scaled, scale, strided, 2, -100, 5, 15, programs, **options)
            assert torch.equal(scaled[[0, 2]], torch.full((2, 5), expected))
            assert torch.equal(scaled[1], torch.zeros(5))


# ------------------------------------------------------------------------------- shapes
@backends
def test_no_rows(backend: str) -> None:
    leaf = torch.zeros(0, 7, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    assert gce_loss(leaf, none, reduction="none", backend=backend).shape == (0,)
    for reduction in ("mean", "sum"):
        loss = gce_loss(leaf, none, reduction=reduction, backend=backend)
        theirs = F.cross_entropy(leaf, none, reduction=reduction)
        torch.testing.assert_close(loss, theirs, equal_nan=True)
        loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_every_integer_type(dtype: torch.dtype) -> None:
    for labels in (Y.to(dtype), Y.to(dtype).repeat(2)[::2][[0, 3, 1, 4, 2, 5]]):
        grads = []
        for target in (labels, labels.long()):
            leaf = X.clone().requires_grad_()
            gce_loss(leaf, target).backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads, rtol=0, atol=0)
