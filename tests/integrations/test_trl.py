"""TRL's trainers with lossgen's heads: losses, metrics and curves are those of TRL's own."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("transformers")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

import lossgen  # noqa: E402
from tests.integrations.models import ARCHITECTURES, CLASSES  # noqa: E402
from tests.integrations.training import ACCUMULATED, STEPS, Uneven, curve  # noqa: E402


@pytest.fixture(autouse=True)
def _restored():
    yield
    lossgen.trl.uninstall()


@pytest.fixture(scope="module")
def tokenizer():
    """A word for each class; nothing is downloaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, CLASSES)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def settings(folder, **more):
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 3,
        **more,
    }


def sft(model, tokenizer, folder, **more):
    rows = [{"input_ids": t, "labels": y} for t, y in Uneven().rows]
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings(folder, max_length=None, **more)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def logged(trainer):
    """Losses, and the metrics that TRL makes of the head's results."""
    losses = curve(trainer)
    names = ("entropy", "mean_token_accuracy", "rewards/margins", "logps/chosen")
    history = [e for e in trainer.state.log_history if "loss" in e]
    return {"loss": losses} | {k: [e[k] for e in history] for k in names if k in history[0]}


def compared(make, **bound):
    own = logged(make())
    lossgen.trl.install()
    found = logged(make())
    assert found.keys() == own.keys()
    assert len(own["loss"]) == STEPS
    for name, values in own.items():
        pair = torch.tensor(found[name]), torch.tensor(values)
        torch.testing.assert_close(*pair, **(bound or {"rtol": 1e-5, "atol": 1e-5}))


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
def test_supervised(loss_type, name, tokenizer, tmp_path):
    def make():
        return sft(ARCHITECTURES[name].build(), tokenizer, tmp_path, loss_type=loss_type)

    compared(make)


def test_supervised_in_half_precision(tokenizer, tmp_path):
    def make():
        model = ARCHITECTURES["LlamaForCausalLM"].build()
        return sft(model, tokenizer, tmp_path, bf16=True)

    compared(make, rtol=1e-2, atol=1e-2)


def test_supervised_with_adapters(tokenizer, tmp_path):
    peft = pytest.importorskip("peft")

    def make(target="q_proj"):
        torch.manual_seed(5)
        options = peft.LoraConfig(target_modules=[target], r=4)
        model = peft.get_peft_model(ARCHITECTURES["LlamaForCausalLM"].build(), options)
        return sft(model, tokenizer, tmp_path)

    compared(make)
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        make("lm_head")  # by TRL itself, which reads the weight under the adapter


def test_another_loss_by_its_own_argument(tokenizer, tmp_path):
    def make(compute):
        return trl.SFTTrainer(
            model=ARCHITECTURES["LlamaForCausalLM"].build(),
            args=trl.SFTConfig(**settings(tmp_path, max_length=None)),
            train_dataset=datasets.Dataset.from_list(
                [{"input_ids": t, "labels": y} for t, y in Uneven().rows]
            ),
            processing_class=tokenizer,
            compute_loss_func=compute,
        )

    own = curve(sft(ARCHITECTURES["LlamaForCausalLM"].build(), tokenizer, tmp_path))
    found = curve(make(lossgen.hf.loss_func("cross_entropy")))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(own), rtol=1e-5, atol=1e-5)


