"""Whatever a spec calls its parameters and inputs, it computes the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import sympy
import torch

import lossgen
from lossgen.ir.given import Given
from lossgen.spec.spelling import said, spelled
from tests.campaign.names import NAMES, allowed, check


def test_spellings_never_meet() -> None:
    """Of all names of a, t, y, 1 and _, with everything that is put before or behind them."""
    names = {
        "".join(letters)
        for n in range(1, 6)
        for letters in itertools.product("ty_1", repeat=n)
        if letters[0] != "1"
    } | {"t_ptr", "t_base", "grad_t", "stride_t", "t_hidden", "t_a_b", "_y_ptr", "out_t", "t_y_y"}
    before, behind = ("", "grad_", "stride_", "stride_grad_"), ("", "_y", "_ptr", "_y_a", "_2")
    every = [b + spelled(n) + a for n in names for b in before for a in behind]
    assert len(set(every)) == len(every)
    assert [said(spelled(n)) for n in sorted(names)] == sorted(names)


def test_a_declared_symbol_is_no_symbol_of_ours() -> None:
    ours, theirs = sympy.Symbol("s1", positive=True), Given.of("s1", positive=True)
    assert theirs != ours
    assert theirs != sympy.Symbol(theirs.name, positive=True)
    assert str(theirs) != str(ours)
    assert theirs - ours != 0
    assert (theirs.said, Given.of("t_y").said) == ("s1", "t_y")


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_names_change_nothing(names: tuple[str, ...]) -> None:
    """Of names of ours, and of the languages that we write, five at a time."""
    assert all(map(allowed, names))
    check(names, ("torch",))


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
def test_a_parameter_named_like_a_statistic(backend: str, tmp_path: Path) -> None:
    """It was 4.7305, with a certificate: s1 was softplus(z1)."""
    path = tmp_path / "like_ours.yaml"
    path.write_text(
        "name: like_ours\n"
        'parameters: {s1: {default: 2.5, domain: "[0, inf)"}}\n'
        "inputs: {P0: {kind: class}}\n"
        "transform: -s1*logp[y] + sum(softmax(P0)*(log_softmax(P0) - logp))\n"
    )
    x, t = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[1.0, 0.5, -1.0]])
    found = lossgen.load(path).like_ours_loss(x, torch.tensor([1]), t, backend=backend)
    logp, logq = x.log_softmax(-1), t.log_softmax(-1)
    torch.testing.assert_close(found, -2.5 * logp[0, 1] + (logq.exp() * (logq - logp)).sum())
