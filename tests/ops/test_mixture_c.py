"""Two logarithms of one mixture, as the C loops compute them, against mpmath."""

from __future__ import annotations

import ctypes
import math

import mpmath as mp
import numpy as np
import pytest

from lossgen.emit.c_text import CText
from lossgen.emit.kept_c import Keys
from lossgen.emit.mixture_c import pair_logarithms
from lossgen.emit.program_c import Program
from lossgen.emit.sweep_c import Loop, row_lines
from lossgen.ir.program import Name
from lossgen.runtime import c_build
from tests.programs import lines_of

needs_compiler = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
LINES = [
    "u = log1p(c * expm1(clip(x, -80.0, 80.0)))",
    "v = log1p((1 - c) * expm1(clip(-x, -80.0, 80.0)))",
]
DISTANCES = np.concatenate(
    [s * np.geomspace(1e-8, 79.0, 400) for s in (1.0, -1.0)] + [np.array([0.0, 80.0, -80.0])]
).astype(np.float32)


def loop(lines: list[str], pair: bool) -> Loop:
    found = Loop(Program(lines_of(*lines), ["x", "t"]), [Name("u"), Name("v")], {})
    if pair:
        pair_logarithms(found, Keys(found.program, {"c"}, {}))
    return found


def logarithms(text: str) -> int:
    return text.count("f_log1p(")


def source(entry: Loop) -> str:
    before = [f"const double {n} = 1 - c;" for n in sorted(entry.rows) if n.startswith("same")]
    spelled = CText(True, {}, entry.rows)
    u, v = map(spelled, entry.roots)
    return "\n".join(
        [
            '#include "row.h"',
            "void outer(const real *x_ptr, real *u_ptr, real *v_ptr, int n, double c) {",
            *before,
            *row_lines(entry.own, set()),
            "for (int i = 0; i < n; ++i) {",
            "const real x = x_ptr[i];",
            *entry.lines,
            f"u_ptr[i] = {u}; v_ptr[i] = {v};",
            "}}\n",
        ]
    )


def run(text: str, x: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    program = c_build.library(text, False)
    assert program is not None
    u, v = np.empty_like(x), np.empty_like(x)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, u, v)]
    program.outer(*pointers, ctypes.c_int(x.size), ctypes.c_double(c))
    return u, v


def errors(got: np.ndarray, x: np.ndarray, c: float, sign: int) -> np.ndarray:
    """In ulp / (1 + kappa), kappa with respect to x."""
    found = []
    for value, d in zip(got, x, strict=True):
        with mp.workdps(40):
            a, s = mp.mpf(c), sign * mp.mpf(float(d))
            exact = mp.log1p(a * mp.expm1(s))
            slope = a * mp.exp(s) / (1 + a * mp.expm1(s))
            kappa = abs(s * slope / exact) if exact else 0
            gap = abs(mp.mpf(float(value)) - exact)
            found.append(float(gap / (abs(exact) * (1 + kappa))) / 2**-23 if exact else float(gap))
    return np.array(found)


@needs_compiler
@pytest.mark.parametrize("c", [2.0**-20, 0.0625, 0.25, 0.5, 0.75, 0.9375, 1 - 2.0**-20])
def test_both_are_accurate(c: float) -> None:
    """The difference is taken on the side where it loses nothing, for any weight."""
    entry = loop(LINES, pair=True)
    text = source(entry)
    assert logarithms(text) == 1
    u, v = run(text, DISTANCES, c)
    assert errors(u, DISTANCES, c, 1).max() <= 4.0
    assert errors(v, DISTANCES, 1 - c, -1).max() <= 4.0


@needs_compiler
@pytest.mark.parametrize("c", [0.0, 1.0])
def test_weights_at_their_ends(c: float) -> None:
    """One of the two is 0, the other the distance."""
    u, v = run(source(loop(LINES, pair=True)), DISTANCES, c)
    finite = np.abs(DISTANCES) <= 16.0  # beyond, exp(d) is 0 beside 1, and log1p(-1) is -inf
    np.testing.assert_allclose(u[finite], c * DISTANCES[finite], rtol=1e-6)
    np.testing.assert_allclose(v[finite], (c - 1) * DISTANCES[finite], rtol=1e-6)


@needs_compiler
def test_nan_and_infinities() -> None:
    x = np.array([math.nan, math.inf, -math.inf, 1e18], dtype=np.float32)
    paired, apart = (run(source(loop(LINES, pair)), x, 0.25) for pair in (True, False))
    for got, expected in zip(paired, apart, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, equal_nan=True)
    assert np.isnan(paired[0]).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "other",
    [
        "v = log1p((1 - c) * expm1(clip(x, -80.0, 80.0)))",  # the same direction
        "v = log1p(c * expm1(clip(-x, -80.0, 80.0)))",  # not the complement
        "v = log1p((1 - c) * expm1(clip(-t, -80.0, 80.0)))",
        "v = log1p((1 - c) * expm1(clip(-x, -40.0, 40.0)))",
        "v = log1p((1 - t) * expm1(clip(-x, -80.0, 80.0)))",
    ],
)
def test_what_is_no_pair_stays(other: str) -> None:
    entry = loop([LINES[0], other], pair=True)
    assert logarithms("".join(entry.lines)) == 2


@pytest.mark.parametrize(("near", "far"), [("x - t", "-x + t"), ("t - x", "x - t"), ("w", "-w")])
def test_opposite_distances_are_found(near: str, far: str) -> None:
    lines = [
        "w = x - t",
        f"u = log1p(0.25 * expm1(clip({near}, -80.0, 80.0)))",
        f"v = log1p(expm1(clip({far}, -80.0, 80.0)) * 0.75)",
    ]
    entry = loop(lines, pair=True)
    assert logarithms("".join(entry.lines)) == 1
