"""The vocabulary in C against mpmath, in float and double, infinities and NaN included."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from lossgen.runtime import c_build

from .test_twins import ALL, COMPARISONS, LIMIT32, LIMIT64, NAMES, _check

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
        if name == "where" or (name, i) in (("mercator", 1), ("geometric", 1), ("power", 1)):
            continue
        assert math.isnan(_call(name, args, double)[0]) == (name not in COMPARISONS), (name, i)


#: in ulp of the result, over every 509th float32 of the domain; docs/numerics.md quotes them
MEASURED = {"exp": 1.1, "expm1": 1.6, "log": 1.5, "log1p": 1.9}


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
    }
    x = np.concatenate([_floats(*ends) for ends in ranges[name]])
    exact = getattr(np, name)(x.astype(np.float64))
    got = _call(name, [x], False)
    keep = exact != 0
    spacing = np.spacing(np.abs(exact[keep]).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - exact)[keep] / spacing).max() <= MEASURED[name]
    assert (got[~keep] == 0).all()
