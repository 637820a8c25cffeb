"""The elementwise vocabulary as Triton device functions of float32 values.

Pure ``tl``: no libdevice, no inline assembly, so the same text runs in the interpreter and
compiles for NVIDIA and AMD GPUs.  Arguments are float32 blocks or scalars (integer parameters
come as floats).  The ulp of each docstring are the largest error found by emulating the code with
divisions, ``tl.exp2`` and ``tl.rsqrt`` wrong by as much as NVIDIA states, in units of
2**-23 (1 + condition number), relative; tests hold 4.  Every function is total over its domain,
±inf included; NaN in gives NaN out; below 2**-123 may be flushed to 0.

Principles: conditions select (``tl.where``), they never branch; the approximate ``/`` is used where
its 2 ulp fit the budget; ``tl.maximum`` and ``tl.minimum`` drop NaN unless told otherwise.  The
module imports without triton (``HAS_TRITON`` is then False: call nothing here).
"""

from __future__ import annotations

from lossgen.runtime import device_special
from lossgen.runtime.device_special import *  # noqa: F403
from lossgen.runtime.primitives import (
    HAS_TRITON,
    exp_accurate,
    exp_nonpositive,
    expm1,
    expm1_half,
    inverse,
    jit,
    kernel,
    log1p,
    log1p_tail,
    log1p_unit,
    row_max,
    row_max_or_nan,
    row_min,
    row_sum,
    signed,
    tl,
    triton,
)

__all__ = [
    "HAS_TRITON",
    "above",
    "absf",
    "clip",
    "cloglog",
    "eq",
    "erf",
    "exp",
    "exp_accurate",
    "exp_nonpositive",
    "exp_tile",
    "expm1",
    "expm1_half",
    "expm1div",
    "expm1x",
    "exprel",
    "inrange",
    "jit",
    "kernel",
    "le",
    "log",
    "log1mexp",
    "log1p",
    "log1p_unit",
    "log1pmx",
    "log_accurate",
    "log_complement",
    "logaddexp",
    "logsoftplus",
    "lt",
    "maximum",
    "minimum",
    "ne",
    "power",
    "recipexpm1x",
    "reciprocal",
    "relu",
    "row_max",
    "row_max_or_nan",
    "row_min",
    "row_sum",
    "safe_rsqrt",
    "sech2",
    "sgn",
    "sigmoid",
    "sigrel",
    "softcap",
    "softplus",
    "sprel",
    "sqrt",
    "step",
    "stop_gradient",
    "tanh",
    "tl",
    "triton",
    "where",
    "xlogy",
    *device_special.__all__,
]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def exp_tile(a):
    """e^a of a class by the hardware's 2^b: b is rounded, so that the error grows with |a|."""
    return tl.exp2(a * 1.4426950408889634)


@jit
def log(a):
    """log(a), a >= 0; 0.5 ulp."""
    return tl.log(a)


exp, log_accurate = exp_accurate, log


@jit
def sqrt(a):
    """Square root, a >= 0, correctly rounded; 0.5 ulp."""
    return tl.sqrt_rn(a)


@jit
def power(a, b):
    """a^b as e^(b log |a|), of a < 0 for a whole b only; 0.8 ulp."""
    y = exp_accurate(b * tl.log(tl.abs(a)))
    sign = tl.where(tl.floor(b) == b, 1.0 - 2.0 * (b - 2.0 * tl.floor(0.5 * b)), float("nan"))
    return tl.where(b == 0.0, 1.0, tl.where(a == 1.0, 1.0, tl.where(a < 0.0, sign * y, y)))


@jit
def softplus(a):
    """log(1 + e^a); 0.7 ulp."""
    return tl.where(a > 0.0, a, 0.0) + log1p_unit(exp_nonpositive(-tl.abs(a)))


@jit
def sigmoid(a):
    """1 / (1 + e^-a); 2.8 ulp."""
    e = exp_nonpositive(-tl.abs(a))
    return tl.where(a >= 0.0, 1.0, e) / (1.0 + e)


@jit
def log_complement(a):
    """log(1 - e^a), a <= 0: -inf at 0, 0 at -inf; 0.6 ulp."""
    return tl.where(a > -0.6931471805599453, tl.log(-expm1(a)), log1p(-exp_nonpositive(a)))


@jit
def log1mexp(a):
    """log(1 - e^-a), a >= 0: -inf at 0, 0 at inf; 0.6 ulp."""
    return log_complement(-a)


