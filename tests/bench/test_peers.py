"""The composites: the catalogue's formulas as plain PyTorch, written from specs/."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from lossgen.bench.peers import HEADER, composite_source
from lossgen.spec.load import load_text

from .conftest import GENERATED, ROOT, import_file

SPEC = """
name: sample
title: A sample
reference: none
parameters:
  label_smoothing: {default: 0, domain: "[0, 1]", off: 0, doc: compiled out}
  cap: {default: .inf, domain: "(0, inf]", off: .inf, doc: compiled out}
  z_weight: {default: 0, domain: "[0, inf)", off: 0, doc: compiled out}
  q: {default: 0.7, domain: "(0, 1]", doc: kept}
inputs:
  weight: {kind: vocab, off: 1, doc: compiled out}
  margin: {kind: vocab, doc: kept}
let:
  z: softcap(x, cap) - margin
transform: |
  (1 - label_smoothing) * weight[y] * (1 - softmax(z)[y]**q) / q - label_smoothing * mean(z)
regularizer:
  - {name: z_loss, weight: z_weight, value: logsumexp(z)**2}
  - {name: gap, value: "max(x, over=others) * 2"}
"""


def test_options_that_are_off_leave_nothing_behind():
    lines = composite_source(load_text(SPEC)).splitlines()
    assert lines == [
        "def sample(x: Tensor, y: Tensor, margin: Tensor, q: float) -> Tensor:",
        "    y = y[:, None]",
        "    margin = margin.to(x.dtype)[None]",
        "    t5 = torch.exp(_at(torch.log_softmax((x - margin), -1), y))",
        "    t10 = x.masked_fill(_hot(y, x.shape[-1]), -math.inf).max(-1, keepdim=True).values",
        "    return (((1.0 - (t5 ** q)) / q) + (t10 * 2.0)).expand(x.shape[0], 1).squeeze(-1)",
    ]


def test_it_runs_and_computes_the_formula():
    space: dict[str, object] = {}
    exec(HEADER + composite_source(load_text(SPEC)), space)
    logits, target, margin = torch.randn(4, 9), torch.tensor([0, 3, 8, 8]), torch.randn(9)
    rows = torch.arange(4)
    p = (logits - margin).softmax(-1)[rows, target]
    others = logits.clone()
    others[rows, target] = -torch.inf
    expected = (1 - p**0.7) / 0.7 + 2 * others.max(-1).values
    torch.testing.assert_close(space["sample"](logits, target, margin, 0.7), expected)


@lru_cache
def composites():
    return import_file(ROOT / "benchmarks" / "composites.py")


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_the_generated_loss_computes_its_composite(path, load):
    from lossgen.bench.device import CHECKS, Shape, Subject

    if path.stem == "topk_kl":
        pytest.skip("0·log 0 of a class that is not listed is NaN in plain torch")
    composite = getattr(composites(), path.stem)
    subject = Subject(path.stem, load(path), composite, torch.device("cpu"), "torch")
    for name in ("values", "masked", "fused"):
        assert CHECKS[name](subject, Shape(5, 37, torch.float32)) == ""
