"""The certificate sees what is wrong: broken programs, and the formulas that it once passed."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from sympy import log

import lossgen
from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.emit.render import render_module
from lossgen.errors import CompileError
from lossgen.ir import evaluate
from lossgen.ir.literal import literal
from lossgen.ir.rows import Row
from lossgen.ir.stages import StableLoss
from lossgen.lower.rows import RoundedRows
from lossgen.passes.certify import Trial, certify
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.passes.truth import true_row
from lossgen.passes.worst import Worst
from lossgen.spec.load import load_spec, load_text


def _stable(name: str) -> StableLoss:
    spec = load_spec(paths.require_spec(name))
    return replace(stabilize(differentiate(parse(spec, uses=frozenset()))), dearer=None)


def _without_term(stable: StableLoss, k: int) -> StableLoss:
    first, *others = stable.gradients
    terms = tuple(t for i, t in enumerate(first.terms) if i != k)
    return replace(stable, gradients=(replace(first, terms=terms), *others))


def _scaled_target(stable: StableLoss) -> StableLoss:
    first, *others = stable.gradients
    return replace(stable, gradients=(replace(first, at_y=first.at_y * (1 + 1e-5)), *others))


BROKEN = {
    "a gradient term dropped": lambda s: _without_term(s, 0),
    "another gradient term dropped": lambda s: _without_term(s, 1),
    "the target's gradient off by 1e-5": _scaled_target,
    "the loss off by 1e-5": lambda s: replace(s, loss=s.loss * (1 + 1e-5)),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("name", ["poly1", "confidence_penalty", "trades", "weston_watkins"])
def test_broken_programs_are_refused(name: str, what: str) -> None:
    stable = _stable(name)
    broken = BROKEN[what](stable)
    if broken.gradients == stable.gradients and broken.loss == stable.loss:
        pytest.skip("there is one term only")
    with pytest.raises(CompileError, match="is not accurate in float64"):
        certify(broken)


#: Formulas that were certified and wrong, each at an input where it was.
ONCE_PASSED = {
    "a missing 1 in the gradient": ("max(x) + max(p)", [0.5, 1.5, -1.0], {}),
    "maxima over the others": ("max(x, over=others) + max(p)", [0.5, 1.5, -1.0], {}),
    "two kinds of maxima": (
        "max(x, over=others) + max(logp, over=others)",
        [0.5, 1.5, -1.0],
        {},
    ),
    "a raw and a softmax maximum": ("max(x) + max(p) - logp[y]", [0.5, 1.5, -1.0], {}),
    "unlikelihood": ("-sum(mask*log(1 - p))", [17.0, 0.0, 0.0], {"mask": [1.0, 0.0, 1.0]}),
    "unlikelihood, far": ("-sum(mask*log(1 - p))", [90.0, 0.0, 0.0], {"mask": [1.0, 0.0, 1.0]}),
    "1 - max over the others": ("-log(1 - max(p, over=others))", [30.0, 0.0, 0.0], {}),
    "a sum over a subset": ("-log(sum(mask*p))", [0.0, 25.0, 1.0], {"mask": [1.0, 0.0, 1.0]}),
    "0·∞ of a mask": ("sum(mask*exp(x - x[y]))", [100.0, 0.0, 0.0], {"mask": [0.0, 1.0, 1.0]}),
    "confident labels": (
        "sum(softplus(x) - mask*x)",
        [-20.0, 20.0, -20.0],
        {"mask": [0.0, 1.0, 0.0]},
    ),
    "a power of a hinge": ("relu(1 + logsumexp(x, over=others) - x[y])**k", [0.0, 9.0, 0.0], {}),
    "a power of a norm": ("norm(x - x[y])**k", [1.0, 1.0, 1.0], {}),
    "nearly equal rows": (
        "sum(p*(logp - log_softmax(teacher)))",
        [1.432, -1.159, 1.546],
        {"teacher": [1.4325, -1.1592, 1.5461]},
    ),
    "nearly equal rows, forward": (
        "sum(softmax(teacher)*(log_softmax(teacher) - logp))",
        [1.432, -1.159, 1.546],
        {"teacher": [1.4325, -1.1592, 1.5461]},
    ),
    "a parameter of an internal name": (
        "-s1*logp[y] + sum(softmax(teacher)*(log_softmax(teacher) - logp))",
        [0.3, -1.0, 2.0],
        {"teacher": [1.0, 0.5, -1.0]},
    ),
}


@pytest.mark.parametrize("what", ONCE_PASSED)
def test_formulas_that_it_once_passed(what: str, tmp_path: Path) -> None:
    """Refused, or right where they were wrong, on both of the CPU's programs."""
    formula, x, given = ONCE_PASSED[what]
    numbers = {"k": ")**k" in formula, "s1": "s1" in formula}
    kinds = {"mask": "{kind: class, values: [0, 1]}", "teacher": "{kind: class}"}
    lines = ["name: once_passed", "title: t", "reference: none"]
    lines += ["parameters:"] * any(numbers.values())
    lines += [f"  {n}: {{default: 2, domain: '[0, 4]'}}" for n, used in numbers.items() if used]
    lines += ["inputs:"] * bool(given)
    lines += [f"  {n}: {kinds[n]}" for n in given]
    text = "\n".join([*lines, f"transform: {formula}", ""])
    path = tmp_path / "once_passed.yaml"
    path.write_text(text)
    try:
        loss = lossgen.load(path).once_passed_loss
    except CompileError:
        return
    spec, target = load_text(text), 1
    streams = {n: torch.tensor([v]) for n, v in given.items()}
    with mp.workdps(100):
        exact = {n: v[0].tolist() for n, v in streams.items()}
        truth = literal(spec, torch.tensor(x).tolist(), target, exact)
    for backend in ("torch", "c"):
        logits = torch.tensor([x], requires_grad=True)
        labels = [torch.tensor([target])] if spec.has_target else []
        out = loss(logits, *labels, *streams.values(), backend=backend)
        out.backward()
        assert math.isclose(out.item(), float(truth.results[0]), rel_tol=1e-4, abs_tol=1e-30)
        assert logits.grad is not None
        size = max(abs(float(g)) for g in truth.gradients["x"])
        for found, expected in zip(logits.grad[0].tolist(), truth.gradients["x"], strict=True):
            assert abs(found - float(expected)) <= 1e-4 * size, (backend, logits.grad, truth)


