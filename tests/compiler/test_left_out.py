"""Exponents that are infinite at a masked class which a weight of 0 leaves out, and the gradients
that a campaign of random formulas found wrong beside them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.errors import CompileError
from lossgen.ir.rows import Row
from lossgen.passes.truth import true_row
from lossgen.spec.load import load_text

INF = math.inf
MASK = "inputs: {c: {kind: class, values: [0, 1]}}\n"
WEIGHTS = "inputs: {c: {kind: class, domain: '[0, 1]'}, t: {kind: class}}\n"


def _lse(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=values.dtype), values]).logsumexp(0)


def _zlpr(x: torch.Tensor, c: torch.Tensor, y: int) -> torch.Tensor:
    return _lse(-x[c > 0]) + _lse(x[c < 1])


def _fixed(x: torch.Tensor, c: torch.Tensor, y: int) -> torch.Tensor:
    return _lse(-2 * x[c < 1]).detach() * (1 - x.softmax(0)[y])


#: formula: its inputs, and what it is in torch where masked classes are left out
FORMULAS: dict[str, tuple[str, Any]] = {
    # the masked class was the pivot, as the largest of -x, and ∞ - ∞
    "log1p(sum(c*exp(-x))) + log1p(sum((1 - c)*exp(x)))": (MASK, _zlpr),
    # 1 - c was not known to be a weight, so that e^6000 stood in log1p; x_own was not detached
    "stop_gradient(log(1 + sum((1 - c)*exp((-1)*(x/0.5)))))*(1 - p[y])": (MASK, _fixed),
}
ROWS = [
    ([-INF, 0.0, 1.0], [0.0, 1.0, 0.0], 2),
    ([-INF, 0.0, 1.0], [0.0, 0.0, 1.0], 1),
    ([0.5, -INF, 1.0, -INF, 2.0], [1.0, 0.0, 0.0, 0.0, 1.0], 0),
    ([3000.0, 2990.0, 3001.0], [0.0, 1.0, 0.0], 2),
    ([-3000.0, -2997.0, -2998.0], [1.0, 0.0, 1.0], 0),
    ([20.0, 0.0, -20.0], [1.0, 0.0, 1.0], 0),
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_weight_of_0_leaves_out_what_is_infinite(formula: str, tmp_path: Path) -> None:
    head, reference = FORMULAS[formula]
    path = tmp_path / "t.yaml"
    path.write_text(f"name: t\n{head}transform: '{formula}'\n")
    loss = lossgen.load(path).t_loss
    for row, mask, y in ROWS:
        if "(1 - c)*exp((-1)" in formula:  # which leaves out what has 1
            mask = [1.0 if v == -INF else m for v, m in zip(row, mask, strict=True)]
        exact = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        c = torch.tensor(mask, dtype=torch.float64)
        value = reference(exact, c, y)
        (slope,) = torch.autograd.grad(value, exact)
        for backend in ("torch", "c", "triton"):
            x = torch.tensor([row], requires_grad=True)
            target = (torch.tensor([y]),) if "[y]" in formula else ()
            found = loss(x, *target, c[None].float(), backend=backend)
            found.backward()
            where = f"{backend}: {row}, {mask}"
            assert found.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-30), where
            assert x.grad is not None
            torch.testing.assert_close(x.grad[0].double(), slope, rtol=2e-6, atol=1e-7, msg=where)


def test_exponentials_are_parted_without_a_division(tmp_path: Path) -> None:
    """SymPy leaves e^(a - b)·e^(b - a) as it is: the gradient was e^(2a - 2b)·e^(b - a), ∞·0."""
    path = tmp_path / "t.yaml"
    formula = "sum(c*expm1(x - t))*sum(softplus(x - x[y]))"
    path.write_text(f"name: t\n{WEIGHTS}transform: '{formula}'\n")
    loss = lossgen.load(path).t_loss
    given = torch.tensor([[0.25, 0.5, 1.0, 0.0]]), torch.tensor([[-1.0, 1.5, 0.5, 2.0]])
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[-0.5, 60.0, -INF, 3.5]], requires_grad=True)  # e^117 is no float32
        loss(x, torch.tensor([3]), *given, backend=backend).backward()
        assert x.grad is not None
        assert x.grad.isnan().sum() == 0, backend
        assert x.grad[0, 2] == 0, backend


#: Of the best classes of a teacher: nothing of them beside nothing of the others.
LISTS: dict[str, Any] = {
    # a mask of 0 beside log 0, under a softmax: the sum was NaN
    "sum(c*p*log(t))": lambda p, c, t, r: (c * p)[c > 0] @ t[c > 0].log(),
    # log 0 beside a sum of probabilities that is 0, and as the coefficient of a mask
    "sum((1 - c)*p)*log(r)": lambda p, c, t, r: torch.special.xlogy(_rest(p, c), r),
    # the same as a power, and where the sum is that of logarithms
    "sum((1 - c)*p)**2*log(r)": lambda p, c, t, r: torch.special.xlogy(_rest(p, c) ** 2, r),
    "sum(c*p*log(t))*log(r)": lambda p, c, t, r: _times((c * p)[c > 0] @ t[c > 0].log(), r.log()),
    "r*log(r)*sum(c*p)": lambda p, c, t, r: _entropy(r) * p[c > 0].sum(),
    # in an exponent, and in what is compared
    "logsumexp(logp + c*log(t))": lambda p, c, t, r: (p * torch.where(c > 0, t, 1.0)).sum().log(),
    "max(c*log(t)*p)": lambda p, c, t, r: (p * torch.where(c > 0, t, 1.0).log()).max(),
    # s - w·s of the logarithm s of nothing, where w is 1: ∞ - ∞ in the gradient
    "sum((1 - c)*p)*log(sum((1 - c)*p)) + sum(c*p*logp)": lambda p, c, t, r: (
        _entropy(_rest(p, c)) + _entropy(p[c > 0]).sum()
    ),
}
LISTED = {
    "c": "{kind: class, values: [0, 1]}",
    "t": "{kind: class, domain: '[0, 1]'}",
    "r": "{kind: row, domain: '[0, 1]'}",
}
TEACHERS = [
    ([0.5, 1.5, -1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.0, 0.5], 0.5),
    ([0.5, 1.5, -1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.25, 0.125, 0.125], 0.0),
    ([6.0, -INF, 3.0, -INF], [1.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.5, 0.0], 0.0),
    ([0.5, 1.5, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], 1.0),
]


def _rest(p: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return p[c < 1].sum()


def _times(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(a == 0, 0.0, a * torch.where(a == 0, 1.0, b))


def _entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p * torch.where(p > 0, p, 1.0).log(), 0.0)


@pytest.mark.parametrize("formula", LISTS)
def test_nothing_beside_the_logarithm_of_nothing(formula: str, tmp_path: Path) -> None:
    used = {n: kind for n, kind in LISTED.items() if re.search(rf"\b{n}\b", formula)}
    path = tmp_path / "t.yaml"
    lines = [f"  {n}: {kind}" for n, kind in used.items()]
    path.write_text("\n".join(["name: t", "inputs:", *lines, f"transform: '{formula}'", ""]))
    loss = lossgen.load(path).t_loss
    for row, mask, values, rest in TEACHERS:
        exact = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        c, t = (torch.tensor(v, dtype=torch.float64) for v in (mask, values))
        r = torch.tensor(rest, dtype=torch.float64)
        value = LISTS[formula](exact.softmax(0), c, t, r)
        if not bool(value.isfinite()):
            continue
        (slope,) = torch.autograd.grad(value, exact)
        for backend in ("torch", "c", "triton"):
            x = torch.tensor([row], requires_grad=True)
            given = [v[None].float() for n, v in (("c", c), ("t", t)) if n in used]
            numbers = {"r": r[None].float()} if "r" in used else {}
            found = loss(x, *given, **numbers, backend=backend)
            found.backward()
            where = f"{backend}: {row}, {mask}"
            assert found.item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), where
            assert x.grad is not None
            torch.testing.assert_close(x.grad[0].double(), slope, rtol=1e-5, atol=1e-6, msg=where)


@pytest.mark.parametrize("formula", ["mean(x)", "tau*sum(x)", "mean(x)*sum(c)"])
def test_a_gradient_that_is_the_same_for_all_classes(formula: str, tmp_path: Path) -> None:
    """In C it was its own initial value: 0, or anything."""
    path = tmp_path / "t.yaml"
    head = "parameters: {tau: {default: 2, domain: '[0, 4]'}}\n" if "tau" in formula else ""
    head += MASK if "c" in formula else ""
    path.write_text(f"name: t\n{head}transform: '{formula}'\n")
    loss = lossgen.load(path).t_loss
    given = (torch.tensor([[1.0, 0.0, 1.0, 1.0]]),) if "c" in formula else ()
    slope = {"mean(x)": 0.25, "tau*sum(x)": 2.0, "mean(x)*sum(c)": 0.75}[formula]
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[0.5, -1.0, 2.0, 0.25]], requires_grad=True)
        loss(x, *given, backend=backend).backward()
        assert x.grad is not None
        assert x.grad.tolist() == [[slope] * 4], backend


def test_the_truth_of_a_number_that_is_too_large_for_any_float() -> None:
    """e^6000, and e^1000000 beside a 0 at a masked class: such rows were left out unseen."""
    spec = load_text(f"name: t\n{MASK}transform: 'log(1 + sum(c*exp(-2*x)))'\n")
    far = true_row(spec, Row((-3000.0, -2000.0), 0, {}, {}, {}, {"c": (1.0, 1.0)}))
    assert far is not None
    assert float(far.results[0]) == 6000.0
    masked = true_row(spec, Row((-INF, 0.0), 0, {}, {}, {}, {"c": (0.0, 1.0)}))
    assert masked is not None
    assert float(masked.results[0]) == pytest.approx(math.log(2))


def test_a_difference_of_0_beside_an_infinite_sum_is_refused() -> None:
    """Σ w·log p is -∞ where a class is masked, and what stands before it 0 but for rounding: no
    groups were drawn that are all the same there."""
    formula = "stop_gradient((g[y] - sum(g*p))**2)*sum(w*logp, over=others)"
    inputs = "inputs: {g: {kind: class, integer: true}, w: {kind: class, domain: '(0, 2]'}}"
    spec = load_text(f"name: t\n{inputs}\ntransform: '{formula}'\n")
    with pytest.raises(CompileError, match="nan instead of 0"):
        compile_loss(spec)


def test_what_is_no_number_at_a_masked_class_is_said(tmp_path: Path) -> None:
    """log p - log q is ∞ - ∞ at a class that x masks and t does not: no row was drawn so."""
    path = tmp_path / "t.yaml"
    formula = "sum(softmax(t)*(log_softmax(x - c) - log_softmax(x - 2*c)), over=others) - logp[y]"
    inputs = "inputs: {t: {kind: class}, c: {kind: class, values: [0, 1]}}"
    path.write_text(f"name: t\n{inputs}\ntransform: '{formula}'\n")
    header = Path(str(lossgen.load(path).__file__)).read_text(encoding="utf-8")
    assert "no number where the formula as it is written is none" in header


def test_a_share_of_0_of_logits_that_are_masked(tmp_path: Path) -> None:
    """(1 - t)·x + t·other was 0·-∞ at both ends of t, in the exponent of a softmax: refused."""
    path = tmp_path / "mixed.yaml"
    head = "parameters: {t: {default: 0.5, domain: '[0, 1]'}}\ninputs: {other: {kind: class}}\n"
    formula = "-log_softmax((1 - t)*x + t*other)[y]"
    path.write_text(f"name: mixed\n{head}transform: '{formula}'\n")
    loss = lossgen.load(path).mixed_loss
    row, other = [0.5, -INF, 1.0, -1.0], [1.5, -INF, -0.5, 0.0]
    kept = [0, 2, 3]
    for share in (0.0, 0.25, 1.0):
        exact = torch.tensor(row, dtype=torch.float64)[kept].requires_grad_()
        mixed = (1 - share) * exact + share * torch.tensor(other, dtype=torch.float64)[kept]
        value = -mixed.log_softmax(0)[1]
        (slope,) = torch.autograd.grad(value, exact)
        for backend in ("torch", "c", "triton"):
            x = torch.tensor([row], requires_grad=True)
            given = torch.tensor([2]), torch.tensor([other])
            found = loss(x, *given, t=share, backend=backend)
            found.backward()
            assert found.item() == pytest.approx(value.item(), rel=1e-6), (backend, share)
            assert x.grad is not None
            assert x.grad[0, 1] == 0, (backend, share)
            torch.testing.assert_close(x.grad[0, kept].double(), slope, rtol=2e-6, atol=1e-7)
