"""Which program a divergence becomes, and the rows that decide it."""

from __future__ import annotations

import math

import pytest

from lossgen.compiler import compile_loss
from lossgen.ir.plan import KernelPlan
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.samples import sample_rows
from lossgen.spec.load import load_text

DIVERGENCE = "sum(softmax(t) * (log_softmax(t) - logp))"


def formula(text: str, head: str = "") -> KernelPlan:
    stream = "inputs: {t: {kind: class, differentiable: true, doc: logits}}\n"
    spec = f"name: d\ntitle: D\nreference: R\n{stream}{head}transform: '{text}'\n"
    return compile_loss(load_text(spec)).variants[0]


def accuracy(ulp: int) -> str:
    return f"accuracy: {{ulp: {ulp}, reason: nearly equal rows}}\n"


def test_the_cheapest_program_that_is_accurate_enough() -> None:
    """Beside a cross-entropy, the first order of what the rows have apart is no error."""
    beside = formula(f"-logp[y] + {DIVERGENCE}")
    assert not any(m.against is not None for m in beside.moments)
    alone = formula(f"(1 - p[y])**2 + {DIVERGENCE}")
    assert sum(m.against is not None for m in alone.moments) == 1
    assert "B0" in str(alone.stable.loss)
    assert alone.certificate is not None
    assert alone.certificate.loss_kappa < 2
    bounded = formula(f"(1 - p[y])**2 + {DIVERGENCE}", accuracy(100_000))
    assert not any(m.against is not None for m in bounded.moments)


def test_the_product_rule_gives_a_divergence_and_its_mean() -> None:
    """d((1 - p_y)·D) holds both, which were a difference of products before."""
    plan = formula("-log_softmax(t)[y] + (1 - p[y]) * sum(p * (logp - log_softmax(t)))")
    coefficients = [str(c.expr) for c in plan.coefficients]
    assert any("lse0" in c and "delta0_y" in c for c in coefficients)


@pytest.mark.parametrize("text", [f"-logp[y] + {DIVERGENCE}", "-logp[y] - sum(softmax(t) * logp)"])
def test_nothing_is_measured_from_the_target(text: str) -> None:
    for centre in formula(text).stable.centres:
        assert centre.softmaxes
        assert not any(s.name.endswith("_y") for s in centre.origin.free_symbols)


def test_differences_from_the_target_stay_what_the_formula_says() -> None:
    (centre,) = formula("norm((x - x[y]) - (t - t[y]))").stable.centres
    assert not centre.softmaxes
    assert {s.name for s in centre.origin.free_symbols} == {"x_y", "u_t_y"}


def test_rows_hold_targets_that_are_masked_or_far_below() -> None:
    spec = load_text(
        "name: d\ntitle: D\nreference: R\n"
        "inputs: {t: {kind: class, doc: logits}}\n"
        f"transform: '-logp[y] + {DIVERGENCE}'\n"
    )
    rows = sample_rows(differentiate(parse(spec, frozenset())))
    ends = {(row.x[row.y], row.streams["t"][row.y]) for row in rows}
    for value in (-math.inf, -1e4):
        assert (value, value) in ends
        assert any(x == value and t != value for x, t in ends)
        assert any(t == value and x != value for x, t in ends)
    close = [r for r in rows if 0 < abs(r.x[r.y] - r.streams["t"][r.y]) < 5e-3]
    assert any(r.x[r.y] > 4 for r in close)


@pytest.mark.parametrize("text", [f"1 - p[y] + {DIVERGENCE}", f"(1 - p[y]**3) / 3 + {DIVERGENCE}"])
def test_a_bounded_loss_beside_a_divergence(text: str) -> None:
    """P^2 - P' at y was a difference of two ones for a confident row: P - P' - P·Q."""
    assert formula(text).certificate is not None
