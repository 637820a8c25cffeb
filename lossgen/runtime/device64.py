"""The elementwise vocabulary as Triton device functions of float64 values.

For losses that float32 does not hold to their bound: the same names as
:mod:`lossgen.runtime.device`, whose polynomials are those of float32.  A few ulp of float64 are
enough here, as the results are rounded to float32, so that ``expm1`` and ``log1p`` are made of
``exp`` and ``log``.  ``tl.fma``, ``tl.minimum`` and ``tl.maximum`` take constants as float32:
where that matters, operators and ``tl.where`` are used, which take those of the value beside.
"""

from __future__ import annotations

from lossgen.runtime import device
from lossgen.runtime.device import (
    HAS_TRITON,
    above,
    absf,
    eq,
    erf,
    inrange,
    jit,
    kernel,
    le,
    log,
    log_accurate,
    lt,
    ne,
    relu,
    row_max,
    row_max_or_nan,
    row_min,
    row_sum,
    sgn,
    step,
    stop_gradient,
    tl,
    triton,
    where,
    xlogy,
)
from lossgen.runtime.device_both import *  # noqa: F403

__all__ = [*device.__all__]

# ruff: noqa: ANN001, ANN202, F401
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def minimum(a, b):
    """The smaller of a and b."""
    return tl.where((a < b) | (a != a), a, b)


@jit
def maximum(a, b):
    """The larger of a and b."""
    return tl.where((a > b) | (a != a), a, b)


@jit
def clip(x, lo, hi):
    """min(max(x, lo), hi)."""
    return minimum(maximum(x, lo), hi)


@jit
def reciprocal(a):
    """1 / a."""
    return 1.0 / a


@jit
def exp(a):
    """e^a."""
    return tl.exp(a)


exp_accurate = exp_nonpositive = exp_tile = exp


@jit
def sqrt(a):
    """Square root, a >= 0."""
    return tl.sqrt(a)


@jit
def safe_rsqrt(a):
    """1 / sqrt(a), and 0 at a = 0."""
    return tl.where(a == 0.0, 0.0, 1.0 / tl.sqrt(a))


@jit
def power(a, b):
    """a^b as e^(b log |a|), of a < 0 for a whole b only."""
    y = tl.exp(b * tl.log(tl.abs(a)))
    sign = tl.where(tl.floor(b) == b, 1.0 - 2.0 * (b - 2.0 * tl.floor(0.5 * b)), float("nan"))
    return tl.where(b == 0.0, 1.0, tl.where(a == 1.0, 1.0, tl.where(a < 0.0, sign * y, y)))


@jit
def expm1(a):
    """e^a - 1: near 0 the rounded e^a, and its logarithm in place of a."""
    u = tl.exp(a)
    near = tl.where(u == 1.0, a, (u - 1.0) * (a / tl.log(u)))
    return tl.where(tl.abs(a) < 1.0, near, u - 1.0)


@jit
def expm1_half(a):
    """The same, of which float32 knows that |a| <= 1/2."""
    return expm1(a)


@jit
def log1p(a):
    """log(1 + a), a >= -1: the logarithm of the rounded sum, times what was rounded."""
    u = 1.0 + a
    near = tl.where(u == 1.0, a, tl.log(u) * (a / (u - 1.0)))
    return tl.where(tl.abs(a) < 1.0, near, tl.log(u))


log1p_unit = log1p


@jit
def softplus(a):
    """log(1 + e^a)."""
    return relu(a) + log1p(tl.exp(-tl.abs(a)))


@jit
def sigmoid(a):
    """1 / (1 + e^-a)."""
    e = tl.exp(-tl.abs(a))
    return tl.where(a >= 0.0, 1.0, e) / (1.0 + e)


@jit
def log_complement(a):
    """log(1 - e^a), a <= 0: -inf at 0, 0 at -inf."""
    return tl.where(a > -0.6931471805599453, tl.log(-expm1(a)), log1p(-tl.exp(a)))


