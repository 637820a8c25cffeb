"""Inputs of few values, and whole ones: checked at the call, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lossgen

SPEC = """
name: same_group
title: Cross-entropy among a group
reference: none
inputs:
  allowed: {kind: class, values: [0, 1], doc: a mask}
  group: {kind: vocab, integer: true, doc: the group of each class}
  counted: {kind: row, values: [0, 1], doc: a mask of rows}
transform: -counted*sum(where(group == group[y], allowed, 0)*logp)
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("counted", torch.tensor([0.5]), "counted holds 0.5, but must be one of 0, 1"),
        ("counted", torch.tensor([2]), "counted holds 2, but must be one of 0, 1"),
        ("group", torch.tensor([0.0, 1.0, 0.25]), "group holds 0.25, but must be a whole number"),
        ("allowed", torch.tensor([[0.0, 1.0, 2.0]]), r"allowed has values outside its domain"),
    ],
)
def test_values_are_checked(tmp_path: Path, name: str, value: torch.Tensor, message: str) -> None:
    path = tmp_path / "same_group.yaml"
    path.write_text(SPEC)
    loss = lossgen.load(path).same_group_loss
    given = {
        "allowed": torch.tensor([[0.0, 1.0, 1.0]]),
        "group": torch.tensor([0, 1, 0]),
        "counted": torch.tensor([1.0]),
    }
    target = torch.tensor([0])

    def call(allowed: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        return loss(torch.tensor([[0.5, 1.0, -1.0]]), target, allowed, **others)

    assert torch.isfinite(call(**given))
    with pytest.raises(ValueError, match=message):
        call(**{**given, name: value})
