"""What the judge may not take for an error of a kernel: each once failed a right loss."""

from __future__ import annotations

import pytest

import lossgen
from lossgen import paths
from lossgen.spec.load import load_spec
from lossgen.verify.cases import Case
from lossgen.verify.conduct import parameters_matter
from lossgen.verify.nan import nan_shows
from lossgen.verify.numerics import (
    never_nan,
    tile_independent,
    value_and_gradient,
    zero_sum_gradient,
)
from lossgen.verify.runner import Runner

#: (loss, check, backend, what its case has)
CASES = [
    # float64 lost 1 - p, of which a power of 0.01 is taken
    ("dice", value_and_gradient, "torch", {"kind": "large", "rows": 1, "classes": 3}),
    # no entropy of 32 rows lay between the two margins that were tried
    ("sar", parameters_matter, "torch", {"rows": 1, "classes": 2, "seed": 9439}),
    # the value had 64 ulp, of a loss that states 512
    (
        "kd_forward_kl",
        tile_independent,
        "triton",
        {"rows": 2, "classes": 7, "seed": 1, "point": 2},
    ),
    # the gradient of a row that another class than the teacher's dominates is a difference
    (
        "rmt_symmetric_ce",
        zero_sum_gradient,
        "c",
        {"kind": "peaked", "rows": 1, "seed": 1, "point": 2},
    ),
    # a float32 loss of e^115: nobody expects its gradient
    (
        "comp_sum",
        value_and_gradient,
        "torch",
        {"kind": "large", "rows": 1, "classes": 16, "point": 1},
    ),
    # 75 ulp of the logits
    (
        "comp_sum",
        value_and_gradient,
        "triton",
        {"kind": "large", "rows": 1, "classes": 8, "point": 1},
    ),
    # p·Σt - t, whose parts eager float32 rounded alike by luck
    (
        "soft_target_ce",
        value_and_gradient,
        "triton",
        {"kind": "peaked", "rows": 1, "classes": 2, "seed": 2, "relation": "close", "block": 1},
    ),
    # 0·NaN: either will do
    ("mart", nan_shows, "torch", {"rows": 1, "classes": 2, "point": 1}),
    # no plain logits lie further apart than the margin
    ("mbls", parameters_matter, "torch", {"rows": 1, "classes": 2}),
]
#: Kernels that were wrong: 0·∞ of a power's slope, 0/0 on a sure row, Σ t of all less that of the
#: largest class, of whom nobody knows before the last tile which it is.
CASES += [
    ("nfl", value_and_gradient, "torch", {"kind": "large", "rows": 1, "classes": 17, "point": 1}),
    ("nfl", value_and_gradient, "c", {"kind": "large", "rows": 1, "classes": 7, "point": 1}),
    ("emo", never_nan, "c", {"rows": 1, "classes": 2}),
    (
        "soft_target_ce",
        value_and_gradient,
        "triton",
        {"kind": "peaked", "rows": 1, "classes": 2, "relation": "equal", "block": 1},
    ),
]
#: A saturated row of one class has a gradient of 2e-15, which seemed to sum to zero.
CASES += [
    (
        "asl_multi_label",
        zero_sum_gradient,
        "torch",
        {"kind": "peaked", "rows": 4, "classes": 1, "seed": seed},
    )
    for seed in range(6)
]


@pytest.mark.parametrize(("name", "check", "backend", "changes"), CASES, ids=lambda v: str(v)[:24])
def test_right_losses_pass(name: str, check, backend: str, changes: dict) -> None:
    spec = load_spec(paths.require_spec(name))
    case = Case(spec, rows=2, classes=3, seed=0)
    check(case.with_(**changes), Runner(lossgen.load(name), spec, backend))
