"""Losses of a linear layer wherever they are called: transforms, devices, changed tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lossgen import runtime as rt
from lossgen.losses import LinearGCELoss, gce_loss, linear_cross_entropy_loss, linear_gce_loss
from lossgen.losses.gce import LOSS
from lossgen.runtime import chunked, products, tiled
from lossgen.runtime.linear_bind import call_of
from lossgen.verify import interpreter
from tests.runtime.tiled_calls import TILED, launched

N, D, V = 7, 5, 9


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, bias, and a target with an ignored row."""
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=g, dtype=dtype) for shape in ((N, D), (V, D), (V,))
    )
    target = torch.arange(N) % V
    target[2] = -100
    return hidden, weight, bias, target


def eager(hidden: Tensor, weight: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """The formula, in torch."""
    p = F.linear(hidden, weight).softmax(-1).gather(-1, target.clamp_min(0).unsqueeze(-1))
    rows = (1 - p.squeeze(-1) ** q) / q
    return torch.where(target == -100, 0.0, rows).sum() / (target != -100).sum()


# ---------------------------------------------------------------- tensors changed before backward
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("schedule", ["chunked", "tiled"])
@pytest.mark.parametrize("changed", ["hidden", "weight", "bias", "target"])
def test_what_the_backward_reads_must_not_change(
    changed: str, schedule: str, reduction: str
) -> None:
    hidden, weight, bias, target = draw(torch.float32)
    options: dict[str, Any] = {"schedule": schedule, "reduction": reduction}
    if schedule == "tiled":
        if (changed, reduction) != ("target", "none"):
            return  # one is enough of the interpreter's time
        interpreter.install()
        options |= TILED
    given = {"hidden": hidden.requires_grad_(), "weight": weight, "bias": bias, "target": target}
    loss = linear_gce_loss(hidden, weight, target, linear_bias=bias, **options).sum()
    with torch.no_grad():
        given[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_class_weights_and_a_second_backward_are_watched_too() -> None:
    hidden, weight, _, target = draw()
    weights = torch.rand(V, dtype=torch.float64)
    loss = linear_cross_entropy_loss(hidden.requires_grad_(), weight, target, weight=weights)
    loss.backward(retain_graph=True)
    weights.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---------------------------------------------------------------------------------- transforms
def test_torch_func() -> None:
    hidden, weight, _, target = draw()
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}

    def same(change: Callable[[Callable[..., Tensor]], Callable[..., Any]], *given: Any) -> None:
        torch.testing.assert_close(change(linear_gce_loss)(*given), change(eager)(*given), **near)

    samples = torch.stack([hidden, hidden + 1, hidden * 2])
    heads = torch.stack([weight, weight - 1, weight * 2])
    labels = torch.stack([target, target.flip(0), target])
    same(lambda f: grad(f, argnums=(0, 1)), hidden, weight, target)
    same(lambda f: vmap(f, (0, None, None)), samples, weight, target)
    same(lambda f: vmap(f), samples, heads, labels)
    same(lambda f: vmap(grad(f, argnums=(0, 1)), (0, None, 0)), samples, weight, labels)
    same(lambda f: grad(lambda w: vmap(f, (0, None, 0))(samples, w, labels).sum()), weight)
    same(lambda f: jacrev(f), hidden, weight, target)
    module = LinearGCELoss(q=0.5)
    found = functional_call(module, {}, (hidden, weight, target))
    torch.testing.assert_close(found, eager(hidden, weight, target, 0.5), **near)
    with pytest.raises(IndexError, match="out of bounds"):
        vmap(linear_gce_loss)(samples, heads, labels + V + 100)
    with pytest.raises(NotImplementedError, match="hidden carries a tangent"):
        jvp(lambda h: linear_gce_loss(h, weight, target), (hidden,), (hidden,))
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        grad(lambda h: grad(linear_gce_loss)(h, weight, target).sum())(hidden)


@pytest.mark.parametrize("dynamic", [None, True])
def test_one_graph_serves_all_numbers(dynamic: bool | None) -> None:
    hidden, weight, _, target = draw()
    torch.compiler.reset()
    counter = torch._dynamo.utils.counters
    counter.clear()

    def call(hidden: Tensor, value: float) -> Tensor:
        return linear_gce_loss(
            hidden, weight, target, q=value, temperature=value, softcap=1 + value
        )

    run = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    hidden.requires_grad_()
    for k in range(10):  # the ninth graph would be an error
        value = 0.05 + 0.09 * k
        ours, theirs = run(hidden, value), call(hidden, value)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)
        found, wanted = (torch.autograd.grad(loss, hidden)[0] for loss in (ours, theirs))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
    assert counter["stats"]["unique_graphs"] <= 2  # the first value is taken for a constant


