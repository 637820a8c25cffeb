"""The formula of a batch: how it is taken apart, and what has no place in it."""

from __future__ import annotations

import pytest

from lossgen.errors import SpecError
from lossgen.spec.load import load_text
from lossgen.spec.model import LossSpec


def _spec(text: str) -> LossSpec:
    return load_text(f"name: t\n{text}\n")


def test_what_is_summed_becomes_results_of_a_row() -> None:
    spec = _spec(
        "parameters: {lam: {default: 1, domain: '[0, 2]'}, q: {default: 1, domain: '(0, 2]'}}\n"
        "let: {m: batch_mean(p**q), e: -sum(p*logp)}\n"
        "transform: e - logp[y]\nbatch: lam*sum(m*log(m)) + batch_sum(p[y])/batch_sum(1)"
    )
    assert spec.batch is not None
    assert [o.name for o in spec.outputs] == ["rows", "m", "part1"]
    assert [o.source for o in spec.outputs][1:] == ["sum(of_m*softmax(x)**q)", "softmax(x)[y]"]
    assert [(p.name, p.vector) for p in spec.batch.parts] == [("m", "of_m"), ("part1", None)]
    assert list(spec.parameters) == ["q"]  # the other is of the formula alone
    assert list(spec.batch.parameters) == ["lam", "q"]
    assert list(spec.let) == ["e"]
    assert spec.function == "t_parts"
    assert spec.has_target


def test_a_sum_that_is_written_twice_is_one() -> None:
    spec = _spec("batch: sum(batch_mean(p)*log(batch_mean(p))) + sum(batch_sum(p))")
    assert spec.batch is not None
    assert len(spec.batch.parts) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transform: -logp[y] + batch_mean(p[y])", "LG148: batch_mean in the formula of one row"),
        ("batch: sum(p)", "LG157: the logits in the formula of a batch"),
        ("batch: sum(batch_mean(p)*onehot)", "LG157: the target in the formula of a batch"),
        ("batch: sum(batch_mean(p), over=others)", "LG157: over=others in the formula"),
        ("batch: batch_mean(p)", "LG146: the loss of a batch is one number"),
        ("batch: sum(batch_mean(onehot))", "LG150: the formula does not depend on the logits"),
        ("batch: '2'", "LG150"),
        (
            "let: {m: batch_mean(p), e: sum(m*p)}\nbatch: batch_mean(e)",
            "LG148: a sum over the batch",
        ),
        ("batch: batch_mean(p[y])\nnormalizer: 1", "LG131: 'normalizer' has no place beside batch"),
        ("inputs: {r: {kind: row}}\nbatch: batch_mean(r)", "LG150: the formula does not depend"),
        ("let: {batch_sum: -x}\nbatch: batch_mean(p[y])", "a function of the formula language"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        _spec(text)
    assert message in str(caught.value)
