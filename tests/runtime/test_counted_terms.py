"""A mean weighs the terms that have a weight, and counts rows for those that have none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lossgen.errors import SpecError
from lossgen.losses import cross_entropy_loss, linear_cross_entropy_loss
from lossgen.spec.load import load_text
from tests.campaign.names import load

Z, SMOOTH = 0.1, 0.2
WEIGHT = torch.tensor([0.5, 0.25, 1.0, 0.0, 2.5])


def wanted(x: Tensor, y: Tensor, weight: Tensor, z_loss: float = Z) -> Tensor:
    """As torch, and the squared normaliser averaged over the rows that count."""
    one = cross_entropy(x, y, weight.double(), label_smoothing=SMOOTH)
    return one + z_loss * (x.logsumexp(1) ** 2)[y != -100].mean()


def case(classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, classes, generator=generator) * 3
    return x, torch.tensor([0, 2, -100, 4, 3, 1, -100])


def test_the_example_of_the_issue() -> None:
    # Regression: 1.2845, as the z-loss was divided by the sum of the weights.
    x, y = torch.tensor([[1.0, 0, -1], [0, 2, 0]]), torch.tensor([0, 1])
    found = cross_entropy_loss(x, y, weight=torch.tensor([0.5, 0.25, 1]), z_loss=0.1)
    assert abs(float(found) - 0.7014) < 1e-4


@pytest.mark.parametrize("backend", ["c", "torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_rows(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton" and dtype is torch.float64:
        return
    x, y = case()
    ours, exact = x.to(dtype).requires_grad_(), x.to(dtype).double().requires_grad_()
    options = {"label_smoothing": SMOOTH, "z_loss": Z, "backend": backend}
    for weight in (WEIGHT, WEIGHT.half(), WEIGHT.double() * 1e-30):
        found = cross_entropy_loss(ours, y, weight=weight, **options)
        true = wanted(exact, y, weight)
        torch.testing.assert_close(found.double(), true, rtol=2e-6, atol=0)
        (slope,), (right,) = (
            torch.autograd.grad(loss, leaf) for loss, leaf in ((found, ours), (true, exact))
        )
        rtol = 1e-3 if dtype is torch.float16 else 1e-5
        torch.testing.assert_close(slope.double(), right, rtol=rtol, atol=rtol / 10)
        with torch.no_grad():
            again = cross_entropy_loss(ours, y, weight=weight, **options)
        torch.testing.assert_close(again, found)


@pytest.mark.parametrize("schedule", ["chunked", "tiled"])
@pytest.mark.parametrize("skip", [None, True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_linear(schedule: str, skip: bool | None, shift: int) -> None:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(8, 6, generator=generator).requires_grad_()
    matrix = torch.randn(5, 6, generator=generator).requires_grad_()
    y = torch.tensor([1, 0, 2, -100, 4, 3, 1, -100])
    found = linear_cross_entropy_loss(
        hidden, matrix, y, weight=WEIGHT, label_smoothing=SMOOTH, z_loss=Z,
        schedule=schedule, skip_ignored=skip, shift=shift,
    )  # fmt: skip
    last = len(y) - shift
    true = wanted((hidden.double() @ matrix.double().T)[:last], y[shift:], WEIGHT)
    torch.testing.assert_close(found.double(), true, rtol=2e-6, atol=0)
    leaves = (hidden, matrix)
    for one, other in zip(*(torch.autograd.grad(v, leaves) for v in (found, true)), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, Z])
def test_what_stays(z_loss: float) -> None:
    """sum, none, and a mean without weights or without the term; no row that counts."""
    x, y = case()
    rows = cross_entropy(x, y, WEIGHT, label_smoothing=SMOOTH, reduction="none")
    rows = rows + z_loss * torch.where(y == -100, 0, x.logsumexp(1) ** 2)
    given = {"weight": WEIGHT, "label_smoothing": SMOOTH, "z_loss": z_loss}
    torch.testing.assert_close(cross_entropy_loss(x, y, reduction="none", **given), rows)
    torch.testing.assert_close(cross_entropy_loss(x, y, reduction="sum", **given), rows.sum())
    plain = {**given, "weight": None}
    linear = linear_cross_entropy_loss(x, torch.eye(5), y, **plain)
    mean = wanted(x.double(), y, torch.ones(5), z_loss).float()
    torch.testing.assert_close(cross_entropy_loss(x, y, **plain), mean)
    torch.testing.assert_close(linear, mean)
    none = x.clone().requires_grad_()
    loss = cross_entropy_loss(none, torch.full((7,), -100), **given)
    loss.backward()
    assert loss.isnan()
    assert not none.grad.any()


def _compiled(loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    torch.compiler.reset()
    return torch.compile(loss, backend="aot_eager", fullgraph=True)(x, y)


def _mapped(loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.func.vmap(loss)(x[None], y[None])[0]


@pytest.mark.parametrize("how", [_compiled, _mapped])
@pytest.mark.parametrize("linear", [False, True])
def test_transforms(how: Callable[..., Tensor], linear: bool) -> None:
    x, y = case()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        given = {"weight": WEIGHT, "label_smoothing": SMOOTH, "z_loss": Z}
        if linear:
            return linear_cross_entropy_loss(x, torch.eye(5), y, **given)
        return cross_entropy_loss(x, y, **given)

    torch.testing.assert_close(how(loss, x, y), wanted(x.double(), y, WEIGHT).float())


HEAD = "name: t\ninputs: {w: {kind: vocab, off: 1}, r: {kind: row, off: 1}}\n"
TERM = 'regularizer: [{name: z, value: "logsumexp(x)**2", normalizer: 1}]\n'


def test_two_inputs_of_a_normalizer() -> None:
    """Whichever of them is given is scaled; absent ones are their constants."""
    module = load(
        f"{HEAD}let: {{v: w*logp}}\ntransform: -r*v[y] - abs(r)*mean(w*logp)\n"
        f"{TERM}normalizer: w[y]*r\n"
    )
    x, y = case()
    keep = y != -100
    x, y = x[keep], y[keep]
    w, r = torch.rand(5) + 0.1, torch.rand(5) + 0.1
    for wg, rg in ((w, r), (w, None), (None, r), (None, None)):
        ws, rs = torch.ones(5) if wg is None else w, torch.ones(5) if rg is None else r
        logp = x.log_softmax(1)
        rows = -rs * (ws[y] * logp[range(5), y] + (ws * logp).mean(1))
        mean = rows.sum() / (ws[y] * rs).sum() + (x.logsumexp(1) ** 2).mean()
        torch.testing.assert_close(module.t_loss(x, y, w=wg, r=rg), mean)


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("transform: -w[y]*r*logp[y]\n", "whose mean is over rows anyway"),
        ("transform: -w[y]*logp[y]\nnormalizer: w[y]*r\n", "'transform', which is not prop"),
        ("transform: -w[y]*r**2*logp[y]\nnormalizer: w[y]*r\n", "not proportional to 'r'"),
        ("transform: -w[y]*r*logp[y]\nnormalizer: w[y] + r\n", "not proportional to 'w'"),
        ("transform: -(w[y] + 1)*r*logp[y]\nnormalizer: w[y]*r\n", "not proportional to 'w'"),
        ("transform: -where(w[y] < 1, w[y], 1)*r*logp[y]\nnormalizer: w[y]*r\n", "to 'w'"),
    ],
)
def test_what_cannot_be_counted(rest: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        load_text(f"{HEAD}{rest}{TERM}")
    assert caught.value.id == "LG156"


def test_a_weight_without_multiples_cannot_be_scaled() -> None:
    mask = 'name: t\ninputs: {w: {kind: row, domain: "[0, 1]"}}\ntransform: -w*logp[y]\n'
    with pytest.raises(SpecError, match="multiples are not values"):
        load_text(f"{mask}{TERM}normalizer: w\n")
    with pytest.raises(SpecError, match="normalizer is 1"):
        load_text(f"{mask}{TERM}normalizer: w\n".replace("normalizer: 1", "normalizer: 2"))
    optional = mask.replace('domain: "[0, 1]"', "off: 2")
    with pytest.raises(SpecError, match="which is 2 where it is absent"):
        load_text(f"{optional}{TERM}normalizer: w\n")


def test_a_normalizer_counts_without_a_target() -> None:
    # Regression: without a target the mean divided by the number of rows.
    module = load("name: t\ninputs: {r: {kind: row}}\ntransform: r*sum(p**2)\nnormalizer: r\n")
    x, r = torch.randn(4, 3), torch.rand(4) + 0.1
    mean = (r * (x.softmax(1) ** 2).sum(1)).sum() / r.sum()
    torch.testing.assert_close(module.t_loss(x, r=r), mean)
