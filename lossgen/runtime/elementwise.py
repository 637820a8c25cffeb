"""The elementwise vocabulary as torch functions, for float32 and float64 tensors of any shape.

Each function is total over its domain (±inf included; NaN in gives NaN out).  The ulp of each
docstring are the largest float32 error found, in units of 2**-23 (1 + condition number), relative;
the bounds that the tests hold are 4, and 6 units of 2**-52 in float64.  Values smaller
than 8 times the smallest normal number may be flushed to zero.

Principles: arguments are never modified, but private temporaries are reused in place, so these
functions must not be recorded by autograd (generated code writes its own derivatives);
arguments broadcast, and Python numbers are accepted anywhere: with at least one tensor they take
its dtype, and without any the result is a Python float computed in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossgen.runtime import special
from lossgen.runtime.lifted import numbers_too as _numbers_too
from lossgen.runtime.special import *  # noqa: F403

__all__ = [
    "above",
    "absf",
    "clip",
    "cloglog",
    "eq",
    "erf",
    "exp",
    "expm1",
    "expm1div",
    "expm1x",
    "exprel",
    "geometric",
    "inrange",
    "le",
    "log",
    "log1mexp",
    "log1p",
    "log1pmx",
    "logaddexp",
    "logsoftplus",
    "lt",
    "maximum",
    "mercator",
    "minimum",
    "ne",
    "power",
    "quotient",
    "recipexpm1x",
    "relu",
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
    "where",
    "xlogy",
    *special.__all__,
]

LN2 = math.log(2.0)
HUGE = 1e30  # stands for inf where inf/inf or inf - inf would follow


@_numbers_too
def exp(a: Tensor) -> Tensor:
    """e^a; 0.5 ulp."""
    return torch.exp(a)


@_numbers_too
def log(a: Tensor) -> Tensor:
    """log(a), a >= 0; 0.5 ulp."""
    return torch.log(a)


@_numbers_too
def sqrt(a: Tensor) -> Tensor:
    """Square root, a >= 0; 0.5 ulp."""
    return torch.sqrt(a)


@_numbers_too
def power(a: Tensor, b: Tensor) -> Tensor:
    """a^b, a >= 0; 0.5 ulp."""
    return torch.pow(a, b)


@_numbers_too
def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b; of numbers too it is ±inf or NaN where b is 0, which Python refuses; 0.5 ulp."""
    return a / b


@_numbers_too
def softplus(a: Tensor) -> Tensor:
    """log(1 + e^a) as max(a, 0) + log1p(e^-|a|); 0.7 ulp."""
    return a.abs().neg_().exp_().log1p_().add_(a.clamp_min(0.0))


@_numbers_too
def sigmoid(a: Tensor) -> Tensor:
    """1 / (1 + e^-a); 0.9 ulp."""
    return torch.sigmoid(a)


@_numbers_too
def log1mexp(a: Tensor) -> Tensor:
    """log(1 - e^-a), a >= 0: -inf at 0, 0 at inf; 0.5 ulp."""
    small = a.neg().expm1_().neg_().log_()
    return torch.where(a > LN2, a.neg().exp_().neg_().log1p_(), small)


@_numbers_too
def exprel(a: Tensor) -> Tensor:
    """(e^a - 1) / a: 1 at 0, 0 at -inf, inf at inf; 0.8 ulp."""
    b = a.clamp_max(HUGE)
    half = (0.5 * b).exp_()  # e^a overflows before e^a / a does
    r = torch.where(b > 80, half / b * half, torch.expm1(b).div_(b))
    return r.masked_fill_(b == 0, 1.0)


@_numbers_too
def expm1div(v: Tensor, c: Tensor) -> Tensor:
    """(e^(c v) - 1) / c: v at c = 0, -1/c at c v = -inf; 0.6 ulp."""
    a = c * v
    half = (0.5 * a).exp_()  # e^a overflows before e^a / c does
    y = torch.where(a > 80, half / c * half, torch.expm1(a).div_(c))
    return torch.where((v == 0) | (c == 0) | (a.abs() < 0.1 * torch.finfo(a.dtype).eps), v, y)


