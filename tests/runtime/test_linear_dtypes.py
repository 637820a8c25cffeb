"""Mixed dtypes: autocast, and streams of another dtype than the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.losses import (
    gce_loss,
    kd_forward_kl_loss,
    linear_gce_loss,
    linear_kd_forward_kl_loss,
    linear_trades_loss,
    trades_loss,
)

N, D, V = 6, 5, 9
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def drawn(*dtypes: torch.dtype) -> tuple[Tensor, ...]:
    """hidden [N, D], weight [V, D] and bias [V], each in its dtype."""
    g = torch.Generator().manual_seed(0)
    shapes = ((N, D), (V, D), (V,))
    return tuple(
        torch.randn(*shape, generator=g).to(dtype).requires_grad_()
        for shape, dtype in zip(shapes, dtypes, strict=False)
    )


def labels() -> Tensor:
    return torch.arange(N) % V


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(loss.sum(), leaves)
    assert [g.dtype for g in found] == [t.dtype for t in leaves]
    return found


#: Dtypes of hidden, weight and bias under autocast: F.linear takes all of these.
CAST = [
    (HALF, SINGLE, SINGLE),  # mixed-precision training: float32 weights, bfloat16 activations
    (SINGLE, HALF, SINGLE),
    (HALF, HALF, SINGLE),
    (SINGLE, SINGLE, HALF),
    (torch.float16, SINGLE, HALF),
    (DOUBLE, DOUBLE, DOUBLE),  # autocast leaves float64 alone
]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtypes", CAST, ids=lambda d: "-".join(str(t)[6:] for t in d))
def test_autocast_casts_as_linear_does(
    dtypes: tuple[torch.dtype, ...], compiled: bool, reduction: str
) -> None:
    if compiled and reduction == "mean" and dtypes[0] is not HALF:
        return  # a graph for each of a few is enough
    leaves = drawn(*dtypes)

    def ours(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", HALF):
            return linear_gce_loss(hidden, weight, labels(), linear_bias=bias, reduction=reduction)

    if compiled:
        torch.compiler.reset()
        ours_run = torch.compile(ours, backend="aot_eager", fullgraph=True)
    else:
        ours_run = ours
    with torch.autocast("cpu", HALF):
        logits = F.linear(*leaves)
    double = logits.dtype is DOUBLE
    theirs = gce_loss(logits, labels(), reduction=reduction)
    found = ours_run(*leaves)
    assert found.dtype is theirs.dtype is (DOUBLE if double else SINGLE)
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9} if double else {"rtol": 0.02, "atol": 2e-3}
    torch.testing.assert_close(found, theirs, **near)
    wanted = gradients(theirs, leaves)
    torch.testing.assert_close(gradients(found, leaves), wanted, **near)


def test_autocast_casts_the_factors_of_a_teacher() -> None:
    hidden, weight = drawn(HALF, SINGLE)
    teacher = tuple(t.detach() for t in drawn(SINGLE, HALF, SINGLE))
    with torch.autocast("cpu", HALF):
        ours = linear_kd_forward_kl_loss(hidden, weight, teacher)
        student, other = F.linear(hidden, weight), F.linear(*teacher)
    theirs = kd_forward_kl_loss(student, other)
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-3)
    gradients(ours, (hidden, weight))
    with torch.autocast("cpu", HALF):  # a teacher in float64 stays there
        ours = linear_kd_forward_kl_loss(hidden, weight, tuple(t.double() for t in teacher))
    assert ours.dtype is DOUBLE


@pytest.mark.parametrize("dtypes", [(HALF, SINGLE), (SINGLE, HALF), (DOUBLE, SINGLE)])
def test_without_autocast_the_factors_have_one_dtype(dtypes: tuple[torch.dtype, ...]) -> None:
    hidden, weight = drawn(*dtypes)
    with pytest.raises(TypeError, match=r"linear_gce_loss: linear_weight is .*, but hidden is "):
        linear_gce_loss(hidden, weight, labels())
    with pytest.raises(TypeError, match=r"weight of teacher is .*, but the hidden of "):
        linear_kd_forward_kl_loss(hidden, hidden[:V], (hidden, weight))
    with torch.autocast("cpu", HALF), pytest.raises(TypeError, match="but hidden is "):
        linear_gce_loss(hidden.double(), weight, labels())


#: Dtypes of the logits and of the stream; what the loss comes out in.
MIXED = [
    (HALF, SINGLE, SINGLE),
    (SINGLE, HALF, SINGLE),
    (HALF, torch.float16, SINGLE),
    (SINGLE, DOUBLE, DOUBLE),
    (DOUBLE, HALF, DOUBLE),
]


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
@pytest.mark.parametrize("dtypes", MIXED, ids=lambda d: "-".join(str(t)[6:] for t in d))
def test_a_stream_of_another_dtype(dtypes: tuple[torch.dtype, ...], backend: str) -> None:
    """Computed in the wider of the two; gradients come back in each one's own."""
    if backend == "triton" and dtypes is not MIXED[0]:
        return  # one is enough of the interpreter's time
    first, second, result = dtypes
    g = torch.Generator().manual_seed(1)
    logits, stream = (
        torch.randn(N, V, generator=g).to(d).requires_grad_() for d in (first, second)
    )
    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda x, s, **o: trades_loss(x, labels(), s, **o), (logits, stream)),
        (lambda x, s, **o: kd_forward_kl_loss(x, s.detach(), **o), (logits,)),
    ]
    for call, leaves in calls:
        for reduction in ("mean", "none"):
            ours = call(logits, stream, reduction=reduction, backend=backend)
            assert ours.dtype is result
            exact = call(logits.double(), stream.double(), reduction=reduction)
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
            found, wanted = gradients(ours, leaves), gradients(exact, leaves)
            torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)


