"""Losses and arguments that a trainer cannot give: exact texts. Needs no trainer."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lossgen.integrations.errors import UnfitLoss
from lossgen.integrations.hf import loss_func
from lossgen.integrations.losses import loss_of

REFUSED = [
    ("entropy_min", {}, "entropy_min_loss has no target, and labels are all that a trainer gives"),
    ("token_stats", {}, "token_stats has several results, not a loss"),
    (
        "soft_dice",
        {},
        "soft_dice_loss is of a whole batch, and a trainer adds up the losses of its rows",
    ),
    (
        "trades",
        {},
        "trades_loss needs adversarial_x beside the labels, for every class of every row",
    ),
    ("gce", {"qq": 1}, "gce_loss takes no 'qq' here"),
    ("gce", {"shift": 1}, "gce_loss takes no 'shift' here"),
    ("gce", {"softcap": 3.0}, "gce_loss takes no 'softcap' here"),
    (torch.nn.functional.cross_entropy, {}, "cross_entropy is not a loss of lossgen's"),
]


@pytest.mark.parametrize(("loss", "given", "text"), REFUSED, ids=lambda v: str(v)[:20])
def test_refused_by_name(loss, given, text):
    with pytest.raises(UnfitLoss) as raised:
        loss_of(loss, given)
    assert raised.value.message == text


def test_the_hint_names_what_was_meant():
    with pytest.raises(UnfitLoss, match="did you mean gamma"):
        loss_of("focal", {"gama": 2.0})


def test_a_value_outside_its_domain_is_refused_at_once():
    with pytest.raises(ValueError, match="q = 2 "):
        loss_of("gce", {"q": 2.0})


def test_a_row_input_is_refused_where_it_is_needed():
    with pytest.raises(UnfitLoss, match=r"needs .* beside the labels, a number per row"):
        loss_of("ppo_clip", {})


class Outputs(dict):
    """As those of transformers: a dict with attributes, whose class tells what made it."""

    logits = property(lambda self: self["logits"])


CausalLMOutputWithPast = type("CausalLMOutputWithPast", (Outputs,), {})
TokenClassifierOutput = type("TokenClassifierOutput", (Outputs,), {})


def test_a_language_model_is_judged_by_the_next_token():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, :3] = -100
    compute = loss_func("cross_entropy")
    outputs = CausalLMOutputWithPast(logits=logits)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1)
    )
    torch.testing.assert_close(compute(outputs, labels), expected)
    torch.testing.assert_close(compute(logits=logits, labels=labels, vocab_size=7), expected)
    count = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(compute(outputs, labels, num_items_in_batch=count), expected)


def test_a_classifier_is_judged_where_it_stands():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 7), labels.reshape(-1))
    compute = loss_func("cross_entropy")
    torch.testing.assert_close(compute(TokenClassifierOutput(logits=logits), labels), expected)
    torch.testing.assert_close(compute(logits=logits, labels=labels), expected)
    masked = loss_func("cross_entropy", shift=False)
    torch.testing.assert_close(masked(logits=logits, labels=labels, vocab_size=7), expected)
    pooled = compute(logits=logits, labels=labels[:, 0], pooled_logits=logits[:, 0], config=None)
    expected = torch.nn.functional.cross_entropy(logits[:, 0], labels[:, 0])
    torch.testing.assert_close(pooled, expected)


def test_no_trainer_is_imported():
    code = (
        "import sys, lossgen; lossgen.patch; lossgen.hf.loss_func('gce'); "
        "print(sorted({'transformers', 'trl', 'peft', 'lightning', 'timm'} & {*sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
