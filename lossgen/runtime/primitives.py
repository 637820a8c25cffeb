"""Building blocks of the Triton device functions: exp, expm1 and log1p by polynomials.

Principles: float32 in and out; explicit ``tl.fma`` where a residual matters.  ``expm1`` takes the
hardware's 2^b where its error is small beside the result, a polynomial where it is not; ``log1p``
and the other exponentials use no approximation of the hardware, so that they are the same on every
GPU up to fused multiply-adds (at most 2 ulp).  What is not selected may be anything.
The module imports without triton: ``HAS_TRITON`` is then False and nothing here may be called.
Minimax coefficients are for the intervals the docstrings name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
    from triton import jit

    HAS_TRITON = True
    # Read once, as triton does when it decorates a kernel; and torch.compile cannot trace it.
    INTERPRETING = bool(triton.knobs.runtime.interpret)

    def kernel(fn: Callable[..., Any], loss: str = "") -> Any:
        """A function that is launched: numbers that change from call to call compile nothing.  A
        profiler shows it with the name of its loss: gce_forward_kernel."""
        name = f"{loss}{fn.__name__}"
        return triton.jit(fn, do_not_specialize=[*_CHANGING], repr=lambda _: name)

except ImportError:  # a CPU-only installation
    triton = None
    tl = None
    HAS_TRITON = INTERPRETING = False

    def jit(fn: Callable[..., Any]) -> Callable[..., Any]:
        """Stand-in for ``triton.jit``: returns the function, which must not be called."""
        return fn

    def kernel(fn: Callable[..., Any], loss: str = "") -> Any:
        """The same for ``lossgen``'s own."""
        return fn


#: Arguments of kernels for whose special values (1, multiples of 16) no kernel of its own is worth
#: compiling.
_CHANGING = (
    *("n_rows", "ignore_index", "stride_grad_rows", "stride_grad_out", "n_counted", "n_programs"),
    *("n_elements", "n_splits", "first_tile", "n_tiles", "first_class", "last_class", "out_rows"),
    *("n_k",),
)

__all__ = [
    "HAS_TRITON",
    "INTERPRETING",
    "exp_accurate",
    "exp_nonpositive",
    "expm1",
    "expm1_half",
    "expm1_reduced",
    "inverse",
    "jit",
    "kernel",
    "larger",
    "log1p",
    "log1p_tail",
    "log1p_unit",
    "power_of_two",
    "row_max",
    "row_max_or_nan",
    "row_min",
    "row_sum",
    "signed",
    "split",
    "tl",
    "triton",
]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def split(x):
    """x = n log 2 + r with integer n and |r| <= 0.347, for |x| <= 150."""
    n = tl.floor(tl.fma(x, 1.4426950408889634, 0.5))
    r = tl.fma(n, -0.693145751953125, x)  # the high part has 16 trailing zero bits: exact product
    return n, tl.fma(n, -1.428606765330187e-06, r)


@jit
def expm1_reduced(r):
    """e^r - 1 for |r| <= 0.347: minimax polynomial of degree 6."""
    p = tl.fma(r, 0.001388250500895083, 0.008366595953702927)
    p = tl.fma(p, r, 0.04166720062494278)
    p = tl.fma(p, r, 0.1666654348373413)
    p = tl.fma(p, r, 0.4999999701976776)
    return tl.fma(p * r, r, r)


