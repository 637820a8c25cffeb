"""Heads that PEFT made: the loss and the gradients of the logits that they would give."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import lossgen  # noqa: E402
from lossgen.integrations.errors import UnfitHead  # noqa: E402
from tests.integrations.models import ARCHITECTURES, batch  # noqa: E402


def adapted(name="LlamaForCausalLM", dtype=torch.float32, **how):
    torch.manual_seed(4)
    options = peft.LoraConfig(**{"target_modules": ["lm_head"], "r": 4, **how})
    model = peft.get_peft_model(ARCHITECTURES[name].build().to(dtype), options)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def stepped(model, **how):
    torch.manual_seed(6)
    model.zero_grad()
    loss = model(**batch(), **how).loss
    loss.backward()
    return loss, {k: p.grad.clone() for k, p in model.named_parameters() if p.requires_grad}


def check(model, **bound):
    """Without the logits, against the same loss of logits that PEFT's own forward made."""
    lossgen.patch(model, "gce")
    expected, wanted = stepped(model, output_logits=True)
    found, got = stepped(model)
    torch.testing.assert_close(found, expected, **bound)
    for name, gradient in wanted.items():
        assert gradient.any(), name
        torch.testing.assert_close(got[name], gradient, **(bound or {"rtol": 1e-4, "atol": 1e-6}))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"lora_dropout": 0.4},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
def test_adapters_on_the_head(how):
    check(adapted(**how))


def test_tied_and_capped():
    check(adapted("Gemma2ForCausalLM"))


def test_in_half_precision():
    check(adapted(dtype=torch.bfloat16), rtol=0.05, atol=0.02)


def test_two_adapters_at_once():
    model = adapted()
    torch.manual_seed(8)
    model.add_adapter("other", peft.LoraConfig(target_modules=["lm_head"], r=2))
    model.base_model.set_adapter(["default", "other"])
    for key, parameter in model.named_parameters():
        if "lora_B.other" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    check(model)


def test_disabled_and_merged():
    model = lossgen.patch(adapted(), "gce")
    with model.disable_adapter():
        bare, expected = model(**batch()).loss, model(**batch(), output_logits=True).loss
        torch.testing.assert_close(bare, expected)
    whole = model(**batch()).loss
    assert whole != bare
    model.merge_adapter()
    torch.testing.assert_close(model(**batch()).loss, whole)


def test_patched_before_it_is_adapted():
    model = lossgen.patch(ARCHITECTURES["LlamaForCausalLM"].build(), "gce")
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], r=4))
    _, gradients = stepped(model)
    assert any(gradient.any() for name, gradient in gradients.items() if "lora_B" in name)


REFUSED = {
    "the head peft's Linear cannot be fused with a loss: "
    "adapter 'default' is DoraLinearVariant, not LoRA": {"use_dora": True},
    "the head peft's Linear cannot be fused with a loss: adapter 'default' has a bias": {
        "lora_bias": True
    },
}


@pytest.mark.parametrize(("text", "how"), REFUSED.items(), ids=["dora", "bias"])
def test_adapters_that_are_not_low_rank_products(text, how):
    model = adapted(**how)
    with pytest.raises(UnfitHead) as raised:
        lossgen.patch(model, "gce")
    assert raised.value.message == text


@pytest.mark.parametrize("kind", ["IA3Config", "LoHaConfig"])
def test_other_adapters(kind):
    options = {"target_modules": ["lm_head"]}
    options |= {"feedforward_modules": []} if kind == "IA3Config" else {}
    model = ARCHITECTURES["LlamaForCausalLM"].build()
    model = peft.get_peft_model(model, getattr(peft, kind)(**options))
    with pytest.raises(UnfitHead, match=r"the head peft's Linear.* it is not a linear layer"):
        lossgen.patch(model, "gce")
