"""Values, gradients, storage and reductions of the runtime, by a loss written by hand.

The reference is the literal formula in float64 under autograd.  Both backends are compared with it;
bfloat16 is left to the torch backend, because stock Triton's interpreter miscomputes it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from lossgen.runtime import launch


def _load() -> ModuleType:
    path = Path(__file__).with_name("handwritten_gce.py")
    spec = importlib.util.spec_from_file_location("handwritten_gce", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["handwritten_gce"] = module
    spec.loader.exec_module(module)
    return module


hand = _load()
BACKENDS = ["torch", "triton"]
REDUCTIONS = ["mean", "sum", "none"]
both = pytest.mark.parametrize("backend", BACKENDS)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def draw(n: int = 6, classes: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n, classes, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def check(
    x: Tensor,
    y: Tensor,
    backend: str,
    reduction: str = "mean",
    rtol: float = 2e-5,
    view: Callable[[Tensor], Tensor] = lambda x: x,
    **options: object,
) -> None:
    """Loss and gradient against float64; x and y must not change."""
    before, labels = x.clone(), y.clone()
    ours, exact = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    a = hand.handwritten_gce_loss(view(ours), y, reduction=reduction, backend=backend, **options)
    b = hand.reference(view(exact), y, reduction=reduction, **options)
    wide = x.dtype is torch.float64
    assert a.dtype is (torch.float64 if wide else torch.float32)
    assert a.shape == b.shape
    tolerance = {"rtol": rtol, "atol": rtol * 0.1, "equal_nan": True}
    torch.testing.assert_close(a.double(), b, **tolerance)
    upstream = torch.linspace(-1.5, 2, a.numel(), dtype=torch.float64).reshape(a.shape)
    a.backward(upstream.to(a.dtype))
    b.backward(upstream)
    assert ours.grad is not None
    assert exact.grad is not None
    assert ours.grad.dtype is x.dtype
    kept = y != options.get("ignore_index", -100)
    if bool(kept.any()):
        torch.testing.assert_close(ours.grad.double(), exact.grad, **tolerance)
    else:
        assert torch.equal(ours.grad, torch.zeros_like(x))
    assert torch.equal(x, before)
    assert torch.equal(y, labels)


# ------------------------------------------------------------------ values and gradients
@both
@every_reduction
@pytest.mark.parametrize("classes", [1, 2, 16, 17])
def test_equals_the_formula(backend: str, reduction: str, classes: int) -> None:
    x, y = draw(4, classes)
    check(x, y, backend, reduction)


@both
@every_reduction
@pytest.mark.parametrize("given", [("weight",), ("scale",), ("weight", "scale")])
def test_optional_inputs_and_normaliser(
    backend: str, reduction: str, given: tuple[str, ...]
) -> None:
    x, y = draw()
    y[1] = -100
    values = {"weight": torch.rand(11), "scale": torch.rand(12)[::2]}
    check(x, y, backend, reduction, **{name: values[name] for name in given})


@both
@pytest.mark.parametrize("ignore_index", [-100, 3, 0, -1, 2**40])
def test_ignored_rows(backend: str, ignore_index: int) -> None:
    x, y = draw()
    y[1], y[4] = ignore_index, ignore_index
    x[1] = float("nan")  # whatever an ignored row holds
    loss = hand.handwritten_gce_loss(
        x.requires_grad_(), y, ignore_index=ignore_index, backend=backend
    )
    loss.backward()
    assert x.grad is not None
    ignored = y == ignore_index
    assert torch.equal(x.grad[ignored], torch.zeros(int(ignored.sum()), 11))
    exact = x.detach().double().requires_grad_()
    hand.reference(exact[~ignored], y[~ignored]).backward()
    assert exact.grad is not None
    torch.testing.assert_close(
        x.grad[~ignored].double(), exact.grad[~ignored], rtol=2e-5, atol=2e-6
    )


@both
@every_reduction
def test_all_rows_ignored(backend: str, reduction: str) -> None:
    x, y = draw()
    check(x, torch.full_like(y, -100), backend, reduction)
    mean = hand.handwritten_gce_loss(x, torch.full_like(y, -100), backend=backend)
    assert mean.isnan()


@both
@every_reduction
def test_no_rows(backend: str, reduction: str) -> None:
    check(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), backend, reduction)


@both
def test_confident_rows_keep_their_gradient(backend: str) -> None:
    """1 - p_y is 0 in float32 at z = -17; the z form keeps its relative accuracy."""
    x = torch.tensor([[17.0, 0.0], [30.0, 0.0], [-40.0, 0.0]])
    check(x, torch.zeros(3, dtype=torch.int64), backend, "none", rtol=1e-5)


@both
def test_masked_classes(backend: str) -> None:
    x, y = draw(4, 40)
    x[:, :20] = float("-inf")
    check(x, 20 + y % 20, backend, "none")


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float64, 1e-11)]
)
@every_reduction
def test_dtypes_of_the_torch_backend(dtype: torch.dtype, rtol: float, reduction: str) -> None:
    x, y = draw()
    check(x.to(dtype), y, "torch", reduction, rtol=rtol)


@both
def test_no_grad_value_is_the_grad_value(backend: str) -> None:
    x, y = draw()
    with torch.no_grad():
        plain = hand.handwritten_gce_loss(x.clone().requires_grad_(), y, backend=backend)
    assert not plain.requires_grad
    graded = hand.handwritten_gce_loss(x.clone().requires_grad_(), y, backend=backend)
    torch.testing.assert_close(plain, graded.detach(), rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------ storage
LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "transposed": ((11, 6), lambda x: x.t()),
    "class stride": ((6, 22), lambda x: x[:, ::2]),
    "row stride": ((12, 11), lambda x: x[::2]),
    "padded": ((6, 16), lambda x: x[:, 3:14]),
    "expanded": ((1, 11), lambda x: x.expand(6, 11)),
    "expanded classes": ((6, 1), lambda x: x.expand(6, 11)),
}


@both
@every_reduction
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_logits(backend: str, reduction: str, layout: str) -> None:
    shape, view = LAYOUTS[layout]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    check(x, draw()[1], backend, reduction, view=view)


@both
def test_any_layout_of_labels_and_rows(backend: str) -> None:
    x, _ = draw()
    whole = torch.arange(33).reshape(11, 3)
    check(x, whole[:6, 1] % 11, backend)
    sliced = torch.full((13,), -7)
    sliced[1::2] = torch.arange(6)
    check(x, sliced[1::2], backend)
    check(
        x,
        torch.zeros(1, dtype=torch.int64).expand(6),
        backend,
        "sum",
        scale=torch.tensor([2.0]).expand(6),
    )


@both
@every_reduction
def test_leading_axes(backend: str, reduction: str) -> None:
    x, y = draw(12)
    check(x.reshape(3, 4, 11).transpose(0, 1), y.reshape(3, 4).t(), backend, reduction)
    loss = hand.handwritten_gce_loss(x[0], y[0], reduction=reduction, backend=backend)
    assert loss.shape == ()


@both
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_integer_labels(backend: str, dtype: torch.dtype) -> None:
    x, y = draw()
    exact = hand.handwritten_gce_loss(x, y, reduction="none", backend=backend)
    narrow = hand.handwritten_gce_loss(x, y.to(dtype), reduction="none", backend=backend)
    assert torch.equal(narrow, exact)


# ----------------------------------------------------------------------------- backward
@both
@pytest.mark.parametrize("upstream", ["stride 0", "strided", "zeros"])
def test_upstream_gradients(backend: str, upstream: str) -> None:
    x, y = draw()
    g = {
        "stride 0": torch.tensor(0.3).expand(6),
        "strided": torch.randn(12)[::2],
        "zeros": torch.zeros(6),
    }[upstream]
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    hand.handwritten_gce_loss(ours, y, reduction="none", backend=backend).backward(g)
    hand.reference(exact, y, reduction="none").backward(g.double())
    assert ours.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=2e-5, atol=2e-6)


@both
@every_reduction
def test_backward_twice(backend: str, reduction: str) -> None:
    x, y = draw()
    x.requires_grad_()
    loss = hand.handwritten_gce_loss(x, y, reduction=reduction, backend=backend).sum()
    grads = [
        torch.autograd.grad(loss, x, torch.tensor(s), retain_graph=True)[0]
        for s in (1.0, -2.5, 1.0)
    ]
    torch.testing.assert_close(grads[1], -2.5 * grads[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grads[2], grads[0], rtol=1e-5, atol=1e-7)
    torch.autograd.grad(loss, x)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, x)


@both
def test_logits_shared_by_two_losses(backend: str) -> None:
    x, y = draw()
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    f = hand.handwritten_gce_loss
    (f(ours, y, backend=backend) + 2 * f(ours, (y + 1) % 11, q=0.3, backend=backend)).backward()
    r = hand.reference
    (r(exact, y) + 2 * r(exact, (y + 1) % 11, q=0.3)).backward()
    assert ours.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=2e-5, atol=2e-6)


@both
@every_reduction
def test_inplace_grad(backend: str, reduction: str) -> None:
    x, y = draw()
    y[2] = -100
    grads = []
    for inplace in (False, True):
        leaf = x.clone().requires_grad_()
        loss = hand.handwritten_gce_loss(
            leaf * 1, y, reduction=reduction, backend=backend, inplace_grad=inplace
        )
        (3 * loss.sum()).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------------------- operators
@both
@pytest.mark.parametrize("variant", [0, 1])
def test_opcheck(backend: str, variant: int) -> None:
    x, y = draw()
    y[0] = -100
    inputs = [torch.rand(11), torch.rand(6)] if variant else []
    call = (y, [], inputs, [0.7], -100, variant, backend)
    operators = hand.LOSS.operators
    opcheck(operators.forward, (x.clone().requires_grad_(), *call))
    saved = operators.forward(x, *call)[1]
    opcheck(operators.backward, (torch.randn(1, 6), saved, [True], x, *call))


def test_registering_a_key_twice() -> None:
    first = hand.LOSS.operators
    again = _load()
    assert again.LOSS.operators is first
    x, y = draw()
    torch.testing.assert_close(again.handwritten_gce_loss(x, y), hand.handwritten_gce_loss(x, y))


def test_compiled_with_inputs() -> None:
    def step(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return hand.handwritten_gce_loss(2 * x.t(), y, weight=weight)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (6, 9):
        x, y = draw(n)
        y[1] = -100
        weight = torch.rand(11)
        a, b = (x.t().contiguous().requires_grad_() for _ in range(2))
        one, two = step(a, y, weight), compiled(b, y, weight)
        torch.testing.assert_close(one, two)
        one.backward()
        two.backward()
        torch.testing.assert_close(a.grad, b.grad)


# ------------------------------------------------------------------------------- splits
@pytest.mark.parametrize("processors", [1, 12, 60])
@pytest.mark.parametrize("masked", [False, True])
def test_split_rows(monkeypatch: pytest.MonkeyPatch, processors: int, masked: bool) -> None:
    """One program per row, and several merged: tiles of 16 classes, the last one ragged."""
    monkeypatch.setattr(launch, "processors", lambda _: processors)
    monkeypatch.setattr(launch, "_LARGEST_TILE", dict.fromkeys(launch._LARGEST_TILE, 16))
    monkeypatch.setattr(launch, "_ONE_TILE", 0)
    monkeypatch.setattr(launch, "_SHORT", 0)
    x, y = draw(3, 83)
    y[1] = -100
    if masked:
        x[:, :48] = float("-inf")  # the first tiles, and one whole split
        y = torch.where(y < 0, y, 50 + y % 33)
    check(x, y, "triton", "none")
    check(x, y, "triton", "mean")
