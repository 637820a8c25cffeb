"""Peak memory of a training step of a small language model, by what takes the loss of its logits.

    python benchmarks/trainer_memory.py [--classes 32000] [--tokens 2048] [--features 256]

A model of transformers with one layer, forward and backward, float32, on the CPU; memory is of the
tensors alive at once, beside the model.  ``trl's head`` is the fused head of TRL, which goes over
the classes by the chunk; ``torch by the chunk`` is torch's own linear cross-entropy, over the rows.
"""

from __future__ import annotations

import argparse
import gc
import platform
from collections.abc import Callable
from typing import Any

import torch
import transformers
import trl
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

import lossgen
from lossgen.bench.memory import Peak

Step = Callable[[Tensor], Tensor]


def model_of(classes: int, features: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=classes,
        hidden_size=features,
        intermediate_size=2 * features,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return transformers.LlamaForCausalLM(config).train()


def steps(classes: int, features: int) -> dict[str, tuple[Any, Step]]:
    """A model each, and its loss of tokens [B, S]."""

    def made() -> Any:
        return model_of(classes, features)

    own, chunked, fused, gce = made(), made(), made(), made()
    head = made()
    trl.trainer.utils.add_fused_lm_head(head)
    lossgen.patch(fused, "cross_entropy")
    lossgen.patch(gce, "gce", q=0.7)

    def by_the_chunk(tokens: Tensor) -> Tensor:
        hidden = chunked.model(input_ids=tokens).last_hidden_state[:, :-1].flatten(0, 1)
        options = LinearCrossEntropyOptions()
        target = tokens[:, 1:].flatten()
        loss: Tensor = F.linear_cross_entropy(
            hidden, chunked.lm_head.weight, target, options=options
        )
        return loss

    def of(model: Any, **more: Any) -> Step:
        return lambda tokens: model(input_ids=tokens, labels=tokens, use_cache=False, **more).loss

    return {
        "the model's own": (own, of(own)),
        "torch by the chunk": (chunked, by_the_chunk),
        "trl's head": (head, of(head, fused_lm_head=True)),
        'lossgen.patch(model, "cross_entropy")': (fused, of(fused)),
        'lossgen.patch(model, "gce")': (gce, of(gce)),
    }


def measured(model: Any, step: Step, tokens: Tensor) -> tuple[float, float]:
    """MB alive at once, and the loss."""
    gc.collect()
    with Peak() as peak:
        loss = step(tokens)
        loss.backward()
    model.zero_grad()
    return peak.peak / 1e6, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--features", type=int, default=256)
    given = parser.parse_args()
    tokens = torch.randint(0, given.classes, (4, given.tokens // 4))
    table = Table("loss", "MB", "value", title=f"{given.tokens} tokens, {given.classes} classes")
    for name, (model, step) in steps(given.classes, given.features).items():
        measured(model, step, tokens[:, :16])  # what is made once
        megabytes, loss = measured(model, step, tokens)
        table.add_row(name, f"{megabytes:.0f}", f"{loss:.5f}")
    console = Console()
    console.print(table)
    weight = given.classes * given.features * 4 / 1e6
    console.print(f"of which the gradient of the head {weight:.0f}, as of the embedding")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    console.print(f"{versions}, trl {trl.__version__}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
