"""``verify --search``: the certificate's search on the real backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossgen.verify.search import search

SPEC = """
name: masked_gce
title: Generalized cross-entropy of the rows that count
reference: none
parameters:
  q: {default: 0.7, domain: "(0, 1]", doc: exponent}
inputs:
  counted: {kind: row, values: [0, 1], doc: a mask of rows}
transform: counted*(1 - p[y]**q)/q
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "masked_gce.yaml"
    file.write_text(SPEC)
    return file


def test_a_right_loss_holds(path: Path) -> None:
    loss, gradient = search(path, 0.0, ["torch"])
    assert (loss.which, gradient.which) == ("loss", "gradient")
    assert loss.ok
    assert gradient.ok
    assert loss.points > 90
    assert 0 < loss.kappa < 4
    assert "x = torch.tensor([[" in loss.reproducer
    assert "masked_gce_loss(x, torch.tensor([" in loss.reproducer
    assert "counted=torch.tensor([1.0])" in loss.reproducer