@jit
def exprel(a):
    """(e^a - 1) / a: 1 at 0, 0 at -inf, inf at inf; 2.8 ulp."""
    half = exp_accurate(a * 0.5)  # e^a overflows before e^a / a does
    y = tl.where(a > 80.0, (half / a) * half, expm1(a) / a)
    return tl.where(a == 0.0, 1.0, tl.where(a > 1e4, float("inf"), y))


@jit
def expm1div(v, c):
    """(e^(c v) - 1) / c: v at c = 0, -1/c at c v = -inf; 1.5 ulp."""
    a = c * v
    half = exp_accurate(a * 0.5)  # e^a overflows before e^a / c does
    y = tl.where(a > 80.0, (half / c) * half, expm1(a) / c)
    return tl.where((tl.minimum(tl.abs(v), tl.abs(c)) == 0.0) | (tl.abs(a) < 1e-8), v, y)


@jit
def recipexpm1x(a):
    """a / (e^a - 1): 1 at 0, 0 at inf, inf at -inf; 2.9 ulp."""
    half = exp_nonpositive(-0.5 * tl.abs(a))  # e^-a underflows before a e^-a does
    y = tl.where(a > 60.0, (a * half) * half, a / expm1(a))
    return tl.where(a == 0.0, 1.0, tl.where(a > 1e4, 0.0, y))


@jit
def cloglog(a):
    """log(1 - exp(-e^a)): a for a -> -inf, 0 for a -> inf; 1.3 ulp."""
    w = exp_accurate(tl.minimum(tl.maximum(a, -40.0), 10.0))
    y = log1mexp(w)
    return tl.where((a < -40.0) | (a != a), a, y)


@jit
def logsoftplus(a):
    """log(softplus(a)): a for a -> -inf; 2.1 ulp."""
    y = tl.log(softplus(tl.maximum(a, -40.0)))
    return tl.where((a < -40.0) | (a != a), a, y)


@jit
def sigrel(a):
    """sigmoid(a) / softplus(a): 1 at -inf, 0 at inf."""
    e = exp_nonpositive(tl.maximum(-tl.abs(a), -40.0))
    y = log1p_unit(e)
    high = 1.0 / ((1.0 + e) * (tl.maximum(a, 0.0) + y))
    return tl.where(a != a, a, tl.where(a <= 0.0, e / ((1.0 + e) * y), high))


@jit
def sprel(a):
    """softplus(a) e^-a: 1 at -inf, 0 at inf; 2.8 ulp."""
    m = -tl.abs(a)
    e = exp_nonpositive(tl.maximum(m, -40.0))
    y = log1p_unit(e)
    half = exp_nonpositive(0.5 * m)
    return tl.where(a <= 0.0, y / e, tl.where(a > 1e4, 0.0, ((a + y) * half) * half))


@jit
def tanh(a):
    """Hyperbolic tangent: odd polynomial below 0.68, else from e^-2|a|; 2.8 ulp."""
    m = tl.abs(a)
    t = a * a
    p = tl.fma(t, 0.014273211359977722, -0.051285456866025925)
    p = tl.fma(p, t, 0.13294059038162231)
    p = tl.fma(p, t, -0.33331507444381714)
    e = tl.exp2(m * -2.8853900817779268)
    root = tl.rsqrt(1.0 + e)
    y = tl.fma(e * (root * root), -2.0, 1.0)
    return tl.where(m < 0.68, tl.fma(p * t, a, a), signed(y, a))


@jit
def sech2(a):
    """1 / cosh(a)^2, from the exponential and the inverse that tanh has; 2.3 ulp."""
    e = tl.exp2(tl.abs(a) * -2.8853900817779268)
    y = inverse(1.0 + e)
    return 4.0 * ((e * y) * y)


@jit
def erf(a):
    """Error function; 0.6 ulp."""
    return tl.erf(a)


@jit
def expm1x(a):
    """e^a - 1 - a; 0.5 ulp."""
    p = tl.fma(a, 2.7557319e-07, 2.7557319e-06)
    p = tl.fma(p, a, 2.4801587e-05)
    p = tl.fma(p, a, 1.9841270e-04)
    p = tl.fma(p, a, 1.3888889e-03)
    p = tl.fma(p, a, 8.3333333e-03)
    p = tl.fma(p, a, 4.1666667e-02)
    p = tl.fma(p, a, 1.6666667e-01)
    p = tl.fma(p, a, 0.5)
    y = tl.where(tl.abs(a) <= 1.0, (p * a) * a, expm1(a) - a)
    return tl.where(a > 1e4, float("inf"), y)