def test_streams_of_several_dtypes_through_a_linear_layer() -> None:
    hidden, weight = drawn(HALF, HALF)
    moved = hidden.detach().float().add(0.1).requires_grad_()
    wide = weight.detach().float().requires_grad_()
    leaves = (hidden, weight, moved, wide)
    ours = linear_trades_loss(hidden, weight, labels(), (moved, wide))
    theirs = trades_loss(F.linear(hidden.float(), weight.float()), labels(), F.linear(moved, wide))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    found, wanted = gradients(ours, leaves), gradients(theirs, leaves)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)
    rows = torch.randn(N, V, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    loss = linear_kd_forward_kl_loss(hidden, weight, rows)
    assert loss.dtype is DOUBLE
    exact = kd_forward_kl_loss(F.linear(hidden.double(), weight.double()), rows)
    torch.testing.assert_close(loss, exact, rtol=1e-9, atol=1e-9)


def test_a_teacher_in_float32_keeps_its_digits() -> None:
    """Rounded to the student's bfloat16 it would be another teacher."""
    logits = torch.zeros(4, V, dtype=HALF)
    teacher = torch.full((4, V), 10.0) + 1e-3 * torch.arange(V)  # all 10 in bfloat16
    found = kd_forward_kl_loss(logits, teacher)
    torch.testing.assert_close(found, kd_forward_kl_loss(logits.float(), teacher))
    assert float(found) > 0


@pytest.mark.parametrize("ignored", [-1, -100])
def test_a_half_stream_beside_ignored_rows(ignored: int) -> None:
    """Its gradient is float32 in the chunk, and did not fit where the rows that count belong."""
    hidden, weight = drawn(torch.float16, torch.float16)
    stream = torch.randn(V, N, generator=torch.Generator().manual_seed(1)).half().t()
    stream.requires_grad_()
    y = labels().clone()
    y[2] = -1
    options = {"ignore_index": -1, "reduction": "sum"}
    if ignored == -100:
        y[2], options = -100, {"reduction": "sum"}
    leaves = (hidden, weight, stream)
    found = gradients(linear_trades_loss(hidden, weight, y, stream, **options), leaves)
    logits = hidden.float() @ weight.float().t()
    gold = torch.autograd.grad(trades_loss(logits, y, stream.float(), **options), leaves)
    for one, other in zip(found, gold, strict=True):
        torch.testing.assert_close(one, other, rtol=4e-3, atol=4e-3)
    assert (found[2][2] == 0).all()
