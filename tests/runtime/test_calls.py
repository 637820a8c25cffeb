"""Bad calls are refused before any launch, with exact words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossgen.losses import (
    balanced_softmax_loss,
    cross_entropy_loss,
    focal_loss,
    gce_loss,
    nce_loss,
    taylor_ce_loss,
)

X = torch.zeros(4, 5)
Y = torch.zeros(4, dtype=torch.int64)


class Duck:
    """Not a tensor."""


BAD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "logits_list",
        lambda: gce_loss([[0.0]], Y),
        TypeError,
        "gce_loss: logits must be a tensor, not list; pass torch.as_tensor(logits)",
    ),
    (
        "integer_logits",
        lambda: gce_loss(X.long(), Y),
        TypeError,
        "gce_loss: logits must be float32, bfloat16, float16 or float64, not int64; pass "
        "logits.float()",
    ),
    (
        "complex_logits",
        lambda: gce_loss(X.to(torch.complex64), Y),
        TypeError,
        "gce_loss: logits must be float32, bfloat16, float16 or float64, not complex64",
    ),
    (
        "scalar_logits",
        lambda: gce_loss(torch.tensor(1.0), torch.tensor(0)),
        ValueError,
        "gce_loss: logits must have a class axis, but they have no axes",
    ),
    (
        "no_classes",
        lambda: gce_loss(torch.zeros(4, 0), Y),
        ValueError,
        "gce_loss: logits have 0 classes; at least 1 are needed",
    ),
    (
        "too_few_classes",
        lambda: nce_loss(torch.zeros(4, 1), Y),
        ValueError,
        "nce_loss: logits have 1 classes; at least 2 are needed",
    ),
    (
        "target_list",
        lambda: gce_loss(X, [0, 1, 2, 3]),
        TypeError,
        "gce_loss: target must be a tensor, not list; pass torch.as_tensor(target)",
    ),
    (
        "float_target",
        lambda: gce_loss(X, Y.float()),
        TypeError,
        "gce_loss: target must have an integer dtype, not float32; pass target.long()",
    ),
    (
        "bool_target",
        lambda: gce_loss(X, Y.bool()),
        TypeError,
        "gce_loss: target must have an integer dtype, not bool; pass target.long()",
    ),
    (
        "target_shape",
        lambda: gce_loss(X, Y[:3]),
        ValueError,
        "gce_loss: target has shape [3], but logits of shape [4, 5] need [4]",
    ),
    (
        "target_device",
        lambda: gce_loss(X, Y.to("meta")),
        ValueError,
        "gce_loss: target is on meta, but logits are on cpu; pass target.to('cpu')",
    ),
    (
        "target_too_large",
        lambda: gce_loss(X, Y + 7),
        IndexError,
        (
            "Target 7 is out of bounds: the classes are 0 to 4, and rows of target -100 "
            "(ignore_index) are left out"
        ),
    ),
    (
        "target_negative",
        lambda: gce_loss(X, Y - 1),
        IndexError,
        (
            "Target -1 is out of bounds: the classes are 0 to 4, and rows of target -100 "
            "(ignore_index) are left out"
        ),
    ),
    (
        "ignore_index_float",
        lambda: gce_loss(X, Y, ignore_index=1.5),
        TypeError,
        "gce_loss: ignore_index must be an integer, not float",
    ),
    (
        "reduction",
        lambda: gce_loss(X, Y, reduction="avg"),
        ValueError,
        "gce_loss: reduction must be one of 'mean', 'sum', 'none', 'batchmean', not 'avg'",
    ),
    (
        "backend",
        lambda: gce_loss(X, Y, backend="cuda"),
        ValueError,
        "gce_loss: backend must be one of 'auto', 'triton', 'c', 'torch', not 'cuda'",
    ),
    (
        "triton_float64",
        lambda: gce_loss(X.double(), Y, backend="triton"),
        ValueError,
        "gce_loss: backend 'triton' computes in float32, not float64",
    ),
    (
        "parameter_nan",
        lambda: gce_loss(X, Y, q=math.nan),
        ValueError,
        "gce_loss: q = nan is outside its domain (0, 1]",
    ),
    (
        "parameter_outside",
        lambda: gce_loss(X, Y, q=0.0),
        ValueError,
        "gce_loss: q = 0 is outside its domain (0, 1]",
    ),
    (
        "parameter_tensor",
        lambda: focal_loss(X, Y, gamma=torch.tensor([2.0])),
        TypeError,
        "focal_loss: gamma must be a number, not Tensor; pass gamma.item()",
    ),
    (
        "parameter_text",
        lambda: focal_loss(X, Y, gamma="2"),
        TypeError,
        "focal_loss: gamma must be a number, not str",
    ),
    (
        "parameter_fraction",
        lambda: taylor_ce_loss(X, Y, t=2.5),
        ValueError,
        "taylor_ce_loss: t = 2.5 must be a whole number",
    ),
    (
        "input_missing",
        lambda: balanced_softmax_loss(X, Y, counts=None),
        ValueError,
        "balanced_softmax_loss: counts is required",
    ),
    (
        "input_shape",
        lambda: cross_entropy_loss(X, Y, weight=torch.ones(4)),
        ValueError,
        "cross_entropy_loss: weight has shape [4], but logits of shape [4, 5] need [5], one "
        "number per class",
    ),
    (
        "input_type",
        lambda: cross_entropy_loss(X, Y, weight=[1.0] * 5),
        TypeError,
        "cross_entropy_loss: weight must be a tensor, not list; pass torch.as_tensor(weight)",
    ),
    (
        "input_domain",
        lambda: cross_entropy_loss(X, Y, weight=-torch.ones(5)),
        ValueError,
        "cross_entropy_loss: weight has values outside its domain [0, inf): -1",
    ),
    (
        "input_grad",
        lambda: cross_entropy_loss(X, Y, weight=torch.ones(5).requires_grad_()),
        ValueError,
        "cross_entropy_loss: no gradient is computed for weight; pass weight.detach()",
    ),
    (
        "inplace_leaf",
        lambda: gce_loss(X.clone().requires_grad_(), Y, inplace_grad=True),
        ValueError,
        "gce_loss: inplace_grad would overwrite logits that are a leaf of autograd",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_refused(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == text


def test_triton_needs_the_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossgen.runtime import choice

    monkeypatch.setattr(choice, "interpreting", lambda: False)
    with pytest.raises(ValueError, match="backend 'triton' needs CUDA tensors") as caught:
        gce_loss(X, Y, backend="triton")
    assert str(caught.value) == (
        "gce_loss: backend 'triton' needs CUDA tensors, but logits are on cpu "
        "(set TRITON_INTERPRET=1 before importing triton to debug on CPU)"
    )
