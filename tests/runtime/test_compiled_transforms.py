"""torch.func transforms and forward-mode levels traced by torch.compile: right, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jvp

from lossgen.losses import gce_loss, linear_gce_loss

X, Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])


def rows(x: Tensor) -> Tensor:
    return gce_loss(x, Y)


def linear(x: Tensor) -> Tensor:
    return linear_gce_loss(x, torch.eye(4), Y)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _compiled(function: Callable[[Tensor], Tensor], **options: bool) -> Callable[..., Tensor]:
    return torch.compile(function, backend="aot_eager", **options)


@pytest.mark.parametrize(
    "function",
    [lambda x: grad(rows)(x), lambda x: grad(linear)(x)],
    ids=["grad", "linear"],
)
def test_transforms_run_beside_the_graph(function: Callable[[Tensor], Tensor]) -> None:
    # Regression: "RuntimeError when making fake tensor call", with nothing to do about it.
    torch.testing.assert_close(_compiled(function)(X), function(X))


def _tangent(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(loss(forward_ad.make_dual(x, x))).tangent

    return function


@pytest.mark.parametrize(
    "function",
    [
        _tangent(rows),
        lambda x: jvp(rows, (x,), (x,))[1],
        lambda x: jacfwd(rows)(x),
        lambda x: jacfwd(grad(rows))(x),
    ],
    ids=["dual", "jvp", "jacfwd", "hessian"],
)
def test_no_tangent_is_lost(function: Callable[[Tensor], Tensor]) -> None:
    # Regression: None of dual tensors, zeros of jvp and jacfwd, without a word.
    found = function(X)
    assert found.any()
    torch.testing.assert_close(_compiled(function)(X), found)


def test_a_linear_layer_refuses_tangents() -> None:
    with pytest.raises(NotImplementedError, match="forward-mode derivatives"):
        _compiled(_tangent(linear))(X)


def test_a_graph_has_no_second_derivatives() -> None:
    """An error, and not zero."""
    x = X.clone().requires_grad_()
    slope = torch.autograd.grad(_compiled(rows)(x), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"double backward|not implemented|no autograd formula"):
        (slope.square().sum() + x.square().sum()).backward()


def test_a_graph_without_tangents_is_made_again_for_them() -> None:
    compiled = _compiled(rows)
    torch.testing.assert_close(compiled(X), rows(X))
    torch.testing.assert_close(_tangent(compiled)(X), _tangent(rows)(X))
    with forward_ad.dual_level():  # a level alone changes nothing
        torch.testing.assert_close(compiled(X), rows(X))