def test_preferences(tokenizer, tmp_path):
    rows = [
        {
            "prompt": " ".join(f"w{i}" for i in tokens[:2]),
            "chosen": " " + " ".join(f"w{i}" for i in tokens[2:]),
            "rejected": " " + " ".join(f"w{i}" for i in reversed(tokens)),
        }
        for tokens, _ in Uneven().rows
    ]

    def make():
        return trl.DPOTrainer(
            model=ARCHITECTURES["LlamaForCausalLM"].build(),
            ref_model=ARCHITECTURES["LlamaForCausalLM"].build(),  # by default from a hub
            args=trl.DPOConfig(**settings(tmp_path)),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    compared(make)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_distillation(beta, tokenizer, tmp_path):
    rows = [{"prompt": " ".join(f"w{i}" for i in tokens)} for tokens, _ in Uneven().rows]
    teacher = ARCHITECTURES["LlamaForCausalLM"].build(seed=7)

    def make():
        options = {"beta": beta, "max_completion_length": 5, "temperature": 0.9}
        return trl.DistillationTrainer(
            model=ARCHITECTURES["LlamaForCausalLM"].build(),
            teacher_model=teacher,
            args=trl.DistillationConfig(**settings(tmp_path, **options)),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    compared(make)


def test_checkpoint_and_resume(tokenizer, tmp_path):
    def make(seed=0, part="parts"):
        model = ARCHITECTURES["LlamaForCausalLM"].build(seed=seed)
        saving = {"save_strategy": "steps", "save_steps": STEPS // 2}
        return sft(model, tokenizer, tmp_path / part, **saving)

    own = curve(make(part="own"))
    lossgen.trl.install()
    curve(make())
    folder = tmp_path / "parts" / f"checkpoint-{STEPS // 2}"
    again = curve(make(seed=9), resume_from_checkpoint=str(folder))
    torch.testing.assert_close(torch.tensor(again), torch.tensor(own), rtol=1e-5, atol=1e-5)


OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.mark.parametrize("outputs", [(), ("entropy",), OUTPUTS], ids=len)
@pytest.mark.parametrize("cap", [None, 2.5])
def test_the_function_of_tokens(outputs, cap):
    from trl.trainer import utils

    found = {}
    for ours in (False, True):
        if ours:
            lossgen.trl.install()
        torch.manual_seed(0)
        hidden = torch.randn(13, 8, requires_grad=True)
        weight = torch.randn(29, 8, requires_grad=True)
        bias = torch.randn(29, requires_grad=True)
        target = torch.randint(0, 29, (13,))
        results = utils._ChunkedLogProbFunction.apply(
            hidden, weight, bias, target, 0.8, 16, cap, 0.6, ("log_probs", *outputs)
        )
        total = results[0].sin().sum()
        if "entropy" in outputs:
            total = total + results[1].cos().sum()
        found[ours] = (*results, *torch.autograd.grad(total, (hidden, weight, bias)))
    for mine, theirs in zip(found[True], found[False], strict=True):
        if theirs is None or mine is None:
            assert theirs is mine
        else:
            assert mine.dtype is theirs.dtype
            torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-5)


BETAS = [0.0, 0.02, 0.5, 0.98, 1.0]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("caps", [(None, None), (3.0, None), (3.0, 2.0)], ids=str)
def test_the_divergence_of_distillation(beta, caps):
    from trl.trainer import distillation_trainer as module

    found = {}
    for ours in (False, True):
        if ours:
            lossgen.trl.install()
        torch.manual_seed(0)
        student = torch.randn(2, 7, 8, requires_grad=True)
        weights = torch.randn(29, 8, requires_grad=True), torch.randn(29, 5)
        loss, entropy, count = module._chunked_divergence_loss(
            student,
            torch.randn(2, 7, 5),
            *weights,
            torch.rand(2, 7) < 0.7,
            beta,
            num_items_in_batch=17,
            student_logit_scale=0.7,
            teacher_lm_head_bias=torch.randn(29),
            student_final_logit_softcapping=caps[0],
            teacher_final_logit_softcapping=caps[1],
            temperature=1.4,
        )
        found[ours] = (loss, entropy, count, *torch.autograd.grad(loss, (student, weights[0])))
    for mine, theirs in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("count", [None, 11])
def test_the_divergence_of_gkd(beta, count):
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 5, 13, requires_grad=True), torch.randn(2, 5, 13)
    labels = torch.randint(0, 13, (2, 5))
    labels[0, :2] = -100
    pairs = itertools.product(("batchmean", "sum"), (1.0, 2.0))
    for reduction, temperature in pairs:
        given = (logits, teacher, labels, beta, temperature, reduction, count)
        expected = GKDTrainer.generalized_jsd_loss(*given)
        found = lossgen.trl.generalized_jsd_loss(*given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_installed_twice_and_taken_out():
    from trl.trainer import utils

    own = utils._ChunkedLogProbFunction
    lossgen.trl.install()
    lossgen.trl.install()
    assert utils._ChunkedLogProbFunction is not own
    lossgen.trl.uninstall()
    assert utils._ChunkedLogProbFunction is own


def test_another_version_is_named(monkeypatch):
    from trl.trainer import utils

    monkeypatch.delattr(utils, "_ChunkedLogProbFunction")
    with pytest.raises(ImportError) as raised:
        lossgen.trl.install()
    name = "trl.trainer.utils._ChunkedLogProbFunction"
    text = f"trl {trl.__version__} has no {name} that lossgen could take the place of"
    assert raised.value.message == text
