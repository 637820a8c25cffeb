"""Tiny random language models of transformers, one per architecture that the documents list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

CLASSES = 97
_SIZES = {
    "vocab_size": CLASSES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "output_router_logits": True,
}


@dataclass(frozen=True)
class Architecture:
    model: str
    config: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    whole: bool = False  # ``options`` are all

    def build(self, seed: int = 0, **more: Any) -> Any:
        """With logits of the size of trained ones, and no module that drops."""
        import transformers

        name = self.config or self.model.replace("ForCausalLM", "Config")
        sizes = {} if self.whole else _SIZES
        torch.manual_seed(seed)
        config = getattr(transformers, name)(**{**sizes, **self.options, **more})
        model = getattr(transformers, self.model)(config)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(10.0)
        return model.train()


_GPT2 = {"vocab_size": CLASSES, "n_embd": 32, "n_layer": 2, "n_head": 4}
_CAP = {"final_logit_softcapping": 3.0}
_MOE = ("Mixtral", "Qwen2Moe", "Qwen3Moe", "GraniteMoe", "GptOss")

_PLAIN = (
    "Llama",
    "Qwen2",
    "Qwen3",
    "Gemma",
    "Mistral",
    "Ministral",
    "Phi",
    "Phi3",
    "Olmo",
    "Olmo2",
    "Olmo3",
    "GPTNeoX",
    "OPT",
    "Bloom",
    "StableLm",
    "Starcoder2",
    "Glm4",
    "Nemotron",
    "Helium",
    "SmolLM3",
    "Exaone4",
    "Ernie4_5",
    "Apertus",
    "Lfm2",
)

ARCHITECTURES = {
    a.model: a
    for a in (
        *(Architecture(f"{name}ForCausalLM") for name in _PLAIN),
        *(Architecture(f"{name}ForCausalLM", options=_EXPERTS) for name in _MOE),
        Architecture("GPT2LMHeadModel", "GPT2Config", {**_GPT2, "resid_pdrop": 0.0}, whole=True),
        Architecture("Gemma2ForCausalLM", options=_CAP),
        Architecture("Gemma3ForCausalLM", "Gemma3TextConfig", _CAP),
        Architecture("CohereForCausalLM", options={"logit_scale": 0.25}),
        Architecture("Cohere2ForCausalLM", options={"logit_scale": 0.25}),
        Architecture("GraniteForCausalLM", options={"logits_scaling": 3.0}),
        Architecture("FalconH1ForCausalLM", options={"lm_head_multiplier": 0.5}),
    )
}


def batch(rows: int = 2, length: int = 9, seed: int = 1) -> dict[str, torch.Tensor]:
    """Tokens and labels, some of which do not count."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, CLASSES, (rows, length), generator=generator)
    labels = tokens.clone()
    labels[0, :4] = -100
    return {"input_ids": tokens, "labels": labels}
