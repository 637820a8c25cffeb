"""What a call with classes in shards takes and does, on four ranks: run by ``launch``."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import lossgen
from lossgen.losses import (
    cross_entropy_loss,
    gce_loss,
    kd_forward_kl_loss,
    linear_cross_entropy_loss,
    linear_gce_loss,
    linear_kd_forward_kl_loss,
    linear_token_stats,
    logit_norm_loss,
    token_stats,
)
from tests.distributed.launch import GONE

N, V, D = 8, 22, 6
SIZES = (9, 0, 8, 5)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, TEACHER = _draw(N, V), _draw(N, V, seed=1)
HIDDEN, LAYER, BIAS = _draw(N, D, seed=2), _draw(V, D, seed=3), _draw(V, seed=4)
TARGET = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(5))
TARGET[2] = -100


def _gradients(loss: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, sources)


def _close(*pairs: tuple[Tensor, Tensor]) -> None:
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


# ------------------------------------------------------------------------------- arguments
def options() -> None:
    """Each is of the whole rows: a mean, weights, smoothing, a z term, numbers that learn."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    own, weight = shards.own, _draw(V, seed=6).exp()
    calls: list[dict[str, Any]] = [
        {"label_smoothing": 0.1},
        {"z_loss": 0.01, "temperature": 0.7},
        {"weight": weight},
        {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.01},
        {"row_weight": _draw(N, seed=7).exp()},
        {"normalizer": 3.5},
        {"reduction": "sum"},
        {"reduction": "batchmean"},
    ]
    for given in calls:
        x, mine = _leaf(X), _leaf(X[:, own])
        one = cross_entropy_loss(x, TARGET, backend="torch", **given)
        [wanted] = _gradients(one, x)
        cut = {k: v[own] if v is weight else v for k, v in given.items()}
        for held in (given, cut):  # vectors over the classes are whole, or this rank's
            many = cross_entropy_loss(mine, TARGET, group=shards, **held)
            _close((many, one), (_gradients(many, mine)[0], wanted[:, own]))
    for function, source in ((gce_loss, X), (linear_gce_loss, None)):
        q = torch.tensor(0.6, requires_grad=True)
        linear = source is None
        whole = (HIDDEN, LAYER) if linear else (X,)
        part = (HIDDEN, LAYER[own]) if linear else (X[:, own],)
        found = [
            function(*s, TARGET, q=q, **g) for s, g in ((whole, {}), (part, {"group": shards}))
        ]
        _close((found[1], found[0]), (_gradients(found[1], q)[0], _gradients(found[0], q)[0]))
    rows = gce_loss(X[:, own], TARGET, group=shards, reduction="none")
    assert rows[2] == 0
    assert rows.shape == (N,)


