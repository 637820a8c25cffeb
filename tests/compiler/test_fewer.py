"""Fewer instructions per class: before → after, and the same numbers but for roundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lossgen.ir.execute import execute
from lossgen.ir.program import Function
from lossgen.lower.fewer import fewer
from tests.programs import lines_of

ROW = {"c": 0.3, "d": 2.5, "r": 7.0, "T": 0.7}

#: Names of class values, lines before and after; the last line is the result.
REWRITES: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "a division by a number of the row": (
        ["a"],
        ["g = c * a / r / d"],
        ["g = c * reciprocal(r) * reciprocal(d) * a"],
    ),
    "a division by a class value": (["a", "b"], ["g = a / b"], ["g = a / b"]),
    "a number of the row divided": (["a"], ["g = c / r * a"], ["g = c / r * a"]),
    "factors of the row": (["a", "b"], ["g = c * a * d * b"], ["g = c * d * a * b"]),
    "factors of the row that are together": (["a"], ["g = c * d * a"], ["g = c * d * a"]),
    "the factor of a named product": (["e"], ["p = e * r", "g = c * p"], ["g = c * r * e"]),
    "a named product that has changed since": (
        ["e"],
        ["p = e * r", "e = e + 1.0", "g = c * p"],
        ["p = e * r", "g = c * p"],
    ),
    "a scaled exponential": (
        ["x"],
        ["t = 1.0 / T * (x - c)", "g = exp_below(t)"],
        ["g = exp2(1.0 / T * 1.4426950408889634 * (x - c))"],
    ),
    "an exponential": (["x"], ["t = x - c", "g = exp_below(t)"], ["t = x - c", "g = exp_below(t)"]),
    "a masked term of a sum": (
        ["e", "a"],
        ["g = row_sum(select(e > 0.0, e * a, 0.0))"],
        ["g = row_sum(e * select(e > 0.0, a, 0.0))"],
    ),
    "a weighted term of a sum": (
        ["valid", "weight", "a"],
        ["t = c * a", "g = row_sum(select(valid & (weight != 0.0), t * weight, 0.0))"],
        ["g = c * row_sum(weight * select(valid & (weight != 0.0), a, 0.0))"],
    ),
    "signs": (
        ["a", "b"],
        ["w = a - (-b - c)", "v = -(a - b) * w", "g = row_sum(v)"],
        ["w = a + (b + c)", "v = (b - a) * w", "g = row_sum(v)"],
    ),
    "the sign in a logarithm of one minus an exponential": (
        ["a"],
        ["g = log1mexp(-a) + c / expm1(a)"],
        ["g = log_complement(a) + c / expm1(a)"],
    ),
    "the sign of a masked term": (
        ["valid", "a", "b"],
        ["v = -a * b", "g = row_sum(select(valid, v, 0.0))"],
        ["g = -row_sum(select(valid, a * b, 0.0))"],
    ),
    "a gap of two exponentials in the other direction": (
        ["e", "f", "a"],
        ["g = select((-a > -1.0) & (-a < 1.0), e * expm1(clip(-a, -1.0, 1.0)), f - e)"],
        ["g = -select(absf(a) < 0.5, f * expm1_half(a), e - f)"],
    ),
    "a gap of two exponentials": (
        ["e", "f", "a"],
        ["g = select((a > -1.0) & (a < 1.0), e * expm1(clip(a, -1.0, 1.0)), f - e)"],
        ["g = select(absf(a) < 0.5, e * expm1_half(a), f - e)"],
    ),
    "two logarithms of one mixture": (
        ["a", "b"],
        [
            "w = a - b",
            "u = a * log1p((1.0 - c) * expm1(clip(-w, -80.0, 80.0)))",
            "v = b * log1p(c * expm1(clip(w, -80.0, 80.0)))",
            "g = u + v",
        ],
        [
            "w = a - b",
            "apart_m0 = clip(w, -80.0, 80.0)",
            "near_m0 = apart_m0 <= 2.0 * log((1.0 - c) / c)",
            "turned0 = select(near_m0, apart_m0, -apart_m0)",
            "smaller0 = log1p(select(near_m0, c, 1.0 - c) * expm1(turned0))",
            "u = a * select(near_m0, smaller0 - turned0, smaller0)",
            "v = b * select(near_m0, smaller0, smaller0 - turned0)",
            "g = u + v",
        ],
    ),
    "two logarithms of two mixtures": (
        ["a"],
        ["g = log1p(c * expm1(clip(a, -80.0, 80.0))) + log1p(d * expm1(clip(-a, -80.0, 80.0)))"],
        ["g = log1p(c * expm1(clip(a, -80.0, 80.0))) + log1p(d * expm1(clip(-a, -80.0, 80.0)))"],
    ),
}


def function_of(tiles: Sequence[str], lines: Sequence[str]) -> Function:
    return Function((*tiles, *ROW), tuple(lines_of(*lines)), ("g",))


@pytest.mark.parametrize("name", REWRITES)
def test_before_and_after(name: str) -> None:
    tiles, before, after = REWRITES[name]
    found = fewer(function_of(tiles, before), tiles, {"weight"} & {*tiles})
    assert found == function_of(tiles, after)


@pytest.mark.parametrize("name", REWRITES)
def test_the_same_numbers(name: str) -> None:
    tiles, before, _ = REWRITES[name]
    generator = np.random.default_rng(0)
    given: dict[str, Any] = {n: np.full((4, 1), v, np.float32) for n, v in ROW.items()}
    if "a gap" in name:  # exponentials that are a apart
        a = generator.integers(-256, 256, (4, 64)).astype(np.float32) / 128
        e, f = np.exp(a.astype(np.float64)), np.ones_like(a)
        e, f = (e, f) if "other" in name else (f, e)
        given |= {"a": a, "e": e.astype(np.float32), "f": f.astype(np.float32)}
    else:
        sign = -1.0 if "one minus" in name else 1.0
        given |= {n: sign * generator.uniform(0.1, 3, (4, 64)).astype(np.float32) for n in tiles}
        given["valid"] = generator.uniform(0, 1, (4, 64)) > 0.3
    function = function_of(tiles, before)
    exact = {n: v if n == "valid" else np.float64(v) for n, v in given.items()}
    expected = execute(function, exact, np.float64)["g"]
    found = execute(fewer(function, tiles, {"weight"} & {*tiles}), given, np.float32)["g"]
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_a_masked_class_adds_nothing() -> None:
    """e = 0 beside an infinite difference, as of a class that one of two rows masks."""
    function = function_of(["e", "a"], ["g = row_sum(select(e > 0.0, e * a, 0.0))"])
    given = {"e": np.float32([[0.0, 0.5]]), "a": np.float32([[-np.inf, 3.0]])}
    given |= {n: np.full((1, 1), v, np.float32) for n, v in ROW.items()}
    assert execute(fewer(function, ["e", "a"]), given, np.float32)["g"] == 1.5
