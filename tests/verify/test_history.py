"""One test per bug that fused losses have shipped, where no property of one call covers it.

The others are properties, which every loss has: see ``COVERED``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lossgen.losses import cross_entropy_loss, gce_loss, two_hot_loss
from lossgen.verify import interpreter
from lossgen.verify.properties import PROPERTIES
from lossgen.verify.runner import tiles

COVERED = {
    "first tile all -inf (flash-attention #1930)": "value_and_gradient",
    "softmax(x_y) = 0.999 in bfloat16 (Liger #1329)": "half_precision_target",
    "V % tile != 0 with peaked rows (verl #2899)": "accurate_when_confident",
    "grad_output per row, zeros, stride 0 (Liger #968, TransformerEngine #623)": "grad_output",
    "strided logits, sliced labels (TransformerEngine #2734, unsloth #10713)": "value_and_gradient",
    "labels at an odd address (flash-attention)": "label_types",
    "all rows ignored (Liger #177)": "ignored_rows",
    "ignore_index inside [0, V), and negative beside class weights (quack)": "ignored_rows",
    "rows * V > 2^31 (flash-attention #714)": "large_offsets",
    "logits reused by a second loss (unsloth #5002)": "shared_logits",
    "backward twice": "backward_twice",
    "autocast (Liger #1283)": "autocast",
    "logits without a gradient (Liger #931)": "no_grad_value",
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    interpreter.install()
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def test_the_covering_properties_exist() -> None:
    assert set(COVERED.values()) <= {p.name for p in PROPERTIES}


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_a_masked_class_alone_in_its_tile_keeps_its_weight(backend: str) -> None:
    """All of the target is on the last class, whose logit is -inf; it was a pivot at -1e18."""
    logits = torch.randn(2, 33)
    logits[:, -1] = -torch.inf
    with tiles(16 if backend == "triton" else None):
        loss = two_hot_loss(
            logits, value=torch.tensor([1.0, 0.0]), reduction="none", backend=backend
        )
    assert loss.isinf().tolist() == [True, False]


@pytest.mark.parametrize("classes", [17, 33, 65, 1025])
@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_a_small_softcap_does_not_revive_padding(classes: int, backend: str) -> None:
    """unsloth #10616, Liger, CCE: V is a power of two plus one and the cap is 1."""
    logits = torch.full((2, classes), -4.0)
    logits[:, 0] = 4.0
    logits.requires_grad_()
    target = torch.tensor([0, classes - 1])
    with tiles(64 if backend == "triton" else None):
        loss = cross_entropy_loss(logits, target, softcap=1.0, reduction="sum", backend=backend)
    loss.backward()
    source = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(source.tanh(), target, reduction="sum")
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad.double(), source.grad, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_sequence_first_logits(backend: str) -> None:
    """TransformerEngine #2734: logits [S, B, V] seen as [B, S, V], labels sliced by one."""
    stored = torch.randn(5, 3, 9)
    tokens = torch.randint(0, 9, (3, 6))
    logits, target = stored.transpose(0, 1), tokens[:, 1:]
    rows = gce_loss(logits, target, reduction="none", backend=backend)
    plain = gce_loss(logits.contiguous(), target.contiguous(), reduction="none", backend=backend)
    assert rows.shape == (3, 5)
    assert torch.equal(rows, plain)
    swapped = gce_loss(stored, target.T, reduction="none", backend=backend)
    assert torch.equal(swapped.T, plain)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Fresh memory holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned")
def test_compiled_equals_eager_with_an_ignored_row_between() -> None:
    """Liger #1338 (21.40 became 61.73) and #1362: bit for bit, what is ignored stays out."""

    def step(logits: Tensor, target: Tensor) -> Tensor:
        return gce_loss(logits * 2.0, target, reduction="none")

    target = torch.tensor([1, -100, 3, 0, -100])
    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        logits = torch.arange(35.0).reshape(5, 7).sin().requires_grad_()
        rows = function(logits, target)
        rows.sum().backward()
        results.append((rows.detach(), logits.grad))
    (rows, grad), (again, slopes) = results
    assert torch.equal(rows, again)
    assert torch.equal(grad, slopes)
    assert (rows[target < 0] == 0).all()
    assert (grad[target < 0] == 0).all()
    assert rows.isfinite().all()
