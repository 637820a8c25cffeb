"""The axis of the classes: the last, or where ``class_dim`` says, as in torch's [N, C, H, W]."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossgen.losses import (
    CrossEntropyLoss,
    cross_entropy_loss,
    entropy_min_loss,
    gce_loss,
    reverse_kl_loss,
    token_stats,
)

G = torch.Generator().manual_seed(0)
W = torch.rand(5, generator=G)
OPTIONS = {"weight": W, "label_smoothing": 0.1}


def images(*shape: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(shape, generator=G)
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]), generator=G)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 5, 5, 5), (5, 5, 5), (2, 5, 3), (3, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torchs_layout(shape: tuple[int, ...], reduction: str, layout: torch.memory_format) -> None:
    """C = H = W was another number than F.cross_entropy, without a word."""
    if layout is torch.channels_last and len(shape) != 4:
        pytest.skip("of images only")
    x, y = images(*shape)
    x = x.contiguous(memory_format=layout)
    y.view(-1)[1] = -100
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a = cross_entropy_loss(ours, y, reduction=reduction, class_dim=1, **OPTIONS)
    b = F.cross_entropy(theirs, y, reduction=reduction, **OPTIONS)
    torch.testing.assert_close(a, b)
    a.sum().backward()
    b.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert ours.grad.stride() == x.stride()


def test_module_and_negative_axes() -> None:
    x, y = images(2, 5, 3, 4)
    expected = F.cross_entropy(x, y, W)
    torch.testing.assert_close(CrossEntropyLoss(W, class_dim=1)(x, y), expected)
    torch.testing.assert_close(cross_entropy_loss(x, y, weight=W, class_dim=-3), expected)
    last = x.movedim(1, -1)
    for axis in (None, -1, 3):
        torch.testing.assert_close(cross_entropy_loss(last, y, weight=W, class_dim=axis), expected)
    first = x.movedim(1, 0)
    torch.testing.assert_close(cross_entropy_loss(first, y, weight=W, class_dim=0), expected)


def test_class_inputs_and_outputs_share_the_axis() -> None:
    x, y = images(2, 5, 3, 4)
    teacher = torch.randn(x.shape, generator=G)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    options = {"backend": "torch"}
    reverse_kl_loss(a, teacher, class_dim=1, **options).backward()
    reverse_kl_loss(b.movedim(1, -1), teacher.movedim(1, -1), **options).backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(
        entropy_min_loss(x, class_dim=1, **options), entropy_min_loss(x.movedim(1, -1), **options)
    )
    for found, expected in zip(
        token_stats(x, y, class_dim=1, **options),
        token_stats(x.movedim(1, -1), y, **options),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_inplace_gradient() -> None:
    x, y = images(2, 5, 5, 5)
    grads = []
    for inplace in (False, True):
        leaf = x.clone().requires_grad_()
        gce_loss(leaf * 1.0, y, class_dim=1, inplace_grad=inplace).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


BOTH = (
    "gce_loss: logits of shape [2, 5, 5, 5] with rows of shape [2, 5, 5] can hold their classes on "
    "the last axis or, as torch's losses read them, on axis 1; pass class_dim=-1 or class_dim=1"
)
TORCHS = (
    "gce_loss: target has shape [2, 3, 4], but logits of shape [2, 5, 3, 4] need [2, 5, 3]; if "
    "axis 1 holds the classes, as in torch, pass class_dim=1"
)


@pytest.mark.parametrize(
    ("shape", "options", "kind", "text"),
    [
        ((2, 5, 5, 5), {}, ValueError, BOTH),
        ((2, 5, 3, 4), {}, ValueError, TORCHS),
        (
            (2, 5, 3, 4),
            {"class_dim": 2},
            ValueError,
            "gce_loss: target has shape [2, 3, 4], but logits of shape [2, 5, 3, 4] need [2, 5, 4]",
        ),
        (
            (2, 5, 3),
            {"class_dim": 3},
            ValueError,
            "gce_loss: class_dim = 3 is no axis of logits with 3 axes",
        ),
        (
            (2, 5),
            {"class_dim": 1.0},
            TypeError,
            "gce_loss: class_dim must be an integer or None, not float",
        ),
    ],
)
def test_refused(
    shape: tuple[int, ...], options: dict[str, object], kind: type[Exception], text: str
) -> None:
    x, y = images(*shape)
    with pytest.raises(kind) as caught:
        gce_loss(x, y, **options)
    assert str(caught.value) == text


def test_one_class_on_either_axis_is_no_question() -> None:
    assert gce_loss(torch.zeros(3, 1, 1), torch.zeros(3, 1, dtype=torch.int64)) == 0


def test_compiled() -> None:
    x, y = images(2, 5, 3, 4)
    torch.compiler.reset()
    compiled = torch.compile(cross_entropy_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, class_dim=1), F.cross_entropy(x, y))
    with pytest.raises(Exception, match="pass class_dim=1"):
        compiled(x, y)
