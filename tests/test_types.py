"""A type checker knows the catalogue.

``lossgen.losses`` finds its names when they are asked for, so that mypy took every one of them,
misspelt ones too, for ``object``.
"""

from __future__ import annotations

import shutil

import pytest
from mypy import api

from lossgen import paths
from lossgen.emit.stub import assembled, sections

#: Enough of torch for a loss: mypy takes a minute for all of it.
TORCH = {
    "torch/__init__.pyi": "class Tensor:\n    def backward(self) -> None: ...\n",
    "torch/nn.pyi": "from typing import Any, Callable\n\nclass Module:\n"
    "    training: bool\n    __call__: Callable[..., Any]\n    forward: Callable[..., Any]\n",
}
TEN = """\
from torch import Tensor, nn

from lossgen.losses import (
    CrossEntropyLoss,
    GCELoss,
    cross_entropy_loss,
    dkd_loss,
    focal_loss,
    gce_loss,
    jsd_beta_loss,
    kd_forward_kl_loss,
    linear_gce_loss,
    poly1_loss,
    sce_loss,
    token_stats,
    trades_loss,
)


class Head(nn.Module):
    def __init__(self) -> None:
        self.loss = CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
        self.robust = GCELoss(q=0.5)

    def run(self, logits: Tensor, target: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        logp, entropy, *_ = token_stats(logits, target)
        found: list[Tensor] = [
            self.loss(logits, target),
            self.robust(logits, target),
            cross_entropy_loss(logits, target, weight=weight, label_smoothing=None),
            dkd_loss(logits, target, other),
            focal_loss(logits, target, gamma=2),
            gce_loss(logits, target, q=0.7, reduction="none"),
            jsd_beta_loss(logits, other, beta=0.5),
            kd_forward_kl_loss(logits, other),
            linear_gce_loss(logits, weight, target, q=0.7, shift=1, schedule="tiled"),
            poly1_loss(logits, target, backend="torch"),
            sce_loss(logits, target),
            trades_loss(logits, target, other),
            logp,
            entropy,
        ]
        return found[0]
"""
REVEALED = "from lossgen.losses import gce_loss\n\nreveal_type(gce_loss)\n"
WRONG = {
    "gec_loss(x, y)": 'Module "lossgen.losses" has no attribute "gec_loss"',
    'gce_loss(x, y, reduction="avg")': 'Argument "reduction" to "gce_loss" has incompatible type '
    "\"Literal['avg']\"; expected \"Literal['mean', 'sum', 'none', 'batchmean']\"",
    "gce_loss(x, y, gamma=2.0)": 'Unexpected keyword argument "gamma" for "gce_loss"',
    "gce_loss(x)": 'Missing positional argument "target" in call to "gce_loss"',
    "GCELoss(q=None)": (
        'Argument "q" to "GCELoss" has incompatible type "None"; expected "float | Tensor"'
    ),
}


def calling(call: str) -> str:
    name = call.partition("(")[0]
    head = f"from torch import Tensor\nfrom lossgen.losses import {name}\n"
    return f"{head}\ndef f(x: Tensor, y: Tensor) -> None:\n    {call}\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, list[str]]:
    """What ``mypy --strict`` says of users' files, by the text of each."""
    folder = tmp_path_factory.mktemp("types")
    package = folder / "stubs" / "lossgen"
    package.mkdir(parents=True)
    for name, text in {**TORCH, "lossgen/__init__.py": "", "lossgen/py.typed": ""}.items():
        (folder / "stubs" / name).parent.mkdir(exist_ok=True)
        (folder / "stubs" / name).write_text(text)
    shutil.copy(paths.stub_file(), package)
    programs = {f"user{k}.py": p for k, p in enumerate((TEN, REVEALED, *map(calling, WRONG)))}
    for name, text in programs.items():
        (folder / name).write_text(text)
    options = ["--strict", "--config-file=", "--no-error-summary", "--hide-error-codes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", "stubs")
        patch.chdir(folder)
        out, err, _ = api.run([*options, *programs])
    assert not err
    lines = [line.partition(":") for line in out.splitlines()]
    assert {file for file, *_ in lines} <= set(programs), out
    return {p: [rest for name, _, rest in lines if name == f] for f, p in programs.items()}


def test_ten_losses_are_strictly_typed(said):
    assert said[TEN] == []


def test_a_signature_is_revealed(said):
    (found,) = said[REVEALED]
    assert "logits: torch.Tensor, target: torch.Tensor, *, q: float | torch.Tensor =" in found
    named = ("mean", "sum", "none", "batchmean")
    assert f"reduction: {' | '.join(f'Literal[{n!r}]' for n in named)} =" in found
    assert found.endswith('-> torch.Tensor"')


@pytest.mark.parametrize(("call", "error"), WRONG.items())
def test_a_wrong_call_is_an_error(said, call, error):
    first = said[calling(call)][0]
    assert first.partition(" error: ")[2].startswith(error)


def test_the_file_has_a_section_for_each_loss():
    text = paths.stub_file().read_text(encoding="utf-8")
    found = sections(text)
    assert tuple(found) == paths.spec_names()
    assert assembled(found) == text
