"""Every numerical twin of every operation against mpmath, infinities and NaN included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lossgen.ir.ops import BUILTINS, OPS
from lossgen.runtime import device as dl
from lossgen.runtime import elementwise as el
from lossgen.verify import interpreter

ALL = {**OPS, **BUILTINS}
NAMES = sorted(ALL)
COMPARISONS = {"lt", "le", "eq", "ne"}
#: arguments that are whole numbers, or may be NaN
NOT_NAN = {("mercator", 1), ("geometric", 1), ("power", 1), ("polygamma", 0)}
#: the argument of which a call has one number
COUNTS = {"mercator": 1, "geometric": 1, "polygamma": 0}
EPS32, EPS64 = 2.0**-23, 2.0**-52
LIMIT32 = (EPS32, 2.0**-123, 3.4028e38)
LIMIT64 = (EPS64, 2.0**-1020, 1.7e308)
triton_only = pytest.mark.skipif(not dl.HAS_TRITON, reason="triton is not installed")


def _check(p, name: str, got: np.ndarray, limit: tuple[float, float, float], bound: float) -> None:
    error = p.errors(got, *limit)
    worst = int(error.argmax())
    where = tuple(float(a[worst]) for a in p.args)
    assert error[worst] <= bound, (
        f"{name}{where} = {np.asarray(got)[worst]!r}, expected {p.high[worst]!r}: "
        f"{error[worst]:.3g} ulp / (1 + kappa), kappa = {p.kappa[worst]:.3g}"
    )


def _by_count(function, args, make, place):
    """Call a function once per number of terms, or order, which is one number per call."""
    out = np.empty(args[0].shape)
    for t in np.unique(args[place]):
        rows = args[place] == t
        given = [make(a[rows]) for a in args]
        given[place] = float(t)
        out[rows] = np.asarray(function(*given).double())
    return out


def _torch(args: tuple[np.ndarray, ...], name: str, dtype: torch.dtype) -> np.ndarray:
    function = getattr(el, ALL[name].torch)
    make = lambda a: torch.tensor(a, dtype=dtype)  # noqa: E731
    if name in COUNTS:
        return _by_count(function, args, make, COUNTS[name])
    tensors = [make(a) for a in args]
    out = function(*tensors)
    assert out.dtype == dtype
    for t, a in zip(tensors, args, strict=True):
        assert torch.equal(t, make(a)), "an argument was modified"
    return out.double().numpy()


@pytest.mark.parametrize("name", NAMES)
def test_numpy_matches_mpmath(points, name):
    _check(points(name), name, ALL[name].numpy(*points(name).args), LIMIT64, 4.0)


@pytest.mark.parametrize("name", NAMES)
def test_torch_float32_matches_mpmath(points, name):
    _check(points(name), name, _torch(points(name).args, name, torch.float32), LIMIT32, 4.0)


@pytest.mark.parametrize("name", NAMES)
def test_torch_float64_matches_mpmath(points, name):
    _check(points(name), name, _torch(points(name).args, name, torch.float64), LIMIT64, 6.0)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(name):
    op = ALL[name]
    for i in range(op.arity):
        args = [0.5] * op.arity
        args[i] = math.nan
        if name == "where" or (name, i) in NOT_NAN:
            continue
        expected_nan = name not in COMPARISONS
        assert math.isnan(op.numpy(*args)) == expected_nan
        values = [2.0 if COUNTS.get(name) == j else torch.tensor([a]) for j, a in enumerate(args)]
        got = getattr(el, name)(*values).item()
        assert math.isnan(got) == expected_nan, f"argument {i} of {name}: {got}"


@pytest.mark.parametrize("name", NAMES)
def test_python_numbers_are_computed_in_float64(name):
    op = ALL[name]
    args = [max(v, lo) for v, (lo, _) in zip((0.75, 2.0, 3.0), op.domain, strict=False)]
    got = getattr(el, name)(*args)
    assert type(got) is float
    assert got == pytest.approx(float(op.mp(*args)), rel=1e-14)


def test_numbers_take_the_dtype_of_the_tensor():
    x = torch.tensor([-1.0, 2.0])
    assert el.maximum(x, 0.5).tolist() == [0.5, 2.0]
    assert el.lt(0, x).tolist() == [0.0, 1.0]
    assert el.clip(x, -0.5, 1).tolist() == [-0.5, 1.0]
    assert torch.equal(el.where(x > 0, 1.0, 0.0), torch.tensor([0.0, 1.0]))
    assert el.where(el.lt(0.0, x), x, 0.0).dtype == torch.float32
    assert el.softcap(x, math.inf).tolist() == [-1.0, 2.0]
    assert el.minimum(x.double(), 0.1).tolist() == [-1.0, 0.1]


# ---------------------------------------------------------------- Triton in the interpreter

if dl.HAS_TRITON:
    from lossgen.runtime.device import tl

    @dl.jit
    def apply1(a, out, n, F: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        x = tl.load(a + i, mask=i < n, other=0.5)
        tl.store(out + i, F(x), mask=i < n)

    @dl.jit
    def apply2(a, b, out, n, F: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        x = tl.load(a + i, mask=i < n, other=0.5)
        y = tl.load(b + i, mask=i < n, other=0.5)
        tl.store(out + i, F(x, y), mask=i < n)

    @dl.jit
    def apply3(a, b, c, out, n, F: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        x = tl.load(a + i, mask=i < n, other=0.5)
        y = tl.load(b + i, mask=i < n, other=0.5)
        z = tl.load(c + i, mask=i < n, other=0.5)
        tl.store(out + i, F(x, y, z), mask=i < n)

    @dl.jit
    def scalars1(a, out, F: tl.constexpr):
        i = tl.program_id(0)
        tl.store(out + i, F(tl.load(a + i)))

    @dl.jit
    def scalars2(a, b, out, F: tl.constexpr):
        i = tl.program_id(0)
        tl.store(out + i, F(tl.load(a + i), tl.load(b + i)))

    @dl.jit
    def scalars3(a, b, c, out, F: tl.constexpr):
        i = tl.program_id(0)
        tl.store(out + i, F(tl.load(a + i), tl.load(b + i), tl.load(c + i)))

    APPLY = {1: apply1, 2: apply2, 3: apply3}
    SCALARS = {1: scalars1, 2: scalars2, 3: scalars3}


def _device(name: str, args: tuple[np.ndarray, ...]) -> np.ndarray:
    tensors = [torch.tensor(a, dtype=torch.float32) for a in args]
    out = torch.empty_like(tensors[0])
    n = out.numel()
    block = 1 << max(n - 1, 1).bit_length()
    APPLY[len(args)][(1,)](*tensors, out, n, F=getattr(dl, ALL[name].triton), BLOCK=block)
    return out.double().numpy()


@triton_only
@pytest.mark.parametrize("name", NAMES)
def test_device_function_matches_mpmath(points, name):
    _check(points(name), name, _device(name, points(name).args), LIMIT32, 4.0)


@triton_only
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh", "sech2", "softcap"])
def test_device_function_bears_the_errors_of_the_hardware(points, name, sign, monkeypatch):
    """2^b and 1/sqrt(a) are approximations on a GPU, as far off as NVIDIA states: the square of the
    square of such a root is 9 ulp off, which sech2 must not be."""
    language = interpreter._LANGUAGE
    for function, error in (("exp2", 2.0**-22), ("rsqrt", 2.0**-22.4)):
        exact = getattr(language, function)
        off = 1.0 + sign * error
        monkeypatch.setattr(language, function, lambda a, f=exact, off=off: f(a) * off)
    _check(points(name), name, _device(name, points(name).args), LIMIT32, 4.0)


@triton_only
@pytest.mark.parametrize("name", NAMES)
def test_device_function_takes_scalars(points, name):
    args = tuple(a[:: max(1, len(a) // 5)] for a in points(name).args)
    tensors = [torch.tensor(a, dtype=torch.float32) for a in args]
    out = torch.empty_like(tensors[0])
    SCALARS[len(args)][(out.numel(),)](*tensors, out, F=getattr(dl, name))
    np.testing.assert_allclose(out.double().numpy(), _device(name, args), rtol=3e-7)


@triton_only
@pytest.mark.parametrize("name", NAMES)
def test_device_function_keeps_nan(name):
    op = ALL[name]
    for i in range(op.arity):
        if name == "where" or (name, i) in NOT_NAN:
            continue
        args = [np.array([0.5, 2.0])] * op.arity
        args[i] = np.array([math.nan, math.nan])
        got = _device(name, tuple(args))
        assert np.isnan(got).all() == (name not in COMPARISONS), f"argument {i} of {name}: {got}"