#: Formulas of nearly uniform rows whose digits were asked for although a probability rounded to
#: float32 does not have them, at rows of two classes that no sample was like.
NEARLY_UNIFORM = {
    "absolute(max(logp)) - minimum(1 - p[y], logp[y])": ((-0.0024081550, 0.0014740304), 0),
    "logit(max(p, over=others))": ((0.00068459381, 0.0012139793), 1),
    "p[y]*max(p, over=others)": ((0.0001, 0.0002), 0),
    "clip(norm(logp), -1, 2)": ((0.0017921921, 0.0039886389, -0.0056135571), 1),
}


@pytest.mark.parametrize("formula", NEARLY_UNIFORM)
def test_nearly_uniform_rows_keep_a_probabilitys_digits(formula: str) -> None:
    """Certified in float32, and within 4 ulp of what moving every logit by 2^-23, the ulp of a
    softmax, changes: the certificate asked for more than there is, wherever it saw such a row."""
    logits, y = NEARLY_UNIFORM[formula]
    spec = load_text(f"name: near_uniform\ntitle: t\nreference: r\ntransform: {formula}\n")
    stable = certify(stabilize(differentiate(parse(spec, uses=frozenset()))))
    assert stable.arithmetic == "float32"
    row = Row(tuple(float(np.float32(v)) for v in logits), y, {}, {}, {})
    trial = Trial(stable, Worst(spec), RoundedRows(schedule(stable)))
    trial.take([row])
    trial.worst.check()
    assert trial.worst.points == 2


def test_an_offset_of_the_row_is_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """c + x_y - max was accepted at rows of -3000, whose numbers are rounded to an ulp of 3000: but
    nothing of the loss is computed from them but differences, which are exact."""
    formula = "arctanh(p[y]) - (max(x, over=others) - x[y])"
    spec = load_text(f"name: apart\ntransform: '{formula}'\n")

    def arithmetic() -> str:
        evaluate._grouped.cache_clear()
        text = render_module(compile_loss(spec))
        evaluate._grouped.cache_clear()
        return "float64" if "# arithmetic: float64" in text else "float32"

    assert arithmetic() == "float32"
    monkeypatch.setattr(evaluate, "_LEVEL", re.compile("(?!)"))  # in the order that it had
    assert arithmetic() == "float64"