@jit
def log1mexp(a):
    """log(1 - e^-a), a >= 0: -inf at 0, 0 at inf."""
    return log_complement(-a)


@jit
def exprel(a):
    """(e^a - 1) / a: 1 at 0, 0 at -inf, inf at inf."""
    half = tl.exp(a * 0.5)  # e^a overflows before e^a / a does
    y = tl.where(a > 80.0, (half / a) * half, expm1(a) / a)
    return tl.where(a == 0.0, 1.0, tl.where(a > 1e4, float("inf"), y))


@jit
def expm1div(v, c):
    """(e^(c v) - 1) / c: v at c = 0, -1/c at c v = -inf."""
    a = c * v
    half = tl.exp(a * 0.5)  # e^a overflows before e^a / c does
    y = tl.where(a > 80.0, (half / c) * half, expm1(a) / c)
    return tl.where((tl.minimum(tl.abs(v), tl.abs(c)) == 0.0) | (tl.abs(a) < 1e-17), v, y)


@jit
def recipexpm1x(a):
    """a / (e^a - 1): 1 at 0, 0 at inf, inf at -inf."""
    half = tl.exp(-0.5 * relu(a))  # e^-a underflows before a e^-a does
    y = tl.where(a > 60.0, (a * half) * half, a / expm1(a))
    return tl.where(a == 0.0, 1.0, tl.where(a > 1e4, 0.0, y))


@jit
def cloglog(a):
    """log(1 - exp(-e^a)): a for a -> -inf, 0 for a -> inf."""
    inside = tl.where(a < -40.0, -40.0, tl.where(a > 10.0, 10.0, a))
    return tl.where(a < -40.0, a, log1mexp(tl.exp(inside)))


@jit
def logsoftplus(a):
    """log(softplus(a)): a for a -> -inf."""
    return tl.where(a < -40.0, a, tl.log(softplus(tl.where(a < -40.0, -40.0, a))))


@jit
def sigrel(a):
    """sigmoid(a) / softplus(a): 1 at -inf, 0 at inf."""
    w = tl.exp(tl.where(a < -40.0, -40.0, a - relu(a)))
    return tl.where(a <= 0.0, w / (log1p(w) * (w + 1.0)), sigmoid(a) / softplus(relu(a)))


@jit
def sprel(a):
    """softplus(a) e^-a: 1 at -inf, 0 at inf."""
    w = tl.exp(tl.where(a < -40.0, -40.0, a - relu(a)))
    half = tl.exp(-0.5 * relu(a))
    high = softplus(tl.where(a > 1e30, 1e30, a)) * half * half
    return tl.where(a <= 0.0, log1p(w) / w, high)


@jit
def tanh(a):
    """Hyperbolic tangent."""
    t = expm1(-2.0 * tl.abs(a))
    y = -t / (t + 2.0)
    return tl.where(a < 0.0, -y, y)


@jit
def sech2(a):
    """1 / cosh(a)^2."""
    e = tl.exp(-2.0 * tl.abs(a))
    d = 1.0 + e
    return (4.0 * e) / (d * d)


@jit
def expm1x(a):
    """e^a - 1 - a: its series below 1."""
    near = tl.where(tl.abs(a) <= 1.0, a, 0.0)
    p = near * 0.0
    for k in tl.static_range(20):
        p = (p + 1.0) * near / (22.0 - k)  # 1 + a/3·(1 + a/4·(1 + …))
    far = tl.where(a > 1e4, float("inf"), expm1(a) - a)
    return tl.where(tl.abs(a) <= 1.0, near * near * (0.5 + 0.5 * p), far)


@jit
def log1pmx(a):
    """log(1 + a) - a, a >= -1: near 0 as 2 atanh(s) - a, s = a / (2 + a)."""
    inside = (a >= -0.5) & (a <= 1.0)
    b = tl.where(inside, a, 0.0)
    s = b / (2.0 + b)
    p = s * 0.0
    for k in tl.static_range(18):
        p = p * (s * s) + 2.0 / (37.0 - 2.0 * k)
    direct = tl.where(a > 1e30, -a, log1p(a) - a)
    return tl.where(inside, s * (s * s * p - b), direct)


