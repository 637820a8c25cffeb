"""Sums of probabilities over a part of the classes, where a class other than the target dominates.

The literal formula in mpmath is the truth; the programs are evaluated as the kernels compute them,
and a few of them on the backends themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mpmath as mp
import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.ir.rows import Row
from lossgen.ir.stages import StableLoss
from lossgen.lower.rows import RoundedRows
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.spec.load import load_text
from lossgen.spec.model import LossSpec
from lossgen.verify import interpreter
from lossgen.verify.precise import literal_mpmath

MASK = 'c: {kind: class, domain: "[0, 1]", doc: d}'
VOCAB = 'c: {kind: vocab, domain: "[0, 1]", doc: d}'
COST = "c: {kind: class, doc: any number}"
WEIGHT = 'c: {kind: class, domain: "[0, inf)", doc: d}'
SMOOTH = 'parameters: {eps: {default: 0.2, domain: "[0, 1]", doc: d}}\n'
INF = math.inf
MASKS = ((1, 0, 1), (0, 1, 0), (0, 1, 1))


def spec(formula: str, given: str = MASK, head: str = "", name: str = "d") -> LossSpec:
    return load_text(source(formula, given, head, name))


def source(formula: str, given: str, head: str, name: str) -> str:
    text = f"name: {name}\ntitle: D\nreference: R\ninputs:\n  {given}\n{head}"
    return text + f"transform: '{formula}'\naccuracy: {{ulp: 1000000, reason: measured here}}\n"


def stable(loss: LossSpec) -> StableLoss:
    return stabilize(differentiate(parse(loss, frozenset(loss.parameters))))


def rows(gaps: tuple[float, ...] = (17, 90)) -> list[tuple[float, ...]]:
    """Target 1: rows that another class dominates, the target, and two others; offset; masked."""
    found: list[tuple[float, ...]] = []
    for g in gaps:
        found += [(g, 0, 0.25), (0, g, 0.5), (-g, 0.5, 0)]
    found += [(1e4, 0, 0.25)] if gaps[0] < 20 else []
    found += [(3020, 3000, 3001), (-INF, 0, 20), (20, 0, -INF), (1, 0.5, 0.9)]
    return [tuple(float(v) for v in row) for row in found]


def off(value: float, gold: Any, least: float) -> float:
    """The error in ulp of the true value, or of ``least``."""
    if not mp.isfinite(gold):
        return 0.0 if value == float(gold) else INF
    if not math.isfinite(value):
        return INF
    if abs(value - gold) < (1e-37 if gold or least else 1e-6):
        return 0.0
    unit = max(abs(gold), mp.mpf(least), mp.mpf(1e-37))
    return float(abs(value - gold) / unit / mp.mpf(2) ** -23)


@dataclass
class Judge:
    """Collects what is off by more than 4·(1 + the largest distance of two logits) ulp."""

    loss: LossSpec
    wrong: list[str] = field(default_factory=list)
    judged: int = 0

    def __call__(
        self, x: tuple[float, ...], given: dict[str, Any], value: float, grad: Any
    ) -> None:
        finite = [v for v in x if math.isfinite(v)]
        width = max(finite) - min(finite)
        defaults = {n: p.default for n, p in self.loss.parameters.items()}
        with mp.workdps(100 + int(width / 2)):
            gold, slopes = literal_mpmath(self.loss, x, 1, defaults, given)
            if not mp.isfinite(gold) or any(mp.isnan(s) for s in slopes):
                return
            # a sum of nothing is the logarithm of what mpmath rounds
            if isinstance(gold, mp.mpc) or gold > 2 * width + 10:
                return
            largest = float(max(abs(s) for s in slopes))
            errors = [off(value, gold, 0.0)]
            errors += [off(float(g), s, largest) for g, s in zip(grad, slopes, strict=True)]
        self.judged += 1
        if max(errors) > 4 * (1 + width):
            self.wrong.append(f"{x} {given}: {max(errors):.3g} ulp, {value} {[*map(float, grad)]}")


FORMULAS = {
    "unlikelihood": ("-sum(c*log(1 - p)) + 0*logp[y]", MASK, ""),
    "weighted by p": ("-sum(c*p*log(1 - p)) + 0*logp[y]", MASK, ""),
    "the largest other class": ("-log(1 - max(p, over=others)) + 0*c[y]*logp[y]", MASK, ""),
    "a subset": ("-log(sum(c*p)) + 0*logp[y]", MASK, ""),
    "a subset of the vocabulary": ("-log(sum(c*p)) + 0*logp[y]", VOCAB, ""),
    "its complement": ("-log(1 - sum(c*p)) + 0*logp[y]", MASK, ""),
    "without a target": ("-log(sum(c*p))", MASK, ""),
    "a ratio": ("log(sum(c*p, over=others)/p[y])", MASK, ""),
    "candidates": ("softplus(logsumexp(x + log(c)) - x[y])", MASK, ""),
    "a group": ("-log(sum(where(c == c[y], p, 0)))", MASK, ""),
    "of a scaled row": ("-log(sum(c*softmax(2*x/3))) + 0*logp[y]", MASK, ""),
    "a scaled part": ("-log(sum(c*exp(2*x/3))/sum(exp(2*x/3))) + 0*logp[y]", MASK, ""),
    "all but the largest class": ("log(1 - max(p)) + 0*c[y]*logp[y]", MASK, ""),
    "the largest, without a target": ("log(1 - max(p)) + 0*mean(c)", MASK, ""),
    "costs": ("sum(c*exp(x - x[y]))", MASK, ""),
    "costs of any sign": ("sum((c - 0.5)*exp(x - x[y]))", COST, ""),
    "labels": ("sum(softplus(x) - c*x) + 0*logp[y]", MASK, ""),
    "smooth labels": ("sum(softplus(x) - ((1 - eps)*c + eps/2)*x) + 0*logp[y]", MASK, SMOOTH),
    "labels as logarithms": (
        "-sum(c*log(sigmoid(x)) + (1 - c)*log(1 - sigmoid(x))) + 0*x[y]",
        MASK,
        "",
    ),
    "a masked label": ("-sum(c*logp) + 0*logp[y]", MASK, ""),
}
#: Rows in which float32 does not hold the true value.
_OVERFLOW = {"costs": 80, "costs of any sign": 80}
#: Without a target the maxima are those of all classes, and the others underflow beside them.
_UNDERFLOW = {"without a target": 80}


@pytest.mark.parametrize("name", FORMULAS)
def test_classes_that_dominate(name: str) -> None:
    """Off by 2 % to 100 %, infinite or NaN before, as 1 - p, a power of two halves or a sum that
    underflows: each is a log-sum-exp of its own now."""
    loss = spec(*FORMULAS[name])
    program, judge = RoundedRows(schedule(stable(loss))), Judge(loss)
    for x in rows():
        if max(x) - x[1] > _OVERFLOW.get(name, INF) or max(x) - min(x) > _UNDERFLOW.get(name, INF):
            continue
        for c in MASKS[:2] if max(x) > 1e3 else MASKS:
            vocab = {"c": c} if loss.inputs["c"].kind == "vocab" else {}
            streams = {} if vocab else {"c": tuple(map(float, c))}
            defaults = {n: p.default for n, p in loss.parameters.items()}
            row = Row(x, 1, vocab, {}, defaults, streams)
            ((value,),), ((grad,),) = program([row])
            judge(x, {"c": c}, float(value), grad)
    assert not judge.wrong, "\n".join(judge.wrong[:10])
    assert judge.judged > 10


@pytest.mark.parametrize(
    ("formula", "values"),
    [
        ("-sum(c*logp) + 0*logp[y]", ((1.0, 0.0, 1.0), (1.0, -INF, 2.0))),
        ("sum(c*softplus(-x)) + 0*logp[y]", ((1.0, 0.0, 1.0), (1.0, 2.0, -INF))),
        ("sum(c*exp(x*x)) + 0*logp[y]", ((0.0, 1.0, 1.0), (1e4, 0.5, 1.0))),
        ("sum(c*exp(x - x[y]))", ((0.0, 1.0, 1.0), (1e4, 0.5, 1.0))),
        ("sum((c - 1)*exp(x - x[y]))", ((1.0, 0.0, 0.5), (1e4, 0.5, 1.0))),
    ],
)
def test_a_weight_of_zero_beside_infinity(formula: str, values: Any) -> None:
    """0·∞ is 0, in the value and in the gradient: both were NaN."""
    c, x = values
    c = (c[0], c[1], 0.0) if x[2] == -INF else c
    loss = spec(formula)
    row = Row(x, 1, {}, {}, {}, {"c": c})
    ((value,),), ((grad,),) = RoundedRows(schedule(stable(loss)))([row])
    judge = Judge(loss)
    judge(tuple(max(v, -1e4) for v in x), {"c": c}, value, grad)
    assert math.isfinite(value)
    assert not judge.wrong


BUILT = {
    "unlikelihood": FORMULAS["unlikelihood"],
    "subset": FORMULAS["a subset"],
    "candidates": FORMULAS["candidates"],
    "labels": FORMULAS["labels"],
}


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_every_backend(name: str, classes: int, tmp_path: Path) -> None:
    interpreter.install()
    path = tmp_path / f"of_{name}.yaml"
    path.write_text(source(*BUILT[name], f"of_{name}"))
    loss = load_text(path.read_text())
    function = getattr(lossgen.load(path), f"of_{name}_loss")
    found = rows((20, 90)) if classes == 3 else [(20.0, -1.0)[:classes], (-90.0, 0.0)[:classes]]
    y = min(1, classes - 1)
    pairs = [(x, c[:classes]) for x in found for c in MASKS[:3]]
    x = torch.tensor([p[0] for p in pairs])
    c = torch.tensor([p[1] for p in pairs], dtype=torch.float32)
    for backend in ("torch", "c", "triton"):
        leaf = x.clone().requires_grad_()
        target = torch.full((len(pairs),), y)
        value = function(leaf, target, c, reduction="none", backend=backend)
        value.sum().backward()
        judge = Judge(loss)
        if classes == 3:
            for k, (row, mask) in enumerate(pairs):
                judge(row, {"c": mask}, value[k].item(), leaf.grad[k].tolist())
        elif name != "labels":  # V = 1: nothing beside the target
            assert not value.isnan().any()
        assert not judge.wrong, backend + "\n" + "\n".join(judge.wrong[:5])


SCALED = 'parameters: {tau: {default: 1, domain: "[0.5, 4]", doc: d}}\n'
#: Refused before: at a level of -3000 the pivot's term, which stood apart, was 0, and beside a
#: class at 9999 all others underflowed.
HELD = (
    ("-log(sum(c*exp(tau*x))/sum(exp(tau*x)))", SCALED),
    ("log(1 - sum(c*exp(x/tau))/sum(exp(x/tau)))", SCALED),
    ("log(sum(c*exp(tau*x))) - log(sum((1 - c)*exp(tau*x)))", SCALED),
    ("-log(exp(tau*x[y])/(exp(tau*x[y]) + sum(c*exp(tau*x), over=others)))", SCALED),
    ("log(1 - max(p)) + 0*mean(c)", ""),
)


@pytest.mark.parametrize(("formula", "head"), HELD)
def test_no_level_and_no_other_class_is_lost(formula: str, head: str) -> None:
    given = "c: {kind: class, values: [0, 1], doc: d}"
    text = source(formula, given, head, "d").partition("accuracy")[0]
    assert compile_loss(load_text(text)).arithmetic == "float32"


def test_what_is_not_between_0_and_1_has_no_complement() -> None:
    """Without a declared bound a weight may be above 1: the sum is beside that of all classes."""
    bounded, free = (
        str(stable(spec("-log(sum(c*p)) + 0*logp[y]", g)).loss) for g in (MASK, WEIGHT)
    )
    assert bounded.startswith("softplus")
    assert not free.startswith("softplus")


def test_what_is_known_to_lie_between_0_and_1() -> None:
    """A polynomial that is linear in each share is extreme at their ends."""
    smoothed = "-log(sum(((1 - eps)*c + eps/V)*p)) + 0*logp[y]"
    assert str(stable(spec(smoothed, MASK, SMOOTH)).loss).startswith("softplus")
    doubled = smoothed.replace("eps/V", "eps")
    assert str(stable(spec(doubled.replace("(1 - eps)", "2"), MASK, SMOOTH)).loss)[:8] != "softplus"


def test_a_mask_needs_no_second_sweep() -> None:
    """where(c == c[y], p, 0) was a sum of its own sweep, as p was known only then."""
    program = stable(spec("sum(where(c == c[y], p, 0)) + 0*logp[y]"))
    assert all(s.level == 1 and s.form is not None for s in program.sums)