def test_a_mask_of_the_largest_class_alone(tmp_path: Path) -> None:
    """1 - q of a scaled softmax was lost where c holds but the largest class, which no row did: a
    gradient of 1.8e-6 was 4 % off, under a certificate without a word of it."""
    path = tmp_path / "alone.yaml"
    head = "name: alone\nparameters: {tau: {default: 2.25, domain: '[0.5, 4]'}}\n"
    head += "inputs: {c: {kind: class, values: [0, 1]}}\n"
    path.write_text(head + "transform: (logsumexp(x) - x[y])*sum(xlogy(c, softmax(tau*x)))\n")
    header = Path(str(lossgen.load(path).__file__)).read_text(encoding="utf-8")
    assert "absolute where another class dominates" in header


def test_masks_and_numbers_stand_at_different_ends() -> None:
    """c, t and r were all at their low ends, or all at their high ones: where 0·log 0 of a class
    was NaN, log r was infinite in truth."""
    inputs = (
        "c: {kind: class, values: [0, 1]}, t: {kind: class, domain: '[0, 1]'}, "
        "r: {kind: row, domain: '[0, 1]'}"
    )
    formula = "-sum(c*p*log(t)) - sum((1 - c)*p)*log(r)"
    spec = load_text(f"name: t\ninputs: {{{inputs}}}\ntransform: '{formula}'\n")
    stable = replace(stabilize(differentiate(parse(spec, uses=frozenset()))), dearer=None)
    certify(stable)
    c, t = (stable.vocabulary.streams[n][0] for n in "ct")
    found = [s for s in stable.sums if {c, t} <= s.weight.free_symbols]
    bare = {s: replace(s, weight=c * log(t)) for s in found}
    assert len(bare) == 1
    broken = replace(stable, sums=tuple(bare.get(s, s) for s in stable.sums))
    with pytest.raises(CompileError, match="is not finite"):
        certify(broken)


def test_sure_of_the_one_class_that_a_mask_holds(tmp_path: Path) -> None:
    """Where that is not y, the gradient is the difference of c_j·Σc·p_j and c_j, of full size."""
    path = tmp_path / "sure.yaml"
    formula = "(-1)*sum(c*log_softmax(0.5*x))/(1 + sum(c)) + 0.5*p[y]"
    head = "name: sure\ninputs: {c: {kind: class, values: [0, 1]}}\n"
    path.write_text(head + f"transform: '{formula}'\n")
    header = Path(str(lossgen.load(path).__file__)).read_text(encoding="utf-8")
    assert "absolute where another class dominates" in header


def test_a_softmax_of_masked_classes_alone_is_no_number():
    """It was uniform, as all of them were equally far: a right loss was refused."""
    spec = load_text("name: among\ntransform: 'sum(softmax(x, over=others)**2, over=others)'\n")
    inf = math.inf
    assert true_row(spec, Row((1.0, -inf, -inf), 0, {}, {}, {})) is None
    held = true_row(spec, Row((1.0, -inf, 0.5), 0, {}, {}, {}))
    assert held is not None
    assert held.results == [1.0]


def test_a_weight_of_0_is_exact():
    """Moved by an ulp of 1 beside log q of -17 it made 1e5 of the condition number, which forgave
    what log q of the largest class had lost: the certificate is absolute on such rows, and says
    so."""
    formula = "sum(xlogy(w, softmax(2*x))) - minimum(second_max(p), p[y])"
    declared = 'inputs: {w: {kind: class, domain: "[0, 1]"}}'
    spec = load_text(f"name: exact\n{declared}\ntransform: '{formula}'\n")
    stable = compile_loss(spec).variants[0].stable
    row = Row((9.5, 1.5, 0.75), 2, {}, {}, {}, streams={"w": (0.75, 0.0, 0.0)})
    trial = Trial(stable, Worst(spec), RoundedRows(schedule(stable)))
    trial.take([row])
    assert trial.worst.strict["loss"][1] > 4.0
    assert stable.certificate is not None
    assert stable.certificate.dominated == "another class"
