"""Several class inputs, index, argmax, second_max, outputs: the references and the draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor

from lossgen.passes.limits import check_limits
from lossgen.spec.load import load_text
from lossgen.spec.model import LossSpec
from lossgen.verify.cases import DTYPES, KINDS, LAYOUTS, Case
from lossgen.verify.reference import Arguments, literal_mpmath
from lossgen.verify.runner import gold, gradients
from lossgen.verify.streams import RELATIONS, streams, vectors

INF = math.inf
TEACHER = "inputs: {teacher: {kind: class, doc: logits of another model}}"
BOTH = "inputs: {teacher: {kind: class, differentiable: true, doc: logits of another model}}"


def spec_of(body: str, more: str = "") -> LossSpec:
    body = body if body.startswith("outputs") else f"transform: {body!r}"
    return load_text(f"name: probe\n{body}\n{more}\n", "probe.yaml")


def softmaxes(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.softmax(1), x.log_softmax(1), t.softmax(1), t.log_softmax(1)


def kl(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.kl_div(
        x.log_softmax(1), t.log_softmax(1), reduction="none", log_target=True
    ).sum(1)


def tvd(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x.softmax(1) - t.softmax(1)).abs().sum(1)


def mart(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    p, logp, q, logq = softmaxes(x, t)
    at = y[:, None]
    rival = p.scatter(1, at, 0.0).amax(1)
    boosted = -logp.gather(1, at)[:, 0] - torch.log(1 - rival)
    return boosted + 5.0 * (q * (logq - logp)).sum(1) * (1 - q.gather(1, at)[:, 0])


def hl_gauss(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    edges = torch.arange(x.shape[1] + 1, dtype=x.dtype) - 0.5
    cdf = torch.special.erf((edges[None, :] - y[:, None]) / (0.75 * math.sqrt(2.0)))
    mass = cdf[:, 1:] - cdf[:, :-1]
    return -(mass / mass.sum(1, keepdim=True) * x.log_softmax(1)).sum(1)


def agreeing(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    best = x.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]) * (t.argmax(1) == y) + t.argmax(1) * x.logsumexp(1)


WRITTEN: dict[str, tuple[LossSpec, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "kl": (spec_of("sum(softmax(teacher) * (log_softmax(teacher) - logp))", BOTH), kl),
    "tvd": (spec_of("sum(abs(p - softmax(teacher))) / 2", BOTH), tvd),
    "mart": (
        spec_of(
            "-logp[y] - log(1 - max(p, over=others))"
            " + 5 * sum(softmax(teacher) * (log_softmax(teacher) - logp))"
            " * (1 - softmax(teacher)[y])",
            BOTH,
        ),
        mart,
    ),
    "hl_gauss": (
        spec_of(
            "-sum(mass * logp) / sum(mass)",
            "let: {mass: 'erf((index + 0.5 - index[y]) / (0.75 * sqrt(2)))"
            " - erf((index - 0.5 - index[y]) / (0.75 * sqrt(2)))'}",
        ),
        hl_gauss,
    ),
    "agreeing": (
        spec_of(
            "(max(x) - second_max(x)) * where(argmax(teacher) == index[y], 1, 0)"
            " + argmax(teacher) * logsumexp(x)",
            TEACHER + "\nmin_classes: 2",
        ),
        agreeing,
    ),
}
OUTPUTS = spec_of(
    "outputs: {logp: 'log(p[y])', entropy: '-sum(p * logp)',"
    " cross: '-sum(softmax(teacher) * logp)'}",
    BOTH,
)


def given(spec: LossSpec, seed: int = 0, rows: int = 4, classes: int = 6) -> Arguments:
    generator = torch.Generator().manual_seed(seed)
    x, t = 2.0 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=generator)
    return Arguments(x, y if spec.has_target else None, {}, dict.fromkeys(streams(spec), t))


# ------------------------------------------------------------------ the references
@pytest.mark.parametrize("name", WRITTEN)
def test_formulas_written_by_hand(name: str) -> None:
    spec, written = WRITTEN[name]
    arguments = given(spec)
    loss, grads = gradients(spec, arguments)
    t = arguments.inputs.get("teacher", torch.zeros_like(arguments.logits))
    x, t = arguments.logits.clone().requires_grad_(), t.clone().requires_grad_()
    target = torch.zeros(4, dtype=torch.int64) if arguments.target is None else arguments.target
    expected = written(x, t, target)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-13)
    slopes = torch.autograd.grad(expected.sum(), (x, t), materialize_grads=True, allow_unused=True)
    assert tuple(grads) == vectors(spec)
    for grad, slope in zip(grads.values(), slopes, strict=False):
        torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-13)


def test_outputs_are_columns_each_with_its_own_weight() -> None:
    arguments = given(OUTPUTS)
    x, t = arguments.logits.clone().requires_grad_(), arguments.inputs["teacher"].requires_grad_()
    p, logp, q, _ = softmaxes(x, t)
    assert arguments.target is not None
    columns = [logp.gather(1, arguments.target[:, None])[:, 0], -(p * logp).sum(1)]
    expected = torch.stack([*columns, -(q * logp).sum(1)], 1)
    weight = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    value, grads = gradients(OUTPUTS, arguments, weight)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-14)
    slopes = torch.autograd.grad((expected * weight).sum(), (x, t))
    for grad, slope in zip(grads.values(), slopes, strict=True):
        torch.testing.assert_close(grad, slope, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "spec", [*(s for s, _ in WRITTEN.values()), OUTPUTS], ids=[*WRITTEN, "outputs"]
)
def test_torch_and_mpmath_agree_for_every_vector(spec: LossSpec) -> None:
    arguments = given(spec, seed=2, rows=2, classes=5)
    outputs = len(spec.outputs)
    for k in range(max(1, outputs)):
        weight = torch.eye(outputs, dtype=torch.float64)[k].expand(2, -1) if outputs else None
        loss, grads = gradients(spec, arguments, weight)
        for i in range(2):
            row = [float(v) for v in arguments.logits[i]]
            inputs = {n: [float(e) for e in v[i]] for n, v in arguments.inputs.items()}
            target = None if arguments.target is None else int(arguments.target[i])
            for name, grad in grads.items():
                with mp.workdps(90):
                    value, slopes = literal_mpmath(spec, row, target, {}, inputs, by=name, output=k)
                found = float(loss[i, k] if outputs else loss[i])
                np.testing.assert_allclose(found, float(value), rtol=1e-11, atol=1e-13)
                expected = [float(s) for s in slopes]
                np.testing.assert_allclose(grad[i].numpy(), expected, rtol=1e-9, atol=1e-12)


def evaluate(
    spec: LossSpec, x: list[float], t: list[float] | None = None, y: int = 0
) -> tuple[float, list[list[float]]]:
    """(value, gradients) of one row in torch; mpmath must have the value too."""
    inputs = {} if t is None else {"teacher": torch.tensor([t], dtype=torch.float64)}
    labels = torch.tensor([y]) if spec.has_target else None
    loss, grads = gradients(
        spec, Arguments(torch.tensor([x], dtype=torch.float64), labels, {}, inputs)
    )
    with mp.workdps(60):
        lists = {} if t is None else {"teacher": t}
        value, _ = literal_mpmath(spec, x, y, {}, lists, gradient=False)
    np.testing.assert_allclose(float(loss), float(value), rtol=1e-12, atol=1e-15)
    return float(loss), [grad[0].tolist() for grad in grads.values()]


def test_a_class_of_probability_zero_contributes_nothing() -> None:
    spec = WRITTEN["kl"][0]
    both, grads = evaluate(spec, [1.0, -INF, 0.5], [0.2, -INF, 0.3])
    alone, slopes = evaluate(spec, [1.0, 0.5], [0.2, 0.3])
    assert both == pytest.approx(alone, rel=1e-13)
    for masked, plain in zip(grads, slopes, strict=True):
        assert masked == pytest.approx([plain[0], 0.0, plain[1]], rel=1e-12, abs=1e-15)
    value, _ = evaluate(spec, [1.0, 2.0, 0.5], [0.2, -INF, 0.3])
    assert math.isfinite(value)
    assert evaluate(spec, [1.0, -INF, 0.5], [0.2, 0.1, 0.3])[0] == INF


def test_argmax_is_the_first_largest_and_has_no_gradient() -> None:
    spec = spec_of("argmax(x) + x[y]")
    assert evaluate(spec, [1.0, 7.0, 7.0], y=0) == (2.0, [[1.0, 0.0, 0.0]])
    others = spec_of("argmax(x, over=others) + x[y]")
    assert evaluate(others, [5.0, 3.0, 4.0, 4.0], y=0)[0] == 7.0  # 2 + 5
    assert evaluate(others, [3.0, 5.0, 9.0], y=2)[0] == 10.0  # 1 + 9
    assert evaluate(others, [3.0], y=0)[0] == 3.0


def test_second_max_counts_ties_and_its_gradient_goes_to_the_second_occurrence() -> None:
    spec = spec_of("second_max(x)")
    assert evaluate(spec, [5.0, 2.0, 5.0, 5.0]) == (5.0, [[0.0, 0.0, 1.0, 0.0]])
    assert evaluate(spec, [4.0, 2.0, 5.0, 4.0]) == (4.0, [[1.0, 0.0, 0.0, 0.0]])
    assert evaluate(spec, [4.0, -INF])[0] == -INF
    assert evaluate(spec, [4.0])[0] == -INF
    others = spec_of("second_max(x, over=others) + x[y]")
    assert evaluate(others, [9.0, 2.0, 5.0, 4.0], y=0) == (13.0, [[1.0, 0.0, 0.0, 1.0]])
    assert evaluate(others, [9.0, 2.0], y=0)[0] == -INF


def test_a_stopped_gradient_is_a_constant_for_streams_too() -> None:
    spec = spec_of("sum(stop_gradient(softmax(teacher)) * (teacher - logp))", BOTH)
    x, t = [0.5, -0.25, 1.5], [1.0, 0.0, -1.0]
    _, (_, slopes) = evaluate(spec, x, t)
    q = torch.tensor(t, dtype=torch.float64).softmax(0).tolist()
    assert slopes == pytest.approx(q, rel=1e-13)
    with mp.workdps(90):
        _, exact = literal_mpmath(spec, x, None, {}, {"teacher": t}, by="teacher")
    assert [float(s) for s in exact] == pytest.approx(q, rel=1e-13)


def test_differences_stay_in_the_domain() -> None:
    more = "inputs: {teacher: {kind: class, differentiable: true, domain: '[0, 1]', doc: q}}"
    spec = spec_of("sum(sqrt(teacher + 1) * logp)", more)
    with mp.workdps(90):
        _, slopes = literal_mpmath(
            spec, [0.0, 0.0], None, {}, {"teacher": [0.0, 1.0]}, by="teacher"
        )
    expected = [-0.5 * math.log(2), -math.log(2) / math.sqrt(8)]
    assert [float(s) for s in slopes] == pytest.approx(expected, rel=1e-12)


def test_limits_draw_the_streams() -> None:
    limits = "limits: [{when: {}, equals: 'sum(teacher * log(teacher)) - sum(teacher * logp)'}]"
    inputs = "inputs: {teacher: {kind: class, domain: '[0, inf)', doc: probabilities}}"
    spec = spec_of("sum(teacher * (log(teacher) - logp))", f"{inputs}\n{limits}")
    assert check_limits(spec) == 1


# ------------------------------------------------------------------ the draws
PLAIN = spec_of("sum(p * (a - b))", "inputs: {a: {kind: class, doc: a}, b: {kind: class, doc: b}}")


def case_of(spec: LossSpec, **changes: object) -> Case:
    return Case(spec, rows=4, classes=17).with_(**changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_streams_lie_to_the_logits_as_their_relation_says(kind: str, relation: str) -> None:
    case = case_of(PLAIN, kind=kind, relation=relation, dtype=torch.float64)
    x = case.numbers()[0]
    a = case.streams()["a"]
    assert a.shape == x.shape
    assert not np.isnan(a).any()
    assert np.isfinite(a).any(1).all()
    if relation == "equal":
        assert (a == x).all()
    elif relation == "close":
        both = np.isfinite(x)
        assert (np.isfinite(a) == both).all()
        assert 0 < np.abs(a[both] - x[both]).max() < 0.5  # five deviations of 0.1
    elif kind in ("peaked", "wrong", "plain", "masked"):
        same = (a.argmax(1) == x.argmax(1)).tolist()
        assert same == [relation == "same"] * 4 or relation == "free"
    if kind == "masked":
        assert (np.isinf(a) == np.isinf(x)).all() == (relation in ("equal", "close", "same"))
        assert np.isinf(a).any()


def test_every_stream_has_its_own_numbers_and_relation() -> None:
    case = case_of(PLAIN, relation="close")
    x, drawn = case.numbers()[0], case.streams()
    assert np.abs(drawn["a"] - x).max() < 0.5
    assert (drawn["b"] == x).all()  # the next relation
    x, free = x.flatten(), case.with_(relation="free").streams()
    a, b = free["a"].flatten(), free["b"].flatten()
    assert np.abs(np.corrcoef([x, a, b]) - np.eye(3)).max() < 0.4


@pytest.mark.parametrize(
    ("entry", "low", "high", "normalised"),
    [
        ("range: [-3, -1]", -3, -1, False),
        ("domain: '[0, inf)', range: [0.5, 2]", 0.5, 2, False),
        ("domain: '[0, 1]'", 0, 1, True),
        ("domain: '[0, inf)'", 0, 1, True),
        ("domain: '(0, 1)'", 2.0**-12, 1 - 2.0**-6, False),
        ("domain: '(-inf, 0]'", -1e4, 0, False),
        ("domain: '(-1, 2)'", -1 + 1e-9, 2 - 1e-9, False),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "masked", "large", "tied"])
def test_ranges_and_domains(
    entry: str, low: float, high: float, normalised: bool, kind: str
) -> None:
    spec = spec_of("sum(p * q)", f"inputs: {{q: {{kind: class, doc: q, {entry}}}}}")
    domain = spec.inputs["q"].domain
    for dtype in DTYPES:
        for relation in RELATIONS:
            case = case_of(spec, kind=kind, relation=relation, dtype=dtype)
            q = case.streams()["q"]
            assert low <= q.min() <= q.max() <= high
            assert domain is None or all(map(domain.contains, q.flatten().tolist()))
            if normalised:
                np.testing.assert_allclose(q.sum(1), 1.0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_storage(layout: str, dtype: torch.dtype) -> None:
    case = case_of(PLAIN, layout=layout, dtype=dtype)
    logits, _ = case.tensors()
    keys, numbers = case.keywords(), case.streams()
    assert torch.equal(logits.double(), torch.from_numpy(case.numbers()[0]))
    for name in ("a", "b"):
        stored = keys[name]
        assert stored.dtype is dtype
        assert torch.equal(stored.double(), torch.from_numpy(numbers[name]))
        assert stored.is_contiguous() == (layout == "contiguous")
        if layout == "sliced":
            assert stored.stride() != logits.stride()
    if layout == "expanded":
        assert keys["a"].stride() == (0, 1)
        assert len({float(v) for v in gold(case).loss}) == 1


def test_a_case_says_how_its_streams_lie() -> None:
    text = str(case_of(PLAIN, relation="other"))
    assert text == ("4 x 17 plain float32 logits, contiguous, tile 16, seed 3, a (other), b")