@_numbers_too
def recipexpm1x(a: Tensor) -> Tensor:
    """a / (e^a - 1): 1 at 0, 0 at inf, inf at -inf; 0.9 ulp."""
    b = a.clamp_max(HUGE)
    half = (-0.5 * b.clamp_min(0.0)).exp_()  # e^-a underflows before a e^-a does
    r = torch.where(b > 60, (b * half).mul_(half), b / torch.expm1(b))
    return r.masked_fill_(b == 0, 1.0)


@_numbers_too
def cloglog(a: Tensor) -> Tensor:
    """log(1 - exp(-e^a)): a for a -> -inf, 0 for a -> inf; 1.2 ulp."""
    return torch.where(a < -40, a, log1mexp(a.clamp(-40.0, 10.0).exp_()))


@_numbers_too
def logsoftplus(a: Tensor) -> Tensor:
    """log(softplus(a)): a for a -> -inf; 1.9 ulp."""
    return torch.where(a < -40, a, softplus(a.clamp_min(-40.0)).log_())


@_numbers_too
def sigrel(a: Tensor) -> Tensor:
    """sigmoid(a) / softplus(a): 1 at -inf, 0 at inf."""
    w = a.clamp(-40.0, 0.0).exp_()
    low = w / torch.log1p(w).mul_(w + 1.0)
    return torch.where(a <= 0, low, torch.sigmoid(a).div_(softplus(a.clamp_min(0.0))))


@_numbers_too
def sprel(a: Tensor) -> Tensor:
    """softplus(a) e^-a: 1 at -inf, 0 at inf; 1.5 ulp."""
    w = a.clamp(-40.0, 0.0).exp_()
    low = torch.log1p(w).div_(w)
    half = (-0.5 * a.clamp_min(0.0)).exp_()
    return torch.where(a <= 0, low, softplus(a.clamp_max(HUGE)).mul_(half).mul_(half))


@_numbers_too
def sech2(a: Tensor) -> Tensor:
    """1 / cosh(a)^2; 1.2 ulp."""
    e = a.abs().mul_(-2.0).exp_()
    d = (1.0 + e).square_()
    return e.mul_(4.0).div_(d)


@_numbers_too
def expm1(a: Tensor) -> Tensor:
    """e^a - 1; 0.5 ulp."""
    return torch.expm1(a)


@_numbers_too
def log1p(a: Tensor) -> Tensor:
    """log(1 + a), a >= -1; 0.4 ulp."""
    return torch.log1p(a)


@_numbers_too
def tanh(a: Tensor) -> Tensor:
    """Hyperbolic tangent; 0.3 ulp."""
    return torch.tanh(a)


@_numbers_too
def erf(a: Tensor) -> Tensor:
    """Error function (through float64: torch's float32 one is absolute on some CPUs); 0.3 ulp."""
    return torch.erf(a.double()).to(a.dtype)


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    """Horner's rule; the constant coefficient comes first."""
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total.mul_(x).add_(c)
    return total


@_numbers_too
def expm1x(a: Tensor) -> Tensor:
    """e^a - 1 - a; 0.4 ulp."""
    terms = 19 if a.dtype == torch.float64 else 10
    small = a.clamp(-1.0, 1.0)
    series = _polynomial(small, [1.0 / math.factorial(k + 2) for k in range(terms)])
    series.mul_(small).mul_(small)
    return torch.where(a.abs() <= 1, series, torch.expm1(a).sub_(a.clamp_max(HUGE)))


@_numbers_too
def log1pmx(a: Tensor) -> Tensor:
    """log(1 + a) - a, a >= -1; 0.5 ulp."""
    terms = 17 if a.dtype == torch.float64 else 8
    b = a.clamp(-0.5, 1.0)
    s = b / (2.0 + b)  # log1p(b) = 2 atanh(s) and 2 s - b = -s b
    s2 = s * s
    series = _polynomial(s2, [2.0 / (2 * k + 3) for k in range(terms)])
    series.mul_(s2).sub_(b).mul_(s)
    direct = torch.log1p(a.clamp_max(HUGE)).sub_(a)
    return torch.where((a >= -0.5) & (a <= 1.0), series, direct)


@_numbers_too
def safe_rsqrt(a: Tensor) -> Tensor:
    """1 / sqrt(a), and 0 at a = 0; 0.5 ulp."""
    return torch.rsqrt(a).masked_fill_(a == 0, 0.0)


