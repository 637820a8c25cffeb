"""Losses without a target that need a distinguished class before the largest one is known: it is
class 0, which the runtime gives as a target that no caller sees."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.spec.load import load_text
from lossgen.verify.reference import Arguments, literal

#: A softmax whose exponent a sum of the first sweep scales was refused, with its SymPy text.
STANDARDISED = """name: standardised
parameters: {T: {default: 2, domain: "[1, 8]"}, k: {default: 1, domain: "[0, 1]", off: 0}}
inputs: {t: {kind: class, differentiable: true}}
let:
  zs: (x - mean(x))/std(x)/T
  zt: (t - mean(t))/std(t)/T
transform: -sum(p*logp)
regularizer:
  - {name: kd, weight: k, value: "T**2*sum(softmax(zt)*(log_softmax(zt) - log_softmax(zs)))"}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("specs") / "standardised.yaml"
    path.write_text(STANDARDISED)
    return lossgen.load(path)


def _given() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(5, 9, generator=draw) * 3
    t = x + torch.randn(5, 9, generator=draw)
    x[0, 0] = t[0, 0] = -40.0  # class 0 is nothing there, and everything here
    x[1, 0] = t[1, 0] = 40.0
    return x, t


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
@pytest.mark.parametrize("k", [0.0, 1.0])
def test_it_is_the_formula(module: ModuleType, backend: str, k: float) -> None:
    x, t = _given()
    wide = [v.double().requires_grad_() for v in (x, t)]
    spec = load_text(STANDARDISED)
    exact = literal(spec, Arguments(wide[0], None, {"T": 3.0, "k": k}, {"t": wide[1]}))
    slopes = torch.autograd.grad(exact.sum(), wide, materialize_grads=True)
    own = [v.clone().requires_grad_() for v in (x, t)]
    loss = module.standardised_loss(*own, T=3.0, k=k, reduction="none", backend=backend)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-7)
    for found, slope in zip(torch.autograd.grad(loss.sum(), own), slopes, strict=True):
        torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-6)


def test_it_takes_no_target_anywhere(module: ModuleType) -> None:
    x, t = _given()
    expected = module.standardised_loss(x, t)
    linear = module.linear_standardised_loss(x, torch.eye(9), t)
    torch.testing.assert_close(linear, expected)
    rows = torch.func.vmap(lambda a, b: module.standardised_loss(a, b))(x[:, None], t[:, None])
    torch.testing.assert_close(rows.mean(), expected)
    slope = torch.func.grad(lambda a: module.standardised_loss(a, t))(x)
    assert slope.shape == x.shape
    assert "target" not in str(module.standardised_loss.__doc__)


def test_only_the_variants_that_need_it_have_it(module: ModuleType) -> None:
    """Entropy alone is measured from the largest class, as ever."""
    assert [v.from_first for v in module.LOSS.variants] == [False, True]
    text = str(compile_loss(load_text(STANDARDISED), draft=True).variants[-1].stable)
    assert "y is class 0 (no target)" in text