@jit
def softcap(x, c):
    """c tanh(x / c), c > 0; x itself for c = inf."""
    return tl.where(c == float("inf"), x, c * tanh(x / c))


@jit
def mercator(q, t):
    """q + q^2/2 + ... + q^t/t for 1 <= t <= 16."""
    total = q * 0.0
    for k in tl.static_range(16):
        total = (total + tl.where(t >= 16 - k, 1.0, q * 0.0) / (16 - k)) * q
    return total


@jit
def geometric(q, t):
    """1 + q + ... + q^(t - 1) for 1 <= t <= 16."""
    total = q * 0.0
    for k in tl.static_range(16):
        total = total * q + tl.where(t >= 16 - k, 1.0, 0.0)
    return total


@jit
def logaddexp(a, b):
    """log(e^a + e^b)."""
    gap = tl.where(a == b, 0.0, tl.abs(a - b))  # also for equal infinities
    return maximum(a, b) + log1p(tl.exp(-gap))


@jit
def cosh(a):
    """(e^a + e^-a) / 2."""
    half = tl.exp(0.5 * tl.abs(a))  # e^|a| overflows before it does
    return (0.5 * half) * half + 0.5 / (half * half)


@jit
def sinh(a):
    """(e^a - e^-a) / 2."""
    size = tl.abs(a)
    near = expm1(size)
    half = tl.exp(0.5 * size)
    y = tl.where(size > 80.0, (0.5 * half) * half, 0.5 * (near + near / (1.0 + near)))
    return tl.where(a < 0.0, -y, y)


@jit
def logcosh(a):
    """log cosh(a): log1p of cosh a - 1 below 1."""
    size = tl.abs(a)
    t = expm1(tl.where(size > 1.0, 1.0, size))
    near = log1p(t * t / (2.0 * (1.0 + t)))
    return tl.where(size < 1.0, near, size - 0.6931471805599453 + log1p(tl.exp(-2.0 * size)))


@jit
def asinh(a):
    """log(a + sqrt(1 + a^2))."""
    size = tl.abs(a)
    near = log1p(size + a * a / (1.0 + tl.sqrt(1.0 + a * a)))
    y = tl.where(size > 1e9, tl.log(size) + 0.6931471805599453, near)
    return tl.where(a < 0.0, -y, y)


@jit
def acosh(a):
    """log(a + sqrt(a^2 - 1)), a >= 1."""
    t = a - 1.0
    near = log1p(t + tl.sqrt(t) * tl.sqrt(t + 2.0))
    y = tl.where(a > 1e9, tl.log(a) + 0.6931471805599453, near)
    return tl.where(a < 1.0, float("nan"), y)


@jit
def atan(a):
    """The angle in (-pi/2, pi/2) whose tangent is a: eight times that of an eighth."""
    size = tl.abs(a)
    z = tl.where(size > 1.0, 1.0, size) / tl.where(size > 1.0, size, 1.0)
    for _ in tl.static_range(3):
        z = z / (1.0 + tl.sqrt(1.0 + z * z))
    p = z * 0.0
    for k in tl.static_range(12):
        p = 1.0 / (23.0 - 2.0 * k) - p * (z * z)
    y = 8.0 * (p * z)
    y = tl.where(size > 1.0, 1.5707963267948966 - y, y)
    return tl.where(a < 0.0, -y, y)


@jit
def sin(a):
    """Sine."""
    return tl.sin(a)


@jit
def cos(a):
    """Cosine."""
    return tl.cos(a)


@jit
def erfc(a):
    """1 - erf(a): to 1e-16, absolute, which is what such a loss is asked for."""
    return 1.0 - tl.erf(a)
