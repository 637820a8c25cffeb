"""The divergence of two Bernoulli distributions by their log-odds, without cancellation.

    B = P·log(P/P') + Q·log(Q/Q')       P = sigmoid(-z), Q = sigmoid(z)
      = log1p(u) - u + Q·(expm1(a) - a)      u = Q·expm1(a), a = z' - z     where |a| < 1, z < 0

and of P and -a where z >= 0: second order in a from the start.  A half of probability 0 adds 0.
"""

from __future__ import annotations

from sympy import Expr

from lossgen.ir.ops import OPS

__all__ = ["bernoulli"]

_f = {name: op.symbol for name, op in OPS.items()}


def bernoulli(z: Expr, other: Expr) -> Expr:
    """B of log-odds z against a of the target from log-odds ``other``, in the vocabulary."""
    apart = other - z
    near = _f["clip"](apart, -1, 1)
    low, high = (_close(_f["sigmoid"](s * z), s * near) for s in (1, -1))
    close = _f["where"](_f["lt"](z, 0), low, high)
    far = _half(z, other) + _half(-z, -other)
    return _f["where"](_f["lt"](_f["absf"](apart), 1), close, far)


def _close(half: Expr, a: Expr) -> Expr:
    return _f["log1pmx"](half * _f["expm1"](a)) + half * _f["expm1x"](a)


def _half(z: Expr, other: Expr) -> Expr:
    """P·log(P/P')"""
    half, softplus = _f["sigmoid"](-z), _f["softplus"]
    return _f["where"](_f["ne"](half, 0), half * (softplus(other) - softplus(z)), 0)
