"""A generated loss as a torch function: operators, compile, autograd, storage, threads."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import opcheck

from lossgen.losses import (
    CrossEntropyLoss,
    GCELoss,
    brier,
    brier_loss,
    crammer_singer,
    cross_entropy,
    cross_entropy_loss,
    entropy_min,
    entropy_min_loss,
    gce,
    gce_loss,
)


def rows(seed: int = 0, n: int = 6, classes: int = 11) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n, classes, generator=g)
    return x, torch.randint(0, classes, (n,), generator=g)


@pytest.mark.parametrize(
    "module", [gce, brier, crammer_singer, cross_entropy, entropy_min], ids=lambda m: m.LOSS.name
)
@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_operators_pass_opcheck(module: object, backend: str) -> None:
    loss = module.LOSS  # type: ignore[attr-defined]
    x, y = rows()
    target = y if loss.has_target else None
    parameters = [p.default for p in loss.parameters if p.name in loss.variants[0].parameters]
    forward, backward = loss.operators.forward, loss.operators.backward
    call = (target, [], [], parameters, -100, 0, backend)
    opcheck(forward, (x.clone().requires_grad_(), *call))
    saved = forward(x, *call)[1]
    opcheck(backward, (torch.rand(1, 6), saved, [True], x, *call))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_has_no_graph_break(reduction: str, dynamic: bool) -> None:
    def step(x: Tensor, y: Tensor) -> Tensor:
        return gce_loss(2 * x, y, q=0.6, reduction=reduction)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (6, 9):
        x, y = rows(n=n)
        eager, traced = x.clone().requires_grad_(), x.clone().requires_grad_()
        a, b = step(eager, y), compiled(traced, y)
        a.sum().backward()
        b.sum().backward()
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(eager.grad, traced.grad)


def test_compiled_target_is_checked() -> None:
    compiled = torch.compile(gce_loss, fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match="Target 99 is out of bounds"):
        compiled(torch.zeros(2, 5), torch.tensor([0, 99]))


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"weight": torch.rand(11, generator=torch.Generator())},
    {"label_smoothing": 0.3, "weight": torch.rand(11, generator=torch.Generator())},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "smoothing", "weight", "both"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
def test_cross_entropy_is_torchs(options: dict[str, Tensor], reduction: str, backend: str) -> None:
    x, y = rows()
    y[2] = -100
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a = cross_entropy_loss(ours, y, reduction=reduction, backend=backend, **options)
    b = F.cross_entropy(theirs, y, reduction=reduction, **options)
    torch.testing.assert_close(a, b)
    a.sum().backward()
    b.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_leading_axes_and_module() -> None:
    x, y = rows(n=12)
    loss = GCELoss(q=0.5, reduction="none")
    out = loss(x.reshape(3, 4, 11), y.reshape(3, 4))
    assert out.shape == (3, 4)
    torch.testing.assert_close(out.reshape(-1), gce_loss(x, y, q=0.5, reduction="none"))
    assert repr(loss) == (
        "GCELoss(q=0.5, ignore_index=-100, reduction='none', backend='auto', inplace_grad=False, "
        "class_dim=None, group=None)"
    )
    copy = pickle.loads(pickle.dumps(loss))
    torch.testing.assert_close(copy(x, y), gce_loss(x, y, q=0.5, reduction="none"))


def test_module_keeps_vocab_inputs_as_buffers() -> None:
    weight = torch.rand(11)
    loss = CrossEntropyLoss(weight)  # by position, as torch's
    assert "weight" in loss.state_dict()
    assert "weight=tensor[11]" in repr(loss)
    assert "weight=None" in repr(CrossEntropyLoss())
    x, y = rows()
    torch.testing.assert_close(loss(x, y), F.cross_entropy(x, y, weight))


def test_all_rows_ignored() -> None:
    x, _ = rows()
    x.requires_grad_()
    loss = gce_loss(x, torch.full((6,), -100))
    assert loss.isnan()
    loss.backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_inplace_gradient_overwrites_the_logits() -> None:
    x, y = rows()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(gce_loss(leaf, y), leaf)
    source = x.clone().requires_grad_()
    logits = source * 1.0
    total = gce_loss(logits, y, inplace_grad=True)
    (grad,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(grad, expected)
    assert grad.data_ptr() == logits.data_ptr()


def test_inplace_second_backward_is_refused() -> None:
    x, y = rows()
    logits = x.clone().requires_grad_() * 1.0
    total = gce_loss(logits, y, inplace_grad=True)
    torch.autograd.grad(total, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward needs the logits"):
        torch.autograd.grad(total, logits)


def test_inplace_use_of_overwritten_logits_is_loud() -> None:
    """Upstream functions that saved the logits must notice that they changed."""
    x, y = rows()
    logits = x.clone().requires_grad_() * 1.0
    probabilities = logits.softmax(-1) * logits  # saves the logits
    total = gce_loss(logits, y, inplace_grad=True) + probabilities.sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_grad_is_scaled_by_what_comes_after() -> None:
    x, y = rows()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (3.0 * gce_loss(a, y)).backward()
    gce_loss(b, y).backward()
    assert a.grad is not None
    assert b.grad is not None
    torch.testing.assert_close(a.grad, 3.0 * b.grad)


def test_autocast_and_checkpoint() -> None:
    from torch.utils.checkpoint import checkpoint

    x, y = rows()
    layer = torch.nn.Linear(11, 11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = gce_loss(layer(x), y)
    assert loss.dtype is torch.float32
    loss.backward()
    held = x.clone().requires_grad_()
    out = checkpoint(lambda v: gce_loss(v, y), held, use_reentrant=False)
    out.backward()
    plain = x.clone().requires_grad_()
    gce_loss(plain, y).backward()
    torch.testing.assert_close(held.grad, plain.grad)


def test_threads_share_a_loss() -> None:
    x, y = rows(n=64, classes=33)
    alone = brier_loss(x, y, reduction="none")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: brier_loss(x, y, reduction="none"), range(16)))
    assert all(torch.equal(r, alone) for r in results)


def test_long_chunks_equal_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossgen.runtime import torch_backend

    x, y = rows(n=23, classes=7)
    results = []
    for chunk in (7, 1 << 20):
        monkeypatch.setattr(torch_backend, "CHUNK", chunk)
        held = x.clone().requires_grad_()
        loss = gce_loss(held, y)
        loss.backward()
        results.append((loss.detach(), held.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-9)


def test_a_loss_without_target() -> None:
    x, _ = rows()
    x.requires_grad_()
    entropy_min_loss(x).backward()
    exact = -(x.detach().double().softmax(1) * x.detach().double().log_softmax(1)).sum(1)
    torch.testing.assert_close(
        entropy_min_loss(x, reduction="none").double(), exact, rtol=1e-6, atol=1e-7
    )


def test_splits_fill_the_processors() -> None:
    from lossgen.runtime.launch import config, n_splits

    assert n_splits(4096, 128256, 8192, 132) == 1
    assert n_splits(1, 128256, 8192, 132) == 16  # as many tiles as there are, as a power of two
    assert n_splits(8, 1_000_000, 8192, 132) == 32
    assert config("fused", 16384).one_tile
    assert not config("fused", 16385).one_tile
    assert config("fused", 16384, hip=True).warps == 8
    assert config("forward", 1).block == 16
    assert config("forward", 64).rows > 1  # a row to a thread
    assert config("forward", 65).rows == 1


def test_what_is_heavy() -> None:
    """hl_gauss has forty operations on a class, gce seven."""
    import lossgen
    from lossgen.runtime.launch import config_of, is_heavy

    variants = {name: lossgen.load(name).LOSS.variants[0] for name in ("gce", "hl_gauss", "tvd")}
    assert [name for name, v in variants.items() if is_heavy(v)] == ["hl_gauss"]
    blocks = [config_of("fused", v, 8192, hip=False).block for v in variants.values()]
    assert blocks == [8192, 4096, 4096]