@jit
def log1pmx(a):
    """log(1 + a) - a, a >= -1; 2.1 ulp."""
    near = (a * a) * tl.fma(a, log1p_tail(a), -0.5)
    y = tl.where((a > -0.29289322) & (a < 0.41421356), near, log1p(a) - a)
    return tl.where(a > 1e30, -a, y)


@jit
def safe_rsqrt(a):
    """1 / sqrt(a), and 0 at a = 0; 1.9 ulp."""
    return tl.where(a == 0.0, 0.0, 1.0 / tl.sqrt_rn(a))


@jit
def relu(a):
    """max(a, 0)."""
    return tl.where(a < 0.0, 0.0, a)


@jit
def absf(a):
    """|a|."""
    return tl.abs(a)


@jit
def sgn(a):
    """The sign of a: -1, 0 or 1."""
    return tl.where(a > 0.0, 1.0, tl.where(a < 0.0, -1.0, a))


@jit
def step(a):
    """1 for a > 0, 1/2 at 0, 0 for a < 0."""
    return tl.where(a > 0.0, 1.0, tl.where(a < 0.0, 0.0, a + 0.5))


@jit
def above(a, b):
    """1 for a > b, 1/2 at a = b, 0 for a < b."""
    unequal = tl.where(a > b, 1.0, tl.where(a < b, 0.0, float("nan")))
    return tl.where(a == b, 0.5, unequal)


@jit
def minimum(a, b):
    """The smaller of a and b."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@jit
def maximum(a, b):
    """The larger of a and b."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@jit
def clip(x, lo, hi):
    """min(max(x, lo), hi)."""
    return minimum(maximum(x, lo), hi)


@jit
def inrange(x, lo, hi):
    """1 for lo <= x <= hi, else 0."""
    inside = tl.where((x >= lo) & (x <= hi), 1.0, 0.0)
    return tl.where((x != x) | (lo != lo) | (hi != hi), float("nan"), inside)


@jit
def lt(a, b):
    """1 if a < b, else 0 (NaN too)."""
    return tl.where(a < b, 1.0, 0.0)


@jit
def le(a, b):
    """1 if a <= b, else 0 (NaN too)."""
    return tl.where(a <= b, 1.0, 0.0)


@jit
def eq(a, b):
    """1 if a == b, else 0 (NaN too)."""
    return tl.where(a == b, 1.0, 0.0)


@jit
def ne(a, b):
    """1 if a != b (NaN too), else 0."""
    return tl.where(a != b, 1.0, 0.0)


@jit
def where(c, a, b):
    """a where c is not 0, else b."""
    return tl.where(c != 0.0, a, b)


@jit
def stop_gradient(a):
    """a itself."""
    return a


@jit
def reciprocal(a):
    """1 / a, correctly rounded: of a value of the row, once for all classes; 0.5 ulp."""
    return tl.div_rn(1.0, a)


@jit
def softcap(x, c):
    """c tanh(x / c), c > 0; x itself for c = inf; 2.6 ulp. As ``tanh``, with c multiplied in."""
    # c = inf is as good as 2^126, but that an infinite x stays one
    a = x * maximum(reciprocal(c), 1.1754943508222875e-38)
    m = tl.abs(a)
    t = a * a
    p = tl.fma(t, 0.014273211359977722, -0.051285456866025925)
    p = tl.fma(p, t, 0.13294059038162231)
    p = tl.fma(p, t, -0.33331507444381714)
    e = tl.exp2(m * -2.8853900817779268)
    root = tl.rsqrt(1.0 + e)
    y = tl.fma(e * (root * root), -tl.minimum(2.0 * c, 3.4028234663852886e38), c)
    return tl.where(m < 0.68, tl.fma(p * t, x, x), signed(y, x))


@jit
def xlogy(a, b):
    """a log(b), b >= 0, and 0 at a = 0; 0.4 ulp."""
    return tl.where((a == 0.0) & (b == b), 0.0, a * tl.log(b))


@jit
def logaddexp(a, b):
    """log(e^a + e^b); 0.8 ulp."""
    top = maximum(a, b)
    gap = tl.where(a == b, 0.0, tl.abs(a - b))  # also for equal infinities
    return top + log1p_unit(exp_nonpositive(-gap))
