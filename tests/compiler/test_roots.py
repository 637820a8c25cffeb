"""Equations: what becomes of them in the passes, which derivative is found, what is refused."""

from __future__ import annotations

import pytest
from sympy import Integer, Symbol

from lossgen import paths
from lossgen.bench.peers import composite_source
from lossgen.compiler import compile_loss
from lossgen.derivation import explain
from lossgen.errors import CompileError
from lossgen.ir.ops import lt, ne, relu, where
from lossgen.ir.plan import KernelPlan
from lossgen.lower.rows import RoundedRows
from lossgen.passes.kinks import chosen_once, vanishes
from lossgen.passes.samples import plain_rows
from lossgen.properties.curvature import Curvature, CurvatureOf
from lossgen.properties.degree import DegreeOf
from lossgen.properties.enclosure import enclosed
from lossgen.properties.setting import setting
from lossgen.spec.derived import along, slope
from lossgen.spec.load import load_spec, load_text
from lossgen.spec.model import LossSpec
from lossgen.spec.proportion import degree
from lossgen.spec.slopes import NoSlope


def spec(transform: str, more: str = "") -> LossSpec:
    return load_text(f"name: t\n{more}transform: {transform}\n")


def plan(transform: str, more: str = "") -> KernelPlan:
    return compile_loss(spec(transform, more), draft=True).variants[0]


def named(name: str) -> KernelPlan:
    return compile_loss(load_spec(paths.require_spec(name)), draft=True).variants[0]


def test_a_reader_of_the_paper_knows_the_derivation() -> None:
    text = explain("sparsemax", "differentiate")
    assert "root         root0 in [-1, 0]: T3 + relu(-try0 + x_y - maximum(x_y, max0)) - 1" in text
    assert "gradient     (1) * (relu(-root0 + x - maximum(x_y, max0)))" in text
    assert "(sweep 2, repeated)" in text
    assert "at most 64 times" in explain("sparsemax", "schedule")


@pytest.mark.parametrize(("name", "power"), [("sparsemax", 1), ("entmax15", 2)])
def test_the_gradient_is_that_of_a_minimum(name: str, power: int) -> None:
    """q - e_y: the slope of the threshold drops out, and 1 - q_y is what the others have."""
    stable = named(name).stable
    ((coefficient, basis),) = stable.gradients[0].terms
    assert coefficient == 1
    assert basis.as_base_exp()[1] == power
    (total,) = (s for s in stable.sums if s.symbol in stable.gradients[0].at_y.free_symbols)
    assert stable.gradients[0].at_y == -total.symbol
    assert total.body == basis


def test_an_equation_gives_its_sum() -> None:
    """Σ sparsemax is 1, and no statistic."""
    found = plan("sum(sparsemax(x)) - x[y]")
    assert found.roots == ()
    assert found.sums == ()


def test_one_word_twice_is_one_root() -> None:
    once = plan("sparsemax(x)[y]")
    twice = plan("sparsemax(x)[y]*2 + sum(sparsemax(x)**2)")
    assert len(once.roots) == len(twice.roots) == 1
    assert len(plan("sparsemax(x)[y] + entmax15(x)[y]").roots) == 2


def test_a_part_of_a_row_is_a_row() -> None:
    found = named("entmax15")
    rows = plain_rows((found.stable.spec,))[:4]
    for row in rows:
        whole, parts = (RoundedRows(found, tiles)([row]) for tiles in (1, 3))
        assert abs(whole[0] - parts[0]).max() < 1e-5
        assert abs(whole[1][0] - parts[1][0]).max() < 1e-5


def test_kinks() -> None:
    u, v = Symbol("u", real=True), Symbol("v", real=True)
    assert chosen_once(relu(u) ** 2 * ne(relu(u), 0) * v) == relu(u) ** 2 * v
    assert chosen_once(relu(u) * ne(relu(v), 0)) == relu(u) * ne(relu(v), 0)
    cases = where(lt(0, u), 1 - u, 1)
    assert vanishes(cases - 1 + relu(u))
    assert not vanishes(cases - 1 - relu(u))
    assert not vanishes(cases - Integer(1))


REFUSED = {
    "root(t, sum(softmax(x*t)**2) - 1/2, -9, 9)": "its unknown is in a softmax",
    "root(t, max(x*t) - 1, -9, 9)": "its unknown is in a maximum",
    "root(t, sum(relu(x - sum(relu(x - t)))) - 1, -9, 9)": "its unknown is in a sum within a sum",
    "root(t, sum(x) - t, -9, 9)": "no sum over the classes needs its unknown",
    "root(t, sum(where(x > t, 1, 0)) - 3/2, -9, 9)": "its equation moves in steps",
    "root(t, sum(relu(x - t)) - 1, -1, 0)": "its equation is not at most 0 at its high, 0",
    "root(t, 1 - sum(relu(x - max(x) - t)), -1, 0)": "at least 0 at its low, -1",
    "root(t, sum(relu(x - max(x) - t)) - 1, -1, -1 + p[y]/2)": "at most 0 at its high",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_by_name(text: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_loss(spec(f"{text} - x[y]"))
    assert REFUSED[text] in str(caught.value)
    assert caught.value.hint
    assert "^" in str(caught.value)


def test_no_derivatives_of_derivatives() -> None:
    more = "parameters: {a: {default: 1, domain: '[1, 2]'}}\n"
    own = spec("root(t, sum(relu(x/a - max(x)/a - t)) - 1, -1, 0)", more)
    for derived in (lambda: along(own, "x"), lambda: slope(own, "a")):
        with pytest.raises(NoSlope, match="is formed of root"):
            derived()


def test_nothing_is_claimed_of_what_an_equation_hides() -> None:
    """Its ends alone would say that a root is constant, and shift invariant."""
    inputs = "inputs: {w: {kind: row, domain: '[0, inf)'}}\n"
    own = spec("root(t, sum(relu(x - w*t)) - 1, -50, 50)**2 - logp[y]", inputs)
    (term,) = own.terms
    assert degree(term.expr, own.let, "w") is None
    held = setting(spec("root(t, sum(relu(x - t)) - 1, -50, 50) - logp[y]"), {}, 3)
    assert enclosed(held, DegreeOf(held)).degree is None
    assert enclosed(held, CurvatureOf(held)).curvature is Curvature.UNKNOWN
    assert enclosed(held).lo >= -50


def test_a_composite_for_the_benchmarks() -> None:
    text = composite_source(load_spec(paths.require_spec("sparsemax")))
    assert "_root(lambda t: " in text
