"""The elementwise vocabulary as Triton device functions, continued: circular and hyperbolic
functions, erfc, log cosh and two series.  Everything that :mod:`lossgen.runtime.device` says holds
here too; it has these functions as its own.
"""

from __future__ import annotations

from lossgen.runtime import device_both
from lossgen.runtime.device_both import *  # noqa: F403
from lossgen.runtime.primitives import (
    exp_accurate,
    exp_nonpositive,
    expm1,
    jit,
    log1p,
    log1p_unit,
    tl,
)

__all__ = [
    "acosh",
    "asinh",
    "atan",
    "cos",
    "cosh",
    "erfc",
    "geometric",
    "logcosh",
    "mercator",
    "sin",
    "sinh",
    *device_both.__all__,
]

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def cosh(a):
    """(e^a + e^-a) / 2: e^|a| overflows before it does."""
    half = exp_accurate(0.5 * tl.abs(a))
    return (0.5 * half) * half + 0.5 / (half * half)


@jit
def sinh(a):
    """(e^a - e^-a) / 2."""
    size = tl.abs(a)
    near = expm1(size)
    half = exp_accurate(0.5 * size)
    y = tl.where(size > 80.0, (0.5 * half) * half, 0.5 * (near + near / (1.0 + near)))
    return tl.where(a < 0.0, -y, y)


@jit
def logcosh(a):
    """log cosh(a): log1p of cosh a - 1 below 1."""
    size = tl.abs(a)
    t = expm1(tl.where(size > 1.0, 1.0, size))
    near = log1p(t * t / (2.0 * (1.0 + t)))
    far = size - 0.6931471805599453 + log1p_unit(exp_nonpositive(-2.0 * size))
    return tl.where(size < 1.0, near, far)


@jit
def asinh(a):
    """log(a + sqrt(1 + a^2))."""
    size = tl.abs(a)
    a2 = a * a
    near = log1p(size + a2 / (1.0 + tl.sqrt_rn(1.0 + a2)))
    y = tl.where(size > 1e9, tl.log(size) + 0.6931471805599453, near)
    return tl.where(a < 0.0, -y, y)


@jit
def acosh(a):
    """log(a + sqrt(a^2 - 1)), a >= 1."""
    t = a - 1.0
    near = log1p(t + tl.sqrt_rn(t) * tl.sqrt_rn(t + 2.0))
    y = tl.where(a > 1e9, tl.log(a) + 0.6931471805599453, near)
    return tl.where(a < 1.0, float("nan"), y)


@jit
def atan(a):
    """The angle in (-pi/2, pi/2) whose tangent is a: that of 1/a or (a - 1)/(a + 1) beside it."""
    size = tl.abs(a)
    high = size > 2.414213562373095
    middle = size > 0.4142135623730950
    above = tl.where(high, -1.0, tl.where(middle, size - 1.0, size))
    below = tl.where(high, size, tl.where(middle, size + 1.0, 1.0))
    z = above / below
    z2 = z * z
    p = tl.fma(z2, 8.05374449538e-2, -1.38776856032e-1)
    p = tl.fma(p, z2, 1.99777106478e-1)
    p = tl.fma(p, z2, -3.33329491539e-1)
    base = tl.where(high, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    y = base + tl.fma(p * z2, z, z)
    return tl.where(a < 0.0, -y, y)


@jit
def sine_of(a, quarter: tl.constexpr):
    """The sine of a + quarter·pi/2; what is a multiple of pi/2 is taken off in float64."""
    wide = a.to(tl.float64)
    n = tl.floor(wide * 0.6366197723675814 + 0.5)
    rest = (wide - n * 1.5707963267341256) - n * 6.077100506506192e-11
    x = tl.where(rest > 0.8, 0.8, tl.where(rest < -0.8, -0.8, rest)).to(tl.float32)
    at = n + quarter
    at = at - 4.0 * tl.floor(at * 0.25)
    x2 = x * x
    s = tl.fma(x2, -1.9515295891e-4, 8.3321608736e-3)
    s = tl.fma(s, x2, -1.6666654611e-1)
    s = tl.fma(s * x2, x, x)
    c = tl.fma(x2, 2.443315711809948e-5, -1.388731625493765e-3)
    c = tl.fma(c, x2, 4.166664568298827e-2)
    c = tl.fma(c * x2, x2, tl.fma(x2, -0.5, 1.0))
    y = tl.where((at == 1.0) | (at == 3.0), c, s)
    return tl.where(at >= 2.0, -y, y)


@jit
def sin(a):
    """Sine."""
    return sine_of(a, 0)


@jit
def cos(a):
    """Cosine."""
    return sine_of(a, 1)


@jit
def erfc(a):
    """1 - erf(a): e^(-a^2)/(1 + 2a), times a minimax polynomial in (a - 2)/(a + 2)."""
    size = tl.where(tl.abs(a) > 10.0, 10.0, tl.abs(a))
    t = (size - 2.0) / (size + 2.0)
    p = tl.fma(t, 1.1783392437791917e-05, -0.00039429974276572466)
    p = tl.fma(p, t, -0.001255810959264636)
    p = tl.fma(p, t, 0.0012988019734621048)
    p = tl.fma(p, t, 0.008647440932691097)
    p = tl.fma(p, t, -0.008051899261772633)
    p = tl.fma(p, t, -0.054208047688007355)
    p = tl.fma(p, t, 0.16405396163463593)
    p = tl.fma(p, t, -0.1660311073064804)
    p = tl.fma(p, t, -0.09276392310857773)
    p = tl.fma(p, t, 1.2769783735275269)
    tail = exp_nonpositive(-(size * size)) * (p / tl.fma(size, 2.0, 1.0))
    return tl.where(a < 0.0, 2.0 - tail, tail)


@jit
def mercator(q, t):
    """q + q^2/2 + ... + q^t/t for 1 <= t <= 16; 0.5 ulp."""
    total = q * 0.0
    for k in tl.static_range(16):
        total = (total + tl.where(t >= 16 - k, 1.0 / (16 - k), 0.0)) * q
    return total


@jit
def geometric(q, t):
    """1 + q + ... + q^(t - 1) for 1 <= t <= 16; 0.5 ulp."""
    total = q * 0.0
    for k in tl.static_range(16):
        total = total * q + tl.where(t >= 16 - k, 1.0, 0.0)
    return total
