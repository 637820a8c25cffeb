"""Parameters under torch.compile: one graph for all values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lossgen.losses import cross_entropy_loss, gce_loss

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 7, generator=G)
Y = torch.randint(7, (6,), generator=G)


def argument(x: Tensor, y: Tensor, q: float) -> Tensor:
    return gce_loss(2 * x, y, q=q)


def several(x: Tensor, y: Tensor, q: float) -> Tensor:
    return cross_entropy_loss(x, y, temperature=q, label_smoothing=q / 2, reduction="none").sum()


@pytest.mark.parametrize("function", [argument, several])
@pytest.mark.parametrize("dynamic", [None, True])
def test_one_graph_for_all_values(function: Callable[..., Tensor], dynamic: bool | None) -> None:
    """There was one for each, and an error at the ninth."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=dynamic)
    for k in range(4):  # the second of them is compiled for all
        eager, traced = X.clone().requires_grad_(), X.clone().requires_grad_()
        q = 0.3 + 0.05 * k
        a, b = function(eager, Y, q), compiled(traced, Y, q)
        torch.testing.assert_close(a, b)
        a.backward()
        b.backward()
        torch.testing.assert_close(eager.grad, traced.grad)
    assert counter.frame_count <= 2  # the first value is taken for a constant


def test_a_wrong_value_is_refused_in_a_compiled_call() -> None:
    torch.compiler.reset()
    compiled = torch.compile(argument, backend="aot_eager")
    for q in (0.5, 0.6, 0.7):
        compiled(X, Y, q)
    with pytest.raises(Exception, match="outside its domain"):
        compiled(X, Y, 1.5)
