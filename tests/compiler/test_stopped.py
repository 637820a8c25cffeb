"""A softmax whose exponent holds another one that gradients leave out: margins of what it says now.

What the second sweep reads of the first was not saved where nothing else of the gradient read it,
and a margin of the target alone kept names that no kernel has: KeyError, told as LG900.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import lossgen
from lossgen.compiler import compile_loss
from lossgen.passes.inaccurate import Inaccurate
from lossgen.spec.load import load_text
from lossgen.verify.interpreter import install

Y = torch.tensor([0, 2, 1])


def _at(values: Tensor) -> Tensor:
    return values.gather(1, Y[:, None])


def _nll(logits: Tensor) -> Tensor:
    return -_at(logits.log_softmax(1))[:, 0]


#: formula → the same in torch
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "-log_softmax(x + stop_gradient(p))[y]": lambda x: _nll(x + x.softmax(1).detach()),
    "-log_softmax(x + log(stop_gradient(p)))[y]": lambda x: _nll(x + x.log_softmax(1).detach()),
    "logsumexp(x + stop_gradient(logp)) - x[y]": lambda x: (
        (x + x.log_softmax(1).detach()).logsumexp(1) - _at(x)[:, 0]
    ),
    "-log_softmax(x - m*(1 - stop_gradient(p[y]))*onehot)[y]": lambda x: _nll(
        x - 0.5 * (1 - _at(x.softmax(1)).detach()) * one_hot(Y, x.shape[1])
    ),
    "-log_softmax(x - m*(1 - p[y])*onehot)[y]": lambda x: _nll(
        x - 0.5 * (1 - _at(x.softmax(1))) * one_hot(Y, x.shape[1])
    ),
    "-log_softmax(x + relu(stop_gradient(logp) - stop_gradient(logp[y])))[y]": lambda x: _nll(
        x + (x.log_softmax(1) - _at(x.log_softmax(1))).detach().relu()
    ),
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_an_exponent_that_holds_a_stopped_softmax(formula: str) -> None:
    install()
    loss = lossgen.loss(formula, **({"m": 0.5} if "m*" in formula else {}))
    drawn = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 3
    for x in (drawn, drawn + torch.tensor([0.0, 0.0, 40.0, 0.0, 0.0]), drawn * 1e-3):
        exact = x.double().requires_grad_()
        value = FORMULAS[formula](exact)
        value.sum().backward()
        for backend in ("torch", "c", "triton"):
            given = x.clone().requires_grad_()
            found = loss(given, Y, reduction="none", backend=backend)
            found.sum().backward()
            torch.testing.assert_close(found.double(), value.detach(), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(given.grad.double(), exact.grad, rtol=1e-6, atol=1e-6)


def test_a_difference_of_exponents_that_hold_an_earlier_softmax() -> None:
    """It kept the stopped symbol, or p[y] as it was before the stable rewriting: LG900, KeyError.
    Its masked classes are ∞ - ∞, which is refused."""
    formula = "sum(softmax(x*p[y])*(log_softmax(x*p[y]) - log_softmax(x - stop_gradient(p))))"
    with pytest.raises(Inaccurate, match="-inf"):
        lossgen.loss(formula)


def test_a_softmax_that_only_scales_another_is_not_clamped() -> None:
    """Its z is not among what the gradient has: KeyError, LG900."""
    formula = (
        "stop_gradient(sum(log_softmax(x*(1 + stop_gradient(softmax(2*x)))), over=others))"
        "*mean(arccosh(1 - logp)) + gamma*logp[y] - (1 - p[y])**gamma*sum(log(1 - p))"
    )
    head = "name: t\nparameters: {gamma: {default: 1.5, domain: '[0.5, 4]'}}\n"
    compile_loss(load_text(f"{head}transform: '{formula}'\n"), draft=False)


def test_no_softmax_has_a_largest_class() -> None:
    """Where there is none, the pivot was to be its largest class: KeyError, LG900."""
    formula = (
        "exp(mean(((x - mean(x))/(sqrt(mean((x - mean(x))**2)) + 1e-5)"
        " - (v - mean(v))/sqrt(var(v) + 0.1))**2))"
    )
    spec = load_text(f"name: t\ninputs: {{v: {{kind: class}}}}\ntransform: '{formula}'\n")
    with pytest.raises(Inaccurate):
        compile_loss(spec)
