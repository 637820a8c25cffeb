"""Functions of 1 and something small, and logarithms of sums of which a term overflows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.ir.rows import Row
from lossgen.passes.truth import true_row
from lossgen.spec.load import load_text

#: logits and target: confident, hopeless, in between, and where tanh is -1 in floating point
ROWS = [
    ((40.13, -0.3, 1.7), 0),
    ((22.6, 0.4, -1.0), 0),
    ((91.25, 0.47, -2.85), 2),
    ((0.3, -1.0, 0.8), 1),
    ((-60.0, -61.0, 0.5), 0),
    ((1.0012, 1.0003), 0),
]
#: formula → its arithmetic
FORMULAS = {
    # acosh lost √(2u) of 1 + u: 7e-9 in float64
    "acosh(1 + u)": "float64",
    "acosh(1 + (1 - p[y])**2)": "float32",
    "acosh(2 - p[y])": "float32",
    # a digit of each was lost in float32
    "sqrt(2 - p[y]) - 1": "float32",
    "3 - 3/(1 + (1 - p[y])**2)": "float32",
    "cosh(1 - p[y]) - 1": "float32",
    "1 - cos(logp[y])": "float32",
    "p[y]*(exp((1 - p[y])**2) - 1)": "float32",
    "1 - tanh(-logp[y])": "float32",
    "1 - erf(x[y])": "float32",
    # u is infinite at 91 in float32
    "log(1 + 0.5*u)": "float32",
    "log(2 + 0.5*u)": "float32",
    "log1p(0.5*u**2)": "float32",
    "sum(log(1 + 0.5*exp(x - x[y])))": "float32",
    "log(3 + sum(exp(x))) + 0*p[y]": "float32",
    # 1/√(1 + e) was 0 at e = -1, and the angle 0 with it
    "acos(tanh(x[y]))": "float32",
    "acos(-p[y])": "float32",
    # q - p, of which a flat row of two classes left no digits
    "asin(1 - 2*p[y])": "float32",
    "p[y]*(1 - p[y])": "float32",
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_small_arguments_and_large_ones(formula: str, tmp_path: Path) -> None:
    text = f"name: near\ntransform: '{formula}'\n"
    (tmp_path / "near.yaml").write_text(text)
    spec, module = load_text(text), lossgen.load(tmp_path / "near.yaml")
    arithmetic = compile_loss(spec).arithmetic
    assert arithmetic == FORMULAS[formula]
    for logits, y in ROWS:
        x = torch.tensor([logits], requires_grad=True)
        truth = true_row(spec, Row(tuple(x[0].tolist()), y, {}, {}, {}))
        assert truth is not None
        (value,), slopes = truth.results, truth.gradients["x"]
        if arithmetic == "float64" and value > 80:
            continue  # near its end
        spread = 2.0**-23 * (8 + max(logits) - min(logits))
        for backend in ("torch", "c", "triton"):
            loss = module.near_loss(x, torch.tensor([y]), backend=backend)
            (grad,) = torch.autograd.grad(loss, x)
            assert abs(loss.item() - value) <= 2 * spread * abs(value) + 1e-36, (backend, logits)
            size = max(map(abs, slopes))
            for ours, exact in zip(grad[0].tolist(), slopes, strict=True):
                assert abs(ours - exact) <= 4 * spread * size + 1e-33, (backend, logits)


@pytest.mark.parametrize(
    ("formula", "at", "value", "slope"),
    [
        # as of a root: what √(1 - e²) adds to the slope is nothing at ±1; arcsin had NaN there
        ("acos(x[y])", -1.0, math.pi, 0.0),
        ("acos(x[y])", 1.0, 0.0, 0.0),
        ("asin(x[y])", -1.0, -math.pi / 2, 1.0),
        ("asin(x[y])", 1.0, math.pi / 2, 1.0),
        ("acosh(x[y])", 1.0, 0.0, 0.0),
    ],
)
def test_angles_at_their_ends(
    formula: str, at: float, value: float, slope: float, tmp_path: Path
) -> None:
    (tmp_path / "angle.yaml").write_text(f"name: angle\ntransform: '{formula}'\n")
    module = lossgen.load(tmp_path / "angle.yaml")
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[at, 0.5]], requires_grad=True)
        loss = module.angle_loss(x, torch.tensor([0]), backend=backend)
        (grad,) = torch.autograd.grad(loss, x)
        assert loss.item() == pytest.approx(value)
        assert grad[0].tolist() == [slope, 0.0]


def test_acosh_above_one_is_itself() -> None:
    """Only what is 1 and something is written otherwise."""
    stable = compile_loss(load_text("name: t\ntransform: acosh(3 + logp[y]**2)\n")).variants[0]
    assert "acosh" in str(stable.stable.loss)