# ------------------------------------------------------------------------------------- devices
def test_shapes_flow_without_data() -> None:
    hidden, weight, bias, target = draw(torch.float32)

    def shapes(*given: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, target = given
        hidden = hidden.detach().requires_grad_()
        rows = linear_gce_loss(hidden, weight, target, linear_bias=bias, reduction="none")
        linear_gce_loss(hidden, weight, target, linear_bias=bias).backward()
        assert hidden.grad is not None
        return type(rows), rows.shape, rows.device, hidden.grad.shape

    found = shapes(*(t.to("meta") for t in (hidden, weight, bias, target)))
    assert found[1:] == ((N,), torch.device("meta"), (N, D))
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t) for t in (hidden, weight, bias, target)]
    assert shapes(*fakes)[1] == (N,)
    with mode:
        assert shapes(*fakes)[1] == (N,)


@pytest.mark.parametrize("backend", ["torch", "c"])
def test_the_default_device_is_not_asked(backend: str) -> None:
    hidden, weight, bias, target = draw(torch.float32)
    with torch.device("meta"):
        for skip in (None, False):
            options = rt.LinearOptions(softcap=2.0, shift=1, skip_ignored=skip)
            leaf = hidden[None].clone().requires_grad_()
            given = rt.Arguments(target[None], (), (0.7,), (), -100, backend)
            loss = rt.linear_loss(LOSS, rt.Factors(leaf, weight, bias), given, "mean", options)
            loss.backward()
            assert (loss.device.type, leaf.grad.device.type) == ("cpu", "cpu")


@pytest.mark.parametrize("which", ["hidden", "weight", "bias"])
def test_lazy_tensors(which: str) -> None:
    hidden, weight, bias, target = draw(torch.float32)
    given = {"hidden": hidden, "weight": weight, "bias": bias}
    run = lambda hidden, weight, bias: linear_gce_loss(  # noqa: E731
        hidden, weight, target, linear_bias=bias
    )
    lazy = run(**given | {which: torch._neg_view(given[which])})
    assert torch.equal(lazy, run(**given | {which: -given[which]}))
    zeros = torch._efficientzerotensor(given[which].shape)
    assert torch.equal(run(**given | {which: zeros}), run(**given | {which: 0 * given[which]}))
    with pytest.raises(TypeError, match=rf"{which} has the layout sparse_coo"):
        run(**given | {which: given[which].to_sparse()})


