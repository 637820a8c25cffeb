"""0·∞ of a masked class is 0 in exponents, powers and products, and log(1 + u) keeps a small u."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lossgen

#: formula → its value where class 1 and the target 0 are masked, of x = [-inf, -inf, 1, 2]
MASKED = {
    # exponents: p_y is 0 there, and 0·x_j was NaN
    "-log_softmax(x*stop_gradient(p[y]))[y]": math.log(4),
    "-log_softmax(x*stop_gradient(1 - p[y]))[y] * 0 + p[y]": 0.0,
    "-log_softmax(x*stop_gradient(relu(x)))[y]": math.log(2 + math.e + math.exp(4)),
    # products with the target's logit
    "p[y]*x[y]**2 + sum(p*x)": 1.0 + 1.0 / (1.0 + math.exp(-1.0)),
    # 1/√0: a norm of zeros has derivative 0
    "p[y]*norm(p - 1/V)": 0.0,
}
#: formula → its value at x = [1e-4, 0], y = 0
SMALL = {
    "sum(log(1 + x**2)) + 0*p[y]": 1e-8,
    "p[y]*log(1 + x[y]**2)": 0.5e-8,
}
#: Circle loss: the target's exponent is not another class's, and is 1.6e9 apart from it
CIRCLE = (
    "softplus(logsumexp(16*stop_gradient(relu(x + 0.25))*(x - 0.25), over=others)"
    " - 16*stop_gradient(relu(1.25 - x[y]))*(x[y] - 0.75))"
)


def built(tmp_path: Path, formula: str):
    path = tmp_path / "t.yaml"
    lax = "accuracy: {ulp: 64, scale: 1, reason: not what is tested}"
    path.write_text(f"name: t\ntitle: T\nreference: R\ntransform: '{formula}'\n{lax}\n")
    return lossgen.load(path).t_loss


@pytest.mark.parametrize("formula", MASKED)
def test_masked_classes(formula: str, tmp_path: Path) -> None:
    loss = built(tmp_path, formula)
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[-math.inf, -math.inf, 1.0, 2.0]], requires_grad=True)
        value = loss(x, torch.tensor([0]), backend=backend, reduction="none")
        assert value.item() == pytest.approx(MASKED[formula], abs=1e-6), backend
        value.sum().backward()
        assert x.grad is not None
        assert x.grad[0, 2:].isfinite().all(), backend


@pytest.mark.parametrize("formula", SMALL)
def test_small_arguments(formula: str, tmp_path: Path) -> None:
    loss = built(tmp_path, formula)
    for backend in ("torch", "c", "triton"):
        value = loss(torch.tensor([[1e-4, 0.0]]), torch.tensor([0]), backend=backend)
        assert value.item() == pytest.approx(SMALL[formula], rel=1e-3), backend


def test_a_log_sum_of_the_others_without_the_target(tmp_path: Path) -> None:
    """It was L - r, of which the target's exponent left no digit."""
    loss = built(tmp_path, CIRCLE)
    x = torch.tensor([[1e4, 0.5, 1.0, -0.25], [-1.0, 0.5, 1.0, -0.25]])
    exponents = 16 * (x + 0.25).relu() * (x - 0.25)
    own = (16 * (1.25 - x[:, 0]).relu() * (x[:, 0] - 0.75)).double()
    expected = torch.nn.functional.softplus(exponents[:, 1:].double().logsumexp(1) - own)
    for backend in ("torch", "c", "triton"):
        found = loss(x, torch.tensor([0, 0]), backend=backend, reduction="none")
        torch.testing.assert_close(found, expected.float(), msg=backend)


#: formula of a given w → value and gradient at x = [0, -inf, 0], where w is [1/2, 0, 1/2]
OF_A_PRIOR = {
    "sum(p*log(w))": (-math.log(2), [0.0, 0.0, 0.0]),
    "sum(p*(logp - log(w)))": (0.0, [0.0, 0.0, 0.0]),
    "sum(p/w)": (2.0, [0.0, 0.0, 0.0]),
    "-xlogy(p[y], w[y])": (0.5 * math.log(2), [0.25 * math.log(2), 0.0, -0.25 * math.log(2)]),
}


@pytest.mark.parametrize("formula", OF_A_PRIOR)
def test_a_prior_that_leaves_out_what_is_masked(formula: str) -> None:
    """The gradient was NaN: 0·log(0)."""
    loss = lossgen.loss(formula, w={"kind": "vocab", "domain": "[0, 1]"})
    target = (torch.tensor([0]),) if "[y]" in formula else ()
    value, gradient = OF_A_PRIOR[formula]
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[0.0, -math.inf, 0.0]], requires_grad=True)
        found = loss(x, *target, w=torch.tensor([0.5, 0.0, 0.5]), backend=backend)
        assert found.item() == pytest.approx(value, abs=1e-6), backend
        found.backward()
        assert x.grad is not None
        assert x.grad[0].tolist() == pytest.approx(gradient, abs=1e-6), backend


