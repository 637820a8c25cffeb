"""transformers' Trainer on patched models: the curves are those of its own loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("transformers")

import lossgen
from tests.integrations.models import ARCHITECTURES
from tests.integrations.training import STEPS, curve, trainer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def llama(**more):
    return ARCHITECTURES["LlamaForCausalLM"].build(**more)


def same(found, expected, **bound):
    assert len(found) == len(expected)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), **(bound or CLOSE))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "MixtralForCausalLM"])
def test_the_curve_is_that_of_the_models_own_loss(name, tmp_path):
    own = ARCHITECTURES[name].build()
    patched = lossgen.patch(copy.deepcopy(own), "cross_entropy")
    expected, found = (curve(trainer(m, tmp_path)) for m in (own, patched))
    assert len({*expected}) == STEPS
    same(found, expected)


def gce_of(outputs, labels, num_items_in_batch=None):
    """As its paper has it, by torch."""
    logits, target = outputs.logits[:, :-1].double(), labels[:, 1:]
    logp = F.log_softmax(logits, -1).gather(-1, target.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return ((1 - (0.7 * logp).exp()) / 0.7)[target != -100].sum() / num_items_in_batch


def test_another_loss_by_three_ways(tmp_path):
    ways = {
        "torch": (llama(), {"compute_loss_func": gce_of}),
        "fused": (lossgen.patch(llama(), "gce", q=0.7), {}),
        "logits": (lossgen.patch(llama(), "gce", fused=False, q=0.7), {}),
        "loss_func": (llama(), {"compute_loss_func": lossgen.hf.loss_func("gce", q=0.7)}),
        "loss_function": (llama(), {}),
    }
    ways["loss_function"][0].loss_function = lossgen.hf.loss_func("gce", q=0.7)
    curves = {k: curve(trainer(model, tmp_path, more)) for k, (model, more) in ways.items()}
    for found in curves.values():
        same(found, curves["torch"])


def test_autocast_to_half_precision(tmp_path):
    own, patched = llama(), lossgen.patch(llama(), "cross_entropy")
    exact = curve(trainer(llama(), tmp_path))
    expected, found = (curve(trainer(m, tmp_path, bf16=True)) for m in (own, patched))
    same(found, expected, rtol=2e-3, atol=2e-3)
    assert found != exact  # it was in half precision


def test_checkpoint_and_resume(tmp_path):
    whole = curve(trainer(lossgen.patch(llama(), "gce"), tmp_path / "whole"))
    saving = {"save_strategy": "steps", "save_steps": STEPS // 2}
    first = trainer(lossgen.patch(llama(), "gce"), tmp_path / "parts", **saving)
    curve(first)
    folder = tmp_path / "parts" / f"checkpoint-{STEPS // 2}"
    again = trainer(lossgen.patch(llama(seed=9), "gce"), tmp_path / "parts", **saving)
    same(curve(again, resume_from_checkpoint=str(folder)), whole)
    # What was saved is the model of transformers', without lossgen.
    loaded = type(llama()).from_pretrained(folder)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    assert type(loaded) is type(llama())


def test_evaluation_has_logits_for_the_metrics(tmp_path):
    model = lossgen.patch(llama(), "cross_entropy")
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {}

    own = trainer(llama(), tmp_path)
    found = trainer(model, tmp_path, {"compute_metrics": metrics})
    rows = [own.train_dataset[i] for i in range(6)]
    same([found.evaluate(rows)["eval_loss"]], [own.evaluate(rows)["eval_loss"]])
    assert seen[0][-1] == model.config.vocab_size


def test_compiled(tmp_path):
    few = {"max_steps": 3}  # as it compiles for minutes on a busy machine
    how = {"torch_compile": True, "torch_compile_backend": "eager", **few}
    model = lossgen.patch(llama(), "cross_entropy")
    same(curve(trainer(model, tmp_path, **how)), curve(trainer(llama(), tmp_path, **few)))


@pytest.mark.parametrize("target", [["q_proj"], ["lm_head"], ["q_proj", "lm_head"]])
def test_low_rank_adapters(target, tmp_path):
    peft = pytest.importorskip("peft")

    def adapted(**how):
        torch.manual_seed(5)
        options = peft.LoraConfig(target_modules=target, r=4, lora_dropout=0.0, **how)
        return peft.get_peft_model(llama(), options)

    own, found = adapted(), lossgen.patch(adapted(), "cross_entropy")
    same(curve(trainer(found, tmp_path)), curve(trainer(own, tmp_path)))
    trained = dict(found.named_parameters())
    start = dict(adapted().named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(trained[name], parameter, rtol=1e-3, atol=1e-4)
        assert torch.equal(parameter, start[name]) != parameter.requires_grad
