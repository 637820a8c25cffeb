"""Class inputs and several outputs in the runtime, by the programs of ``handwritten_pair``.

The reference is the literal formula in float64 under autograd; the kernels run in the interpreter.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lossgen
from lossgen.runtime import autograd, torch_backend

from . import handwritten_pair as hand
from .handwritten_pair import call, close, draw, leaves

both = pytest.mark.parametrize("backend", ["torch", "triton"])
every_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
every_want = pytest.mark.parametrize("want", [("x",), ("t",), ("x", "t")], ids="".join)
pair = hand.handwritten_pair_loss


def check(
    a: dict[str, Tensor],
    backend: str,
    reduction: str = "mean",
    want: tuple[str, ...] = ("x", "t"),
    rtol: float = 2e-5,
    **options: Any,
) -> None:
    """Loss and gradients against float64, and nothing written but the gradients."""
    ours = {k: v.detach().requires_grad_(k in want) for k, v in a.items()}
    before = {k: v.clone() for k, v in a.items()}
    exact = leaves(a, want, torch.float64)
    options |= {"reduction": reduction}
    got, due = call(pair, ours, backend=backend, **options), call(hand.reference, exact, **options)
    assert got.shape == due.shape
    close(got, due, rtol)
    upstream = torch.linspace(-1.5, 2, got.numel(), dtype=torch.float64).reshape(got.shape)
    got.backward(upstream.to(got.dtype))
    due.backward(upstream)
    for name in ours:
        gradient = ours[name].grad
        assert (gradient is not None) == (name in want), name
        if gradient is not None:
            assert gradient.dtype is a["x"].dtype
            close(gradient, exact[name].grad, rtol)
        assert torch.equal(a[name], before[name])


# ------------------------------------------------------------------ values and gradients
@both
@every_reduction
@every_want
def test_equals_the_formula(backend: str, reduction: str, want: tuple[str, ...]) -> None:
    check(draw(), backend, reduction, want)
    check(draw(2, 1), backend, reduction, want)


@both
@every_reduction
@pytest.mark.parametrize("name", ["x", "t", "c"])
@pytest.mark.parametrize("layout", ["transposed", "class stride", "row stride", "expanded"])
def test_any_layout(backend: str, reduction: str, name: str, layout: str) -> None:
    """Each stream has its own row stride; the others stay contiguous."""
    a = draw()
    wide = torch.rand(12, 22, generator=torch.Generator().manual_seed(1))
    a[name] = {
        "transposed": wide.t()[:6, :11],
        "class stride": wide[:6, ::2],
        "row stride": wide[::2, :11],
        "expanded": wide[:1, :11].expand(6, 11),
    }[layout]
    check(a, backend, reduction)


@both
@every_reduction
def test_leading_axes(backend: str, reduction: str) -> None:
    a = {k: v.reshape(3, 4, *v.shape[1:]).transpose(0, 1) for k, v in draw(12).items()}
    check(a, backend, reduction)


@both
@every_reduction
@every_want
def test_ignored_rows(backend: str, reduction: str, want: tuple[str, ...]) -> None:
    a = draw()
    a["y"][1] = a["y"][4] = 3
    a["y"][[0, 2, 3, 5]] = torch.tensor([1, 0, 10, 2])
    held = leaves(a, want, torch.float32)
    check(a, backend, reduction, want, ignore_index=3)
    for name in ("x", "t"):
        held[name].data[1] = float("nan")  # whatever an ignored row holds
    call(pair, held, backend=backend, reduction=reduction, ignore_index=3).sum().backward()
    for name in want:
        assert torch.equal(held[name].grad[[1, 4]], torch.zeros(2, 11))


@both
@every_reduction
def test_no_rows(backend: str, reduction: str) -> None:
    check(draw(0), backend, reduction)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3), (torch.float64, 1e-11)]
)
@every_reduction
@every_want
def test_dtypes(dtype: torch.dtype, rtol: float, reduction: str, want: tuple[str, ...]) -> None:
    a = {k: v if k == "y" else v.to(dtype) for k, v in draw().items()}
    check(a, "torch", reduction, want, rtol)


def test_long_chunks_equal_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "CHUNK", 70)  # two rows of three streams
    for reduction in ("mean", "none"):
        check(draw(), "torch", reduction)


@pytest.mark.parametrize("processors", [1, 12, 60])
@every_want
def test_split_rows(
    monkeypatch: pytest.MonkeyPatch, processors: int, want: tuple[str, ...]
) -> None:
    """One program per row, and several merged; the last tile is ragged."""
    hand.small_tiles(monkeypatch, processors)
    for reduction in ("none", "mean"):
        check(draw(3, 83), "triton", reduction, want)


# ------------------------------------------------------------------------ which gradients
@pytest.mark.parametrize(
    ("want", "mask"), [(("x",), 1), (("t",), 2), (("x", "t"), 3)], ids=["x", "t", "xt"]
)
@pytest.mark.parametrize(("role", "reduction"), [("fused", "mean"), ("backward", "none")])
def test_kernels_know_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, want: tuple[str, ...], mask: int, role: str, reduction: str
) -> None:
    seen = hand.spy(monkeypatch, hand.LOSS, role)
    check(draw(), "triton", reduction, want)
    assert [launched["WANT"] for launched in seen] == [mask]


@both
@every_want
def test_backward_is_told_what_requires_a_gradient(
    monkeypatch: pytest.MonkeyPatch, backend: str, want: tuple[str, ...]
) -> None:
    """Also where a second backward of a fused loss starts from the rows."""
    wanted: list[tuple[bool, ...]] = []
    module = autograd.module_of(backend, hand.LOSS.variants[0], torch.float32)
    real = module.backward

    def recording(*args: Any) -> Any:
        wanted.append(tuple(args[-1]))
        return real(*args)

    monkeypatch.setattr(module, "backward", recording)
    a = leaves(draw(), want, torch.float32)
    for reduction in ("none", "mean"):
        loss = call(pair, a, backend=backend, reduction=reduction).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert wanted == [("x" in want, "t" in want)] * 3


@both
def test_float16_is_not_fused(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Its gradient waits for the caller's scale; other dtypes are fused for any gradient."""
    calls: list[torch.dtype] = []
    module = autograd.module_of(backend, hand.LOSS.variants[0], torch.float32)
    real = module.fused

    def recording(variant: Any, batch: Any, *rest: Any) -> Tensor:
        calls.append(batch.logits.dtype)
        return real(variant, batch, *rest)

    monkeypatch.setattr(module, "fused", recording)
    for dtype in (torch.float16, torch.float32):
        call(pair, leaves(draw(), ("t",), dtype), backend=backend).backward()
    assert calls == [torch.float32]


