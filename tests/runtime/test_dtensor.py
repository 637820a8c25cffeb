"""Real DTensors over a gloo mesh that hold whole rows: refused by name, with remedies that work; of
classes in shards see tests/distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lossgen.losses import cross_entropy_loss, kd_forward_kl_loss, linear_cross_entropy_loss

if not dist.is_available():
    pytest.skip("torch without torch.distributed", allow_module_level=True)
tensors = pytest.importorskip("torch.distributed.tensor")
X, Y = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 5, 2, 1])


def on_mesh(rank: int, size: int, store: str, check: Callable[..., None]) -> None:
    """Run ``check(mesh)`` in a process group of gloo whose ranks meet in a file."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        check(dist.device_mesh.init_device_mesh("cpu", (size,)))
    finally:
        dist.destroy_process_group()


def refused(mesh: object) -> None:
    """Whole rows, rows spread over ranks: none has rows in memory."""
    for placement in (tensors.Replicate(), tensors.Shard(0)):
        x = tensors.distribute_tensor(X, mesh, [placement]).requires_grad_()
        y = tensors.distribute_tensor(Y, mesh, [tensors.Replicate()])
        calls: dict[str, Callable[[], Tensor]] = {
            "logits is a DTensor.*full_tensor": lambda x=x: cross_entropy_loss(x, Y),
            "target is a DTensor": lambda y=y: cross_entropy_loss(X, y),
            "weight is a DTensor": lambda x=x: cross_entropy_loss(X, Y, weight=x[0]),
            "teacher is a DTensor": lambda x=x: kd_forward_kl_loss(X, x),
            "hidden is a DTensor": lambda x=x: linear_cross_entropy_loss(x, torch.eye(6), Y),
        }
        for text, call in calls.items():
            with pytest.raises(TypeError, match=text):
                call()
    x = tensors.distribute_tensor(X, mesh, [tensors.Shard(0)]).requires_grad_()
    plain = X.clone().requires_grad_()
    cross_entropy_loss(plain, Y).backward()
    cross_entropy_loss(x.full_tensor(), Y).backward()
    torch.testing.assert_close(x.grad.full_tensor(), plain.grad)
    mine = x.to_local()
    first = dist.get_rank() * len(mine)
    part = cross_entropy_loss(mine, Y[first : first + len(mine)], reduction="sum").detach()
    dist.all_reduce(part)
    torch.testing.assert_close(part, cross_entropy_loss(X, Y, reduction="sum"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return str(tmp_path / "store")


def test_one_process(store: str) -> None:
    on_mesh(0, 1, store, refused)