def linear() -> None:
    """Hidden of all rows, the shard of a layer; a teacher of its own factors; shifted labels."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    own = shards.own
    sources = (HIDDEN, LAYER, BIAS)
    for more in ({}, {"softcap": 2.0, "temperature": 0.8}, {"memory_budget": 4096}):
        whole, part = (
            [_leaf(t) for t in sources],
            [_leaf(t) for t in (HIDDEN, LAYER[own], BIAS[own])],
        )
        one = linear_cross_entropy_loss(*whole[:2], TARGET, linear_bias=whole[2], **more)
        many = linear_cross_entropy_loss(
            *part[:2], TARGET, linear_bias=part[2], group=shards, **more
        )
        _close((many, one))
        wanted, found = _gradients(one, *whole), _gradients(many, *part)
        _close((found[0], wanted[0]), (found[1], wanted[1][own]), (found[2], wanted[2][own]))
    teacher = (_draw(N, 3, seed=8), _draw(V, 3, seed=9))
    cut = (teacher[0], teacher[1][own])
    _close(
        (
            linear_kd_forward_kl_loss(HIDDEN, LAYER[own], cut, group=shards),
            linear_kd_forward_kl_loss(HIDDEN, LAYER, teacher),
        ),
        (
            linear_gce_loss(
                HIDDEN.view(2, 4, D), LAYER[own], TARGET.view(2, 4), shift=1, group=shards
            ),
            linear_gce_loss(HIDDEN.view(2, 4, D), LAYER, TARGET.view(2, 4), shift=1),
        ),
        *zip(
            linear_token_stats(HIDDEN, LAYER[own], TARGET, group=shards),
            linear_token_stats(HIDDEN, LAYER, TARGET),
            strict=True,
        ),
    )
    module = lossgen.losses.LinearGCELoss(q=0.5, group=shards)
    _close((module(HIDDEN, LAYER[own], TARGET), linear_gce_loss(HIDDEN, LAYER, TARGET, q=0.5)))


def learned() -> None:
    """A vector that wants a gradient, whole or this rank's part of it; hidden that is transposed,
    beside a rank without classes; a module is copied with its group."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    own, x = shards.own, X[:, shards.own]
    weight, whole, part = (_leaf(_draw(V, seed=6).exp()) for _ in range(3))
    part = _leaf(part[own])
    [wanted] = _gradients(gce_loss(X, TARGET, weight=weight), weight)
    _close(
        (_gradients(gce_loss(x, TARGET, weight=whole, group=shards), whole)[0], wanted),
        (_gradients(gce_loss(x, TARGET, weight=part, group=shards), part)[0], wanted[own]),
    )
    turned = HIDDEN.t().contiguous().t().requires_grad_()
    plain = _leaf(HIDDEN)
    many = linear_gce_loss(turned, LAYER[own], TARGET, group=shards)
    [found] = _gradients(many, turned)
    _close((found, _gradients(linear_gce_loss(plain, LAYER, TARGET), plain)[0]))
    module = copy.deepcopy(lossgen.losses.GCELoss(q=0.5, group=shards))
    _close((module(x, TARGET), gce_loss(X, TARGET, q=0.5)))
    assert pickle.loads(pickle.dumps(shards)) == shards


