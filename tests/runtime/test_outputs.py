"""Several outputs, and what the compiler and the checks make of streams and outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from . import handwritten_pair as hand
from .handwritten_pair import call, close, draw, leaves

both = pytest.mark.parametrize("backend", ["torch", "triton"])
every_want = pytest.mark.parametrize("want", [("x",), ("t",), ("x", "t")], ids="".join)
pair, moments = hand.handwritten_pair_loss, hand.handwritten_moments


# -------------------------------------------------------------------------------- outputs
@both
@pytest.mark.parametrize("shape", [(6, 11), (2, 3, 11), (11,), (0, 5), (3, 1)], ids=str)
def test_outputs_equal_the_formulas(backend: str, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(2)
    x, s = (torch.randn(shape, generator=g).requires_grad_() for _ in range(2))
    exact = [v.detach().double().requires_grad_() for v in (x, s)]
    got, due = moments(x, s, backend=backend), hand.reference_moments(*exact)
    assert got._fields == ("mean", "spread")
    for one, two in zip(got, due, strict=True):
        assert one.dtype is torch.float32
        assert one.shape == shape[:-1]
        close(one, two)
    weights = [torch.randn(shape[:-1], generator=g) for _ in range(2)]
    torch.autograd.backward(got, weights)
    torch.autograd.backward(due, [w.double() for w in weights])
    for ours, theirs in zip((x, s), exact, strict=True):
        close(ours.grad, theirs.grad)


@both
@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("source", [0, 1])
def test_one_output_and_one_gradient(backend: str, used: int, source: int) -> None:
    """The gradient of a result that nobody used is zero."""
    a = draw()
    pairs = [(a["x"].clone(), a["t"].clone()), (a["x"].double(), a["t"].double())]
    for tensors in pairs:
        tensors[source].requires_grad_()
    moments(*pairs[0], backend=backend)[used].square().sum().backward()
    hand.reference_moments(*pairs[1])[used].square().sum().backward()
    close(pairs[0][source].grad, pairs[1][source].grad)
    assert pairs[0][1 - source].grad is None


def test_outputs_keep_float64_and_narrow_types_give_float32() -> None:
    a = draw()
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        wide = dtype is torch.float64
        found = moments(a["x"].to(dtype), a["t"].to(dtype))
        assert {v.dtype for v in found} == {torch.float64 if wide else torch.float32}


@pytest.mark.parametrize("processors", [1, 60])
def test_rows_without_a_merge_kernel_are_not_split(
    monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    hand.small_tiles(monkeypatch, processors)
    seen = hand.spy(monkeypatch, hand.MOMENTS, "forward")
    a = draw(3, 83)
    got = moments(a["x"], a["t"], backend="triton")
    due = hand.reference_moments(a["x"].double(), a["t"].double())
    for one, two in zip(got, due, strict=True):
        close(one, two)
    assert [(launched["grid"], launched["SPLITS"]) for launched in seen] == [((3, 1), 1)]


# -------------------------------------------------------------------- operators, compiler
@both
@every_want
def test_opcheck(backend: str, want: tuple[str, ...]) -> None:
    a = draw()
    a["y"][0] = -100
    held = leaves(a, want, torch.float32)
    rest = ([a["s"]], [0.7], -100, 0, backend)
    operators = hand.LOSS.operators
    opcheck(operators.forward, (held["x"], a["y"], [held["t"], a["c"]], *rest))
    saved = operators.forward(a["x"], a["y"], [a["t"], a["c"]], *rest)[1]
    wanted = [name in want for name in ("x", "t")]
    plain = (a["x"], a["y"], [a["t"], a["c"]], *rest)
    opcheck(operators.backward, (torch.randn(1, 6), saved, wanted, *plain))


@both
@every_want
def test_opcheck_of_outputs(backend: str, want: tuple[str, ...]) -> None:
    held = leaves(draw(), want, torch.float32)
    plain = {k: v.detach() for k, v in held.items()}
    rest = ([], [], -100, 0, backend)
    operators = hand.MOMENTS.operators
    opcheck(operators.forward, (held["x"], None, [held["t"]], *rest))
    saved = operators.forward(plain["x"], None, [plain["t"]], *rest)[1]
    wanted = [name in want for name in ("x", "t")]
    grad_rows = torch.randn(6, 2).t()
    opcheck(operators.backward, (grad_rows, saved, wanted, plain["x"], None, [plain["t"]], *rest))


@both
@every_want
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(backend: str, want: tuple[str, ...], dynamic: bool) -> None:
    def step(x: Tensor, y: Tensor, t: Tensor, c: Tensor, s: Tensor) -> Tensor:
        loss = pair(2 * x, y, t.sin(), c, scale=s, backend=backend)
        found = moments(x, t, backend=backend)
        return loss + found.spread.sum()  # the mean is not used

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (6, 9):
        a = draw(n)
        a["y"][1] = -100
        eager, traced = (leaves(a, want, torch.float32) for _ in range(2))
        one, two = step(*eager.values()), compiled(*traced.values())
        torch.testing.assert_close(one, two)
        one.backward()
        two.backward()
        for name in ("x", "t"):
            torch.testing.assert_close(eager[name].grad, traced[name].grad)


@pytest.mark.slow
def test_inductor() -> None:
    """It may hand streams over in other strides than it was given."""

    def step(x: Tensor, y: Tensor, t: Tensor, c: Tensor, s: Tensor) -> Tensor:
        found = moments((3 * x).t().contiguous().t(), t.flip(1))
        return pair(2 * x, y, (2 * t.t()).t(), c, scale=s) + found.mean.square().sum()

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True)
    eager, traced = (leaves(draw(), ("x", "t"), torch.float32) for _ in range(2))
    one, two = step(*eager.values()), compiled(*traced.values())
    torch.testing.assert_close(one, two)
    one.backward()
    two.backward()
    for name in ("x", "t"):
        torch.testing.assert_close(eager[name].grad, traced[name].grad)


def test_the_domain_is_not_read_under_the_compiler() -> None:
    def step(x: Tensor, y: Tensor, t: Tensor, c: Tensor, s: Tensor) -> Tensor:
        return pair(x, y, t, c, scale=s)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    a = draw()
    a["c"] -= 2
    close(compiled(*a.values()), call(hand.reference, {k: v.double() for k, v in a.items()}))


# --------------------------------------------------------------------------------- errors
A = draw()
NAME = "handwritten_pair_loss"
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing": ({"t": None}, ValueError, "teacher is required"),
    "list": (
        {"t": [0.0]},
        TypeError,
        "teacher must be a tensor, not list; pass torch.as_tensor(teacher)",
    ),
    "integers": (
        {"t": A["t"].long()},
        TypeError,
        "teacher must be floating point, not int64",
    ),
    "complex": (
        {"t": A["t"].to(torch.complex64)},
        TypeError,
        "teacher must be floating point, not complex64",
    ),
    "shape": (
        {"t": A["t"][:, :10]},
        ValueError,
        "teacher has shape [6, 10], but logits have shape [6, 11]",
    ),
    "axes": ({"t": A["t"][0]}, ValueError, "teacher has shape [11], but logits have shape [6, 11]"),
    "dtype": (
        {"t": A["t"].to(torch.float8_e5m2)},
        TypeError,
        "teacher must be float32, bfloat16, float16 or float64, not float8_e5m2",
    ),
    "device": (
        {"t": A["t"].to("meta")},
        ValueError,
        "teacher is on meta, but logits are on cpu; pass teacher.to('cpu')",
    ),
    "domain": (
        {"c": A["c"] - 2},
        ValueError,
        "cost has values outside its domain [0, inf): -1.95123 to -1.00538",
    ),
    "infinite": (
        {"c": A["c"] / 0},
        ValueError,
        "cost has values outside its domain [0, inf): inf",
    ),
    "nan": (
        {"c": A["c"].where(A["c"] < 0.9, torch.nan)},
        ValueError,
        "cost has values outside its domain [0, inf): nan",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str) -> None:
    change, kind, text = BAD[case]
    with pytest.raises(kind) as caught:
        call(pair, {**A, **change})
    assert str(caught.value) == f"{NAME}: {text}"


def test_outputs_are_checked_too() -> None:
    with pytest.raises(ValueError, match="score has shape") as caught:
        moments(A["x"], A["t"][:2])
    assert str(caught.value) == (
        "handwritten_moments: score has shape [2, 11], but logits have shape [6, 11]"
    )


def test_a_constant_stream_may_require_a_gradient_where_none_is_computed() -> None:
    with torch.no_grad():
        call(pair, {**A, "c": A["c"].clone().requires_grad_()})