def test_one_class_beside_the_logarithm_of_an_empty_mask() -> None:
    """xlogy(0, 0) is 0: it was 0·log(0) of the -log p_y of a row of one class."""
    loss = lossgen.loss("xlogy(-logp[y], mean(c)**2)", c={"kind": "class", "values": [0, 1]})
    for backend in ("torch", "c", "triton"):
        found = loss(torch.ones(1, 1), torch.tensor([0]), c=torch.zeros(1, 1), backend=backend)
        assert found.item() == 0.0, backend


def test_a_clip_of_nothing(tmp_path: Path) -> None:
    """SymPy evaluates clip(0, -1, 2) to a number, which mpmath gave as an int: LG900."""
    loss = built(tmp_path, "clip(sum(p*(logp - logp)), -1, 2) - logp[y]")
    assert loss(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(math.log(2))


HEAD = {
    "w": "inputs: {w: {kind: class, domain: '[0, 1]'}}",
    "lam": "parameters: {lam: {default: 1, domain: '[0, 2]'}}",
    "t": "inputs: {t: {kind: class}}",
}


@pytest.mark.parametrize(
    ("formula", "head", "given"),
    [
        # the choice of minimum(…) has derivative 0 beside a mean of -∞, a class and a target at -∞
        ("minimum(logp[y]*mean(x), 1 - p[y])", "", {}),
        ("minimum(mean(x**2), 1 - p[y]) + clip(mean(sinh(x)), -3, 0.5)", "", {}),
        ("minimum(x[y]**2 + norm(x), 1 - p[y])", "", {}),
        # a parameter of 0 beside Σ log p of a masked class
        ("1 - p[y] - lam*mean(logp, over=others)", "lam", {"lam": 0.0}),
        # weights that are all 0 beside log 0: of one class, 1 - p is 0
        ("sum(w**2)*log(1 - p[y]) + 1 - p[y]", "w", {"w": torch.zeros(1, 4)}),
        # ∞ - ∞ of two rows that mask one class, under the root and in its slope
        ("sum(p*sqrt(1 + (x - t)**2))", "t", {"t": torch.tensor([[-math.inf, 0.0, 1.0, 2.0]])}),
        # an exponent of p·p'/p'' that is expanded: 0/0 where one row masks the target
        ("erf(sum((p - softmax(t))**2))", "t", {"t": torch.tensor([[-math.inf, 0.0, 1.0, 2.0]])}),
    ],
)
def test_what_is_left_out_is_nothing(formula: str, head: str, given: dict, tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"name: t\n{HEAD.get(head, '')}\ntransform: '{formula}'\n")
    loss = lossgen.load(path).t_loss
    for backend in ("torch", "c", "triton"):
        for row, y in (
            ([-math.inf, 0.5, 1.0, 2.0], 1),
            ([-math.inf, 0.5, 1.0, 2.0], 0),
            ([2.0], 0),
        ):
            if head and (len(row) == 1 or y == 0) and head != "w":
                continue  # infinite, or there are no others
            many = {n: v[:, : len(row)] if head != "lam" else v for n, v in given.items()}
            x = torch.tensor([row], requires_grad=True)
            value = loss(
                x, *([torch.tensor([y])] if "y]" in formula else []), backend=backend, **many
            )
            value.backward()
            assert x.grad is not None
            assert math.isfinite(value.item()), (backend, row, y)
            assert bool(x.grad.isfinite().all()), (backend, row, y)


def test_an_input_that_cancels(tmp_path: Path) -> None:
    """A loss of z alone, in whose formula a class input stands: LG900 of an Input's default."""
    path = tmp_path / "t.yaml"
    path.write_text(f"name: t\n{HEAD['w']}\ntransform: 'sum(w*(logp - logp)) - logp[y]'\n")
    loss = lossgen.load(path).t_loss
    value = loss(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1, 2))
    assert value.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("backend", ["torch", "c"])
def test_an_angle_at_its_end(backend: str, tmp_path: Path) -> None:
    """arcsin(1) is π/2; as the arctangent of 1/√0, which is 0 here, it was 0."""
    loss = built(tmp_path, "mean(arcsin(sigmoid(x))) + 0*logp[y]")
    x = torch.full((1, 3), 300.0, requires_grad=True)
    value = loss(x, torch.tensor([0]), backend=backend)
    value.backward()
    assert value.item() == pytest.approx(math.pi / 2)
    assert x.grad.abs().max() == 0


_MIXED = "-(1 - a)*sum(softmax(t)*logp) - a*sum(p*log_softmax(t))"
#: (formula, a, which of x and t masks a class that the other does not, what is left of the formula)
OF_A_PARAMETER = [
    (
        "-logp[y] + a*sum(p*(logp - log_softmax(t)))",
        0.0,
        "t",
        lambda x, t: -x.log_softmax(1)[:, 2],
    ),
    (_MIXED, 0.0, "t", lambda x, t: -(t.softmax(1) * x.log_softmax(1)).sum(1)),
    (_MIXED, 1.0, "x", lambda x, t: -(x.softmax(1) * t.log_softmax(1)).sum(1)),
]