# ------------------------------------------------------------------------------ backward
@both
@every_reduction
def test_backward_twice(backend: str, reduction: str) -> None:
    a = leaves(draw(), ("x", "t"), torch.float32)
    loss = call(pair, a, backend=backend, reduction=reduction).sum()
    sources = (a["x"], a["t"])
    first, second, third = (
        torch.autograd.grad(loss, sources, torch.tensor(scale), retain_graph=True)
        for scale in (1.0, -2.5, 1.0)
    )
    for one, two, three in zip(first, second, third, strict=True):
        close(two, -2.5 * one, 1e-5)
        close(three, one, 1e-5)


@every_reduction
@pytest.mark.parametrize("name", ["x", "t"])
def test_double_backward_is_refused(reduction: str, name: str) -> None:
    a = leaves(draw(), ("x", "t"), torch.float32)
    loss = call(pair, a, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(loss, a[name], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        grad.sum().backward()


@both
def test_one_tensor_for_two_streams(backend: str) -> None:
    """Its gradients add up."""
    a = draw()
    ours, exact = a["x"].clone().requires_grad_(), a["x"].double().requires_grad_()
    call(pair, {**a, "x": ours, "t": ours}, backend=backend).backward()
    call(hand.reference, {**a, "x": exact, "t": exact}).backward()
    close(ours.grad, exact.grad)


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_saved_streams_can_be_offloaded(backend: str, reduction: str) -> None:
    """Nothing but autograd's saved tensors may hold the streams."""
    a = leaves(draw(), ("x", "t"), torch.float32)
    t = a["t"] * 1.0
    alive = weakref.ref(t.untyped_storage())
    store: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        store.append(tensor.detach().clone())
        return len(store) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda i: store[i]):
        loss = call(pair, {**a, "t": t}, backend=backend, reduction=reduction)
    del t
    gc.collect()  # the interpreter's frames
    assert alive() is None
    loss.sum().backward()
    exact = leaves(a, ("x", "t"), torch.float64)
    call(hand.reference, exact, reduction=reduction).sum().backward()
    for name in ("x", "t"):
        close(a[name].grad, exact[name].grad)


# ------------------------------------------------------------------------------- in place
@both
@every_reduction
@every_want
def test_inplace_grad_overwrites_the_logits_only(
    backend: str, reduction: str, want: tuple[str, ...]
) -> None:
    a = leaves(draw(), want, torch.float32)
    exact = leaves(a, want, torch.float64)
    logits, t = a["x"] * 1, a["t"] * 1
    before = logits.detach().clone()
    loss = call(
        pair, {**a, "x": logits, "t": t}, backend=backend, reduction=reduction, inplace_grad=True
    )
    (3 * loss.sum()).backward()
    (3 * call(hand.reference, exact, reduction=reduction).sum()).backward()
    for name in want:
        close(a[name].grad, exact[name].grad)
    fused = reduction != "none" and "x" in want
    assert torch.equal(logits, before) == (not fused)
    assert torch.equal(t, a["t"])


@both
@pytest.mark.parametrize("name", ["t", "c", "s"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_inplace_grad_spares_logits_that_another_argument_shares(
    backend: str, name: str, reduction: str
) -> None:
    """A row further: the gradient of one row would be the argument of the next."""
    a = draw(7)
    whole = a["x"].abs().requires_grad_()
    grads = []
    for inplace in (False, True):
        logits = whole * 1
        view = logits.detach()[1:]
        shared = {k: v[:6] for k, v in a.items()}
        shared |= {"x": logits[:6], name: view[:, 0] if name == "s" else view}
        loss = call(pair, shared, backend=backend, reduction=reduction, inplace_grad=inplace)
        grads.append(torch.autograd.grad(loss, whole)[0])
        assert torch.equal(logits, whole)
    assert torch.equal(grads[0], grads[1])


@both
def test_inplace_grad_of_one_half_of_a_batch(backend: str) -> None:
    """Two halves of the same memory do not share any of it."""
    a = draw(12)
    logits = a["x"].clone().requires_grad_() * 1
    student, teacher = logits.chunk(2)
    before = logits.detach().clone()
    halves = {k: v[:6] for k, v in a.items()} | {"x": student, "t": teacher.detach()}
    call(pair, halves, backend=backend, inplace_grad=True)
    assert not torch.equal(student, before[:6])
    assert torch.equal(teacher, before[6:])


SHARED = """
name: shared
inputs: {teacher: {kind: class, differentiable: true}}
transform: sum(p*log_softmax(teacher/2)) + norm(p - onehot)*logsumexp(x)
"""


def test_a_gradient_stands_where_the_first_will(tmp_path: Path) -> None:
    """In torch the teacher's gradient, p - q, is computed in place of p, which stands where the
    gradient of the logits will be: the second was overwritten by the first, and handed out."""
    path = tmp_path / "shared.yaml"
    path.write_text(SHARED)
    module = lossgen.load(path)
    x, t = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    y = torch.tensor([0, 1, 2, 3, 0])
    p, q = x.log_softmax(-1).exp(), (t / 2).log_softmax(-1)
    one = torch.nn.functional.one_hot(y, 4)
    true = (p * q).sum() + ((p - one).norm(dim=-1) * x.logsumexp(-1)).sum()
    loss = module.shared_loss(x, y, t, reduction="sum", backend="torch")
    close(loss, true)
    for ours, expected in zip(
        torch.autograd.grad(loss, (x, t)), torch.autograd.grad(true, (x, t)), strict=True
    ):
        close(ours, expected)
