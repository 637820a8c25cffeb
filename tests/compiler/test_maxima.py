"""Maxima of several vectors in one formula: each class gets its share of every one of them."""

from __future__ import annotations

from pathlib import Path

import mpmath as mp
import pytest
import torch

import lossgen
from lossgen.ir.check import check
from lossgen.ir.rows import Row, rows_mpmath
from lossgen.passes.differentiate import differentiate
from lossgen.passes.parse import parse
from lossgen.passes.schedule import schedule
from lossgen.passes.stabilize import stabilize
from lossgen.spec.load import load_text
from lossgen.spec.model import LossSpec
from lossgen.verify.reference import Arguments, literal_mpmath
from lossgen.verify.runner import Runner, gradients

SPEC = """name: maxima
title: T
reference: R
inputs:
  t: {{kind: class, doc: d}}
transform: '{formula} + 0*sum(t)'
"""
#: The largest class got its share once too often, once too little, or not through p; the second
#: sweep counted the pivot or not, by backend.
FORMULAS = [
    "max(x) + max(p)",
    "max(x) + max(p) - logp[y]",
    "max(x, over=others) + max(logp, over=others)",
    "max(x) + max(x, over=others) + argmax(p)*max(logp)",
    "max(p)*max(x) - second_max(p)",
    "second_max(p) + max(x) + second_max(x, over=others) - logp[y]",
    "max(softmax(t)) + max(p) + max(t)",
    "max(x + t) + max(p)*norm(p)",
    "max(x - x[y], over=others) + max(p, over=others) + max(x)",
    "max(p*(1 - p))",
    "max(p*(1 - p)) + max(x*t) + logsumexp(x)",
    "max(x + p) - logp[y]",
    "max(p*softmax(t), over=others) - logp[y]",
    "max(abs(p - p[y]), over=others) - logp[y]",
    "max(x*x[y]) - logp[y]",
    "max(stop_gradient(x) + p) + max(x*stop_gradient(logp), over=others)",
]
ROWS = [((0.75, -1.5, 2.25, 0.125), 0), ((0.75, -1.5, 2.25, 0.125), 2), ((3.0, 0.5, -1.0, 2.5), 0)]
TEACHER = (-0.5, 1.25, 0.375, -2.0)


def compiled(formula: str) -> tuple[LossSpec, list[object]]:
    spec = load_text(SPEC.format(formula=formula))
    graded = differentiate(parse(spec, frozenset()))
    return spec, [graded, stabilize(graded)]


@pytest.mark.parametrize("formula", FORMULAS)
def test_each_maximum_sends_its_gradient_to_its_class(formula: str) -> None:
    spec, stages = compiled(formula)
    schedule(stages[-1])  # type: ignore[arg-type]
    for x, y in ROWS:
        with mp.workdps(90):
            loss, slopes = literal_mpmath(
                spec, x, y if spec.has_target else None, {}, {"t": TEACHER}
            )
            for stage in stages:
                check(stage)  # type: ignore[arg-type]
                row = Row(x, y, {}, {}, {}, {"t": TEACHER})
                (value,), (gradient,) = rows_mpmath(stage, row)  # type: ignore[arg-type]
                assert abs(value - loss) < 1e-20 * (1 + abs(loss)), f"{formula} at {x}, {y}"
                off = [abs(a - b) for a, b in zip(gradient, slopes, strict=True)]
                assert max(off) < 1e-15, f"{formula} at {x}, {y}: {gradient} and {slopes}"


@pytest.mark.parametrize("formula", ["max(x) + max(p) - logp[y]", "max(p*(1 - p)) + max(x)"])
def test_every_backend_has_the_same_maxima(formula: str, tmp_path: Path) -> None:
    text = SPEC.format(formula=formula) + "accuracy: {ulp: 64, reason: test}\n"
    path = tmp_path / "maxima.yaml"
    path.write_text(text)
    spec, module = load_text(text), lossgen.load(path)
    x = torch.tensor([row for row, _ in ROWS] + [(9.0, 0.0, -3.0, 1.0)], dtype=torch.float64)
    y = torch.tensor([label for _, label in ROWS] + [2]) if spec.has_target else None
    teacher = torch.tensor(TEACHER).expand_as(x)
    exact, slopes = gradients(spec, Arguments(x, y, {}, {"t": teacher.double()}))
    for backend in ("c", "torch", "triton"):
        run = Runner(module, spec, backend)
        loss, grads = run.slopes(x.float(), y, {"t": teacher.float()})
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grads["logits"].double(), slopes["logits"], rtol=1e-5, atol=1e-6)


def test_a_maximum_is_measured_from_the_target(tmp_path: Path) -> None:
    """c + x_y - max lost the digits of c to the offset of the row, where row values are float32."""
    path = tmp_path / "apart.yaml"
    path.write_text("name: apart\ntransform: arctanh(p[y]) - (max(x, over=others) - x[y])\n")
    module = lossgen.load(path)
    x = torch.tensor([[-2996.9155, -2999.8562, -3004.2219], [2.5, -0.5, -4.75]])
    exact = x.double()
    p = exact.softmax(1)[:, 2]
    exact = p.atanh() - (exact[:, 0] - exact[:, 2])
    for backend in ("c", "torch", "triton"):
        found = module.apart_loss(x, torch.tensor([2, 2]), reduction="none", backend=backend)
        torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=0)
