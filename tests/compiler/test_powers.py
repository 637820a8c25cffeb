"""Powers whose exponent is a parameter, at base 0: finite where the formula is, as in torch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from sympy import exp

import lossgen
from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.emit.render import render_module
from lossgen.runtime import device
from lossgen.spec.load import load_spec, load_text
from lossgen.verify.reference import Arguments
from lossgen.verify.runner import Runner, gradients

SPEC = """name: powers
title: T
reference: R
accuracy: {{ulp: 10000, reason: test}}
parameters:
  k: {{default: 2, domain: "[0, 4]", doc: d}}
transform: '{formula}'
"""
#: confident in y and in another class, all tied, zeros on the edge of the relu, far apart
ROWS = [
    ((30.0, -1.0, 2.0, 0.5), 0),
    ((9.0, 0.0, -3.0, 1.0), 2),
    ((1.0, 1.0, 1.0, 1.0), 1),
    ((0.0, 0.0, 1.0, 0.0), 1),
    ((200.0, 0.0, 0.0, 1.0), 0),
]
EXPONENTS = (2.0, 1.0, 0.0, 3.0, 0.5)


@pytest.mark.parametrize(
    "formula",
    [
        # k·relu^k/relu was 0/0 on every confident row; s^k/s where s underflows
        "sum(relu(1 + x - x[y])**k) + relu(logsumexp(x, over=others) - x[y])**k + (-logp[y])**k",
        # 0/0 on ties; the last is a fixed exponent below 1
        "norm(x - x[y])**k + max(relu(x - 1))**k + k*sum(relu(x - x[y])**0.3)",
        # s^k·(1 + c/s), the quotient inside of a sum: a confident row was refused as NaN
        "-(1 - p[y] + max(p, over=others))**k*logp[y]",
    ],
)
def test_powers_at_zero(formula: str, tmp_path: Path) -> None:
    path = tmp_path / "powers.yaml"
    path.write_text(text := SPEC.format(formula=formula))
    spec, module = load_text(text), lossgen.load(path)
    x = torch.tensor([row for row, _ in ROWS])
    y = torch.tensor([label for _, label in ROWS])
    for k in EXPONENTS:
        exact, slopes = gradients(spec, Arguments(x.double(), y, {"k": k}, {}))
        for backend in ("c", "torch", "triton"):
            loss, grads = Runner(module, spec, backend).slopes(x, y, {"k": k})
            what = f"k = {k:g} on {backend}"
            torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-6, equal_nan=True)
            # torch has NaN where a square root or a relu meets an infinite slope: 0 is better
            known = slopes["logits"].isfinite()
            found = grads["logits"].double()
            torch.testing.assert_close(found[known], slopes["logits"][known], rtol=1e-4, atol=1e-5)
            if k >= 1:
                assert bool(found.isfinite().all()), what


def test_a_slope_that_float32_does_not_hold_times_0() -> None:
    """0·∞ of k·(1 - p)^(k - 1) of the class that dominates: NaN at k = 0, in float32."""
    spec = load_spec(paths.require_spec("nfl"))
    assert "# arithmetic: float64" not in render_module(compile_loss(spec))


@pytest.mark.parametrize(
    "formula",
    [
        "-log_softmax(x/(norm(x) + 1))[y]",  # was refused: -0 instead of -0.857 at y
        "-log_softmax(x/sqrt(1 + norm(x)))[y]",
        "x[y]/(1 + norm(x)) - max(x/(1 + norm(x)), over=others)",
        "sum(x*p)/(norm(x) + 1) - logp[y]",
    ],
)
def test_a_root_over_itself_is_one(formula: str, tmp_path: Path) -> None:
    """Over one denominator, what has nothing to do with the slope of a norm was 0/0 where the norm
    is 0; that slope is 0, as in torch."""
    path = tmp_path / "roots.yaml"
    path.write_text(text := f'name: roots\ntransform: "{formula}"\n')
    spec, module = load_text(text), lossgen.load(path)
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e-30, 0.0, -1e-30, 0.0], [0.0, 2.0, 0.0, -1.0]])
    y = torch.tensor([1, 2, 0])
    exact, slopes = gradients(spec, Arguments(x.double(), y, {}, {}))
    for backend in ("c", "torch", "triton"):
        loss, grads = Runner(module, spec, backend).slopes(x, y, {})
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grads["logits"].double(), slopes["logits"], rtol=1e-5, atol=1e-6)


def test_powers_of_one_probability_are_one() -> None:
    """p^2·p^-t/(2·p^t - t·p^t) was 0·∞/0 at a masked class of the bi-tempered loss, and refused."""
    compiled = compile_loss(
        load_text(
            'name: t\nparameters: {t: {default: 0.8, domain: "[0, 1)"}}\n'
            "transform: (1 - p[y]**(1 - t))/(1 - t) - (1 - sum(p**(2 - t)))/(2 - t)\n"
        )
    )
    stable = compiled.variants[0].stable
    assert "one_power" in stable.rules
    (gradient,) = stable.gradients
    logp = stable.forms[0].logp
    bases = {basis for _, basis in gradient.terms}
    t = stable.vocabulary.parameters["t"]
    assert any(exp(logp * (2 - t)).equals(basis) for basis in bases)


@triton.jit
def _power(a, b, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    cols = tl.arange(0, N)
    tl.store(out + cols, device.power(tl.load(a + cols), tl.load(b + cols)))


def test_triton_has_the_sign_of_whole_powers() -> None:
    a = torch.tensor([-2.0, -2.0, -2.0, -0.0, 0.0, 0.0, 0.0, 1.0])
    b = torch.tensor([3.0, 2.0, 0.5, 2.0, 0.0, -0.5, 0.5, math.inf])
    out = torch.empty(8)
    _power[(1,)](a, b, out, 8)
    torch.testing.assert_close(out, torch.pow(a, b), equal_nan=True)


def test_even_powers_under_roots(tmp_path: Path) -> None:
    """SymPy makes (a²)^(3/2) an Abs(a)³ of its own, which no stage knew: LG900 of a root or a power
    of a square, and of hypot(a, a)."""
    path = tmp_path / "powers.yaml"
    text = "pow(sum(tanh(logp))**2, 1.5) + sum(((x - x[y])**2)**1.5) + sqrt(2*x[y]**2 + 2*x[y]**2)"
    path.write_text(f"name: powers\ntransform: {text}\n")
    module = lossgen.load(path)
    x = torch.tensor([row for row, _ in ROWS[1:4]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([label for _, label in ROWS[1:4]])
    own = x.gather(1, y[:, None])
    exact = x.log_softmax(1).tanh().sum(1).abs() ** 3 + (x - own).abs().pow(3).sum(1)
    exact = exact + 2 * own.abs()[:, 0]
    found = module.powers_loss(x, y, reduction="none")
    torch.testing.assert_close(found, exact)
    for a, b in zip(*(torch.autograd.grad(v.sum(), x) for v in (found, exact)), strict=True):
        torch.testing.assert_close(a, b)


def test_squares_that_become_roots_later(tmp_path: Path) -> None:
    """SymPy factors √(x² + x²/t²) into Abs(x) where it is tidied, and in an exponent: LG900."""
    path = tmp_path / "roots.yaml"
    text = "minimum(mean(hypot(x, x/t)), 3 - p[y]) - log_softmax(hypot(x, x/t))[y]"
    text += " + sum(acosh(1 + x**2))"
    head = 'name: roots\nparameters: {t: {default: 2, domain: "[0.5, 4]"}}\n'
    finite = "accuracy: {ulp: 10000, reason: test}\n"
    path.write_text(f"{head}transform: {text}\n{finite}")
    module = lossgen.load(path)
    x = torch.tensor([row for row, _ in ROWS[1:4]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([label for _, label in ROWS[1:4]])
    size = x.abs() * 1.25**0.5
    exact = (3 - x.softmax(1)).gather(1, y[:, None])[:, 0].minimum(size.mean(1))
    exact = exact - size.log_softmax(1).gather(1, y[:, None])[:, 0]
    exact = exact + 2 * (x.abs() / 2**0.5).asinh().sum(1)  # acosh(1 + x²) has no slope at 0
    found = module.roots_loss(x, y, reduction="none")
    torch.testing.assert_close(found, exact)
    for a, b in zip(*(torch.autograd.grad(v.sum(), x) for v in (found, exact)), strict=True):
        torch.testing.assert_close(a, b)


def test_powers_on_either_side_of_each_other(tmp_path: Path) -> None:
    """Q - Q^r was Q^r·(Q^(1-r) - 1): 0·∞ at r < 1 where Q is 0, as of one class."""
    path = tmp_path / "sides.yaml"
    path.write_text(
        'name: sides\nparameters: {r: {default: 1.05, domain: "(0, 2]"}}\n'
        "transform: 1 - p[y] - (1 - p[y])**r\n"
    )
    module = lossgen.load(path)
    for row in ([2.8], [95.0, 0.0], [3.0, 1.0]):
        for r in (0.05, 0.67, 1.0, 1.5):
            x = torch.tensor([row], requires_grad=True)
            q = 1 - x.detach().double().softmax(1)[:, 0]
            for backend in ("c", "torch"):
                loss = module.sides_loss(x, torch.tensor([0]), r=r, backend=backend)
                assert bool(torch.autograd.grad(loss, x)[0].isfinite().all())
                if row[0] < 90:
                    torch.testing.assert_close(loss.detach(), (q - q**r)[0].float())


def test_quotients_of_what_underflows(tmp_path: Path) -> None:
    """3/s·p and p²/‖p - onehot‖ were ∞·0 where p is no float32, beside terms that are in p."""
    path = tmp_path / "quotients.yaml"
    path.write_text("name: quotients\ntransform: norm(p - onehot) + logp[y] + 3*log(-logp[y])\n")
    module = lossgen.load(path)
    x = torch.tensor([[90.125, -2.875]], requires_grad=True)
    for backend in ("c", "torch"):
        loss = module.quotients_loss(x, torch.tensor([0]), backend=backend)
        found = torch.autograd.grad(loss, x)[0]
        torch.testing.assert_close(found, torch.tensor([[-3.0, 3.0]]))


def test_powers_of_what_underflows_beside_other_terms(tmp_path: Path) -> None:
    """(1 - p^q)^(r - 1)·p_j was ∞·0 from a margin of 104 on, and in torch from 95: both are as good
    as (1 - p)^r, which is a number where 1 - p is none."""
    path = tmp_path / "falls.yaml"
    path.write_text(
        "name: falls\nparameters:\n  q: {default: 0.5, domain: '(0, 1]'}\n"
        "  r: {default: 1.05, domain: '(0, 2]'}\n  lam: {default: 1, domain: '[0, 2]'}\n"
        "transform: lam*sum(relu(x - x[y])) + (1 - p[y]**q)**r\n"
    )
    module, q, r = lossgen.load(path), 0.25, 0.1
    for margin in (5.0, 60.0, 95.0, 110.0, 400.0, None):
        row = [1.0] if margin is None else [margin, 0.0, 0.0]
        exact = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        if margin is None:
            value = 0 * exact.sum()
        else:
            apart = exact[0, 0] - exact[0, 1:].logsumexp(0)
            value = (-torch.expm1(-q * torch.nn.functional.softplus(-apart))) ** r
        (slope,) = torch.autograd.grad(value, exact)
        for backend in ("c", "torch"):
            x = torch.tensor([row], requires_grad=True)
            loss = module.falls_loss(x, torch.tensor([0]), q=q, r=r, lam=0.0, backend=backend)
            found = torch.autograd.grad(loss, x)[0]
            torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=1e-8)
            torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-8)


def test_small_powers_of_probabilities_that_underflow(tmp_path: Path) -> None:
    """p^0.001 of a p of e^-3000 is 0.05, and was left out as if its class were masked."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\nparameters: {q: {default: 0.5, domain: '(0, 1]'}}\n"
        "inputs: {c: {kind: class, values: [0, 1]}}\n"
        "transform: sum(stop_gradient(softmax(x*(1 + c)))**q*logp)\n"
    )
    module = lossgen.load(path)
    row, c = [-2998.5, -3002.0, -3001.5, -2993.5], torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    exact = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    power = (0.001 * (exact.detach() * (1 + c)).log_softmax(1)).exp()
    value = (power * exact.log_softmax(1)).sum()
    (slope,) = torch.autograd.grad(value, exact)
    for backend in ("c", "torch", "triton"):
        x = torch.tensor([row], requires_grad=True)
        loss = module.small_loss(x, c, q=0.001, backend=backend)
        (found,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(loss.double(), value, rtol=2e-6, atol=0)
        torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-6)
