"""Logarithms and shares of sums of exponentials: see ``passes.logsums``."""

import pytest

from lossgen.compiler import compile_loss
from lossgen.spec.load import load_text

PARAMETERS = {
    "a": '{default: 0.5, domain: "[0, 1]"}',
    "q": '{default: 0.7, domain: "(0, 1]"}',
    "s": '{default: 16, domain: "(0, 64]"}',
    "m": '{default: 0.3, domain: "(0, 2]"}',
    "e": '{default: 1e-8, domain: "(0, 1)"}',
}
MASK = "inputs:\n  m: {kind: class, values: [0, 1]}\n"
WEIGHTS = 'inputs:\n  w: {kind: vocab, domain: "(0, 1]"}\n'
T = "inputs:\n  t: {kind: class}\n"


def _compiled(formula, names="", more=""):
    entries = "".join(f"  {n}: {PARAMETERS[n]}\n" for n in names.split())
    lines = f"parameters:\n{entries}" if names else ""
    return compile_loss(load_text(f'name: t\n{lines}{more}transform: "{formula}"\n'))


# formula, its parameters: refused once (∞, 0/0, log 0), or in float64 for digits that float32 has
NARROW = [
    ("log(1 + sum(exp(s*(x - x[y] + m)), over=others))/s", "s m"),  # e^(s·z) was infinite
    ("-log(exp(s*(x[y] - m))/(exp(s*(x[y] - m)) + sum(exp(s*x), over=others)))", "s m"),
    ("-log(exp(x[y])/sum(exp(x)))", ""),  # 0·∞ at an offset of 3000
    ("log(1 + q*u)/q", "q"),
    ("-log(1 - a*(1 - p[y]))", "a"),  # log 0 at a = 1 where p underflows
    ("-log(a + (1 - a)*p[y])", "a"),
    ("log(1 + q) - log(p[y] + q)", "q"),
    ("-log(p[y] + e)", "e"),
    ("log((1 + s)/(p[y]**q + s))/q", "s q"),
    # an e^v in two parts, and the level of the row in the exponent
    ("log(1 + sum(exp(s*(x + m)), over=others)*exp(-s*(x[y] - m)))", "s m"),
    ("-logp[y]/stop_gradient(sum(abs(p - onehot)))", ""),  # s/Q: 0/0 where the row is confident
]


@pytest.mark.parametrize(("formula", "names"), NARROW)
def test_float32_is_enough(formula, names):
    assert _compiled(formula, names).arithmetic == "float32"


# formula, what else it declares: refused once
BUILT = [
    ("-logp[y]*(1 - p[y])/(-logp[y] + (1 - p[y]))", ""),  # Q·s/(Q + s): 0/0
    ("sum(softmax(t)*log(softmax(t)/softmax(x)))", T),  # log(0/0) of a class that both rows mask
    ("sum(softmax(t)*log(1 + exp(log_softmax(t) - logp)))", T),  # log(1 + ∞) of a class
    ("-log(sum(m*exp(x))/sum(exp(x)))", MASK),  # log(0·∞) at an offset
    ("-log(w[y]*exp(x[y])/sum(w*exp(x)))", WEIGHTS),
    ("-sum(w*onehot*logp)/sum(w*onehot)", WEIGHTS),  # w cancels: its truth was looked up in vain
    ("max(abs(p - onehot))", ""),  # at y it was taken for p_y: a gradient of another function
]


@pytest.mark.parametrize(("formula", "more"), BUILT)
def test_builds(formula, more):
    _compiled(formula, more=more)
