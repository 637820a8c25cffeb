"""The two literal references: against each other, torch and closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor

from lossgen import paths
from lossgen.spec.load import load_spec, load_text
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import Case
from lossgen.verify.reference import Arguments, literal, literal_mpmath

INF = math.inf


def spec_of(formula: str, more: str = "") -> LossSpec:
    return load_text(f"name: probe\ntransform: {formula!r}\n{more}", "probe.yaml")


def evaluate(
    spec: LossSpec, row: list[float], target: int, parameters: Mapping[str, float] | None = None
) -> tuple[float, Tensor]:
    x = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([target]) if spec.has_target else None
    loss = literal(spec, Arguments(x, labels, parameters or {}, {}))
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return float(loss), grad[0]


def _of_logits_alone() -> list[str]:
    """Losses of one row; test_streams does the same for several."""
    specs = [load_spec(paths.require_spec(n)) for n in paths.spec_names()]
    plain = [s for s in specs if not s.outputs]
    return [s.name for s in plain if all(i.kind != "class" for i in s.inputs.values())]


@pytest.mark.parametrize("name", _of_logits_alone())
def test_torch_and_mpmath_agree(name: str) -> None:
    spec = load_spec(paths.require_spec(name))
    case = Case(spec, rows=2, classes=5, dtype=torch.float64, variant=-1)
    given = case.arguments()
    x = given.logits.clone().requires_grad_()
    loss = literal(spec, Arguments(x, given.target, given.parameters, given.inputs))
    (grad,) = torch.autograd.grad(loss.sum(), x)
    for i in range(2):
        inputs = {
            n: [float(e) for e in v] if spec.inputs[n].kind == "vocab" else float(v[i])
            for n, v in given.inputs.items()
        }
        target = None if given.target is None else int(given.target[i])
        with mp.workdps(90):
            row = [float(v) for v in given.logits[i]]
            value, slopes = literal_mpmath(spec, row, target, given.parameters, inputs)
        np.testing.assert_allclose(float(loss[i]), float(value), rtol=1e-11, atol=1e-13)
        expected = [float(s) for s in slopes]
        np.testing.assert_allclose(grad[i].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_cross_entropy_is_torch_s() -> None:
    row = [0.3, -1.2, 4.0, -INF, 0.7]
    value, grad = evaluate(spec_of("-log(p[y])"), row, 1)
    x = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(x, torch.tensor([1]))
    expected.backward()
    assert value == pytest.approx(float(expected), rel=1e-14)
    torch.testing.assert_close(grad, x.grad[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("at", [19.9, 20.1, 25.0, -25.0])
def test_softplus_is_not_torch_s_which_is_the_identity_above_20(at: float) -> None:
    value, grad = evaluate(spec_of("softplus(x[y])"), [at, 0.0], 0)
    assert value == pytest.approx(max(at, 0) + math.log1p(math.exp(-abs(at))), rel=1e-15)
    slope = 1.0 / (1.0 + math.exp(-at))
    assert float(grad[0]) == pytest.approx(slope, rel=1e-15)
    assert float(grad[0]) != 1.0


def test_a_masked_class_contributes_nothing() -> None:
    value, grad = evaluate(spec_of("-sum(p * logp)"), [1.0, -INF, 1.0], 0)
    assert value == pytest.approx(math.log(2.0))
    assert not grad.isnan().any()


def test_the_maximum_s_subgradient_goes_to_the_first_index() -> None:
    _, grad = evaluate(spec_of("max(x, over=others) - x[y]"), [2.0, 5.0, 5.0, 9.0], 3)
    assert grad.tolist() == [0.0, 1.0, 0.0, -1.0]


def test_stop_gradient_is_a_constant_for_both() -> None:
    spec = spec_of("-stop_gradient(p[y]) * logp[y]")
    row = [0.5, -0.25, 1.5]
    value, grad = evaluate(spec, row, 0)
    p = torch.tensor(row, dtype=torch.float64).softmax(0)
    assert value == pytest.approx(float(-p[0] * p[0].log()))
    torch.testing.assert_close(grad, p[0] * (p - torch.tensor([1.0, 0.0, 0.0])))
    with mp.workdps(90):
        _, slopes = literal_mpmath(spec, row, 0, {}, {})
    np.testing.assert_allclose(grad.numpy(), [float(s) for s in slopes], rtol=1e-12)


def test_over_others_leaves_the_target_out() -> None:
    row = [1.0, 2.0, -INF, 0.5]
    value, _ = evaluate(spec_of("logsumexp(x, over=others) - x[y]"), row, 1)
    assert value == pytest.approx(math.log(math.exp(1.0) + math.exp(0.5)) - 2.0)
    value, _ = evaluate(spec_of("norm(p, over=others) + mean(p, over=others)"), [0.0, 0.0], 1)
    assert value == pytest.approx(1.0)


def test_no_digit_is_lost_where_float64_loses_all() -> None:
    with mp.workdps(90):
        value, slopes = literal_mpmath(spec_of("1 - p[y]"), [60.0, 0.0], 0, {}, {})
        assert abs(value * mp.exp(60) - 1) < mp.mpf(10) ** -20
        assert abs(slopes[0] * mp.exp(60) + 1) < mp.mpf(10) ** -20
