"""The tolerance: tight where it matters, and never satisfied by NaN."""

from __future__ import annotations

import math

import pytest
import torch

from lossgen.errors import VerificationError
from lossgen.verify.tolerances import compare, further

EPS = 2.0**-23


def judge(out: list[float], gold: list[float], eager: list[float] | None = None) -> None:
    exact = torch.tensor(gold, dtype=torch.float64)
    compare(
        "the loss",
        torch.tensor(out),
        exact,
        exact.float() if eager is None else torch.tensor(eager),
        torch.ones_like(exact),
    )


def test_a_few_ulp_pass_and_many_do_not() -> None:
    judge([1.0 + 4 * EPS], [1.0])
    with pytest.raises(VerificationError, match=r"the loss\[0\] is 1\.0000\d+, expected 1: off by"):
        judge([1.0 + 40 * EPS], [1.0])


def test_an_inaccurate_formula_widens_the_bound() -> None:
    judge([1.0 + 40 * EPS], [1.0], [1.0 - 20 * EPS])


def test_one_wrong_entry_among_many_is_seen() -> None:
    right = [1.0] * 10_000
    with pytest.raises(VerificationError, match=r"the loss\[9999\] is 1\.0099"):
        judge([*right[:-1], 1.01], right)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_fail_where_a_number_is_expected(bad: float) -> None:
    with pytest.raises(VerificationError, match="where 2 is expected"):
        judge([1.0, bad], [1.0, 2.0])


def test_shapes_must_agree() -> None:
    with pytest.raises(VerificationError, match="has shape"):
        judge([1.0, 1.0], [1.0])


def test_of_two_opinions_the_further_one_counts() -> None:
    gold = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    one = torch.tensor([1.1, 1.0, math.inf, 0.9])
    other = torch.tensor([1.0, 0.8, 1.2, math.nan], dtype=torch.float64)
    assert further(gold, one, other).tolist() == pytest.approx([1.1, 0.8, 1.2, 0.9])
