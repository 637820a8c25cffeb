"""Softmaxes of vectors in which all classes but the target are alike: they were refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import lossgen

FORMULAS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "-sum(softmax(a*onehot)*logp)": lambda x, one, a: -((a * one).softmax(1) * _log(x)).sum(1),
    "-sum(softmax(where(onehot > 0, a, 1))*logp)": lambda x, one, a: (
        -(torch.where(one > 0, a, 1.0).softmax(1) * _log(x)).sum(1)
    ),
    "-sum(log_softmax(a*onehot)*p)": lambda x, one, a: -(_log(a * one) * x.softmax(1)).sum(1),
    "logsumexp(a*onehot)*p[y]": lambda x, one, a: (
        (a * one).logsumexp(1) * (one * x.softmax(1)).sum(1)
    ),
    "-sum(softmax(a*onehot, over=others)*logp, over=others)": lambda x, one, a: (
        -(_log(x) * (1 - one) / (1 - one).sum(1, keepdim=True).clamp_min(1)).sum(1)
    ),
}


def _log(x: Tensor) -> Tensor:
    return x.log_softmax(1)


@pytest.mark.parametrize("classes", [1, 2, 6])
@pytest.mark.parametrize("formula", FORMULAS)
def test_against_torch(formula: str, classes: int) -> None:
    loss = lossgen.loss(formula, a={"default": 3.0, "domain": "[0, 10]"})
    x = torch.randn(4, classes, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4) % classes
    one = torch.nn.functional.one_hot(y, classes).double()
    own = x.double().requires_grad_()
    true = FORMULAS[formula](own, one, 2.5)
    (slope,) = torch.autograd.grad(true.sum(), own)
    for backend in ("torch", "c", "triton"):
        leaf = x.clone().requires_grad_()
        found = loss(leaf, y, a=2.5, backend=backend, reduction="none")
        torch.testing.assert_close(found.double(), true, rtol=2e-6, atol=2e-6, msg=backend)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        torch.testing.assert_close(gradient.double(), slope, rtol=2e-6, atol=2e-6, msg=backend)
