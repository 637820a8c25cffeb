"""``lossgen.patch``: what a patched model answers, and what is refused by name."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import lossgen
from lossgen.integrations.errors import UnfitHead, UnfitLoss, UnfitModel
from tests.integrations.models import ARCHITECTURES, batch


def llama(**more):
    return ARCHITECTURES["LlamaForCausalLM"].build(**more)


def ignored_at_the_end(labels):
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)


def test_labels_may_be_shifted_already():
    model, given = lossgen.patch(llama(), "gce"), batch()
    shifted = ignored_at_the_end(given["labels"])
    wrong = given["labels"].roll(3, 1)  # only says that a loss is wanted
    expected = model(**given).loss
    found = model(given["input_ids"], labels=wrong, shift_labels=shifted).loss
    torch.testing.assert_close(found, expected)


def test_labels_by_position():
    model, given = lossgen.patch(llama(), "gce"), batch()
    found = model(given["input_ids"], None, None, None, None, given["labels"])
    assert found.logits is None
    torch.testing.assert_close(found.loss, model(**given).loss)


def test_logits_on_demand():
    model, given = lossgen.patch(llama(), "gce"), batch()
    fused, whole = model(**given), model(**given, output_logits=True)
    torch.testing.assert_close(whole.loss, fused.loss)
    torch.testing.assert_close(whole.logits, model(given["input_ids"]).logits)
    assert model(**given, return_dict=False)[1].shape == whole.logits.shape
    assert model.eval()(**given).logits is not None
    assert model(**given, output_logits=False).logits is None


def test_generation_is_untouched():
    model, prompt = llama().eval(), batch()["input_ids"]
    how = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    expected = model.generate(prompt, **how)
    assert torch.equal(lossgen.patch(model, "gce").generate(prompt, **how), expected)


def test_patched_again_and_unpatched():
    model, given = llama(), batch()
    own, kind = model(**given).loss, type(model)
    first = lossgen.patch(model, "gce", q=0.5)(**given).loss
    second = lossgen.patch(model, "gce", q=0.9)(**given).loss
    assert first != second
    assert lossgen.unpatch(model) is model
    assert lossgen.unpatch(model) is model
    assert type(model) is kind
    assert torch.equal(model(**given).loss, own)


def test_copies_and_pickles_are_patched_and_their_own():
    model, given = lossgen.patch(llama(), "gce"), batch()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(**given).loss, model(**given).loss)
        with torch.no_grad():
            other.lm_head.weight.zero_()
        assert model(**given).loss != other(**given).loss


def test_state_is_what_it_was():
    model = llama()
    names, parameters = [*model.state_dict()], [*model.parameters()]
    lossgen.patch(model, "gce")
    assert [*model.state_dict()] == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [m.training for m in model.modules()] == [True] * len([*model.modules()])


def test_the_head_is_looked_up_at_each_call():
    model, given = lossgen.patch(llama(), "gce"), batch()
    before = model(**given).loss
    model.lm_head = nn.Linear(32, model.config.vocab_size, bias=False)
    model.zero_grad()
    after = model(**given).loss
    after.backward()
    assert before != after
    assert model.lm_head.weight.grad is not None


def test_one_graph_under_compile():
    model, given = lossgen.patch(llama(), "gce"), batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, found = model(**given).loss, compiled(**given).loss
    torch.testing.assert_close(found, expected)
    found.backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected.backward()
    for gradient, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_loss_from_a_formula_and_one_from_a_file(tmp_path):
    given = batch()
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nclass: Mine\ntitle: Mine\nreference: none\ntransform: -logp[y]\n")
    own = llama()(**given).loss
    torch.testing.assert_close(lossgen.patch(llama(), path)(**given).loss, own)
    formula = lossgen.loss("-logp[y]")
    torch.testing.assert_close(lossgen.patch(llama(), formula)(**given).loss, own)


# ------------------------------------------------------------------------------- refused by name
class Quantised(nn.Linear):
    def forward(self, x):
        return super().forward(x.round())


def hooked(model):
    model.lm_head.register_forward_hook(lambda module, given, made: made * 2)


def replaced(model):
    model.lm_head.forward = nn.Linear(32, 97).forward


def quantised(model):
    model.lm_head = Quantised(32, 97)


HEADS = {
    hooked: "the head torch's Linear cannot be fused with a loss: hooks are registered on it",
    replaced: "the head torch's Linear cannot be fused with a loss: its forward was replaced",
    quantised: "the head tests's Quantised cannot be fused with a loss: it is not a linear layer",
}


@pytest.mark.parametrize("change", HEADS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("late", [False, True])
def test_a_head_that_is_not_linear(change, late):
    model = llama()
    if late:
        lossgen.patch(model, "gce")
    change(model)
    with pytest.raises(UnfitHead) as raised:
        model(**batch()) if late else lossgen.patch(model, "gce")
    assert raised.value.message == HEADS[change]
    if not late:
        assert type(model).__dict__.get("_lossgen_base") is None
        assert lossgen.patch(model, "gce", fused=False)(**batch()).loss.isfinite()


def test_logits_that_lossgen_cannot_follow():
    class Odd(type(llama())):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits - 9.0 * (torch.arange(out.logits.shape[-1]) == 50)
            return out

    model = llama()
    model.__class__ = Odd
    text = "its logits are not those of its head, scaled or capped"
    with pytest.raises(UnfitModel, match=text):
        lossgen.patch(model, "gce")


def test_what_is_no_language_model():
    with pytest.raises(UnfitModel, match="it is not a language model of transformers"):
        lossgen.patch(nn.Linear(3, 4), "gce")
    with pytest.raises(UnfitModel, match="patch the model before it is compiled"):
        lossgen.patch(nn.DataParallel(llama()), "gce")
    with torch.device("meta"):
        model = llama()
    with pytest.raises(UnfitModel, match="it has no weights yet"):
        lossgen.patch(model, "gce")


def test_a_class_that_was_changed_since_is_kept():
    """``unpatch`` put the model's own class in place of FSDP's, which had sharded it since."""
    model = lossgen.patch(llama(), "gce")
    model.__class__ = sharded = type("Sharded", (type(model),), {})
    with pytest.raises(UnfitModel, match="its class was changed after lossgen did"):
        lossgen.unpatch(model)
    assert type(model) is sharded
    assert model(**batch()).loss.isfinite()


def test_another_loss_function_after_it():
    model = lossgen.patch(llama(), "gce")
    with pytest.raises(UnfitModel, match="it already takes its loss from lossgen"):
        model.loss_function = lossgen.hf.loss_func("gce")


def test_a_cap_of_the_loss_on_top_of_the_models():
    model = ARCHITECTURES["Gemma2ForCausalLM"].build()
    with pytest.raises(UnfitLoss, match="takes 'softcap', but the model scales or caps"):
        lossgen.patch(model, "cross_entropy", softcap=20.0)
