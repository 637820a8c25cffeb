"""A patched model whose parameters ``fully_shard`` keeps in parts, in two processes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from torch import distributed, multiprocessing

import lossgen
from tests.integrations.models import ARCHITECTURES, batch


def patched():
    return lossgen.patch(ARCHITECTURES["LlamaForCausalLM"].build(), "gce")


def compared(rank: int, world: int, store: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    mesh = init_device_mesh("cpu", (world,))
    whole, parts = patched(), patched()
    for module in (*parts.model.layers, parts):
        fully_shard(module, mesh=mesh)
    losses = [model(**batch()).loss for model in (whole, parts)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    gradients = {k: p.grad.full_tensor() for k, p in parts.named_parameters()}
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-7)
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_sharded_parameters(tmp_path):
    multiprocessing.spawn(compared, (2, str(tmp_path / "store")), nprocs=2)
