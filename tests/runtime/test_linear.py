"""Losses of a linear layer whose logits exist for a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lossgen.bench.memory import Peak
from lossgen.losses import (
    LinearGCELoss,
    cross_entropy_loss,
    gce_loss,
    grpo_loss,
    kd_forward_kl_loss,
    linear_cross_entropy_loss,
    linear_gce_loss,
    linear_grpo_loss,
    linear_kd_forward_kl_loss,
    linear_token_stats,
    linear_trades_loss,
    token_stats,
    trades_loss,
)
from lossgen.runtime import arguments, chunked, projected
from lossgen.runtime.products import Direct
from lossgen.runtime.projected import Projected

N, D, V = 12, 6, 37
BUDGET = 5 * V * 8  # five rows of float64: chunks of 5, 5 and 2 rows


def draw(dtype: torch.dtype = torch.float64, rows: int = N) -> tuple[Tensor, ...]:
    """hidden, weight, bias, target."""
    g = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, D, generator=g, dtype=dtype) for n in (rows, V))
    bias = torch.randn(V, generator=g, dtype=dtype)
    target = torch.randint(0, V, (rows,), generator=g)
    if rows > 3:
        target[2] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor], rtol: float = 1e-11) -> None:
    """Value and gradients, twice: a second backward computes them again."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours)
    wanted = torch.autograd.grad(theirs, leaves, weight)
    for _ in range(2):
        found = torch.autograd.grad(ours, leaves, weight, retain_graph=True)
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol)


# ------------------------------------------------------------------------------- options
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("softcap", "temperature"), [(None, 1.0), (None, 0.5), (2.0, 3.0)])
def test_softcap_temperature_and_bias(
    softcap: float | None, temperature: float, reduction: str, backend: str
) -> None:
    hidden, weight, bias, target = draw()
    scaling: dict[str, Any] = {"softcap": softcap, "temperature": temperature}
    ours = linear_gce_loss(
        hidden,
        weight,
        target,
        linear_bias=bias,
        reduction=reduction,
        memory_budget=BUDGET * (2 if softcap else 1),
        backend=backend,
        **scaling,
    )
    logits = F.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    theirs = gce_loss(logits / temperature, target, reduction=reduction)
    same(ours, theirs, [hidden, weight, bias])


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_shift_is_the_next_token(shift: int, reduction: str) -> None:
    hidden, weight, bias, target = draw()
    advantage, old, ref = torch.randn(3, 3, 4, dtype=torch.float64)
    names = ("advantage", "old_logp", "ref_logp")
    wide, labels = hidden.reshape(3, 4, D), target.reshape(3, 4)
    rows = dict(zip(names, (advantage, old, ref), strict=True))
    ours = linear_grpo_loss(
        wide,
        weight,
        labels,
        **rows,
        linear_bias=bias,
        shift=shift,
        reduction=reduction,
        memory_budget=2 * V * 8,
    )
    logits = F.linear(wide, weight, bias)[:, :-shift]
    cut = {name: value[:, shift:] for name, value in rows.items()}
    theirs = grpo_loss(logits, labels[:, shift:], **cut, reduction=reduction)
    assert theirs.shape == ((3, 4 - shift) if reduction == "none" else ())
    same(ours, theirs, [hidden, weight, bias])


