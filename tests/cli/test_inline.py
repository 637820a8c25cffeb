"""``lossgen.loss``: a formula in Python is the loss that a file with it would be."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

import lossgen
from lossgen import cache
from lossgen.errors import LossgenError
from lossgen.inline import _declarations, _entry
from lossgen.spec.load import load_text
from lossgen.spec.source import Source, compose

FOCAL = "-(1 - p[y])**gamma * logp[y]"
DECLARE = (
    "declare it: {0}=2.0 for a number, {0}='class', 'row' or 'vocab' for a tensor [*, V], [*] or "
    "[V]"
)


def called(function, **options):
    torch.manual_seed(0)
    logits = torch.randn(6, 5, requires_grad=True)
    loss = function(logits, torch.arange(6) % 5, backend="torch", **options)
    (slope,) = torch.autograd.grad(loss, logits)
    return loss.detach(), slope


def test_is_the_loss_of_a_file(tmp_path):
    path = tmp_path / "custom.yaml"
    path.write_text(
        f'name: custom\nparameters:\n  gamma: {{default: 2.0, domain: "(0, inf)"}}\n'
        f"transform: {FOCAL}\n"
    )
    loss = lossgen.loss(FOCAL, gamma=2.0)
    assert loss.__name__ == "custom_loss"
    for options in ({}, {"gamma": 0.5}):
        torch.testing.assert_close(
            called(loss, **options), called(lossgen.load(path).custom_loss, **options)
        )
    torch.testing.assert_close(called(loss), called(lossgen.load("focal").focal_loss, gamma=2.0))
    linear = lossgen.loss(FOCAL, gamma=2.0, linear=True)
    assert linear.__name__ == "linear_custom_loss"
    assert linear.__module__ == loss.__module__


def test_is_kept_like_a_file(monkeypatch):
    loss = lossgen.loss(FOCAL, gamma=2.0)
    assert lossgen.loss(FOCAL, gamma=2.0) is loss
    assert lossgen.loss(FOCAL, gamma=3.0) is not loss
    assert pickle.loads(pickle.dumps(loss)) is loss
    program = (
        "import sys, lossgen; loss = lossgen.loss(sys.argv[1], gamma=2.0); "
        "assert not [n for n in sys.modules if n.startswith(('lossgen.spec', 'lossgen.passes'))]; "
        "print(loss.__module__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, FOCAL], capture_output=True, text=True, env=os.environ
    )
    assert ran.stdout.strip() == loss.__module__, ran.stderr


def test_inputs_are_declared_by_their_kind():
    weighted = lossgen.loss("-weight[y] * logp[y]", name="weighted", weight="vocab")
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    found = weighted(logits, target, weight=torch.tensor([1.0, 0.0, 0.0]), reduction="none")
    assert (found == 0).tolist() == [False, True, True, False]
    scaled = lossgen.loss("-scale * logp[y]", scale={"kind": "row", "off": 1})
    torch.testing.assert_close(
        scaled(logits, target), torch.nn.functional.cross_entropy(logits, target)
    )


@pytest.mark.parametrize(
    ("value", "entry"),
    [
        (2.0, {"default": 2.0, "domain": "(0, inf)"}),
        (1, {"default": 1, "domain": "(0, inf)"}),
        (np.float32(0.5), {"default": 0.5, "domain": "(0, 1)"}),
        (0, {"default": 0, "domain": "[0, inf)"}),
        (-1.5, {"default": -1.5, "domain": "(-inf, 0)"}),
        ((2, "[0, 8]"), {"default": 2, "domain": "[0, 8]"}),
        ("row", {"kind": "row"}),
        ({"default": 0, "domain": "[0, 1)", "off": 0}, None),
    ],
)
def test_what_a_declaration_means(value, entry):
    assert _entry("gamma", value) == (value if entry is None else entry)


@pytest.mark.parametrize(
    ("formula", "declared", "text"),
    [
        (
            "-(1 - p[y])**gamma * lgop[y]",
            {"gamma": 2.0},
            "<formula>:1:22: error LG144: unknown name 'lgop'\n"
            "  -(1 - p[y])**gamma * lgop[y]\n"
            "                       ^^^^\n"
            f"hint: did you mean 'logp'? or {DECLARE.format('lgop')}",
        ),
        (
            "-(1 - p[y])**my_gamma * logp[y]",
            {},
            "<formula>:1:14: error LG144: unknown name 'my_gamma'\n"
            "  -(1 - p[y])**my_gamma * logp[y]\n"
            "               ^^^^^^^^\n"
            f"hint: {DECLARE.format('my_gamma')}",
        ),
        (
            "\n    -logp[y]\n    + softmx(x)[y]\n",
            {},
            "<formula>:3:7: error LG145: unknown function 'softmx'\n"
            "  + softmx(x)[y]\n"
            "    ^^^^^^\n"
            "hint: did you mean 'softmax'?",
        ),
        (
            "",
            {},
            "<formula>:1:1: error LG140: the formula does not parse: it is empty",
        ),
        (
            "-logp[y]",
            {"gamma": 2.0},
            "<declarations>:3:3: error LG129: the parameter 'gamma' is never used\n"
            '  "gamma": {"default": 2.0, "domain": "(0, inf)"}\n'
            "  ^^^^^^^\n"
            "hint: use it in a formula, or remove it",
        ),
        (
            "-a * logp[y]",
            {"a": (2.0, "[3, 4]")},
            "<declarations>:3:20: error LG121: default 2 of 'a' is outside its domain [3, 4]\n"
            '  "a": {"default": 2.0, "domain": "[3, 4]"}\n'
            "                   ^^^\n"
            "hint: choose another value, or a wider domain",
        ),
        (
            "-a * logp[y]",
            {"a": "rows"},
            "error LG319: 'a' is declared as 'rows'\n"
            "hint: a number is a parameter's default, a pair adds its domain, as in (2.0, "
            "'[0, inf)'); 'class', 'row' or 'vocab' is an input; a dict has the keys of a spec",
        ),
        (
            "-a * logp[y]",
            {"a": True},
            "error LG319: 'a' is declared as True\n"
            "hint: a number is a parameter's default, a pair adds its domain, as in (2.0, "
            "'[0, inf)'); 'class', 'row' or 'vocab' is an input; a dict has the keys of a spec",
        ),
    ],
)
def test_messages(formula, declared, text):
    with pytest.raises(LossgenError) as error:
        lossgen.loss(formula, **declared)
    assert str(error.value) == text


def test_a_formula_is_text():
    with pytest.raises(TypeError, match="a formula is text, not int"):
        lossgen.loss(3)


ENDS = ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]


@settings(deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from([*ENDS, *"#:-|>'\"{}[]&*!%@ \t"]))))
@example("-logp[y]\nname: evil")
@example("-logp[y]\u2028outputs: {a: x[y]}")
@example("-logp[y]\r\n...\n---\nname: evil")
@example("# a comment\n\n   deeper")
def test_text_is_data(formula):
    """Whatever a formula holds, the spec around it is what it was."""
    seen = []

    def loads(stem, text, *rest):
        seen.append(text)
        raise LossgenError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lossgen.inline.load_text", loads)
        with pytest.raises(LossgenError, match="enough"):
            lossgen.loss(formula, gamma=2.0)
    try:
        root = compose(Source(seen[0].replace("\r\n", "\n").replace("\r", "\n"), "test"))
    except LossgenError:
        return  # refused: characters that YAML has no place for
    assert [key.text for key, _ in root.pairs] == ["transform", "name", "parameters"]
    assert root.get("name").text == "custom"


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.one_of(st.text(), st.floats(), st.booleans(), st.integers())))
def test_declarations_are_data(entry):
    """A value is that value, or refused."""
    text = f"transform: -logp[y]\n{_declarations('custom', {'a': entry})}"
    try:
        root = compose(Source(text, "test"))
    except LossgenError:
        return
    (found,) = (root.get(s).get("a") for s in ("parameters", "inputs") if root.get(s))
    assert {key.text for key, _ in found.pairs} == set(entry)
    for key, value in found.pairs:
        if isinstance(entry[key.text], str):
            assert value.text == entry[key.text]


def test_an_error_of_the_spec_has_the_same_text_as_in_a_file():
    """The place aside."""
    with pytest.raises(LossgenError) as inline:
        lossgen.loss("-(1 - p)**2 * logp[y]")
    with pytest.raises(LossgenError) as file:
        load_text("name: custom\ntransform: -(1 - p)**2 * logp[y]\n")
    assert json.dumps(str(inline.value).split(": ", 1)[1].split("\n")[0]) == json.dumps(
        str(file.value).split(": ", 1)[1].split("\n")[0]
    )


def test_draft_is_kept_apart():
    assert cache.load_text("a", "name: a\ntransform: -logp[y]\n", "a") is not None
    with pytest.warns(UserWarning, match="is a draft"):
        lossgen.loss("-logp[y]", draft=True)
