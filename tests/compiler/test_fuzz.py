"""Random specs: what the compiler derives equals the literal formula, or it refuses.

Three readings in mpmath of the same random formula must agree: the literal (value, and gradient
by a central difference at 1e-30), the differentiated program, and the stabilised one.
"""

from __future__ import annotations

import mpmath as mp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lossgen.errors import CompileError, SpecError
from lossgen.ir.check import check
from lossgen.ir.rows import Row, rows_mpmath
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.spec.load import load_text
from lossgen.verify.reference import literal_mpmath

SPEC = """name: random
title: T
reference: R
parameters:
  q: {{default: 0.7, domain: "(0, 2]", doc: d}}
inputs:
  w: {{kind: vocab, doc: d, domain: "(0, inf)", range: [0.2, 2]}}
transform: '{formula} + 0*q*w[y]*logp[y]'
"""
CLASS = st.sampled_from(
    [
        "p",
        "logp",
        "x",
        "w",
        "p**2",
        "p*logp",
        "w*logp",
        "p*x",
        "x**2",
        "p**q",
        "w*p",
        "logp**2",
        "p*logp**2",
        "tanh(x)",
        "softplus(x - x[y])",
        "relu(1 + x - x[y])",
        "exp(x - x[y])",
        "onehot*logp",
        "(p - onehot)**2",
        "abs(p - onehot)",
        "stop_gradient(p)*logp",
    ]
)
REDUCED = st.builds(
    lambda kind, body, others: f"{kind}({body}{others})",
    st.sampled_from(["sum", "mean"]),
    CLASS,
    st.sampled_from(["", ", over=others"]),
) | st.sampled_from(
    [
        "logsumexp(x)",
        "logsumexp(q*x)",
        "logsumexp(x + w)",
        "logsumexp(x, over=others)",
        "u",
        "max(x, over=others)",
        "max(x)",
        "max(p)",
        "second_max(logp)",
        "max(x*p)",
        "norm(p)",
        "softmax(2*x)[y]",
        "log_softmax(x - w*onehot)[y]",
    ]
)
LEAF = st.sampled_from(["p[y]", "(1 - p[y])", "logp[y]", "x[y]", "w[y]", "q", "2"]) | REDUCED


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds(lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from("+-*"), inner)
    unary = st.builds(
        lambda f, a: f"{f}({a})",
        st.sampled_from(["tanh", "softplus", "sigmoid", "stop_gradient"]),
        inner,
    )
    power = st.builds(
        lambda base, e: f"{base}**{e}",
        st.sampled_from(["p[y]", "(1 - p[y])"]),
        st.sampled_from(["q", "2", "(q - 1)", "(1 + q)"]),
    )
    root = st.builds(lambda a: f"sqrt(1 + ({a})**2)", inner)
    return binary | unary | power | root


FORMULA = st.recursive(LEAF, _grow, max_leaves=4)


def agree(formula: str) -> None:
    try:
        spec = load_text(SPEC.format(formula=formula))
        symbolic = parse(spec, frozenset())
        graded = differentiate(symbolic)
        stable = stabilize(graded)
        schedule(stable)
    except (CompileError, SpecError):
        return  # refusing is an answer
    for stage in (symbolic, graded, stable):
        check(stage)
    x, y = (0.75, -1.5, 2.25, 0.125), 1
    weights = (0.5, 1.25, 0.75, 1.5)
    with mp.workdps(90):
        loss, slopes = literal_mpmath(spec, x, y, {"q": 0.75}, {"w": weights})
        row = Row(x, y, {"w": weights}, {}, {"q": 0.75})
        for stage in (graded, stable):
            (value,), (gradient,) = rows_mpmath(stage, row)
            size = 1 + abs(loss)
            assert abs(value - loss) < 1e-20 * size, f"{formula}: value {value}, literal {loss}"
            for j, (ours, exact) in enumerate(zip(gradient, slopes, strict=True)):
                assert abs(ours - exact) < 1e-15 * (1 + abs(exact)), f"{formula}: d/dx_{j}"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(FORMULA)
@example("sum(stop_gradient(p)*logp)")
@example("stop_gradient(sum(stop_gradient(p)*logp)) - logp[y]")  # a twin of a sum of twins
@example("logsumexp(x + w)")  # base x - x[y] + w: the exponent depends on x[y]
@example("(p[y]**q - p[y])*sum(p*logp)")
@example("(p[y]**(q - 1) - p[y]**q)")
def test_random_formulas(formula: str) -> None:
    agree(formula)


@pytest.mark.parametrize("formula", ["norm(p)", "sum(abs(p - onehot))", "u*logp[y]", "mean(x**2)"])
def test_common_formulas_compile(formula: str) -> None:
    schedule(stabilize(differentiate(parse(load_text(SPEC.format(formula=formula)), frozenset()))))
