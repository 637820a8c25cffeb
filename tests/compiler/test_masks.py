"""Docstrings said of every loss that -inf masks a class; where logits are added up, it does not."""

from __future__ import annotations

import pytest

from lossgen.emit.docstring import docstring
from lossgen.passes.masks import counted_masks
from lossgen.spec.load import load_text

INPUTS = {
    "t": "{kind: class}",
    "labels": "{kind: class, values: [0, 1]}",
    "a": '{kind: vocab, domain: "(0, 1]"}',
}
CASES = [
    ("-log_softmax(x/norm(x))[y]", ["norm(x)"]),
    ("-logp[y] + mean(x**2)", ["mean(x**2)"]),
    ("-log_softmax((x - mean(x))/std(x))[y]", ["mean(x)", "std(x)"]),
    ("sum((x - t)**2)", ["sum((x - t)**2)"]),
    ("sum(a*abs(x)) - logp[y]", ["sum(a*abs(x))"]),
    ("-log_softmax(x/norm(where(x > -1e4, x, 0)))[y]", []),
    ("sum(p*x) - sum(exp(x)) + sum(relu(1 + x - x[y])) - max(x)", []),
    ("-sum(labels*x) - logp[y]", []),  # 0·∞ is 0
    ("logsumexp(x) - x[y] + norm(p - onehot)", []),
]


@pytest.mark.parametrize(("formula", "counted"), CASES)
def test_what_counts_a_masked_class(formula: str, counted: list[str]) -> None:
    used = "".join(f"  {name}: {INPUTS[name]}\n" for name in INPUTS if name in _names(formula))
    head = f"inputs:\n{used}" if used else ""
    spec = load_text(f'name: t\n{head}transform: "{formula}"\n')
    assert counted_masks(spec) == counted
    said = " ".join(docstring(spec).split())
    assert ("But a masked class counts in" in said) == bool(counted)
    assert all(f" {text}" in said for text in counted)


def _names(formula: str) -> set[str]:
    word = "".join(c if c.isalnum() else " " for c in formula)
    return set(word.split())