def masked() -> None:
    """A vocabulary that is padded by -inf, on ranks of their own too; a confident row."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    x = X.clone()
    x[:, 17:] = -torch.inf  # all classes of the last rank
    x[1, 3] = 90.0
    x[3, TARGET[3].clamp_max(16)] = 90.0
    target = TARGET.clamp_max(16)
    for function in (cross_entropy_loss, gce_loss):
        one, many = _leaf(x), _leaf(x[:, shards.own])
        losses = function(one, target), function(many, target, group=shards)
        _close((losses[1], losses[0]))
        _close((_gradients(losses[1], many)[0], _gradients(losses[0], one)[0][:, shards.own]))


# ---------------------------------------------------------------------------------- meshes
def dtensors() -> None:
    """Classes on one axis of a mesh, rows on the other."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    first = mesh.get_local_rank("dp") * (N // 2)
    rows = slice(first, first + N // 2)
    for placed in ([Shard(0), Shard(1)], [Replicate(), Shard(1)]):
        mine = rows if placed[0].is_shard() else slice(None)
        x = distribute_tensor(X, mesh, placed).requires_grad_()
        teacher = distribute_tensor(TEACHER, mesh, placed)
        whole = _leaf(X[mine])
        one = cross_entropy_loss(whole, TARGET[mine]) + kd_forward_kl_loss(whole, TEACHER[mine])
        labels = distribute_tensor(TARGET, mesh, [placed[0], Replicate()])
        many = cross_entropy_loss(x, labels) + kd_forward_kl_loss(x, teacher)
        _close(
            (many, one),
            (_gradients(many, x)[0].to_local(), _local(_gradients(one, whole)[0], mesh)),
        )
    stats = token_stats(x, TARGET)
    _close(*zip(stats, token_stats(X, TARGET), strict=True))
    layer = distribute_tensor(LAYER, mesh, [Replicate(), Shard(0)]).requires_grad_()
    hidden, whole = _leaf(HIDDEN[rows]), (_leaf(HIDDEN[rows]), _leaf(LAYER))
    one = linear_gce_loss(*whole, TARGET[rows])
    many = linear_gce_loss(hidden, layer, TARGET[rows])
    wanted, found = _gradients(one, *whole), _gradients(many, hidden, layer)
    _close(
        (many, one), (found[0], wanted[0]), (found[1].to_local(), _local(wanted[1].t(), mesh).t())
    )
    sequence = distribute_tensor(HIDDEN, mesh, [Shard(0), Shard(0)]).requires_grad_()
    many = linear_gce_loss(sequence, layer, TARGET[rows])
    _close((many, one))
    ours = _gradients(many, sequence)[0].to_local()
    labels = distribute_tensor(TARGET, mesh, [Shard(0), Shard(0)])  # beside its rows
    _close((linear_gce_loss(sequence, layer, labels), one))
    pending = DTensor.from_local(HIDDEN[rows] / 2, mesh, [Shard(0), Partial()])
    _close((linear_gce_loss(pending, layer, TARGET[rows]), one))
    _close((linear_gce_loss(hidden, layer, TARGET[rows], group=mesh.get_group("tp")), one))
    half = mesh.get_local_rank("tp") * (N // 4)
    _close((ours, wanted[0][half : half + N // 4]))


def _local(gradient: Tensor, mesh: Any) -> Tensor:
    """The columns of this rank of the axis of classes."""
    return gradient.chunk(2, 1)[mesh.get_local_rank("tp")]


def fully_sharded() -> None:
    """A weight that is spread over ranks with other rows is gathered, and gets their mean."""
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("dp",))
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    layer = distribute_tensor(LAYER, mesh, [Shard(0)]).requires_grad_()
    hidden, whole = _leaf(HIDDEN[mine]), (_leaf(HIDDEN[mine]), _leaf(LAYER))
    many = linear_gce_loss(hidden, layer, TARGET[mine])
    one = linear_gce_loss(*whole, TARGET[mine])
    wanted, found = _gradients(one, *whole), _gradients(many, hidden, layer)
    _close((many, one), (found[0], wanted[0]))
    mean = wanted[1].clone()
    dist.all_reduce(mean)
    _close((found[1].full_tensor(), mean / 4))


# ------------------------------------------------------------------------------ collectives
def counted() -> list[int]:
    """All_gathers forward and collectives backward: of logits, of two sweeps, of a layer."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    own = shards.own
    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda x: gce_loss(x, TARGET, group=shards), (X[:, own],)),
        (lambda x: cross_entropy_loss(x, TARGET, group=shards), (X[:, own],)),
        (lambda x: kd_forward_kl_loss(x, TEACHER[:, own], group=shards), (X[:, own],)),
        (lambda x: logit_norm_loss(x, TARGET, group=shards), (X[:, own],)),
        (lambda h, w: linear_gce_loss(h, w, TARGET, group=shards), (HIDDEN, LAYER[own])),
    ]
    found = []
    for function, sources in calls:
        leaves = [_leaf(s) for s in sources]
        with CommDebugMode() as forward:
            loss = function(*leaves)
        with CommDebugMode() as backward:
            loss.backward()
        found += [forward.get_total_counts(), backward.get_total_counts()]
    return found


# ----------------------------------------------------------------------------------- errors
def deserted() -> str:
    """A rank dies between two calls: the others say so, and whom they waited for."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    x = X[:, shards.own]
    gce_loss(x, TARGET, group=shards)
    if dist.get_rank() == 2:
        return GONE
    try:
        gce_loss(x, TARGET, group=shards)
    except RuntimeError as error:
        return str(error)
    return ""


def refused() -> None:
    """By name, before a rank waits for another."""
    group, shards = dist.group.WORLD, lossgen.ClassShards(dist.group.WORLD, SIZES)
    own, rank = shards.own, dist.get_rank()
    x, seven = X[:, own], 7 if rank == 1 else 8
    on_c = {"group": shards, "backend": "c"}
    tiled = {"group": shards, "schedule": "tiled"}
    more = "rank 1 of the group has 7 rows, but rank 0 has 8"
    other = f"rank {rank} has 22 classes, but group says {SIZES[rank]}"
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "group must be a torch.distr", lambda: gce_loss(x, TARGET, group=4)),
        (ValueError, more, lambda: gce_loss(X[:seven, own], TARGET[:seven], group=group)),
        (ValueError, other, lambda: gce_loss(X, TARGET, group=shards)),
        (IndexError, "22", lambda: gce_loss(x, TARGET.clamp_min(V), group=shards)),
        (ValueError, "backend 'torch'", lambda: gce_loss(x, TARGET, **on_c)),
        (ValueError, "the chunk", lambda: linear_gce_loss(HIDDEN, LAYER[own], TARGET, **tiled)),
        (ValueError, "2 sizes for a group of 4", lambda: lossgen.ClassShards(group, (11, 11))),
        (TypeError, "counts", lambda: lossgen.ClassShards(group, (11, 11, 1.5, 0))),
    ]
    for kind, text, call in cases:
        with pytest.raises(kind, match=text):
            call()
    with pytest.raises(ValueError, match="memory_budget = 1 bytes, but one row takes"):
        linear_gce_loss(HIDDEN, LAYER[own], TARGET, group=shards, memory_budget=1)
    with pytest.raises(ValueError, match="teacher has 22 classes, but this rank's logits"):
        kd_forward_kl_loss(x, TEACHER, group=shards)  # whole, beside parts
    with pytest.raises(TypeError, match="weight must be a tensor"):
        gce_loss(x, TARGET, weight=[1.0] * V, group=shards)
    mesh = init_device_mesh("cpu", (4,))
    whole = distribute_tensor(LAYER, mesh, [Replicate()])
    with pytest.raises(ValueError, match="does not spread its classes over the ranks of group"):
        linear_gce_loss(HIDDEN, whole, TARGET, group=group)
    for placed in (Replicate(), Shard(0), Partial()):
        x = DTensor.from_local(X, mesh, [placed])
        with pytest.raises(TypeError, match=r"logits is a DTensor.*full_tensor"):
            gce_loss(x, TARGET)
    layer = distribute_tensor(LAYER, mesh, [Shard(0)])
    with pytest.raises(TypeError, match=r"nothing says what the axes of its mesh hold; pass group"):
        linear_gce_loss(HIDDEN, layer, TARGET)
    x = _leaf(X[:, own])
    [gradient] = torch.autograd.grad(gce_loss(x, TARGET, group=shards), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated a second time"):
        gradient.sum().backward()


# ------------------------------------------------------------------------------------ means
def means() -> None:
    """Ranks with other rows, of which some count less: the mean of their gradients is that of the
    mean over all rows."""
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    target = TARGET.clone()
    target[5:] = -100  # ranks with two rows, one, and none
    whole, layer = _leaf(LAYER), _leaf(LAYER)
    one = linear_gce_loss(HIDDEN, whole, target)
    count = lossgen.mean_count(target[mine], dist.group.WORLD)
    part = linear_gce_loss(HIDDEN[mine], layer, target[mine], normalizer=count)
    [gradient], [wanted] = _gradients(part, layer), _gradients(one, whole)
    for value in (gradient, part := part.detach()):
        dist.all_reduce(value)
    _close((part / 4, one), (gradient / 4, wanted))
    assert lossgen.mean_count(target[mine] != -100).item() == count.item() == 1.0


# ------------------------------------------------------------------------------- torch.compile
def compiled() -> None:
    """One graph, where the sizes are known; its backward gathers nothing."""
    shards = lossgen.ClassShards(dist.group.WORLD, SIZES)
    own = shards.own

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x: Tensor, hidden: Tensor, layer: Tensor, q: float) -> Tensor:
        rows = gce_loss(x * 1.5, TARGET, q=q, group=shards)
        return rows + linear_gce_loss(hidden, layer, TARGET, q=q, group=shards)

    for q in (0.7, 0.3):
        sources = [_leaf(t) for t in (X[:, own], HIDDEN, LAYER[own])]
        whole = [_leaf(t) for t in (X, HIDDEN, LAYER)]
        one = gce_loss(whole[0] * 1.5, TARGET, q=q) + linear_gce_loss(*whole[1:], TARGET, q=q)
        many = step(*sources, q)
        wanted, found = _gradients(one, *whole), _gradients(many, *sources)
        _close((many, one), (found[0], wanted[0][:, own]), (found[1], wanted[1]))
        _close((found[2], wanted[2][own]))


def every(names: Sequence[str]) -> dict[str, Any]:
    """What each of these functions returns, or how it failed, one after the other."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = globals()[name]()
        except Exception:
            found[name] = traceback.format_exc()
        dist.barrier()
    return found