# -------------------------------------------------------------------- nothing waits for a device
class NoLooks(TorchDispatchMode):
    """An error where the host would wait for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        for look in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select"):
            assert look not in name, f"{name} waits for the device"
        return func(*args, **kwargs or {})


def linear_call(device: str, skip: bool, **options: Any) -> tuple[Any, list[Any]]:
    hidden, weight, bias, target = (t.to(device) for t in draw(torch.float32))
    given = rt.Arguments(target, (), (0.7,), (), -100, "torch")
    chosen = rt.LinearOptions(skip_ignored=skip, **options)
    call, tensors, _ = call_of(LOSS, [rt.Factors(hidden, weight, bias)], given, chosen)
    return call, tensors


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "shift": 0, "memory_budget": 120}])
def test_no_look_at_a_value(options: dict[str, Any]) -> None:
    grad_rows, wanted = torch.ones(1, N), (True, True, True)
    with NoLooks():
        call, tensors = linear_call("cpu", False, **options)
        rows, found = chunked.run(call, tensors, grad_rows, wanted)
    call, tensors = linear_call("cpu", True, **options)
    exact, wanted_grads = chunked.run(call, tensors, grad_rows, wanted)
    torch.testing.assert_close((rows, *found), (exact, *wanted_grads))
    with NoLooks(), pytest.raises(AssertionError, match="waits for the device"):
        linear_call("cpu", True, **options)
    # And what only other devices than the CPU do: a meta tensor has no value to look at.
    call, tensors = linear_call("meta", False, **options)
    rows, found = chunked.run(call, tensors, grad_rows.to("meta"), wanted)
    assert (rows.shape, found[1].shape) == ((1, N), (V, D))


@pytest.mark.parametrize("schedule", ["chunked", "tiled"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_an_ignored_row_holds_reaches_no_sum(schedule: str, poison: float) -> None:
    """In the rows that are skipped, and in those that are multiplied all the same."""
    tiles = schedule == "tiled"
    if tiles:
        interpreter.install()
    for backend in ["triton"] if tiles else ["torch", "c"]:
        found = []
        for skip in (True, False):
            hidden, weight, bias, target = draw(torch.float32)
            hidden[2] = poison
            leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
            options = rt.LinearOptions(schedule=schedule, skip_ignored=skip)
            given = rt.Arguments(target, (), (0.7,), (), -100, backend)
            loss = rt.linear_loss(LOSS, rt.Factors(*leaves), given, "none", options)
            upstream = torch.ones(N).index_fill_(0, torch.tensor([2]), math.inf)
            found.append((loss, *torch.autograd.grad(loss, leaves, upstream)))
            assert loss[2] == 0
            assert not found[-1][1][2].any()
            assert all(bool(t.isfinite().all()) for t in found[-1])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------- products and settings
def test_logits_of_half_precision_factors_are_not_rounded() -> None:
    """Logits of standard deviation 16: rounded to bfloat16 they were 0.06 off, and the gradient of
    a loss with them 8 %."""
    g = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 64, generator=g) for n in (32, 50))
    hidden, weight = (2 * hidden).bfloat16(), weight.bfloat16()
    target = torch.randint(0, 50, (32,), generator=g)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    ours = linear_gce_loss(hidden, weight, target)
    exact = gce_loss(F.linear(hidden.double(), weight.double()), target)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0.0)
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(exact, leaves), strict=True)
    for found, wanted in pairs:
        assert float((found.double() - wanted.double()).norm() / wanted.double().norm()) < 3e-3


@pytest.mark.parametrize(("wide", "in_place"), [(True, True), (True, False), (False, False)])
def test_products_with_a_wide_result(
    wide: bool, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU multiplies, with and without ``mm(out_dtype=)``; on ROCm torch raises at it."""
    real = torch.mm

    def addmm(total: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
        total.addmm_(a.float(), b.float(), beta=beta, alpha=alpha)

    def mm(a: Tensor, b: Tensor, **options: Any) -> Tensor:
        if "out_dtype" not in options:
            return real(a, b, **options)
        found = real(a.float(), b.float())
        return options["out"].copy_(found) if "out" in options else found

    narrow = lambda weight, dtype: products.Narrow(dtype, weight.dtype)  # noqa: E731
    monkeypatch.setattr("lossgen.runtime.projected.product_of", narrow)
    monkeypatch.setattr(products, "has_wide_product", lambda *_: wide)
    monkeypatch.setattr(products, "adds_in_place", lambda *_: in_place)
    monkeypatch.setattr(products, "wide_addmm", addmm)
    monkeypatch.setattr(torch, "mm", mm)
    hidden, weight, bias, target = draw(torch.bfloat16)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    for softcap in (None, 2.0):
        ours = linear_gce_loss(
            *leaves[:2], target, linear_bias=bias, softcap=softcap, temperature=2.0, backend="torch"
        )
        logits = F.linear(*(t.double() for t in leaves))
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        exact = gce_loss(logits / 2, target)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-6 if wide else 1e-2, atol=0.0)
        wanted = torch.autograd.grad(exact, leaves)
        torch.testing.assert_close(torch.autograd.grad(ours, leaves), wanted, rtol=0.03, atol=2e-3)


