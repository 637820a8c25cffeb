"""Formulas as LaTeX, and as MathML where the converter is installed."""

from __future__ import annotations

import re

import pytest

from lossgen import paths
from lossgen.spec.load import load_spec, load_text
from tools.site.mathml import aligned_lines, display
from tools.site.tex_layout import loss_in_tex

#: formula, and its LaTeX
EXAMPLES = {
    "(1 - p[y]**q) / q": r"\frac{1 - {p_y}^{q}}{q}",
    "-(1 - p[y])**q * logp[y]": r"-{(1 - p_y)}^{q} \, \log \, p_y",
    "sum((p - onehot)**2)": r"\sum_{j} {(p_j - [j = y])}^{2}",
    "log(1 + u)": r"\log\left( 1 + \sum_{j \ne y} e^{x_j - x_y} \right)",
    "q - (1 - p[y])": r"q - (1 - p_y)",
    "exp(-p[y] / q)": r"e^{-p_y / q}",
    "-softmax(q * x)[y]": r"-\mathrm{softmax}(q \, x)_y",
    "logsumexp(x, over=others)": r"\log \sum_{j \ne y} e^{x_j}",
    "sum(p * (logp - sum(p * logp)))": (
        r"\sum_{j} p_j \, \left( \log \, p_j - \sum_{k} p_k \, \log \, p_k \right)"
    ),
    "(1 - p[y]) * 2 * 3": r"(1 - p_y) \cdot 2 \cdot 3",
    "where(p[y] < q, 1 - p[y], 0)": (
        r"\begin{cases} 1 - p_y & \quad \text{if } p_y < q \\ 0 & \quad \text{otherwise} "
        r"\end{cases}"
    ),
}


@pytest.mark.parametrize(("formula", "latex"), EXAMPLES.items(), ids=str)
def test_example(formula, latex):
    q = 'parameters:\n  q: {default: 0.5, domain: "(0, 1]"}\n' if "q" in formula else ""
    spec = load_text(f'name: example\n{q}transform: "{formula}"\n')
    assert loss_in_tex(spec) == [(r"\ell", f"= {latex}")]


@pytest.mark.parametrize("name", paths.spec_names())
def test_every_loss_has_a_formula(name):
    spec = load_spec(paths.require_spec(name))
    lines = loss_in_tex(spec)
    lefts = [left for left, _ in lines if left]
    shown = 1 + len(spec.batch.parts) if spec.batch else max(1, len(spec.outputs))
    assert len(lefts) == shown + len(spec.let)
    for text in (part for line in lines for part in line):
        assert text.count("{") == text.count("}")
        assert text.count(r"\left") == text.count(r"\right")
        assert text.count("(") == text.count(")")
        assert not re.search(r"\+\s*-|--|\(\)", text)


def test_rows_of_an_explanation():
    aligned = "\\begin{aligned}\n\\ell &= 1 \\\\\nz &= 2 \\quad (j \\ne y)\n\\end{aligned}"
    assert aligned_lines(aligned) == [(r"\ell", "= 1"), ("z", r"= 2 \quad (j \ne y)")]


def test_every_formula_becomes_mathml():
    pytest.importorskip("latex2mathml")
    for name in paths.spec_names():
        _, found, table = display(loss_in_tex(load_spec(paths.require_spec(name)))).partition("<mt")
        assert found
        assert not re.search(r"\\|&amp;", table), f"{name}: a command was not known"
