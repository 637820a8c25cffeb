"""``--draft``: a loss that is refused for its accuracy or its limits, to look at; it says so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lossgen as package
from lossgen import paths

REFUSED = {
    "limit": 'transform: -logp[y]\nlimits: [{when: {}, equals: "1 - p[y]"}]\n',
    "accuracy": "transform: -logp[y]\naccuracy: {ulp: 0.01, reason: impossible}\n",
}


@pytest.fixture(params=REFUSED)
def refused(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{REFUSED[request.param]}", encoding="utf-8")
    return path


def test_a_draft_is_built_and_says_so(lossgen, refused):
    assert lossgen("build", refused).code == 2
    ran = lossgen("build", "--draft", refused)
    assert ran.code == 0, ran.err
    text = Path("mine.py").read_text()
    assert "# DRAFT: its accuracy and its limits were not checked\n" in text
    assert "# certificate: none, it is a DRAFT\n" in text
    spec = importlib.util.spec_from_file_location("mine_draft", "mine.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.warns(UserWarning, match="mine_loss is a draft") as caught:
        spec.loader.exec_module(module)
    assert caught[0].filename.endswith("mine.py")
    assert module.mine_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), backend="torch") < 8


def test_a_draft_is_loaded_and_explained(lossgen, refused):
    with pytest.raises(package.LossgenError):
        package.load(refused)
    with pytest.warns(UserWarning, match="mine_loss is a draft"):
        module = package.load(refused, draft=True)
    assert module is package.load(refused, draft=True)
    assert lossgen("explain", refused).code == 2
    assert "certificate  none" in lossgen("explain", "--draft", refused).out


def test_a_draft_computes_what_the_loss_does(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntransform: (1 - p[y])**2 - logp[y]\n")
    with pytest.warns(UserWarning, match="is a draft"):
        draft = package.load(path, draft=True)
    x, y = torch.randn(4, 5), torch.tensor([0, 3, 1, 2])
    for backend in ("torch", "c", "triton"):
        found = draft.mine_loss(x, y, backend=backend)
        assert found == package.load(path).mine_loss(x, y, backend=backend)


def test_the_catalogue_has_no_drafts(lossgen, catalogue):
    assert "LG315" in lossgen("build", "--all", "--draft").err
    assert lossgen("build", "--all").code == 0
    ran = lossgen("build", "--draft", "first")
    assert ran.code == 0, ran.err
    assert "DRAFT" in lossgen("list").out
    ran = lossgen("build", "--all", "--check")
    assert ran.code == 1
    assert "first.py: a draft" in ran.err
    assert "second.py" not in ran.err


def test_every_process_warns(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ntransform: -logp[y]\n")
    code = "import lossgen; lossgen.load('mine.yaml', draft=True)"
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "UserWarning: mine_loss is a draft" in ran.stderr


@pytest.mark.parametrize(
    ("options", "shown", "loss"),
    [
        ((), "variants     plain; ", "s0"),
        (("--with", "label_smoothing"), "shown: ", "u_label_smoothing"),
        (("--with", "weight, label_smoothing"), "shown: ", "u_weight_y"),
    ],
)
def test_explain_a_variant(lossgen, options, shown, loss):
    """Every variant but the smallest could not be seen."""
    ran = lossgen("explain", "cross_entropy", *options)
    assert ran.code == 0, ran.err
    assert shown in ran.out
    (line,) = [line for line in ran.out.splitlines() if line.startswith("loss  ")][:1]
    assert loss in line


def test_explain_an_option_that_there_is_not(lossgen):
    ran = lossgen("explain", "gce", "--with", "weight")
    assert (ran.code, ran.err) == (
        2,
        "error LG316: gce has no option 'weight'\nhint: its options: none\n",
    )
