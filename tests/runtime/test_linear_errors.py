"""Bad arguments of the losses of a linear layer: the exact words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossgen.losses import linear_gce_loss, linear_kd_forward_kl_loss

H, W, Y = torch.zeros(4, 3), torch.zeros(9, 3), torch.zeros(4, dtype=torch.int64)
BAD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "features",
        lambda: linear_gce_loss(H, torch.zeros(9, 2), Y),
        ValueError,
        "linear_gce_loss: linear_weight has shape [9, 2], but hidden of shape [4, 3] needs [V, 3]",
    ),
    (
        "bias",
        lambda: linear_gce_loss(H, W, Y, linear_bias=torch.zeros(3)),
        ValueError,
        "linear_gce_loss: linear_bias has shape [3], but linear_weight of shape [9, 3] needs [9]",
    ),
    (
        "dtypes",
        lambda: linear_gce_loss(H.bfloat16(), W, Y),
        TypeError,
        "linear_gce_loss: linear_weight is float32, but hidden is bfloat16",
    ),
    (
        "integers",
        lambda: linear_gce_loss(H.long(), W.long(), Y),
        TypeError,
        "linear_gce_loss: hidden must be floating point, not int64",
    ),
    (
        "devices",
        lambda: linear_gce_loss(H, W.to("meta"), Y),
        ValueError,
        "linear_gce_loss: linear_weight is on meta, but hidden is on cpu",
    ),
    (
        "budget",
        lambda: linear_gce_loss(H, W, Y, memory_budget=35),
        ValueError,
        "linear_gce_loss: memory_budget = 35 bytes, but one row takes 36",
    ),
    (
        "target",
        lambda: linear_gce_loss(H, W, Y + 9),
        IndexError,
        "Target 9 is out of bounds: the classes are 0 to 8, and rows of target -100 "
        "(ignore_index) are left out",
    ),
    (
        "target_shape",
        lambda: linear_gce_loss(H, W, Y[:2]),
        ValueError,
        "linear_gce_loss: target has shape [2], but logits of shape [4, 9] need [4]",
    ),
    (
        "softcap",
        lambda: linear_gce_loss(H, W, Y, softcap=0.0),
        ValueError,
        "linear_gce_loss: softcap = 0 is outside its domain (0, inf]",
    ),
    (
        "shift",
        lambda: linear_gce_loss(H, W, Y, shift=-1),
        ValueError,
        "linear_gce_loss: shift = -1 must not be negative",
    ),
    (
        "schedule",
        lambda: linear_gce_loss(H, W, Y, schedule="fast"),
        ValueError,
        "linear_gce_loss: schedule must be one of 'auto', 'chunked', 'tiled', not 'fast'",
    ),
    (
        "schedule_on_c",
        lambda: linear_gce_loss(H, W, Y, schedule="tiled", backend="c"),
        ValueError,
        "linear_gce_loss: schedule 'tiled' has no 'c' program; use backend 'triton' or schedule "
        "'chunked'",
    ),
    (
        "schedule_in_float64",
        lambda: linear_gce_loss(H.double(), W.double(), Y, schedule="tiled"),
        ValueError,
        "gce_loss: backend 'triton' computes in float32, not float64",
    ),
    (
        "filter",
        lambda: linear_gce_loss(H, W, Y, filter=1),
        TypeError,
        "linear_gce_loss: filter must be a bool, not int",
    ),
    (
        "skip_ignored",
        lambda: linear_gce_loss(H, W, Y, skip_ignored=1),
        TypeError,
        "linear_gce_loss: skip_ignored must be a bool, not int",
    ),
    (
        "shift_type",
        lambda: linear_gce_loss(H, W, Y, shift=True),
        TypeError,
        "linear_gce_loss: shift must be an integer, not bool",
    ),
    (
        "weight",
        lambda: linear_gce_loss(H, [1.0], Y),
        TypeError,
        "linear_gce_loss: linear_weight must be a tensor, not list; pass "
        "torch.as_tensor(linear_weight)",
    ),
    (
        "teacher",
        lambda: linear_kd_forward_kl_loss(H, W, (H, torch.zeros(8, 3))),
        ValueError,
        "linear_kd_forward_kl_loss: teacher has shape [4, 8], but logits have shape [4, 9]",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
