"""Divergences from the K best classes of a teacher with a bucket for the others, against their
formula in mpmath and the closed form of the gradient."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor

from lossgen import Entries
from lossgen.losses import (
    linear_topk_kl_loss,
    linear_topk_reverse_kl_loss,
    topk_kl_loss,
    topk_reverse_kl_loss,
)

INF = math.inf
LOSSES = {
    "topk_kl": (topk_kl_loss, linear_topk_kl_loss),
    "topk_reverse_kl": (topk_reverse_kl_loss, linear_topk_reverse_kl_loss),
}
#: logits, listed classes, their probabilities, that of the others
ROWS: dict[str, tuple[list[float], list[int], list[float], float]] = {
    "plain": ([0.5, -1.0, 2.0, 0.25, -0.5], [2, 0], [0.5, 0.25], 0.25),
    "sure of a listed class": ([0.5, -1.0, 40.0, 0.25, -0.5], [2, 0], [0.5, 0.25], 0.25),
    "sure of another class": ([0.5, 40.0, 2.0, 0.25, -0.5], [2, 0], [0.5, 0.25], 0.25),
    "nothing is left": ([0.5, -1.0, 100.0, 0.25, -0.5], [2, 0], [0.5, 0.5], 0.0),
    "an offset": ([3000.5, 2999.0, 3002.0, 3000.25, 2999.5], [2, 0], [0.5, 0.25], 0.25),
    "all are listed": ([0.5, -1.0, 2.0], [2, 0, 1], [0.5, 0.25, 0.25], 0.0),
    "the bucket is all": ([0.5, -1.0, 2.0], [-1, -1], [0.0, 0.0], 1.0),
    "one class": ([0.5], [0], [1.0], 0.0),
    "a masked class of the others": ([0.5, -INF, 2.0, 0.25], [2, 0], [0.5, 0.25], 0.25),
    "all others are masked": ([0.5, -INF, 2.0, -INF], [2, 0], [0.75, 0.25], 0.0),
    "a tie": ([1.0, 1.0, 1.0, 1.0], [3, 1], [0.5, 0.125], 0.375),
}


def _masses(
    logits: list[float], listed: list[int], values: list[float], rest: float
) -> tuple[list[mp.mpf], list[mp.mpf]]:
    """K + 1 of the student and of the teacher."""
    top = max(logits)
    weights = [mp.exp(mp.mpf(v) - top) if v > -INF else mp.mpf(0) for v in logits]
    total = sum(weights)
    kept = [(j, t) for j, t in zip(listed, values, strict=True) if j >= 0]
    inside = {j for j, _ in kept}
    tail = sum((w for j, w in enumerate(weights) if j not in inside), mp.mpf(0))
    student = [weights[j] / total for j, _ in kept] + [tail / total]
    return student, [mp.mpf(t) for _, t in kept] + [mp.mpf(rest)]


def _divergence(of: list[mp.mpf], to: list[mp.mpf]) -> mp.mpf:
    terms = zip(of, to, strict=True)
    return sum((a * mp.log(a / b) for a, b in terms if a), mp.mpf(0))


def _truth(name: str, row: tuple[list[float], list[int], list[float], float]) -> mp.mpf:
    student, teacher = _masses(*row)
    if name == "topk_kl":
        return _divergence(teacher, student)
    return _divergence(student, teacher) if all(teacher) or not student[-1] else mp.inf


def _slope(name: str, row: tuple[list[float], list[int], list[float], float]) -> list[float]:
    """Of the masses, spread over their classes."""
    logits, listed, *_ = row
    student, teacher = _masses(*row)
    value = _truth(name, row)
    if name == "topk_kl":
        by_mass = [s - t for s, t in zip(student, teacher, strict=True)]
    else:
        pairs = zip(student, teacher, strict=True)
        by_mass = [s * (mp.log(s / t) - value) if s else mp.mpf(0) for s, t in pairs]
    inside = {j: k for k, j in enumerate(j for j in listed if j >= 0)}
    found = []
    for j, v in enumerate(logits):
        if j in inside:
            found.append(float(by_mass[inside[j]]))
        elif v == -INF:
            found.append(0.0)
        else:
            share = mp.exp(v) / sum(
                mp.exp(w) for i, w in enumerate(logits) if i not in inside and w > -INF
            )
            found.append(float(by_mass[-1] * share))
    return found


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
@pytest.mark.parametrize("name", LOSSES)
def test_against_mpmath(name: str, backend: str, what: str) -> None:
    row = logits, listed, values, rest = ROWS[what]
    with mp.workdps(60):
        truth, slope = _truth(name, row), None
        if mp.isfinite(truth):
            slope = _slope(name, row)
    x = torch.tensor([logits], requires_grad=True)
    entries = Entries(torch.tensor([listed]), torch.tensor([values]))
    found = LOSSES[name][0](x, entries, rest=torch.tensor([rest]), backend=backend)
    if slope is None:
        # ∞ of a mass of e^-98: float32 has that as 0, or as a number below all normal ones
        assert found.item() in (INF, pytest.approx(math.log(2), rel=1e-6))
        return
    # a small difference of terms of the size of 1
    assert found.item() == pytest.approx(float(truth), rel=2e-6, abs=2e-7)
    (grad,) = torch.autograd.grad(found.sum(), x)
    bound = 2e-6 * (1.0 if name == "topk_reverse_kl" else max(map(abs, slope)))
    assert grad[0].tolist() == pytest.approx(slope, abs=bound + 1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_of_a_linear_layer(name: str) -> None:
    rows, linear = LOSSES[name]
    random = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 6, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(11, 6, generator=random, dtype=torch.float64).requires_grad_()
    best = torch.randn(4, 11, generator=random, dtype=torch.float64).softmax(-1).topk(3)
    teacher = Entries(best.indices, best.values)
    rest = 1 - best.values.sum(-1)
    found = linear(hidden, weight, teacher, rest=rest)
    wanted = rows(hidden @ weight.T, teacher, rest=rest)
    torch.testing.assert_close(found, wanted)
    sources = hidden, weight
    torch.testing.assert_close(
        torch.autograd.grad(found, sources), torch.autograd.grad(wanted, sources)
    )


def test_full_lists_are_the_whole_divergence() -> None:
    random = torch.Generator().manual_seed(5)
    x = torch.randn(3, 9, generator=random, dtype=torch.float64)
    teacher = torch.randn(3, 9, generator=random, dtype=torch.float64).softmax(-1)
    every = torch.arange(9).expand(3, 9)
    nothing = torch.zeros(3, dtype=torch.float64)
    found = topk_kl_loss(x, Entries(every, teacher), rest=nothing)
    wanted: Tensor = (teacher * (teacher.log() - x.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(found, wanted)
