"""Formulas as their papers write them, with exponentials of logits: what was refused, or lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.spec.load import load_text
from lossgen.verify.reference import Arguments
from lossgen.verify.runner import Runner, gradients

#: name: (formula, what it declares, its arithmetic)
FORMULAS = {
    # a comparison weighs an exponential: MV-softmax was refused for its offset
    "mv_softmax": (
        "-log(exp(x[y])/(exp(x[y]) + sum(where(x > x[y], t*exp(x), exp(x)), over=others)))",
        'parameters: {t: {default: 1.2, domain: "[1, 2]"}}',
        "float32",
    ),
    "near": (
        "-log(exp(x[y])/(exp(x[y]) + sum(where(x > x[y] - 2, exp(x), 0), over=others)))",
        "",
        "float32",
    ),
    # where(c > 0, e^x, 0) is c·e^x, which built: a class outside of c made it 0·∞
    "allowed": (
        "-log(exp(x[y])/(exp(x[y]) + sum(where(c > 0, exp(x), 0), over=others)))",
        "inputs: {c: {kind: class, values: [0, 1]}}",
        "float32",
    ),
    "part": (
        "-log(sum(where(c > 0, exp(x), 0))/sum(exp(x)))",
        "inputs: {c: {kind: class, values: [0, 1]}}",
        "float32",
    ),
    "sums": (
        "sum(where(c > 0, exp(x - x[y]), 0))",
        "inputs: {c: {kind: class, values: [0, 1]}}",
        "float32",
    ),
    # two logarithms for one: 2e-9 of a gradient that is 0, and an offset's digits
    "by_two_logarithms": (
        "log(sum((1 - c)*exp(x))) - log(sum(exp(x)))",
        "inputs: {c: {kind: class, values: [0, 1]}}",
        "float32",
    ),
    # a tie was ±1e-17, of which a sign makes a gradient
    "margin": ("abs(p[y] - max(p, over=others))", "", "float32"),
    # e^x inside of a function is no softmax's p·e^L
    "cloglog": ("-sum(log(1 - exp(-exp(x))))", "", "float64"),
    # Σ p·(index - y)² in moments is a difference of squares of indices
    "kappa": (
        "sum(p*(index - index[y])**2)/(k - 1)**2",
        'parameters: {k: {default: 5, domain: "[2, 100]"}}',
        "float32",
    ),
    # 1/(std(x) + eps) in two spellings, rounded apart: a flat row had 1e12 in its gradient
    "standardised": ("-log_softmax((x - mean(x))/(1e-7 + std(x)))[y]", "", "float64"),
    # a fourth sweep measured again what a class was measured from in the third
    "four_sweeps": (
        "sum(softmax((x - mean(x))/(std(x) + 1e-7))**2*log_softmax((t - mean(t))/(std(t) + 1e-7)))",
        "inputs: {t: {kind: class}}",
        "float64",
    ),
    "standardised_kd": (
        "-logp[y] + lam*tau**2*sum(softmax(zt/tau)*(log_softmax(zt/tau) - log_softmax(zs/tau)))",
        'inputs: {t: {kind: class}}\nparameters: {lam: {default: 9, domain: "[0, inf)"}, '
        'tau: {default: 2, domain: "(0, inf)"}}\nlet: {zs: (x - mean(x))/(1e-7 + std(x)), '
        "zt: (t - mean(t))/(1e-7 + std(t))}",
        "float64",
    ),
}
ROWS = [
    ((0.5, -1.0, 2.0, 0.25, 1.0), 0),
    ((9.0, 0.0, -3.0, 1.0, 0.0), 0),
    ((-6.0, 0.0, 4.0, 1.0, 3.0), 0),
    ((1.0, 1.5, 1.0, 0.5, 1.25), 3),
]


@pytest.mark.parametrize("name", FORMULAS)
def test_as_written(name: str, tmp_path: Path) -> None:
    formula, declared, arithmetic = FORMULAS[name]
    text = f"name: {name}\n{declared}\ntransform: '{formula}'\n"
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    spec = load_text(text)
    assert compile_loss(spec).arithmetic == arithmetic
    x, y = torch.tensor([row for row, _ in ROWS]), torch.tensor([label for _, label in ROWS])
    given = {"c": torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]).expand(len(ROWS), 5).contiguous()}
    given["t"] = x.flip(1) * 0.5
    inputs = {name: given[name] for name in spec.inputs}
    numbers = {name: entry.default for name, entry in spec.parameters.items()}
    wide = {name: values.double() for name, values in inputs.items()}
    target = y if spec.has_target else None
    exact, slopes = gradients(spec, Arguments(x.double(), target, numbers, wide))
    module = lossgen.load(path)
    for backend in ("c", "torch", "triton"):
        loss, grads = Runner(module, spec, backend).slopes(x, target, {**numbers, **inputs})
        torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=1e-6)
        right = slopes["logits"]
        torch.testing.assert_close(grads["logits"].double(), right, rtol=1e-5, atol=1e-6)


def test_a_tie_of_two_probabilities(tmp_path: Path) -> None:
    """Refused once: in float64 the two were 1e-17 apart."""
    path = tmp_path / "margin.yaml"
    path.write_text(f"name: margin\ntransform: '{FORMULAS['margin'][0]}'\n")
    x = torch.tensor([[3.146, 0.3707, 0.02186, -1.342, 3.146, -3.537, 2.997], [-0.3069] * 7])
    spec = load_text(path.read_text())
    for backend in ("c", "torch", "triton"):
        loss, grads = Runner(lossgen.load(path), spec, backend).slopes(x, torch.tensor([4, 6]), {})
        assert loss.tolist() == [0.0, 0.0]
        assert not grads["logits"].any()


def test_two_logarithms_at_an_offset(tmp_path: Path) -> None:
    """log p_0 less a half of what is nearly the entropy, at -3000: 8e-4 of it was rounding."""
    path = tmp_path / "offset.yaml"
    path.write_text(
        "name: offset\ninputs: {c: {kind: class, values: [0, 1]}}\n"
        "parameters: {tau: {default: 4, domain: '[0.5, 4]'}}\n"
        "transform: 'log(sum((1 - c)*exp(x))) - log(sum(exp(x))) "
        "- 0.5*sum(p*logaddexp(x/tau, logp))'\n"
    )
    spec = load_text(path.read_text())
    x, c = torch.tensor([[-2998.776123046875, -3000.989013671875]]), torch.tensor([[0.0, 1.0]])
    for backend in ("c", "torch", "triton"):
        loss, _ = Runner(lossgen.load(path), spec, backend).slopes(x, None, {"c": c, "tau": 4.0})
        assert loss.item() == pytest.approx(0.05719179692, rel=1e-6)


def test_a_flat_row_has_the_slope_of_its_eps(tmp_path: Path) -> None:
    """Standardised, it is x·1e7 near 0: the gradient is (p - onehot)·1e7 less its mean."""
    formula, _, _ = FORMULAS["standardised"]
    path = tmp_path / "standardised.yaml"
    path.write_text(f"name: standardised\ntransform: '{formula}'\n")
    x = torch.full((1, 5), -3.7368)
    spec = load_text(path.read_text())
    expected = torch.full((1, 5), 0.2e7).index_fill(1, torch.tensor([2]), -0.8e7)
    for backend in ("c", "torch", "triton"):
        run = Runner(lossgen.load(path), spec, backend)
        _, grads = run.slopes(x, torch.tensor([2]), {})
        torch.testing.assert_close(grads["logits"], expected)