@jit
def power_of_two(n):
    """2^n exactly, for integer n in [-126, 127]."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@jit
def log1p_tail(m):
    """(log(1 + m) - m + m^2/2) / m^3 for m in [-0.293, 0.415]: minimax, degree 8."""
    p = tl.fma(m, 0.06744550168514252, -0.11674808710813522)
    p = tl.fma(p, m, 0.11888600885868073)
    p = tl.fma(p, m, -0.12405755370855331)
    p = tl.fma(p, m, 0.1421951949596405)
    p = tl.fma(p, m, -0.16667985916137695)
    p = tl.fma(p, m, 0.2000211924314499)
    p = tl.fma(p, m, -0.25000008940696716)
    return tl.fma(p, m, 0.3333333134651184)


@jit
def log1p_unit(x):
    """log(1 + x) for 0 <= x <= 1: no logarithm, no division; 1.6 ulp."""
    big = x > 0.41421356
    m = tl.where(big, tl.fma(x, 0.5, -0.5), x)
    t = m * m
    y = tl.fma(t * m, log1p_tail(m), tl.fma(t, -0.5, m))
    return tl.where(big, y + 0.6931471805599453, y)


@jit
def expm1_half(a):
    """e^a - 1 for |a| <= 1/2: a minimax polynomial of degree 6; anything elsewhere."""
    p = tl.fma(a, 0.0013875745935365558, 0.008402393199503422)
    p = tl.fma(p, a, 0.04166897013783455)
    p = tl.fma(p, a, 0.1666613519191742)
    p = tl.fma(p, a, 0.4999998211860657)
    return tl.fma(p * a, a, a)


@jit
def expm1(a):
    """e^a - 1: a polynomial below 1/2, else from 2^b; 2.8 ulp."""
    far = tl.exp2(a * 1.4426950408889634) - 1.0
    return tl.where(tl.abs(a) < 0.5, expm1_half(a), far)


@jit
def log1p(a):
    """log(1 + a), a >= -1: n log 2 + log(1 + m), where 1 + a = 2^n (1 + m); 0.6 ulp."""
    u = tl.full((), 1.0, tl.float32) + a  # a may be a number of the text
    # 2^23 n with 1 + m >= sqrt(1/2), of |u|: the bits of a negative number would overflow
    n = (tl.abs(u).to(tl.int32, bitcast=True) - 0x3F3504F3) & -0x800000
    n = tl.maximum(n, -0x3F000000)  # of u = 0, whose value is the end below
    scale = (0x40800000 - n).to(tl.float32, bitcast=True)  # 2^(2 - n): n can be 127
    m = tl.fma(a * 0.25, scale, tl.fma(scale, 0.25, -1.0))
    y = tl.fma(m * m, tl.fma(log1p_tail(m), m, -0.5), m)
    y = tl.fma(n.to(tl.float32), 8.262958294867817e-08, y)
    end = tl.where(u > 0.0, u, -tl.rsqrt(u))  # inf; -inf at 0; NaN below
    return tl.where((u > 0.0) & (u < float("inf")), y, end)


@jit
def signed(y, a):
    """y >= 0 with the sign of a: one operation on bits."""
    sign = a.to(tl.int32, bitcast=True) & -0x80000000
    return (y.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@jit
def inverse(d):
    """1 / d of a d that is neither near an end of the range nor negative: no division; 0.9 ulp."""
    root = tl.rsqrt(d)
    y = root * root
    return y - y * tl.fma(d, y, -1.0)  # a minus before a value would be an instruction


@jit
def exp_nonpositive(x):
    """e^x for x <= 0, and 0 below -87; 1.0 ulp."""
    n, r = split(tl.maximum(x, -87.0))
    scale = power_of_two(n)
    y = tl.fma(expm1_reduced(r), scale, scale)
    return tl.where(x < -87.0, 0.0, tl.where(x != x, x, y))


@jit
def exp_accurate(x):
    """e^x over the whole range, subnormal results included; 0.5 ulp (1 + |x|)."""
    n, r = split(tl.minimum(tl.maximum(x, -104.0), 89.0))
    half = tl.floor(n * 0.5)
    y = (1.0 + expm1_reduced(r)) * power_of_two(half) * power_of_two(n - half)
    return tl.where(x != x, x, tl.where(x > 88.7228394, float("inf"), y))


# One text serves a tile of one row [C], whose reductions are scalars, and a tile of several rows
# [R, C], whose reductions are [R, 1].
@jit
def row_sum(a):
    """Sum over the classes."""
    return tl.sum(a, axis=len(a.shape) - 1, keep_dims=len(a.shape) > 1)


@jit
def row_max(a):
    """Largest over the classes."""
    return tl.max(a, axis=len(a.shape) - 1, keep_dims=len(a.shape) > 1)


@jit
def larger(a, b):
    """max(a, b), NaN where one of them is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@jit
def row_max_or_nan(a):
    """Largest over the classes, NaN where one of them is."""
    return tl.reduce(a, len(a.shape) - 1, larger, keep_dims=len(a.shape) > 1)


@jit
def row_min(a):
    """Smallest over the classes."""
    return tl.min(a, axis=len(a.shape) - 1, keep_dims=len(a.shape) > 1)
