"""The elementwise vocabulary as torch functions, continued: circular and hyperbolic functions,
erfc, log cosh and those of the gamma function.  Everything that
:mod:`lossgen.runtime.elementwise` says holds here too; it has these functions as its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossgen.runtime.lifted import numbers_too

__all__ = [
    "acosh",
    "asinh",
    "atan",
    "cos",
    "cosh",
    "digamma",
    "erfc",
    "lgamma",
    "logcosh",
    "polygamma",
    "sin",
    "sinh",
]

LN2 = math.log(2.0)


@numbers_too
def cosh(a: Tensor) -> Tensor:
    """(e^a + e^-a) / 2: e^|a| overflows before it does."""
    half = a.abs().mul_(0.5).exp_()
    return (0.5 * half).mul_(half).add_(half.mul_(half).reciprocal_().mul_(0.5))


@numbers_too
def sinh(a: Tensor) -> Tensor:
    """(e^a - e^-a) / 2."""
    half = a.abs().mul_(0.5).exp_()
    far = torch.copysign((0.5 * half).mul_(half), a)
    return torch.where(a.abs() > 80.0, far, torch.sinh(a))


@numbers_too
def asinh(a: Tensor) -> Tensor:
    """log(a + sqrt(1 + a^2))."""
    return torch.asinh(a)


@numbers_too
def acosh(a: Tensor) -> Tensor:
    """log(a + sqrt(a^2 - 1)), a >= 1."""
    return torch.acosh(a)


@numbers_too
def atan(a: Tensor) -> Tensor:
    """The angle in (-pi/2, pi/2) whose tangent is a."""
    return torch.atan(a)


@numbers_too
def sin(a: Tensor) -> Tensor:
    """Sine."""
    return torch.sin(a)


@numbers_too
def cos(a: Tensor) -> Tensor:
    """Cosine."""
    return torch.cos(a)


@numbers_too
def erfc(a: Tensor) -> Tensor:
    """1 - erf(a) (through float64, as erf)."""
    return torch.erfc(a.double()).to(a.dtype)


@numbers_too
def logcosh(a: Tensor) -> Tensor:
    """log((e^a + e^-a) / 2)."""
    size = a.abs()
    t = size.clamp_max(1.0).expm1_()
    near = (t * t).div_(t.add_(1.0).mul_(2.0)).log1p_()  # of cosh a - 1
    far = size.mul(-2.0).exp_().log1p_().add_(size - LN2)
    return torch.where(size < 1.0, near, far)


@numbers_too
def lgamma(a: Tensor) -> Tensor:
    """log(gamma(a)), a >= 0."""
    return torch.lgamma(a).masked_fill_(a < 0.0, math.nan)


@numbers_too
def digamma(a: Tensor) -> Tensor:
    """The derivative of lgamma, a >= 0 (through float64, which has its digits beside its zero)."""
    return torch.digamma(a.double()).to(a.dtype).masked_fill(a < 0.0, math.nan)


@numbers_too
def polygamma(n: Tensor, a: Tensor) -> Tensor:
    """The n-th derivative of digamma, a >= 0; n is one number. torch.polygamma(1, a) of float64 has
    nine digits, and NaN at infinity for larger n; Hurwitz' zeta function has neither fault."""
    order = int(n)
    size = -math.factorial(order) * (-1.0) ** order
    series = torch.special.zeta(order + 1.0, a).mul_(size)
    return series.masked_fill_(a < 0.0, math.nan).masked_fill_(a == math.inf, 0.0)
