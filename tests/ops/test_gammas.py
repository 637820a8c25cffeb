"""lgamma, digamma and polygamma to a few ulp of the value itself, also beside their zeros, where
the bounds of the other tests grow with the condition number."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import sympy
import torch

from lossgen.ir.ops import OPS
from lossgen.runtime import c_build
from lossgen.runtime import elementwise as el

from .test_c import _call
from .test_twins import _device, triton_only

_ZEROS = (1.0, 2.0, 1.4616321449683623)  # of lgamma, and of digamma
_SEAMS = [
    np.nextafter(np.float32(at), np.float32(to)) for at in (0.75, 1, 2.5, 4, 8) for to in (0, 9)
]
_NEAR = np.geomspace(2e-7, 0.3, 25)
POINTS = np.unique(
    np.concatenate(
        [
            np.geomspace(1e-36, 1e36, 60),
            np.linspace(0.02, 12.0, 120),
            _SEAMS,
            *(zero + sign * _NEAR for zero in _ZEROS for sign in (-1, 1)),
        ]
    ).astype(np.float32)
)
FUNCTIONS = [("lgamma", ()), ("digamma", ()), ("polygamma", (1,)), ("polygamma", (2,))]


def _torch(name: str, args: list[np.ndarray]) -> np.ndarray:
    order = [float(a[0]) for a in args[:-1]]
    return getattr(el, name)(*order, torch.tensor(args[-1])).double().numpy()


BACKENDS = [
    _torch,
    pytest.param(
        lambda name, args: _call(name, args, False),
        id="c",
        marks=pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler"),
    ),
    pytest.param(lambda name, args: _device(name, tuple(args)), id="triton", marks=triton_only),
]


def _ulps(name: str, order: tuple[int, ...], got: np.ndarray, eps: float) -> float:
    worst = 0.0
    for a, value in zip(POINTS, got, strict=True):
        with mp.workdps(40):
            exact = OPS[name].mp(*order, mp.mpf(float(a)))
            if 1e-37 < abs(exact) < 3e38:
                worst = max(worst, float(abs(mp.mpf(float(value)) - exact) / abs(exact)) / eps)
    return worst


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "order"), FUNCTIONS)
def test_float32_to_three_ulp(name, order, backend):
    args = [np.full_like(POINTS, n) for n in order] + [POINTS]
    assert _ulps(name, order, backend(name, args), 2.0**-23) <= 3.0


@pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize(("name", "order"), FUNCTIONS)
def test_float64_to_five_ulp(name, order):
    args = [np.full_like(POINTS, n) for n in order] + [POINTS]
    assert _ulps(name, order, _call(name, args, True), 2.0**-52) <= 5.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ends_of_the_domain(backend):
    """Below 0 there is no value, as of the logarithm; at 0 and at infinity the limits."""
    a = np.float32([-1.5, -2.0, 0.0, math.inf])
    expected = {
        ("lgamma", ()): [math.nan, math.nan, math.inf, math.inf],
        ("digamma", ()): [math.nan, math.nan, -math.inf, math.inf],
        ("polygamma", (1,)): [math.nan, math.nan, math.inf, 0.0],
        ("polygamma", (2,)): [math.nan, math.nan, -math.inf, 0.0],
    }
    for (name, order), values in expected.items():
        args = [np.full_like(a, n) for n in order] + [a]
        np.testing.assert_array_equal(backend(name, args), values, err_msg=name)
        np.testing.assert_array_equal(OPS[name].numpy(*args), values, err_msg=name)


def test_the_order_has_no_derivative():
    n, a = sympy.symbols("n a", positive=True)
    with pytest.raises(sympy.core.function.ArgumentIndexError):
        OPS["polygamma"].symbol(n, a).fdiff(1)
    assert OPS["polygamma"].symbol(sympy.Integer(1), a).is_positive
    assert OPS["polygamma"].symbol(sympy.Integer(2), a).is_negative
