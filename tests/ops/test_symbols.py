"""The SymPy side of the vocabulary: derivatives, signs, exact values."""

from __future__ import annotations

import itertools

import mpmath as mp
import pytest
import sympy
from sympy import oo

from lossgen.ir import ops
from lossgen.ir.numeric import MPMATH
from lossgen.ir.ops import OPS

A, B, C = sympy.symbols("a b c", real=True)
POSITIVE = sympy.Symbol("s", positive=True)
SMOOTH_POINTS = (-7.5, -0.6, 0.35, 2.25)
FLAT = {"stop_gradient", "step", "sgn", "above", "inrange", "lt", "le", "eq", "ne"}
ALLOWED = (*(op.symbol for op in OPS.values()), sympy.exp, sympy.log)


def _rows(name):
    """Points inside the domain, away from kinks."""
    op = OPS[name]
    if name in ("mercator", "geometric"):
        return [(q, t) for q in (0.2, 0.9) for t in (1, 2, 7)]
    if name == "polygamma":
        return [(n, a) for n in (1, 2, 7) for a in (0.35, 2.25)]
    if name == "where":
        return [(c, a, b) for c in (0, 1) for a, b in itertools.permutations(SMOOTH_POINTS, 2)]
    if name in ("clip", "inrange"):
        return [row for row in itertools.permutations(SMOOTH_POINTS, 3) if row[1] < row[2]]
    choices = [[v for v in SMOOTH_POINTS if lo < v < hi] for lo, hi in op.domain]
    return [row for row in itertools.product(*choices) if len(set(row)) == len(row)]


@pytest.mark.parametrize("name", sorted(OPS))
def test_derivative_is_right_and_inside_the_vocabulary(name):
    op = OPS[name]
    symbols = (A, B, C)[: op.arity]
    expression = op.symbol(*symbols)
    for i, symbol in enumerate(symbols):
        if (name, i) in (("mercator", 1), ("geometric", 1), ("where", 0), ("polygamma", 0)):
            continue
        derivative = expression.diff(symbol)
        functions = derivative.atoms(sympy.Function)
        assert all(isinstance(f, ALLOWED) for f in functions), derivative
        assert not derivative.has(sympy.Derivative, sympy.Piecewise, sympy.Heaviside)
        if name in FLAT:
            assert derivative == 0
            continue
        formula = sympy.lambdify(symbols, derivative, modules=[MPMATH, "mpmath"])
        for row in _rows(name):
            with mp.workdps(40):
                x = [mp.mpf(v) for v in row]
                got = formula(*x)
                want = mp.diff(lambda v, x=x, i=i: op.mp(*x[:i], v, *x[i + 1 :]), x[i])
            assert got == pytest.approx(want, rel=1e-18, abs=1e-25), (row, symbol, derivative)


def test_number_of_terms_has_no_derivative():
    for kind in (ops.mercator, ops.geometric):
        with pytest.raises(sympy.core.function.ArgumentIndexError):
            kind(A, B).fdiff(2)


def test_derivatives_at_kinks_follow_torch():
    assert ops.relu(A).diff(A).subs(A, 0) == 0
    assert ops.absf(A).diff(A).subs(A, 0) == 0
    assert ops.minimum(A, B).diff(A).subs({A: 2, B: 2}) == sympy.Rational(1, 2)
    assert ops.maximum(A, B).diff(B).subs({A: 2, B: 2}) == sympy.Rational(1, 2)


def test_where_differentiates_only_its_branches():
    condition = ops.compare("<", A, 0)
    got = ops.where(condition, A**2, ops.tanh(A)).diff(A)
    assert got == ops.where(condition, 2 * A, ops.sech2(A))


@pytest.mark.parametrize(
    ("op", "kind", "swapped"),
    [
        ("<", ops.lt, False),
        ("<=", ops.le, False),
        (">", ops.lt, True),
        (">=", ops.le, True),
        ("==", ops.eq, False),
        ("!=", ops.ne, False),
    ],
)
def test_compare(op, kind, swapped):
    assert ops.compare(op, A, B) == (kind(B, A) if swapped else kind(A, B))
    assert ops.compare(op, sympy.Integer(1), sympy.Integer(2)) == int(eval(f"1 {op} 2"))


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "exprel", "recipexpm1x", "sprel", "sech2"])
def test_always_positive(name):
    assert OPS[name].symbol(A).is_positive is True


@pytest.mark.parametrize(
    "name",
    ["relu", "absf", "expm1x", "safe_rsqrt", "step", "lt", "le", "eq", "ne", "above", "inrange"],
)
def test_always_nonnegative(name):
    op = OPS[name]
    assert op.symbol(*(A, B, C)[: op.arity]).is_nonnegative is True


@pytest.mark.parametrize("name", ["log1mexp", "cloglog", "log1pmx"])
def test_always_nonpositive(name):
    assert OPS[name].symbol(A).is_nonpositive is True


@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh", "erf", "sgn", "stop_gradient"])
def test_sign_of_the_argument(name):
    symbol = OPS[name].symbol
    assert symbol(POSITIVE).is_positive is True
    assert symbol(-POSITIVE).is_negative is True
    assert symbol(A).is_positive is None


def test_signs_of_combinations():
    s = POSITIVE
    assert ops.softcap(-s, s).is_negative is True
    assert ops.mercator(s, A).is_positive is True
    assert ops.where(A, s, s + 1).is_positive is True
    assert ops.where(A, s, -s).is_positive is None
    assert ops.minimum(s, s + 1).is_positive is True
    assert ops.minimum(A, -s).is_negative is True
    assert ops.maximum(A, s).is_positive is True
    assert ops.clip(A, s, s + 1).is_positive is True
    assert ops.clip(A, B, -s).is_nonpositive is True


@pytest.mark.parametrize("name", sorted(OPS))
def test_real_documented_and_of_the_right_arity(name):
    op = OPS[name]
    symbols = sympy.symbols("u v w", real=True)[: op.arity]
    assert op.symbol(*symbols).is_real is True
    assert op.doc.endswith((".", "0"))
    with pytest.raises(TypeError):
        op.symbol(*symbols, A)


def test_exact_values():
    half = sympy.Rational(1, 2)
    assert ops.softplus(0) == sympy.log(2)
    assert ops.sigmoid(0) == half
    assert (ops.exprel(0), ops.recipexpm1x(0), ops.sech2(0)) == (1, 1, 1)
    assert (ops.expm1(0), ops.log1p(0), ops.tanh(0), ops.erf(0)) == (0, 0, 0, 0)
    assert (ops.relu(-half), ops.absf(-half), ops.sgn(-half), ops.step(0)) == (0, half, -1, half)
    assert (ops.minimum(1, 2), ops.maximum(1, 2), ops.minimum(A, A)) == (1, 2, A)
    assert (ops.where(1, A, B), ops.where(0, A, B), ops.where(C, A, A)) == (A, B, A)
    assert ops.softcap(A, oo) == A
    assert ops.stop_gradient(sympy.pi) == sympy.pi
    assert ops.log_sigmoid(A) == -ops.softplus(-A)


def test_evaluates_numerically_at_any_precision():
    with mp.workdps(40):
        want = mp.log1p(mp.exp(mp.mpf(1) / 3))
        got = ops.softplus(sympy.Rational(1, 3)).evalf(35)
        assert abs(mp.mpf(str(got)) - want) < mp.mpf(10) ** -34