@pytest.mark.parametrize("step", [2, 3, 200])
@pytest.mark.parametrize("shift", [0, 1])
def test_parts_of_longer_sequences(shift: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden states and rows of logits [:, :-1] are read where they are, by the chunk."""
    _, weight, bias, target = draw()
    g = torch.Generator().manual_seed(4)
    longer = torch.randn(3, 6, V, generator=g, dtype=torch.float64).requires_grad_()
    states = torch.randn(3, 6, D, generator=g, dtype=torch.float64).requires_grad_()
    labels = target[:12].reshape(3, 4).clamp_min(0)
    taken: list[Tensor] = []
    real = projected.pick

    def pick(rows: Tensor, take: Any) -> Tensor:
        taken.append(real(rows, take))
        return taken[-1]

    monkeypatch.setattr(projected, "pick", pick)
    monkeypatch.setattr(chunked, "pick", pick)
    given = {"shift": shift, "memory_budget": step * 2 * V * 8}
    ours = linear_trades_loss(
        states[:, :4], weight, labels, longer[:, 1:5], linear_bias=bias, reduction="none", **given
    )
    rows = slice(0, 4 - shift)
    logits, others = F.linear(states, weight, bias)[:, rows], longer[:, 1:5][:, rows]
    theirs = trades_loss(logits, labels[:, shift:], others, reduction="none")
    same(ours, theirs, [states, weight, bias, longer])
    if step <= 4 - shift:  # a chunk does not leave a sequence
        places = {t.untyped_storage().data_ptr() for t in taken}
        assert places >= {t.untyped_storage().data_ptr() for t in (longer, states)}


def test_options_of_cross_entropy_are_its_own() -> None:
    hidden, weight, bias, target = draw()
    options = {
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 5.0,
        "temperature": 2.0,
        "weight": torch.rand(V, dtype=torch.float64),
    }
    ours = linear_cross_entropy_loss(
        hidden, weight, target, linear_bias=bias, memory_budget=BUDGET, **options
    )
    theirs = cross_entropy_loss(F.linear(hidden, weight, bias), target, **options)
    same(ours, theirs, [hidden, weight, bias])


def test_cross_entropy_is_torchs() -> None:
    hidden, weight, bias, target = draw()
    for reduction in ("mean", "sum", "none"):
        ours = linear_cross_entropy_loss(
            hidden, weight, target, linear_bias=bias, reduction=reduction, memory_budget=BUDGET
        )
        theirs = F.cross_entropy(F.linear(hidden, weight, bias), target, reduction=reduction)
        same(ours, theirs, [hidden, weight, bias])


# ------------------------------------------------------------------------------- streams
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_row_of_logits_from_factors(reduction: str) -> None:
    """TRADES with one head: its weight gets a gradient from both rows of logits."""
    hidden, weight, bias, target = draw()
    moved = (hidden + 0.1).detach().requires_grad_()
    ours = linear_trades_loss(
        hidden,
        weight,
        target,
        (moved, weight, bias),
        linear_bias=bias,
        reduction=reduction,
        memory_budget=3 * BUDGET,
    )
    logits, other = F.linear(hidden, weight, bias), F.linear(moved, weight, bias)
    same(
        ours, trades_loss(logits, target, other, reduction=reduction), [hidden, weight, bias, moved]
    )


@pytest.mark.parametrize("given", ["rows", "factors"])
def test_a_teacher_gets_no_gradient(given: str) -> None:
    hidden, weight, bias, _ = draw()
    with torch.no_grad():
        states, head = torch.randn(N, 3).double(), torch.randn(V, 3).double()
        teacher = states @ head.t()
    ours = linear_kd_forward_kl_loss(
        hidden,
        weight,
        teacher if given == "rows" else (states, head),
        linear_bias=bias,
        memory_budget=BUDGET,
    )
    theirs = kd_forward_kl_loss(F.linear(hidden, weight, bias), teacher)
    same(ours, theirs, [hidden, weight, bias])
    wanted = teacher if given == "rows" else (states, head.requires_grad_())
    if given == "rows":
        wanted.requires_grad_()
    arguments._WARNED.clear()
    with pytest.warns(UserWarning, match="teacher requires a gradient, but none is computed"):
        taken = linear_kd_forward_kl_loss(hidden, weight, wanted, linear_bias=bias)
    torch.testing.assert_close(taken, ours)
    taken.backward()
    assert (teacher if given == "rows" else head).grad is None


@pytest.mark.parametrize(("name", "value"), [("temperature", 2.0), ("softcap", 5.0)])
def test_the_teachers_factors_are_not_scaled_in_silence(name: str, value: float) -> None:
    hidden, weight, _, _ = draw()
    with pytest.raises(ValueError, match=f"{name} acts on the logits of hidden, not on those of"):
        linear_kd_forward_kl_loss(hidden, weight, (hidden.detach(), weight), **{name: value})
    logits = F.linear(hidden, weight).detach()
    assert linear_kd_forward_kl_loss(hidden, weight, logits, **{name: value}) > 0


def test_outputs_of_hidden_states() -> None:
    hidden, weight, bias, target = draw()
    ours = linear_token_stats(hidden, weight, target, linear_bias=bias, memory_budget=BUDGET)
    theirs = token_stats(F.linear(hidden, weight, bias), target)
    same(torch.stack(ours), torch.stack(theirs), [hidden, weight, bias])


# ----------------------------------------------------------------------------- gradients
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("wanted", ["hidden", "linear_weight", "linear_bias"])
def test_only_what_requires_a_gradient_is_multiplied(
    monkeypatch: pytest.MonkeyPatch, wanted: str, reduction: str
) -> None:
    products: list[str] = []
    real = Direct.to_weight
    monkeypatch.setattr(
        Direct, "to_weight", lambda *args: (products.append("weight"), real(*args))[1]
    )
    hidden, weight, bias, target = draw()
    leaves = {"hidden": hidden, "linear_weight": weight, "linear_bias": bias}
    given = {name: leaf.detach() for name, leaf in leaves.items()}
    given[wanted].requires_grad_()
    loss = linear_gce_loss(target=target, **given, reduction=reduction).sum()
    loss.backward()
    assert products == (["weight"] if wanted == "linear_weight" else [])
    exact = gce_loss(F.linear(hidden, weight, bias), target, reduction=reduction).sum()
    torch.testing.assert_close(given[wanted].grad, torch.autograd.grad(exact, leaves[wanted])[0])


def test_ignored_rows_are_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = Projected.taken
    monkeypatch.setattr(
        Projected,
        "taken",
        lambda self, take, *rest: (rows.append(len(take)), real(self, take, *rest))[1],
    )
    hidden, weight, _, target = draw()
    with torch.no_grad():
        hidden[target == -100] = torch.nan
    loss = linear_gce_loss(hidden, weight, target, memory_budget=BUDGET)
    loss.backward()
    assert rows == [5, 5, 1]
    assert torch.equal(hidden.grad[2], torch.zeros(D).double())
    assert bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_nothing_counts(rows: int) -> None:
    hidden, weight, _, _ = draw(rows=rows)
    loss = linear_gce_loss(hidden, weight, torch.full((rows,), -100))
    assert bool(loss.isnan())  # as torch's mean over no rows
    total = linear_gce_loss(hidden, weight, torch.full((rows,), -100), reduction="sum")
    total.backward()
    assert float(total.detach()) == 0.0
    assert not hidden.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_bfloat16_weights_are_summed_in_float32(backend: str) -> None:
    """1024 chunks of a row: in bfloat16 the sum would stand still at 256 of them."""
    hidden, weight, _, target = draw(torch.bfloat16, rows=1024)
    found = []
    for budget in (V * 4, 1024 * V * 4):  # logits are float32
        loss = linear_gce_loss(
            hidden, weight, target, reduction="sum", memory_budget=budget, backend=backend
        )
        found.append(torch.autograd.grad(loss, weight)[0].float())
    # one rounding to bfloat16 each, at the end
    torch.testing.assert_close(*found, rtol=2.0**-7, atol=2.0**-7 * float(found[1].abs().mean()))


def test_gradients_cannot_be_differentiated() -> None:
    hidden, weight, _, target = draw()
    for reduction in ("mean", "none"):
        loss = linear_gce_loss(hidden, weight, target, reduction=reduction).sum()
        (grad,) = torch.autograd.grad(loss, hidden, create_graph=True)
        message = "linear_gce_loss: the gradient cannot be differentiated a second time"
        with pytest.raises(RuntimeError, match=message):
            grad.sum().backward()


# -------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_is_one_chunk_and_the_gradients(reduction: str) -> None:
    rows, features, classes = 2048, 8, 4096
    hidden = torch.randn(rows, features, requires_grad=True)
    weight = torch.randn(classes, features, requires_grad=True)
    target = torch.randint(0, classes, (rows,))
    chunk = 16 * classes * 4
    run: Callable[[], Tensor] = lambda: linear_gce_loss(  # noqa: E731
        hidden, weight, target, reduction=reduction, memory_budget=chunk
    ).sum()
    run().backward()
    with Peak() as peak:
        run().backward()
    gradients = (rows + classes) * features * 4
    rest = 16 * rows * 4  # vectors of one number per row
    assert peak.peak <= chunk + 2 * gradients + rest
    assert rows * classes * 4 >= 50 * peak.peak


# ------------------------------------------------------------------------------- context
def test_module_and_autocast() -> None:
    hidden, weight, bias, target = draw(torch.float32)
    module = LinearGCELoss(q=0.3, softcap=4.0, reduction="sum")
    assert "softcap=4.0" in repr(module)
    with torch.autocast("cpu", torch.bfloat16):
        ours = module(hidden, weight, target, linear_bias=bias)
        logits = F.linear(hidden, weight, bias)
    assert logits.dtype is torch.bfloat16
    capped = 4 * torch.tanh(logits.float() / 4)
    theirs = gce_loss(capped, target, q=0.3, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0.0)
    ours.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)


def test_inputs_are_not_written_to() -> None:
    given = draw(torch.float32)
    before = [t.clone() for t in given]
    hidden, weight, bias, target = given
    linear_gce_loss(hidden, weight, target, linear_bias=bias, softcap=2.0).backward()
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