@_numbers_too
def relu(a: Tensor) -> Tensor:
    """max(a, 0)."""
    return a.clamp_min(0.0)


@_numbers_too
def absf(a: Tensor) -> Tensor:
    """|a|."""
    return a.abs()


@_numbers_too
def sgn(a: Tensor) -> Tensor:
    """The sign of a: -1, 0 or 1."""
    return torch.where(a.isnan(), a, torch.sign(a))


@_numbers_too
def step(a: Tensor) -> Tensor:
    """1 for a > 0, 1/2 at 0, 0 for a < 0."""
    return torch.where(a.isnan(), a, torch.sign(a).mul_(0.5).add_(0.5))


@_numbers_too
def above(a: Tensor, b: Tensor) -> Tensor:
    """1 for a > b, 1/2 at a = b, 0 for a < b."""
    dtype = torch.result_type(a, b)
    r = (a >= b).to(dtype).add_((a > b).to(dtype)).mul_(0.5)
    return r.masked_fill_(a.isnan() | b.isnan(), math.nan)


@_numbers_too
def minimum(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of a and b."""
    return torch.minimum(a, b)


@_numbers_too
def maximum(a: Tensor, b: Tensor) -> Tensor:
    """The larger of a and b."""
    return torch.maximum(a, b)


@_numbers_too
def clip(x: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """min(max(x, lo), hi)."""
    return torch.minimum(torch.maximum(x, lo), hi)


@_numbers_too
def inrange(x: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """1 for lo <= x <= hi, else 0."""
    dtype = torch.result_type(x, lo)
    r = ((x >= lo) & (x <= hi)).to(dtype)
    return r.masked_fill_(x.isnan() | lo.isnan() | hi.isnan(), math.nan)


@_numbers_too
def lt(a: Tensor, b: Tensor) -> Tensor:
    """1 if a < b, else 0 (NaN too)."""
    return (a < b).to(torch.result_type(a, b))


@_numbers_too
def le(a: Tensor, b: Tensor) -> Tensor:
    """1 if a <= b, else 0 (NaN too)."""
    return (a <= b).to(torch.result_type(a, b))


@_numbers_too
def eq(a: Tensor, b: Tensor) -> Tensor:
    """1 if a == b, else 0 (NaN too)."""
    return (a == b).to(torch.result_type(a, b))


@_numbers_too
def ne(a: Tensor, b: Tensor) -> Tensor:
    """1 if a != b (NaN too), else 0."""
    return (a != b).to(torch.result_type(a, b))


@_numbers_too
def where(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where c is not 0 (c may be a boolean tensor), else b."""
    return torch.where(c if c.dtype == torch.bool else c != 0, a, b)


@_numbers_too
def stop_gradient(a: Tensor) -> Tensor:
    """a itself."""
    return a


@_numbers_too
def softcap(x: Tensor, c: Tensor) -> Tensor:
    """c tanh(x / c), c > 0; x itself for c = inf; 0.6 ulp."""
    capped = torch.tanh(x / c) * c
    return torch.where(c == math.inf, x, capped)


@_numbers_too
def mercator(q: Tensor, t: Tensor) -> Tensor:
    """q + q^2/2 + ... + q^t/t for 1 <= t <= 16; t is one number; 0.5 ulp."""
    terms = int(t)
    total = q / terms
    for k in range(terms - 1, 0, -1):
        total = total.add_(1.0 / k).mul_(q)
    return total


@_numbers_too
def geometric(q: Tensor, t: Tensor) -> Tensor:
    """1 + q + ... + q^(t - 1) for 1 <= t <= 16; t is one number; 0.5 ulp."""
    total = torch.where(q.isnan(), q, torch.ones_like(q))
    for _ in range(int(t) - 1):
        total = total.mul_(q).add_(1.0)
    return total


@_numbers_too
def xlogy(a: Tensor, b: Tensor) -> Tensor:
    """a log(b), b >= 0, and 0 at a = 0; 0.4 ulp."""
    return torch.xlogy(a, b)


@_numbers_too
def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b); 0.9 ulp."""
    return torch.logaddexp(a, b)
