"""The rung below float32: a loss that float32 does not hold to its bound is computed in float64, on
every backend; see ``passes.certify``."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.emit.render import render_module
from lossgen.errors import CompileError
from lossgen.spec.load import load_text
from lossgen.verify import interpreter
from lossgen.verify.reference import Arguments, literal

BACKENDS = ("torch", "c", "triton")
STREAM = "inputs:\n  t: {kind: class}\n"
Q = 'parameters:\n  q: {default: 0.7, domain: "(0, 1]"}\n'
#: Refused once: differences of large terms.
WIDE = {
    "hellinger": ("1 - sum(sqrt(softmax(x)*softmax(t)))", STREAM),
    "student": ("4*sum(softmax(t/2)*(log_softmax(t/2) - log_softmax(x/2)))", STREAM),
    "root": ("sqrt(q**2 + (1 - p[y])**2) - q", Q),
    "flat": ("q*(log(V) + sum(p*logp))", Q),
    "variance": ("mean((x - mean(x))**2) - logp[y]", ""),
}


def _load(folder: Path, name: str, formula: str, more: str = "") -> ModuleType:
    path = folder / f"{name}.yaml"
    path.write_text(f'name: {name}\n{more}transform: "{formula}"\n', encoding="utf-8")
    return lossgen.load(path)


def _compiled(formula, more=""):
    return compile_loss(load_text(f'name: t\n{more}transform: "{formula}"\n'))


def _rows():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 2, (6, 9))
    y = rng.integers(0, 9, 6)
    x[1, y[1]] += 12  # confident
    x[2, (y[2] + 1) % 9] += 12  # and in another class
    x[3] += 300
    t = rng.normal(0, 2, (6, 9))
    t[4] = x[4] + 1e-4 * t[4]  # nearly equal
    x[5, (y[5] + 2) % 9] = t[5, (y[5] + 2) % 9] = -np.inf
    return torch.tensor(x).float(), torch.tensor(y), torch.tensor(t).float()


@pytest.mark.parametrize("name", sorted(WIDE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_builds_and_is_right_on_every_backend(tmp_path, name, dtype):
    formula, more = WIDE[name]
    module = _load(tmp_path, name, formula, more)
    interpreter.install()
    spec = load_text(f'name: {name}\n{more}transform: "{formula}"\n')
    x, y, t = _rows()
    x = x[:5] if name == "variance" else x  # the mean of a masked row is infinite
    y, t = y[: len(x)], t[: len(x)]
    x, t = x.to(dtype), t.to(dtype)
    streams = (t,) if more == STREAM else ()
    parameters = {n: float(p.default) for n, p in spec.parameters.items()}
    truth = x.double().clamp_min(-90.0).requires_grad_()  # autograd of √0 is NaN
    given = {"t": t.double().clamp_min(-90.0)} if streams else {}
    rows = literal(spec, Arguments(truth, y if spec.has_target else None, parameters, given))
    (slope,) = torch.autograd.grad(rows.sum(), truth)
    step = torch.finfo(dtype).eps
    for backend in BACKENDS:
        leaf = x.clone().requires_grad_()
        target = (y,) if spec.has_target else ()
        function = getattr(module, f"{name}_loss")
        loss = function(leaf, *target, *streams, backend=backend, reduction="none")
        assert loss.dtype is torch.float32
        error = (loss.double() - rows).abs() / rows.abs().clamp_min(1e-9)
        assert float(error.detach().max()) < 1e-6, backend
        loss.sum().backward()
        size = slope.abs().amax(1, keepdim=True).clamp_min(1e-9)
        assert leaf.grad.dtype is dtype
        assert float(((leaf.grad.double() - slope).abs() / size).max()) < max(1e-6, step), backend
        again = x.clone().requires_grad_()  # the fused kernel
        function(again, *target, *streams, backend=backend, reduction="sum").backward()
        if backend == "c":
            assert torch.equal(again.grad, leaf.grad)
        assert float((again.grad.double() - slope).abs().div(size).max()) < max(1e-6, step), backend


def test_float32_is_taken_where_it_is_enough():
    assert _compiled("(1 - p[y]**0.7)/0.7").arithmetic == "float32"
    wide = _compiled(*WIDE["root"])
    assert wide.arithmetic == "float64"
    assert "in float32 it is off by" in wide.variants[0].stable.precision
    text = render_module(wide)
    assert "# arithmetic: float64, 2.0 times the operations; in float32 it is off by" in text
    assert "tl.float32" not in text.partition("_C_SOURCE")[0]


def test_a_stated_bound_keeps_float32():
    """``accuracy:`` says that fewer digits do: then the cheaper program is taken."""
    more = 'inputs:\n  t: {kind: class}\naccuracy: {ulp: 1e7, scale: 1, reason: "enough"}\n'
    assert _compiled(WIDE["hellinger"][0], more).arithmetic == "float32"


def test_variants_share_one_arithmetic():
    """An option that needs float64 takes the plain call with it: a module has one."""
    more = (
        'parameters:\n  k: {default: 0, off: 0, domain: "[0, 4]"}\n'
        'regularizer:\n  - {name: root, weight: k, value: "sqrt(1/4 + (1 - p[y])**2) - 1/2"}\n'
    )
    compiled = _compiled("-logp[y]", more)
    assert [v.stable.arithmetic for v in compiled.variants] == ["float64", "float64"]


def test_the_schedule_on_chip_is_refused_by_name(tmp_path):
    """Logits that exist on chip only are float32; by the chunk the loss runs."""
    name = "root"
    module = _load(tmp_path, name, *WIDE[name])
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4)
    y = torch.tensor([0, 4, 2])
    found = module.linear_root_loss(hidden, weight, y)
    expected = module.root_loss(hidden @ weight.t(), y)
    assert math.isclose(float(found), float(expected), rel_tol=1e-6)
    interpreter.install()
    with pytest.raises(ValueError, match="computed in float64; use schedule 'chunked'"):
        module.linear_root_loss(hidden, weight, y, schedule="tiled", backend="triton")


def test_verify_asks_what_the_certificate_says(tmp_path):
    from lossgen.verify.run import verify

    path = tmp_path / "root.yaml"
    formula, more = WIDE["root"]
    path.write_text(f'name: root\n{more}transform: "{formula}"\n', encoding="utf-8")
    found = verify(path, examples=3, backends=("torch", "c"))
    assert found.ok, found.failures


def test_what_no_arithmetic_holds_is_refused():
    """No number where the loss is infinite: float64 does not help, nor is its NaN the truth."""
    with pytest.raises(CompileError, match="in float64"):
        _compiled("exp(exp(x[y])) - exp(exp(x[y]) - 1)")


# x, t masked or not: what the pivot held of a product of softmaxes was ∞ - ∞, clamped to a number:
# 0.789 instead of 0.318 in float32 and float64 alike
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_product_of_softmaxes_where_one_masks_the_pivot(tmp_path, backend):
    interpreter.install()
    module = _load(tmp_path, "squares", "sum((softmax(t) - p)**2)", STREAM)
    x = torch.tensor([[-0.5, 1.25, -math.inf, -0.75, 2.25, -1.75, -1.5]], requires_grad=True)
    t = torch.tensor([[1.0, 0.25, 2.0, -0.0, 1.75, -0.5, -1.25]])
    loss = module.squares_loss(x, t, backend=backend)
    p = torch.softmax(x.double(), 1)
    assert math.isclose(
        float(loss), float((t.double().softmax(1) - p).square().sum()), rel_tol=1e-6
    )
    loss.backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_of_two_rows_that_mask_one_class(tmp_path, backend):
    """p·(x - t)² is 0 there: t has a floor as x has. The gradient was 0·(∞ - ∞)."""
    interpreter.install()
    module = _load(tmp_path, "apart", "sum(p*(x - t)**2)", STREAM)
    x = torch.tensor([[0.5, 1.0, -math.inf, 2.0]], requires_grad=True)
    t = torch.tensor([[1.0, 0.25, -math.inf, -0.5]])
    loss = module.apart_loss(x, t, backend=backend)
    p = torch.softmax(x[:, [0, 1, 3]].double(), 1)
    apart = (x[:, [0, 1, 3]].double() - t[:, [0, 1, 3]]) ** 2
    assert math.isclose(float(loss), float((p * apart).sum()), rel_tol=1e-6)
    loss.backward()
    assert bool(x.grad.isfinite().all())


#: Refused once: Σ (a - b)² was Σ a² - 2·Σ ab + Σ b², of which nearly equal rows leave a negative
#: number under the root, or 0·∞ where one of them is far from the other.
WRITTEN = {
    "apart": "sqrt(sum((sqrt(p) - sqrt(softmax(t)))**2))",
    "squares": "sum((sqrt(p) - sqrt(softmax(t)))**2)/2",
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_the_last_rung_sums_what_is_written(tmp_path, name):
    compiled = _compiled(WRITTEN[name], STREAM)
    stable = compiled.variants[0].stable
    assert stable.whole
    assert stable.precision.startswith("float64, sums as they are written, ")
    module = _load(tmp_path, name, WRITTEN[name], STREAM)
    spec = load_text(f'name: {name}\n{STREAM}transform: "{WRITTEN[name]}"\n')
    x, _, t = _rows()
    x, t = x[:5], t[:5]
    truth = x.double().requires_grad_()
    rows = literal(spec, Arguments(truth, None, {}, {"t": t.double()}))
    (slope,) = torch.autograd.grad(rows.sum(), truth)
    interpreter.install()
    for backend in BACKENDS:
        leaf = x.clone().requires_grad_()
        loss = getattr(module, f"{name}_loss")(leaf, t, backend=backend, reduction="none")
        torch.testing.assert_close(loss.double(), rows, rtol=1e-6, atol=1e-9)
        loss.sum().backward()
        torch.testing.assert_close(leaf.grad.double(), slope, rtol=1e-5, atol=1e-9)


def test_a_row_that_is_exact_as_it_is_written():
    """Two standardised logits are ±1 whatever they are: the formula loses nothing there in float64,
    and another order of it a little, as both do on the row beside."""
    apart = "(log_softmax((t - mean(t))/std(t)/2) - log_softmax((x - mean(x))/std(x)/2))"
    formula = f"sum(softmax((t - mean(t))/std(t)/2)*{apart})"
    assert _compiled(formula, STREAM).arithmetic == "float64"


def test_a_log_softmax_over_the_others_needs_some():
    """Of one class, 0·(-∞) was asked to be 0."""
    formula = "-sum(softmax(t, over=others)*log_softmax(x, over=others), over=others)"
    spec = load_text(f'name: t\n{STREAM}transform: "{formula}"\n')
    assert spec.min_classes == 2
    compile_loss(spec)


def test_a_dearer_program_says_what_it_costs():
    near = "sum(softmax(t/tau)*(log_softmax(t/tau) - log_softmax(x/tau)))"
    more = f'parameters:\n  tau: {{default: 2, domain: "(0, 10]"}}\n{STREAM}'
    stable = _compiled(f"-logp[y]/2 + tau**2*{near}/2", more).variants[0].stable
    assert stable.arithmetic == "float32"
    assert " times the operations; the cheapest program is off by " in stable.precision


TAU = 'parameters:\n  tau: {default: 2, domain: "(0, 10]"}\n'
# formula, what it declares: refused once
ROUNDED = [
    ("sqrt(1 - sum(sqrt(p*softmax(t))))", STREAM),  # the root of -1e-16 where the rows are equal
    # 1e-14 of two terms of size 40, of which the formula as it is written happens to lose nothing
    ("sum(p*(tau*logp - t)) + tau*logsumexp(t/tau)", TAU + STREAM),
]


@pytest.mark.parametrize(("formula", "more"), ROUNDED)
def test_what_rounding_leaves_of_large_terms_is_no_error(formula, more):
    assert _compiled(formula, more).arithmetic == "float64"


def test_a_masked_class_beside_a_slope_of_0():
    """Circle: s*relu(x + m)*(x - m) is 0 of a class at -inf, and so is its slope: it was -inf*0."""
    inner = "logsumexp(16*relu(x + 0.3)*(x - 0.3), over=others)"
    outer = "16*relu(1.3 - x[y])*(x[y] - 0.7)"
    assert _compiled(f"softplus({inner} - {outer})").arithmetic == "float32"


def test_a_few_more_roundings_cost_less_than_float64(tmp_path):
    """5 to 8 ulp: nothing in float32 meets 4, and what it has is enough."""
    distance = "norm(p - onehot) - (1 - p[y])"
    compiled = _compiled(distance)
    (plan,) = compiled.variants
    assert (compiled.arithmetic, plan.stable.bound, plan.stable.cost) == ("float32", 16.0, 1.0)
    found = plan.stable.certificate
    assert 4.0 < max(found.loss_kappa, found.gradient_kappa) <= 16.0
    assert "bound=16.0" in render_module(compiled)
    stated = _compiled(distance, "accuracy: {ulp: 4, reason: a test}\n")
    assert stated.arithmetic == "float64"
    module = _load(tmp_path, "distance", distance)
    for backend in BACKENDS:  # 1/√0 where 1 - p underflows
        x = torch.tensor([[120.0, 0.0, -1.0], [0.0, 120.0, -1.0]], requires_grad=True)
        module.distance_loss(x, torch.tensor([0, 0]), backend=backend).backward()
        assert x.grad.isfinite().all()
