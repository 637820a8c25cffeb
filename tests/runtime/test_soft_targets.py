"""Targets given as a row of numbers: which numbers, and the exact texts of what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossgen.losses import dkd_loss, elr_loss, renyi_loss, sigmoid_bce_loss, soft_target_ce_loss

X = torch.linspace(-1.0, 1.0, 20).reshape(4, 5)
Y = torch.tensor([0, 2, 4, 1])
T = torch.full((4, 5), 0.2)

REFUSED: dict[str, tuple[Callable[[], Tensor], type[Exception], str]] = {
    "negative weights": (
        lambda: soft_target_ce_loss(X, T - 0.3),
        ValueError,
        "soft_target_ce_loss: probabilities has values outside its domain [0, inf): -0.1",
    ),
    "a label above 1": (
        lambda: sigmoid_bce_loss(X, T + 1),
        ValueError,
        "sigmoid_bce_loss: labels has values outside its domain [0, 1]: 1.2",
    ),
    "an average above 1": (
        lambda: elr_loss(X, Y, T * 6),
        ValueError,
        "elr_loss: ensemble has values outside its domain [0, 1]: 1.2",
    ),
    "labels in place of rows": (
        lambda: soft_target_ce_loss(X, Y),
        TypeError,
        "soft_target_ce_loss: probabilities must be floating point, not int64; of classes pass "
        "torch.nn.functional.one_hot(probabilities, 5).to(logits.dtype)",
    ),
    "another shape": (
        lambda: dkd_loss(X, Y, T[:, :4]),
        ValueError,
        "dkd_loss: teacher has shape [4, 4], but logits have shape [4, 5]",
    ),
    "another dtype": (
        lambda: renyi_loss(X, T.to(torch.float8_e5m2)),
        TypeError,
        "renyi_loss: teacher must be float32, bfloat16, float16 or float64, not float8_e5m2",
    ),
    "another device": (
        lambda: renyi_loss(X, T.to("meta")),
        ValueError,
        "renyi_loss: teacher is on meta, but logits are on cpu; pass teacher.to('cpu')",
    ),
    "none": (lambda: renyi_loss(X, None), ValueError, "renyi_loss: teacher is required"),
    "left out": (
        lambda: renyi_loss(X),
        TypeError,
        "renyi_loss() missing 1 required positional argument: 'teacher'",
    ),
    "one class": (
        lambda: dkd_loss(X[:, :1], Y * 0, T[:, :1]),
        ValueError,
        "dkd_loss: logits have 1 classes; at least 2 are needed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == text


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_weights_need_not_sum_to_one(backend: str) -> None:
    """The loss is linear in them; a row of zeros has none."""
    weights = T * torch.tensor([[0.0], [1.0], [2.5], [1.0]])
    found = soft_target_ce_loss(X, weights, reduction="none", backend=backend)
    exact = -(weights.double() * X.double().log_softmax(1)).sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    assert found[0] == 0.0


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_an_average_need_not_sum_to_one(backend: str) -> None:
    """1 - <t, p> is the same sum of p (1 - t) for any t."""
    average = T * torch.tensor([[0.0], [1.0], [2.5], [4.5]])
    found = elr_loss(X, Y, average, strength=2.0, reduction="none", backend=backend)
    p = X.double().softmax(1)
    inner = (average.double() * p).sum(1)
    exact = -p[range(4), Y].log() + 2 * (1 - inner).log()
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=2e-6)
