"""The functions of a row: they need no more than their arguments, merge in any order, and are
what the kernels compute."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import lossgen
from lossgen import paths
from lossgen.compiler import compile_loss
from lossgen.ir.execute import execute
from lossgen.ir.program import Function, variables
from lossgen.ir.rows import Row
from lossgen.lower.functions import RowProgram, lowered
from lossgen.lower.model import RowModel
from lossgen.lower.rows import RoundedRows
from lossgen.passes.samples import sample_rows
from lossgen.spec.load import load_spec
from tests.programs import lines_of

#: Light, heavy, two sweeps, two vectors, maxima, no target, outputs, differences of softmaxes.
NAMES = [
    "gce",
    "focal",
    "nfl",
    "trades",
    "crammer_singer",
    "vat",
    "token_stats",
    "jsd_beta",
    "mart",
]


@pytest.fixture(scope="module", params=NAMES)
def plan(request: pytest.FixtureRequest):
    return compile_loss(load_spec(paths.require_spec(request.param)), draft=True).variants[-1]


def every(program: RowProgram) -> list[Function]:
    several = [*program.lifts, *program.merges, *program.betweens]
    return [*several, program.finish, program.coefficients, program.gradient]


def test_functions_are_closed(plan) -> None:
    """Each line reads arguments and earlier lines; each result is one of them."""
    for function in every(lowered(RowModel(plan, ""))):
        known = set(function.arguments)
        for line in function.lines:
            assert variables(line.value) <= known, line
            known.add(line.name)
        assert set(function.results) <= known


def test_parts_of_a_row_are_the_row(plan) -> None:
    """Merged from two and from three tiles: the same but for rounding, masked classes included."""
    rows = [r for r in sample_rows(plan.stable) if max(map(abs, r.x)) < 30 or -math.inf in r.x]
    whole, two, three = (RoundedRows(plan, tiles) for tiles in (1, 2, 3))
    by_width: dict[int, list[Row]] = {}
    for row in rows:
        by_width.setdefault(len(row.x), []).append(row)
    tried = 0
    for width, alike in by_width.items():
        if width < 3:
            continue
        tried += len(alike)
        with np.errstate(all="ignore"):
            found = [evaluate(alike) for evaluate in (whole, two, three)]
        for (values, slopes), (others, other_slopes) in pairwise(found):
            _close(values, others)
            for slope, other in zip(slopes, other_slopes, strict=True):
                _close(slope, other)
    assert tried > 5


def _close(a: np.ndarray, b: np.ndarray) -> None:
    size = np.where(np.isfinite(a), np.abs(a), 1.0).max(axis=1, keepdims=True, initial=1.0)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= 1e-4 * size)
    assert same.all(), (a[~same.all(1)], b[~same.all(1)])


@pytest.mark.parametrize("name", ["gce", "nfl", "crammer_singer", "cross_entropy"])
def test_what_is_measured_is_what_the_kernels_compute(name: str) -> None:
    """The certificate's numbers beside those of the Triton kernels: a few ulp."""
    generator = torch.Generator().manual_seed(0)
    x = (4 * torch.randn(6, 19, generator=generator)).requires_grad_()
    y = torch.tensor([0, 18, 3, 3, 7, 11])
    spec = load_spec(paths.require_spec(name))
    plan = compile_loss(spec, draft=True).variants[0]
    loss = getattr(lossgen.load(name), f"{name}_loss")(x, y, reduction="none", backend="triton")
    loss.sum().backward()
    parameters = {n: float(p.default) for n, p in spec.parameters.items()}
    rows = [
        Row(tuple(r), k, {}, {}, parameters) for r, k in zip(x.tolist(), y.tolist(), strict=True)
    ]
    values, (slopes,) = RoundedRows(plan)(rows)
    torch.testing.assert_close(loss, torch.from_numpy(values[:, 0]), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(x.grad, torch.from_numpy(slopes), rtol=4e-6, atol=1e-7)


def test_every_operation_is_rounded() -> None:
    """1 + 2⁻³⁰ is 1 in float32, and not in float64."""
    function = Function(
        ("a",), tuple(lines_of("b = a + 9.313225746154785e-10", "c = b - a")), ("c",)
    )
    one = np.ones((1, 1))
    assert execute(function, {"a": one.astype(np.float32)}, np.float32)["c"] == 0
    assert execute(function, {"a": one}, np.float64)["c"] == 2.0**-30
