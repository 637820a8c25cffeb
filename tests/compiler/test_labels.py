"""Rows that are sure of every label: what it leaves of a probability, in float32.

The certificate never tried them where the labels are not the target (CORAL was certified at 0.9 ulp
and had 0.2 % of its loss wrong on a row that it liked).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lossgen
from lossgen.compiler import compile_loss
from lossgen.ir.rows import Row
from lossgen.passes.labels import Labels
from lossgen.passes.truth import true_row
from lossgen.runtime import c_build
from lossgen.runtime.device import HAS_TRITON
from lossgen.spec.load import load_text

BIT = "c: {kind: class, values: [0, 1]}"
SOFT = 'c: {kind: class, domain: "[0, 1]"}'
RANK = "level: {kind: row, integer: true}"
POWER = '\nparameters: {k: {default: 2, domain: "(0, 5]"}}'
#: name: (formula, its input)
FORMULAS = {
    "ranks": ("sum(softplus(x) - where(index < level, x, 0))", RANK),
    "ranks_of_logs": ("sum(log(1 + exp(x)) - where(index < level, x, 0))", RANK),
    "ranks_squared": ("sum((sigmoid(x) - where(index < level, 1, 0))**2)", RANK),
    "ranks_of_choice": ("sum(where(index < level, 1 - sigmoid(x), sigmoid(x))**2)", RANK),
    "two_sums": ("sum(softplus(x)) - sum(c*x)", BIT),
    "reversed": ("sum(softplus(x) - (1 - c)*x)", BIT),
    "soft": ("sum(softplus(x) - c*x)", SOFT),
    "distance": ("sum(abs(sigmoid(x) - c))", BIT),
    "soft_distance": ("sum(abs(sigmoid(x) - c))", SOFT),
    "signs": ("sum((tanh(x) - (2*c - 1))**2)", BIT),
    "quality": ("sum((c - sigmoid(x))**2*(softplus(x) - c*x))", BIT),
    "focal": ("sum((1 - exp(-softplus(x) + c*x))**k*(softplus(x) - c*x))", BIT + POWER),
    "focal_of_logs": (
        "sum((1 - exp(-log(1 + exp(x)) + c*x))**k*(log(1 + exp(x)) - c*x))",
        BIT + POWER,
    ),
    "missed": ("sum((1 - exp(-(softplus(x) - c*x)))**2)", BIT),
    "spelled": ("-sum(c*log(1/(1 + exp(-x))) + (1 - c)*log(1 - 1/(1 + exp(-x))))", BIT),
    "spelled_squared": ("sum((exp(x)/(1 + exp(x)) - c)**2)", BIT),
    "of_softmax": ("sum((p - c)**2)", BIT),
    "own": ("softplus(x[y]) - c[y]*x[y]", BIT),
}
LABELS = (1.0, 0.0, 0.0, 1.0, 0.0)
SURE = (9.0, -9.5, -8.75, 10.0, -11.0)
SURER = (24.0, -25.0, -30.0, 22.5, -40.0)
MILD = (0.5, -1.0, 0.25, -2.0, 3.0)
#: Sure of ranks 0 and 1, at a level of 2.
RANKED = tuple(sorted(SURE, reverse=True)), tuple(sorted(SURER, reverse=True)), MILD
#: A softmax is sure of one class.
ONE = ((9.0, -1.0, 0.5, -2.0, 0.0), (24.0, 0.0, 1.0, 2.0, -1.0), MILD)
BACKENDS = ["torch"]
BACKENDS += ["c"] if c_build.find_compiler() else []
BACKENDS += ["triton"] if HAS_TRITON else []


def _text(name: str) -> str:
    formula, declared = FORMULAS[name]
    entry, *others = declared.split("\n")
    return "\n".join(
        [f"name: {name}", f"inputs: {{{entry}}}", *others, f"transform: '{formula}'", ""]
    )


def _rows(name: str) -> list[Row]:
    spec = load_text(_text(name), "<test>")
    point = {n: p.default for n, p in spec.parameters.items()}
    if "level" in spec.inputs:
        return [Row(x, 0, {}, {"level": 2.0}, point) for x in RANKED]
    wide = ONE if name == "of_softmax" else (SURE, SURER, MILD)
    labels = (1.0, 0.0, 0.0, 0.0, 0.0) if name == "of_softmax" else LABELS
    return [Row(x, 0, {}, {}, point, streams={"c": labels}) for x in wide]


@pytest.mark.parametrize("name", FORMULAS)
def test_sure_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(_text(name))
    module = lossgen.load(path)
    loss = getattr(module, f"{name}_loss")
    rows = _rows(name)
    spec = load_text(_text(name), "<test>")
    given = {n: torch.tensor([r.rows[n] for r in rows]) for n in rows[0].rows}
    given |= {n: torch.tensor([r.streams[n] for r in rows]) for n in rows[0].streams}
    given = {n: v.long() if spec.inputs[n].integer else v for n, v in given.items()}
    truths = [true_row(spec, row) for row in rows]
    for backend in BACKENDS:
        x = torch.tensor([r.x for r in rows], requires_grad=True)
        target = [torch.zeros(len(rows), dtype=torch.long)] if spec.has_target else []
        got = loss(x, *target, **given, reduction="none", backend=backend)
        got.sum().backward()
        for value, slopes, truth in zip(got.tolist(), x.grad.tolist(), truths, strict=True):
            assert truth is not None
            assert value == pytest.approx(float(truth.results[0]), rel=6e-6), backend
            exact = [float(g) for g in truth.gradients["x"]]
            largest = max(map(abs, exact))
            assert slopes == pytest.approx(exact, rel=6e-6, abs=6e-6 * largest), backend


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_will_do(name: str) -> None:
    assert compile_loss(load_text(_text(name), "<test>")).arithmetic == "float32"


@pytest.mark.parametrize("name", ["ranks", "two_sums", "distance", "quality"])
def test_the_certificate_sees_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without these rules float32 is refused."""
    monkeypatch.setattr(Labels, "total", lambda self, expr: expr)
    assert compile_loss(load_text(_text(name), "<test>")).arithmetic == "float64"
