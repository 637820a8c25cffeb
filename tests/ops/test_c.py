"""The vocabulary in C against mpmath, in float and double, infinities and NaN included."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch

from lossgen.runtime import c_build

from .test_twins import ALL, COMPARISONS, LIMIT32, LIMIT64, NAMES, NOT_NAN, _check

pytestmark = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")


def _source() -> str:
    lines = ['#include "row.h"']
    for name in NAMES:
        arity = ALL[name].arity
        arguments = ", ".join(f"args[{k} * n + i]" for k in range(arity))
        lines.append(
            f"void {name}_all(const real *args, real *out, int n) "
            f"{{ for (int i = 0; i < n; ++i) out[i] = f_{name}({arguments}); }}"
        )
    return "\n".join(lines) + "\n"


def _call(name: str, args, double: bool) -> np.ndarray:
    program = c_build.library(_source(), double)
    assert program is not None
    dtype = np.float64 if double else np.float32
    given = np.stack([np.asarray(a, dtype=dtype) for a in args])
    out = np.empty(given.shape[1], dtype=dtype)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)  # noqa: E731
    getattr(program, f"{name}_all")(pointer(given), pointer(out), ctypes.c_int(out.size))
    return out.astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_float_matches_mpmath(points, name):
    _check(points(name), name, _call(name, points(name).args, False), LIMIT32, 4.0)


@pytest.mark.parametrize("name", NAMES)
def test_double_matches_mpmath(points, name):
    _check(points(name), name, _call(name, points(name).args, True), LIMIT64, 6.0)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(name, double):
    for i in range(ALL[name].arity):
        args = [[0.5]] * ALL[name].arity
        args[i] = [math.nan]
        if name == "where" or (name, i) in NOT_NAN:
            continue
        assert math.isnan(_call(name, args, double)[0]) == (name not in COMPARISONS), (name, i)


#: in ulp of the result, over every 509th float32 of the domain; docs/numerics.md quotes them
MEASURED = {"exp": 1.1, "expm1": 1.6, "log": 1.5, "log1p": 1.9, "erf": 1.1}


def _floats(lo: float, hi: float) -> np.ndarray:
    """Every 509th float32 between two numbers of one sign."""
    ends = sorted(int(np.float32(v).view(np.int32)) for v in (lo, hi))
    return np.arange(*ends, 509, dtype=np.int64).astype(np.int32).view(np.float32)


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_measured_over_all_magnitudes(name):
    """numpy's float64 function stands for the exact one: it is off by 2^-29 ulp of float32."""
    ranges = {
        "exp": [(-0.0, -86.6), (0.0, 88.7)],
        "expm1": [(-1e-37, -100.0), (1e-37, 88.7)],
        "log": [(1.2e-38, 3.4e38)],
        "log1p": [(-1e-37, -0.99999), (1e-37, 3.4e38)],
        "erf": [(-1.1e-38, -10.0), (1.1e-38, 10.0)],
    }
    x = np.concatenate([_floats(*ends) for ends in ranges[name]])
    exact = ALL[name].numpy(x.astype(np.float64))
    got = _call(name, [x], False)
    keep = exact != 0
    spacing = np.spacing(np.abs(exact[keep]).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - exact)[keep] / spacing).max() <= MEASURED[name]
    assert (got[~keep] == 0).all()


def test_power_over_all_magnitudes():
    """Bases of every magnitude, subnormal ones too, with exponents that keep the result normal."""
    x = np.concatenate([_floats(1e-45, 3.4e38), np.float32([0, 1e-45, 1, np.inf])])
    for exponent in (-5.0, -1.0, -0.7, -1e-3, 0.0, 1e-3, 0.5, 1.0, 1.7, 3.0, 12.5):
        b = np.float32(exponent)
        with np.errstate(over="ignore", divide="ignore"):
            exact = np.power(x.astype(np.float64), float(b))
            rounded = exact.astype(np.float32).astype(np.float64)
        got = _call("power", [x, np.full_like(x, b)], False)
        normal = (exact > 2.0**-125) & np.isfinite(rounded)
        spacing = np.spacing(exact[normal].astype(np.float32)).astype(np.float64)
        assert (np.abs(got[normal] - exact[normal]) / spacing).max() <= 0.6, exponent
        assert (got[exact == 0] == 0).all()
        assert np.isinf(got[np.isinf(rounded) & (exact > 3.41e38)]).all()


@pytest.mark.parametrize("double", [False, True])
def test_power_of_c(double):
    """What C99 (and torch) say of negative bases, of 1, of 0 and of infinities."""
    cases = [
        (-2.0, 3.0), (-2.0, 2.0), (-2.0, 0.5), (-2.0, -3.0), (-1.5, 0.0), (-2.0, 1e9),
        (1.0, math.inf), (1.0, -math.inf), (0.5, math.inf), (2.0, math.inf), (2.0, -math.inf),
        (0.0, 0.0), (0.0, 2.0), (0.0, -0.5), (math.inf, 2.0), (math.inf, -2.0), (math.inf, 0.0),
        (math.nan, 1.0), (math.nan, 0.0), (2.0, math.nan), (-1.0, 16777215.0), (-3.0, 5.0),
    ]  # fmt: skip
    base, exponent = (np.array(column) for column in zip(*cases, strict=True))
    exact = torch.tensor(base, dtype=torch.float32).pow(torch.tensor(exponent, dtype=torch.float32))
    np.testing.assert_array_equal(_call("power", [base, exponent], double), exact.double().numpy())
