"""Each architecture of the table in docs/integrations.md, with its own loss and with lossgen's.

python -m tests.integrations.test_architectures --update      writes the table anew
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import pytest

from lossgen import paths

transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

import lossgen  # noqa: E402
from tests.integrations.models import ARCHITECTURES, Architecture, batch  # noqa: E402

DOCUMENT = Path(paths.PACKAGE.parent / "docs/integrations.md")
BEGIN, END = "<!-- made by tests/integrations/test_architectures.py -->\n", "<!-- made -->\n"


def gradients(model):
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def seeded(model, **given):
    torch.manual_seed(2)  # of dropout that a model takes without a module for it
    return model(**given)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model)
def test_same_loss_and_gradients_as_its_own(architecture: Architecture):
    own = architecture.build()
    patched = lossgen.patch(copy.deepcopy(own), "cross_entropy")
    for given in (batch(), {**batch(), "num_items_in_batch": torch.tensor(23)}):
        expected, found = seeded(own, **given), seeded(patched, **given)
        assert found.logits is None
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
        if "aux_loss" in expected:
            torch.testing.assert_close(found.aux_loss, expected.aux_loss)
        expected.loss.backward()
        found.loss.backward()
    wanted, got = gradients(own), gradients(patched)
    assert wanted.keys() == got.keys()
    scale = max(g.abs().max() for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=2e-6 * float(scale))


def table() -> str:
    lines = ["| model | logits | beside the loss | head |", "| --- | --- | --- | --- |"]
    for name, architecture in sorted(ARCHITECTURES.items()):
        model = architecture.build()
        scores = lossgen.patch(model, "cross_entropy")._lossgen.scores
        done = [f"times {scores.scale:g}"] if scores.scale != 1 else []
        done += [f"capped at {scores.cap:g}"] if scores.cap < float("inf") else []
        auxiliary = "balance of experts" if model(**batch()).get("aux_loss") is not None else ""
        head = model.get_output_embeddings()
        tied = head.weight is model.get_input_embeddings().weight
        kind = ["tied"] * tied + ["bias"] * (head.bias is not None)
        lines.append(f"| {name} | {', '.join(done)} | {auxiliary} | {', '.join(kind)} |")
    version = ".".join(transformers.__version__.split(".")[:2])
    lines += ["", f"Tested with transformers {version}, as the models are by default but for size,"]
    lines += ["cap and scale."]
    return "\n".join(lines) + "\n"


def test_the_documented_table():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), f"run {__doc__.split()[-6:]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the table of docs/integrations.md anew.")
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args()
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
