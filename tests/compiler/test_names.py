"""Whatever a spec calls its parameters and inputs, it computes the same."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import sympy
import torch

import lossgen
from lossgen.errors import BadName
from lossgen.ir.given import Given
from lossgen.spec.load import load_text
from lossgen.spec.spelling import said, spelled
from tests.campaign.names import NAMES, allowed, check, load


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


@pytest.mark.parametrize("name", ["torch", "tl", "dl", "el", "rt", "LOSS", "Tensor", "tiles", "nn"])
def test_a_class_named_like_what_its_module_imports(name: str) -> None:
    module = load(
        f"name: named\nclass: {name}\n"
        'parameters: {LOSS: {default: 2, domain: "[0, 4]"}, rt: {default: 1, domain: "[0, 4]"}}\n'
        "transform: -LOSS*rt*logp[y]\n"
    )
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    for backend in ("torch", "triton"):
        found = getattr(module, name)(backend=backend)(x, y)
        torch.testing.assert_close(found, -2 * x.log_softmax(-1)[0, 1])


@pytest.mark.parametrize("name", ["torch", "tl", "rt", "el"])
def test_outputs_named_like_what_their_module_imports(name: str) -> None:
    module = load(f'name: {name}\noutputs: {{Tensor: "logp[y]", LOSS: sum(p**2)}}\n')
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    for backend in ("torch", "triton"):
        found = getattr(module, name)(x, y, backend=backend)
        torch.testing.assert_close(found.Tensor, x.log_softmax(-1)[:, 1])


@pytest.mark.parametrize("name", ["float", "super", "range", "getattr", "linear_t_loss", "t_loss"])
def test_a_class_named_like_a_function_is_refused(name: str) -> None:
    with pytest.raises(BadName, match="cannot be a name"):
        load_text(f"name: t\nclass: {name}\ntransform: -logp[y]\n")


@pytest.mark.parametrize("backend", ["torch", "c"])
def test_a_normalizer_is_compiled_from_its_tree(backend: str) -> None:
    """``t`` stands in the text of ``weight``: that was a KeyError at the call. C adds up what the
    rows count for by itself."""
    module = load(
        "name: normal\n"
        "inputs: {t: {kind: class}, weight: {kind: vocab}, r: {kind: row, off: 2}}\n"
        "transform: -weight[y]*r*logp[y] - sum(t*logp)\n"
        "normalizer: maximum((2*weight)[y], -r + 0.5)**2 + pi*where(r < 1, r, abs(-r))\n"
    )
    x, t, y = torch.randn(3, 4), torch.rand(3, 4), torch.tensor([0, 3, 1])
    weight, r = torch.rand(4), torch.rand(3) + 0.5
    for rows in (None, r):
        given = {"weight": weight, "r": rows, "backend": backend}
        value = torch.full((3,), 2.0) if rows is None else rows
        count = torch.maximum(2 * weight[y], 0.5 - value) ** 2 + math.pi * value
        loss = module.normal_loss(x, y, t, reduction="none", **given)
        found = module.normal_loss(x, y, t, **given)
        torch.testing.assert_close(found, loss.sum() / count.sum())


def test_an_input_called_group_keeps_its_name(tmp_path: Path) -> None:
    """The call then has no process group: an argument of every loss yields to a spec's own."""
    path = tmp_path / "t.yaml"
    path.write_text('name: t\ninputs: {group: {kind: row}}\ntransform: "-group*logp[y]"\n')
    module = lossgen.load(path)
    x, y = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([1])
    expected = 2 * torch.nn.functional.cross_entropy(x, y)
    torch.testing.assert_close(module.t_loss(x, y, group=torch.tensor([2.0])), expected)
    weight = torch.eye(3)
    loss = module.linear_t_loss(x, weight, y, group=torch.tensor([2.0]))
    torch.testing.assert_close(loss, expected)
