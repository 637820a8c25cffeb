"""torch.func over a loss: grad, vmap, jacrev and their compositions against torch's own loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, jacrev, vjp, vmap

from lossgen.losses import CrossEntropyLoss, cross_entropy_loss, gce_loss, token_stats

G = torch.Generator().manual_seed(0)
X = torch.randn(4, 6, 7, generator=G)
Y = torch.randint(7, (4, 6), generator=G)
W = torch.rand(4, 7, generator=G)
Y[1, 2] = -100
Loss = Callable[..., Tensor]


def mean(loss: Loss) -> Loss:
    return lambda x, y, w: loss(x, y, weight=w)


def none(loss: Loss) -> Loss:
    return lambda x, y, w: loss(x, y, weight=w, reduction="none")


CALLS: dict[str, Callable[[Loss], Tensor]] = {
    "grad": lambda f: grad(mean(f))(X[0], Y[0], W[0]),
    "value": lambda f: grad_and_value(mean(f))(X[0], Y[0], W[0])[1],
    "vjp": lambda f: vjp(lambda x: none(f)(x, Y[0], W[0]), X[0])[1](torch.arange(6.0))[0],
    "vmap": lambda f: vmap(mean(f), (0, 0, None))(X, Y, W[0]),
    "vmap_weights": lambda f: vmap(mean(f))(X, Y, W),
    "vmap_labels": lambda f: vmap(mean(f), (None, 0, None))(X[0], Y, W[0]),
    "vmap_last": lambda f: vmap(none(f), (2, 1, None))(X.movedim(0, 2), Y.t(), W[0]),
    "vmap_one_row": lambda f: vmap(lambda x, y: f(x, y))(X[0], Y[0]),
    "per_sample": lambda f: vmap(grad(mean(f)), (0, 0, None))(X, Y, W[0]),
    "per_weight": lambda f: vmap(grad(mean(f)))(X, Y, W),
    "grad_of_vmap": lambda f: grad(lambda x: vmap(mean(f))(x, Y, W).sum())(X),
    "jacrev": lambda f: jacrev(none(f))(X[0], Y[0], W[0]),
    "nested": lambda f: vmap(vmap(mean(f), (0, 0, None)), (0, 0, None))(
        X.unflatten(0, (2, 2)), Y.unflatten(0, (2, 2)), W[0]
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
def test_transforms(name: str, backend: str) -> None:
    """Each was an error; a batch goes through the kernels as more rows."""

    def ours(*args: Tensor, **options: object) -> Tensor:
        return cross_entropy_loss(*args, backend=backend, **options)

    torch.testing.assert_close(CALLS[name](ours), CALLS[name](F.cross_entropy))


def test_row_inputs_and_several_results() -> None:
    rows = vmap(lambda x, y: token_stats(x, y, backend="torch")[:2])(X, Y)
    for found, expected in zip(rows, token_stats(X, Y, backend="torch"), strict=False):
        torch.testing.assert_close(found, expected)
    found = jacrev(lambda x: token_stats(x, Y[0], backend="torch").entropy.sum())(X[0])
    leaf = X[0].clone().requires_grad_()
    token_stats(leaf, Y[0], backend="torch").entropy.sum().backward()
    torch.testing.assert_close(found, leaf.grad)


def test_functional_call() -> None:
    module = CrossEntropyLoss(W[0])
    found = functional_call(module, {"weight": W[1]}, (X[0], Y[0]))
    torch.testing.assert_close(found, F.cross_entropy(X[0], Y[0], W[1]))


def test_labels_are_checked_under_a_transform() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        vmap(gce_loss)(X, Y.clamp(min=0) + 7)
    with pytest.raises(IndexError, match="out of bounds"):
        grad(lambda x: gce_loss(x, Y[0] + 7))(X[0])


def test_per_sample_gradients_of_a_model() -> None:
    model = torch.nn.Linear(5, 7)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    hidden = torch.randn(4, 6, 5, generator=G)

    def value(loss: Loss) -> Callable[..., Tensor]:
        return lambda p, h, y: loss(functional_call(model, p, (h,)), y)

    ours, theirs = (
        vmap(grad(value(f)), (None, 0, 0))(parameters, hidden, Y)
        for f in (cross_entropy_loss, F.cross_entropy)
    )
    for name in parameters:
        torch.testing.assert_close(ours[name], theirs[name])