class _Asks(TorchDispatchMode):
    """What would wait for a GPU: a number, or a size that depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
        assert not any(name in str(func) for name in asks), func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("schedule", ["chunked", "tiled"])
def test_no_schedule_waits_for_the_device(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call can be captured in a CUDA graph: of the kernels, in the interpreter."""
    interpreter.install()
    module = {"chunked": chunked, "tiled": tiled}[schedule]
    for name in ("statistics", "gradients"):
        real = getattr(module, name)

        def watched(*args: Any, _real: Any = real) -> Any:
            with _Asks():
                return _real(*args)

        monkeypatch.setattr(module, name, watched)
    hidden, weight, bias, target = draw(torch.float32)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    with launched():
        loss = linear_gce_loss(
            *leaves[:2],
            target,
            linear_bias=bias,
            reduction="none",
            skip_ignored=False,
            backend="triton",
            schedule=schedule,
        )
        found = torch.autograd.grad(loss.sum(), leaves)
    exact = gce_loss(F.linear(*leaves), target, reduction="none")
    wanted = torch.autograd.grad(exact.sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_sum_that_torch_does_not_take_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some releases want the sum in the dtype of the factors; nothing is asked twice."""
    asked: list[Tensor] = []

    def refuses(total: Tensor, *_: Any) -> None:
        asked.append(total)
        raise RuntimeError("self and mat2 must have the same dtype")

    monkeypatch.setattr(products, "has_wide_product", lambda *_: True)
    for addmm, found in ((refuses, False), (lambda *_: None, True)):
        products._adds_in_place.cache_clear()
        monkeypatch.setattr(products, "wide_addmm", addmm)
        for _ in range(2):
            assert products.adds_in_place(torch.ones(1, 1).bfloat16(), torch.float32) is found
    assert len(asked) == 1
    products._adds_in_place.cache_clear()


def test_wide_products_are_not_asked_of_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Factor:
        is_cuda, dtype = True, torch.bfloat16

    factor: Any = Factor()
    monkeypatch.setattr(torch.version, "hip", None)
    assert products.has_wide_product(factor, torch.float32)
    assert not products.has_wide_product(factor, torch.float64)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not products.has_wide_product(factor, torch.float32)


def test_either_setting_of_tf32_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer:
        fp32_precision = "tf32"

        @property
        def allow_tf32(self) -> bool:
            raise RuntimeError("mix of the legacy and new APIs")

    class Older:
        allow_tf32 = True

    for settings in (Newer(), Older()):
        monkeypatch.setattr(torch.backends.cuda, "matmul", settings)
        assert tiled.tf32_allowed()


def test_numbers_of_other_kinds() -> None:
    hidden, weight, _, target = draw()
    plain = linear_gce_loss(hidden, weight, target, temperature=2.0, memory_budget=8 * V)
    given: dict[str, Any] = {
        "temperature": np.float32(2.0),
        "memory_budget": np.int64(8 * V),
        "softcap": math.inf,  # caps nothing
        "shift": np.int32(0),
    }
    assert torch.equal(linear_gce_loss(hidden, weight, target, **given), plain)
    with pytest.raises(ValueError, match=r"shift needs hidden \[\*, S, D\]"):
        linear_gce_loss(hidden[0], weight, target[0], shift=1)
    with pytest.raises(ValueError, match="hidden must have features"):
        linear_gce_loss(hidden[:, :0], weight[:, :0], target)
