"""The truth of the certificate: its derivatives against central differences of another evaluator,
which shares no rule with it."""

from __future__ import annotations

import mpmath as mp
import pytest

from lossgen.ir.literal import literal
from lossgen.spec.load import load_text
from lossgen.verify.reference import literal_mpmath

X = [0.3, -1.25, 2.0, 0.5]
TEACHER = [1.0, 0.5, -1.0, 0.25]
FORMULAS = (
    "-(1 - p[y])**k * logp[y]",
    "sum(p*(logp - log_softmax(teacher)))",
    "max(x) + max(p)",
    "second_max(x, over=others)**2 - x[y]*max(x)",
    "logsumexp(x, over=others) + softmax(x, over=others)[y]*x[y] + sum(softmax(x, over=others)**2)",
    "norm(p - softmax(teacher)) + mean(x**2)",
    "sum(w*exp(x/3) + sqrt(1 + x**2) + log1p(x**2) + expm1(x/2))",
    "sum(tanh(x)*sigmoid(x) + softplus(x) - log_sigmoid(2*x) + erf(x))",
    "sum(relu(x - x[y])**k + abs(x + 0.1) + sign(x)*x + clip(x, -1, 1)*x)",
    "sum(minimum(x, teacher) * maximum(x, teacher/2)) + sum(where(x > 0.4, x**2, -x))",
    "sum(softcap(x, 1.5 + p[y])) + mercator(p[y], 3)",
    "sum(stop_gradient(p)*x) + argmax(x)*x[y] + sum(index*onehot*x) + V*pi*r*x[y]",
    "sum(k**x + (2 + tanh(x))**x)",
)


@pytest.mark.parametrize("formula", FORMULAS)
def test_derivatives_are_those_of_the_formula(formula: str) -> None:
    spec = load_text(
        "name: t\nparameters: {k: {default: 2, domain: '[0, 4]'}}\n"
        "inputs:\n  teacher: {kind: class, differentiable: true}\n  w: {kind: vocab}\n"
        "  r: {kind: row}\nlet: {unused: sum(teacher*w)*r*k}\n"
        f"transform: {formula} + 0*unused\n"
    )
    given = {"k": 1.75, "teacher": TEACHER, "w": [0.5, 1.0, 0.25, 2.0], "r": 0.75}
    with mp.workdps(100):
        truth = literal(spec, X, 1, given)
        inputs = {n: v for n, v in given.items() if n != "k"}
        for name, by in (("x", "logits"), ("teacher", "teacher")):
            value, slopes = literal_mpmath(spec, X, 1, {"k": 1.75}, inputs, by=by)
            assert abs(value - truth.results[0]) < 1e-80
            for found, expected in zip(truth.gradients[name], slopes, strict=True):
                assert abs(found - expected) < 1e-25, (name, formula)


def test_rules_where_the_formula_is_silent() -> None:
    """0·∞ is 0 in the chain rule too; ties go to the first; a norm of zeros has derivative 0."""
    spec = load_text("name: t\ntransform: norm(x - x[y]) + relu(x[y] - x[y])**0.5 + max(x)\n")
    truth = literal(spec, [1.0, 1.0, 1.0], 2, {})
    assert [float(v) for v in truth.gradients["x"]] == [1.0, 0.0, 0.0]
    spec = load_text("name: t\ninputs: {c: {kind: class}}\ntransform: sum(c*log(p)) + x[y]\n")
    truth = literal(spec, [1e6, 0.0], 0, {"c": [1.0, 0.0]})
    assert truth.real
