"""A slice of the table for every run of the suite; ``make ordinary`` builds all of it."""

from __future__ import annotations

import pytest

from tests.ordinary import RUNGS, Formula, build, formulas

# refused once, and cheap to build
SLICE = (
    *("smooth_margin", "influence", "nkd", "hand_7", "hand_15", "robust_17", "robust_34"),
    *("robust_46", "named_5", "named_6", "distil_2", "distil_40", "gce"),
)


@pytest.mark.parametrize(
    "formula", [f for f in formulas() if f.name in SLICE], ids=lambda f: f.name
)
def test_rung(formula: Formula) -> None:
    """No bound is stated, and no dearer program is taken than was enough before."""
    rung, words = build(formula)
    assert RUNGS.index(rung) <= RUNGS.index(formula.rung), words


def test_names_are_found() -> None:
    names = [f.name for f in formulas()]
    assert len(set(names)) == len(names)
    assert set(SLICE) <= set(names)