@pytest.mark.parametrize(("formula", "a", "masked", "rest"), OF_A_PARAMETER)
def test_a_parameter_of_0_beside_an_infinite_divergence(
    formula: str, a: float, masked: str, rest: Callable, tmp_path: Path
) -> None:
    """0·∞ of β·KL(p || q) where q masks a class: NaN in the value and, class by class, in the
    gradient."""
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: t\nparameters: {a: {default: 0.5, domain: '[0, 1]'}}\n"
        f"inputs: {{t: {{kind: class, differentiable: true}}}}\ntransform: '{formula}'\n"
        "accuracy: {ulp: 64, scale: 1, reason: not what is tested}\n"
    )
    loss = lossgen.load(path).t_loss
    for at in (0, 2):
        rows = {"x": [0.25, 1.5, -0.5, 1.0], "t": [1.0, 0.5, 2.0, 0.0]}
        rows[masked][at] = -math.inf
        exact = {n: torch.tensor([row]).double().requires_grad_() for n, row in rows.items()}
        expected = rest(**{n: v.clamp_min(-1e4) for n, v in exact.items()})
        slopes = torch.autograd.grad(
            expected.sum(), list(exact.values()), materialize_grads=True, allow_unused=True
        )
        for backend in ("torch", "c", "triton"):
            x, t = (torch.tensor([rows[n]], requires_grad=True) for n in "xt")
            target = (torch.tensor([2]),) if "[y]" in formula else ()
            value = loss(x, *target, t, backend=backend, reduction="none", a=a)
            value.sum().backward()
            torch.testing.assert_close(value, expected.float(), msg=backend)
            for leaf, slope in zip((x, t), slopes, strict=True):
                torch.testing.assert_close(leaf.grad, slope.float(), msg=backend)


@pytest.mark.parametrize("formula", ["sum(xlogy(-logp, -logp))", "entr(-logp[y])"])
def test_u_log_u_of_what_falls_to_0(formula: str, tmp_path: Path) -> None:
    """-log p of a row of one class is 0, and 0·log(0) was NaN, in the gradient too."""
    loss = built(tmp_path, f"{formula} + 0*p[y]" if "[y]" in formula else formula)
    for backend in ("torch", "c", "triton"):
        x = torch.zeros(1, 1, requires_grad=True)
        target = (torch.tensor([0]),) if "[y]" in formula else ()
        value = loss(x, *target, backend=backend)
        value.backward()
        assert value.item() == 0.0, backend
        assert x.grad is not None
        assert x.grad.item() == 0.0, backend


#: formula of a g that may be 0 → whether it is e^0 = 1 of a masked class, whatever beside it
OF_NO_POWER = {
    "sum(sigmoid(x)**g*softplus(x))": lambda x: torch.nn.functional.softplus(x).sum(),
    "sum(sigmoid(x)**g)": lambda x: torch.tensor(3.0, dtype=x.dtype),
    "sum(exp(-g*softplus(-x))*sigmoid(x))": lambda x: x.sigmoid().sum(),
    "sum(w*sigmoid(x)**g*softplus(x), over=others)": lambda x: torch.nn.functional.softplus(
        x[1:]
    ).sum(),
}


@pytest.mark.parametrize("formula", OF_NO_POWER)
def test_a_power_of_a_masked_class_that_is_none(formula: str) -> None:
    """sigmoid(x)^g is e^(-g·softplus(-x)), which was 0·∞: such losses were refused."""
    more = {"w": {"kind": "class", "domain": "[0, 1]"}} if "w*" in formula else {}
    loss = lossgen.loss(formula, g={"default": 2.0, "domain": "[0, 5]"}, **more)
    x = torch.tensor([[0.5, -math.inf, 1.0]], requires_grad=True)
    target = (torch.tensor([0]),) if "others" in formula else ()
    weight = (torch.ones(1, 3),) if more else ()
    for backend in ("torch", "c", "triton"):
        value = loss(x, *target, *weight, g=0.0, backend=backend)
        torch.testing.assert_close(value, OF_NO_POWER[formula](x[0]), msg=backend)
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.isfinite().all(), backend


@pytest.mark.parametrize("formula", ["xlogy(-logp[y], u)", "(1 - p[y])*(log(1 - p[y]) - logp[y])"])
def test_one_class_beside_its_odds(formula: str, tmp_path: Path) -> None:
    """0·log 0: u is 0 where there is no other class."""
    loss = built(tmp_path, formula)
    for backend in ("torch", "c", "triton"):
        x = torch.tensor([[-0.3689]], requires_grad=True)
        value = loss(x, torch.tensor([0]), backend=backend)
        value.backward()
        assert value.item() == 0.0, backend
        assert x.grad is not None
        assert x.grad.item() == 0.0, backend
