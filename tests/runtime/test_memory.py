"""Buffers of gradients that are used again: never two tensors in one, never a stale bound."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lossgen.runtime import memory

pytestmark = pytest.mark.skipif(not memory._USABLE, reason="the pool is for CPython on Linux")
MEGABYTE = 1 << 20


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> memory._Pool:
    """A pool of this test's own."""
    fresh = memory._Pool(1 << 30)
    monkeypatch.setattr(memory, "_POOL", fresh)
    return fresh


def rows(megabytes: int) -> torch.Tensor:
    """A tensor of that size that takes no memory."""
    return torch.empty(1, dtype=torch.uint8).expand(megabytes, MEGABYTE)


@pytest.mark.parametrize("shape", [(0, 1025), (1, 1025), (3000, 1025)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_are_kept_and_strides_are_not(shape, dtype, pool) -> None:
    like = torch.empty(shape[::-1], dtype=dtype).t()
    found = memory.empty_like(like)
    assert (found.shape, found.dtype, found.is_contiguous()) == (like.shape, dtype, True)
    assert memory.empty_like(like, torch.float64).dtype is torch.float64
    found.fill_(1.0)


def test_a_buffer_is_used_again(pool) -> None:
    first = memory.empty_like(rows(8))
    place = first.data_ptr()
    assert place % (2 * MEGABYTE) == 0  # whole huge pages
    del first
    assert memory.empty_like(rows(8)).data_ptr() == place


def test_rows_that_vary_a_little_share_buffers(pool) -> None:
    first = memory.empty_like(rows(100))
    place = first.data_ptr()
    del first
    assert memory.empty_like(rows(98)).data_ptr() == place


@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t[3:, 5:],
        lambda t: t.detach(),
        lambda t: t.numpy(),
        lambda t: t.untyped_storage(),
        lambda t: torch.utils.dlpack.to_dlpack(t),
        lambda t: t.view(torch.int16),
        lambda t: [t],
    ],
)
def test_a_live_buffer_is_never_handed_out(hold, pool) -> None:
    first = memory.empty_like(rows(8))
    place = first.data_ptr()
    held = hold(first)
    del first
    others = [memory.empty_like(rows(8)) for _ in range(3)]
    assert place not in {t.data_ptr() for t in others}
    del held
    gc.collect()
    pool.settle()
    assert len(pool.free) == 1


def test_copies_are_the_callers_own(pool) -> None:
    first = memory.empty_like(rows(8)).fill_(7)
    copies = [pickle.loads(pickle.dumps(first)), copy.deepcopy(first), first.clone()]
    del first
    memory.empty_like(rows(8)).fill_(9)
    assert all(int(c.min()) == 7 for c in copies)


def test_two_of_a_size_are_kept(pool) -> None:
    held = [memory.empty_like(rows(8)) for _ in range(5)]
    held.clear()
    pool.settle()
    assert len(pool.free) == 2


def test_what_is_kept_is_bounded(pool) -> None:
    memory.set_cache_limit(40 * MEGABYTE)
    held = [memory.empty_like(rows(n)) for n in (8, 12, 16, 24)]
    held.clear()
    pool.settle()
    assert sum(b.size for b in pool.free) <= 40 * MEGABYTE
    assert pool.free, "the newest stays"
    assert memory.empty_like(rows(64)).numel() == 64 * MEGABYTE  # larger than the bound: torch's
    assert not pool.lent
    memory.set_cache_limit(0)
    assert not pool.free


def test_the_cache_can_be_emptied(pool) -> None:
    alive, gone = memory.empty_like(rows(8)).fill_(3), memory.empty_like(rows(8))
    del gone
    memory.empty_cache()
    assert not pool.free
    assert int(alive.max()) == 3


def test_threads_never_share_a_buffer(pool) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            tensor = memory.empty_like(rows(5)).fill_(number)
            other = memory.empty_like(rows(5)).fill_(number + 100)
            if int(tensor.min()) != number or int(tensor.max()) != number:
                wrong.append(number)
            del tensor, other

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    pool.settle()
    assert not pool.lent


def test_a_forked_child_has_buffers_of_its_own(pool) -> None:
    alive = memory.empty_like(rows(8)).fill_(1)
    freed = memory.empty_like(rows(8)).fill_(1)
    del freed
    child = os.fork()
    if child == 0:
        memory.empty_like(rows(8)).fill_(2)
        alive.fill_(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert int(alive.max()) == 1


def test_stand_ins_subclasses_and_modes_get_what_torch_gives(pool) -> None:
    """A mode that follows tensors must see where each comes from; ``frombuffer`` shows nothing."""

    class Own(torch.Tensor):
        pass

    assert isinstance(memory.empty_like(rows(8).as_subclass(Own)), Own)
    assert memory.empty_like(rows(8).to("meta")).is_meta
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(rows(1)).expand(8, MEGABYTE)
        assert isinstance(memory.empty_like(fake), FakeTensor)
    with Followed() as followed:
        memory.empty_like(rows(8))
    assert "aten.empty_like.default" in followed.seen
    held = rows(8)
    with torch.device("meta"):
        assert not memory.empty_like(held).is_meta
    assert len(pool.lent) == 1  # of the last one, by no mode of dispatch


class Followed(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))
