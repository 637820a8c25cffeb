"""A small language model whose head is cut over two ranks, and two copies of it on other data.

    torchrun --nproc-per-node 4 examples/parallel_lm.py
    torchrun --nproc-per-node 4 examples/parallel_lm.py --loss gce --steps 40

A mesh of data × tensor ranks, 2 × 2.  A rank of the tensor axis has half of the vocabulary's rows
of the head; the logits of all classes exist nowhere.  The copies of the data axis see other
sequences, of other lengths, and average their gradients.  The last line compares the loss of every
step with the same training in one process.  Needs transformers, for a Llama of random weights; no
network.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import LlamaConfig, LlamaModel

import lossgen
from lossgen.losses import linear_cross_entropy_loss, linear_gce_loss

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": linear_cross_entropy_loss,
    "gce": linear_gce_loss,
}
VOCABULARY, WIDTH, SEQUENCES, LENGTH = 1003, 64, 8, 33


def model() -> tuple[LlamaModel, Tensor]:
    """A body and a head [V, D], the same in every process."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.0,
    )
    return LlamaModel(config), torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and labels [8, 33] of all ranks; sequences end at different places."""
    drawn = torch.Generator().manual_seed(1)
    start = torch.randint(VOCABULARY, (SEQUENCES, 1), generator=drawn)
    for _ in range(steps):
        stride = torch.randint(1, 4, (SEQUENCES, 1), generator=drawn)
        tokens = (start + stride * torch.arange(LENGTH)) % VOCABULARY
        ends = torch.randint(LENGTH // 2, LENGTH, (SEQUENCES, 1), generator=drawn)
        yield tokens, tokens.masked_fill(torch.arange(LENGTH) > ends, -100)


def trained(loss: Callable[..., Tensor], steps: int, mesh: DeviceMesh | None) -> list[float]:
    """The loss of every step, of all rows; without a mesh in one process."""
    body, whole = model()
    share, more, own = slice(0, SEQUENCES), dict[str, Any](), slice(None)
    if mesh is not None:
        size = SEQUENCES // mesh.size(0)
        share = slice(size * mesh.get_local_rank("data"), size * (mesh.get_local_rank("data") + 1))
        half = -(-VOCABULARY // mesh.size(1))
        sizes = tuple(min(half, VOCABULARY - k * half) for k in range(mesh.size(1)))
        more["group"] = lossgen.ClassShards(mesh.get_group("tensor"), sizes)
        own = more["group"].own
    head = nn.Parameter(whole[own].clone())
    parameters = [*body.parameters(), head]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    found = []
    for tokens, labels in batches(steps):
        if mesh is not None:  # the rows of all copies
            more["normalizer"] = lossgen.mean_count(labels[share, 1:], mesh.get_group("data"))
        hidden = body(input_ids=tokens[share]).last_hidden_state
        value = loss(hidden, head, labels[share], shift=1, **more)
        optimizer.zero_grad()
        value.backward()
        result = value.detach()
        if mesh is not None:
            for part in (result, *(p.grad for p in parameters)):
                dist.all_reduce(part, group=mesh.get_group("data"))
                part.div_(mesh.size(0))
        optimizer.step()
        found.append(result.item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loss", choices=LOSSES, default="cross_entropy")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    found = trained(LOSSES[options.loss], options.steps, mesh)
    if os.environ["RANK"] == "0":
        for step in sorted({0, options.steps // 2, options.steps - 1}):
            print(f"step {step}: {options.loss} {found[step]:.6f}")
        alone = trained(LOSSES[options.loss], options.steps, None)
        apart = max(abs(a - b) for a, b in zip(found, alone, strict=True))
        print(f"largest difference from one process over {options.steps} steps: {apart:.1e}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
