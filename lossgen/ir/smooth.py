"""The smooth functions of the elementwise vocabulary.

Each is total over its domain, ±inf included, where its composition from exp and log would
overflow, cancel or give NaN.  Some derivatives have a removable singularity (at a = 0 for exprel
and recipexpm1x, at q = 1 for geometric): the compiler differentiates first and stabilises after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy
from sympy import Expr, S, exp, log, oo
from sympy.core.function import ArgumentIndexError

from lossgen.ir.function import Binary, SignOfArgument, Unary
from lossgen.ir.piecewise import eq, where

__all__ = [
    "cloglog",
    "erf",
    "expm1",
    "expm1div",
    "expm1x",
    "exprel",
    "geometric",
    "log1mexp",
    "log1p",
    "log1pmx",
    "logaddexp",
    "logsoftplus",
    "mercator",
    "recipexpm1x",
    "safe_rsqrt",
    "sech2",
    "sigmoid",
    "sigrel",
    "softcap",
    "softplus",
    "sprel",
    "tanh",
    "xlogy",
]


class softplus(Unary):
    """log(1 + e^a)."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: log(2)}

    def partial(self, i: int) -> Expr:
        return sigmoid(self.args[0])


class sigmoid(Unary):
    """1 / (1 + e^-a)."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Half}

    def partial(self, i: int) -> Expr:
        return sigmoid(self.args[0]) * sigmoid(-self.args[0])


class log1mexp(Unary):
    """log(1 - e^-a) for a >= 0: -inf at 0, 0 at inf."""

    is_nonpositive = True

    def partial(self, i: int) -> Expr:
        return recipexpm1x(self.args[0]) / self.args[0]


class exprel(Unary):
    """(e^a - 1) / a: 1 at 0, 0 at -inf."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        a = self.args[0]
        return (exp(a) - exprel(a)) / a


class expm1div(SignOfArgument, Binary):
    """(e^(c v) - 1) / c, the Box-Cox transform of e^v: v at c = 0, -1/c at c v = -inf."""

    @classmethod
    def eval(cls, v: Expr, c: Expr) -> Expr | None:
        if c == 0 or v == 0:
            return v
        return exp(v) - 1 if c == 1 and v.is_number else None

    def partial(self, i: int) -> Expr:
        v, c = self.args
        return exp(c * v) if i == 0 else (v * exp(c * v) - expm1div(v, c)) / c


class recipexpm1x(Unary):
    """a / (e^a - 1): 1 at 0, 0 at inf."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        a = self.args[0]
        return recipexpm1x(a) * (1 - recipexpm1x(-a)) / a


class cloglog(Unary):
    """log(1 - exp(-e^a)): tends to a for a -> -inf and to 0 for a -> inf."""

    is_nonpositive = True

    def partial(self, i: int) -> Expr:
        return recipexpm1x(exp(self.args[0]))


class logsoftplus(Unary):
    """log(softplus(a)): tends to a for a -> -inf."""

    def partial(self, i: int) -> Expr:
        a = self.args[0]
        return exp(-softplus(-a) - logsoftplus(a))


class sprel(Unary):
    """softplus(a) e^-a = log1p(w)/w with w = e^a: 1 at -inf, 0 at inf."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: log(2)}

    def partial(self, i: int) -> Expr:
        return sigmoid(-self.args[0]) - sprel(self.args[0])


class sigrel(Unary):
    """sigmoid(a) / softplus(a): 1 at -inf, 0 at inf."""

    is_positive = True

    def partial(self, i: int) -> Expr:
        a = self.args[0]
        return sigrel(a) * (sigmoid(-a) - sigrel(a))


class sech2(Unary):
    """1 / cosh(a)^2 = 1 - tanh(a)^2."""

    is_positive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.One}

    def partial(self, i: int) -> Expr:
        return -2 * tanh(self.args[0]) * sech2(self.args[0])


class expm1(SignOfArgument, Unary):
    """e^a - 1."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return exp(self.args[0])


class log1p(SignOfArgument, Unary):
    """log(1 + a) for a >= -1."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return 1 / (1 + self.args[0])


class tanh(SignOfArgument, Unary):
    """Hyperbolic tangent, with sech2 as its derivative."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return sech2(self.args[0])


class erf(SignOfArgument, Unary):
    """Error function."""

    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return 2 / sympy.sqrt(sympy.pi) * exp(-(self.args[0] ** 2))


class expm1x(Unary):
    """e^a - 1 - a."""

    is_nonnegative = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return expm1(self.args[0])


class log1pmx(Unary):
    """log(1 + a) - a for a >= -1."""

    is_nonpositive = True
    exact: ClassVar[Mapping[Expr, Expr]] = {S.Zero: S.Zero}

    def partial(self, i: int) -> Expr:
        return -self.args[0] / (1 + self.args[0])


class safe_rsqrt(Unary):
    """1 / sqrt(a) for a > 0, and 0 at a = 0."""

    is_nonnegative = True

    def partial(self, i: int) -> Expr:
        return -(safe_rsqrt(self.args[0]) ** 3) / 2


class softcap(SignOfArgument, Binary):
    """c tanh(x / c) for c > 0; x itself for c = inf."""

    @classmethod
    def eval(cls, x: Expr, c: Expr) -> Expr | None:
        return x if c == oo or x == 0 else None

    def partial(self, i: int) -> Expr:
        r = self.args[0] / self.args[1]
        if i == 0:  # a masked class is not capped either: -∞/∞ is nothing
            return where(eq(self.args[1], oo), 1, sech2(r))
        return tanh(r) - r * sech2(r)


class _Series(Binary):
    """A sum of powers of q whose number of terms is the integer t, 1 <= t <= 16."""

    def fdiff(self, argindex: int = 1) -> Expr:
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return self.partial(0)

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        return True if self.args[0].is_positive else None


class mercator(_Series):
    """q + q^2/2 + ... + q^t/t, the first t terms of -log(1 - q)."""

    def partial(self, i: int) -> Expr:
        return geometric(*self.args)


class geometric(_Series):
    """1 + q + ... + q^(t - 1)."""

    def partial(self, i: int) -> Expr:
        q, t = self.args
        return (geometric(q, t) - t * q ** (t - 1)) / (1 - q)


class xlogy(Binary):
    """a log(b) for b >= 0, and 0 at a = 0."""

    def partial(self, i: int) -> Expr:
        a, b = self.args
        return log(b) if i == 0 else a / b


class logaddexp(Binary):
    """log(e^a + e^b)."""

    def partial(self, i: int) -> Expr:
        return sigmoid(self.args[i] - self.args[1 - i])
