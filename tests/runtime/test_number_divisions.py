"""What V and the parameters alone are divided by may be 0: the same numbers on every backend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lossgen

BACKENDS = ("torch", "c", "triton")


def _loss(folder: Path, name: str, text: str):
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}\n", encoding="utf-8")
    module = lossgen.load(path)
    return getattr(module, f"{name}_loss"), getattr(module, f"linear_{name}_loss")


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_class_in_a_formula_over_the_others(tmp_path: Path, backend: str) -> None:
    """1/(V - 1) of Python's numbers was a ZeroDivisionError in torch, and ∞ in C and Triton."""
    loss, _ = _loss(tmp_path, "lone", "transform: x[y]**2*exp(-1/(V - 1)) - logp[y]")
    x = torch.tensor([[3.0]], requires_grad=True)
    value = loss(x, torch.tensor([0]), backend=backend)
    (slope,) = torch.autograd.grad(value, x)
    assert (value.item(), slope.item()) == (0.0, 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parameter_that_is_0(tmp_path: Path, backend: str) -> None:
    """So was 1/tau at the end of tau's domain."""
    text = """parameters: {tau: {default: 1, domain: "[0, 4]"}}
transform: -(1 - exp(-1/tau))*logp[y]"""
    loss, _ = _loss(tmp_path, "cold", text)
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    value = loss(x, torch.tensor([0]), tau=0.0, backend=backend)
    (slope,) = torch.autograd.grad(value, x)
    exact = torch.nn.functional.cross_entropy(x, torch.tensor([0]))
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(slope, torch.autograd.grad(exact, x)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mean_over_no_other_class_is_refused(tmp_path: Path, backend: str) -> None:
    """A mean over nothing is no number: V = 1 is an error of the call, which the docstrings say."""
    loss, linear = _loss(tmp_path, "gap", "transform: mean(x, over=others) - x[y]")
    y = torch.tensor([0])
    message = "logits have 1 classes; at least 2 are needed"
    with pytest.raises(ValueError, match=f"^gap_loss: {message}"):
        loss(torch.ones(1, 1), y, backend=backend)
    with pytest.raises(ValueError, match=f"^linear_gap_loss: {message}"):
        linear(torch.ones(1, 3), torch.ones(1, 3), y, backend=backend)
    assert "logits: [*, V]" in loss.__doc__
    for function in (loss, linear):
        assert "V at least 2." in " ".join(function.__doc__.split())
