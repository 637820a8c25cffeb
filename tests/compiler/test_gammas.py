"""lgamma, digamma and polygamma in the certificate, and in formulas that no kernel computes."""

from __future__ import annotations

import gmpy2
import mpmath as mp
import pytest

from lossgen.emit.batch_formula import NotOfFewNumbers
from lossgen.emit.batch_formula import formula as text_of
from lossgen.ir.literal_rules import RULES
from lossgen.ir.reals import as_mpf, real, reals
from lossgen.spec.load import load_text

_WIDE = 15284  # bits of a row 10000 wide


def _value(name: str, a: mp.mpf, *order: int) -> mp.mpf:
    with reals():
        return as_mpf(RULES[name][0](*map(real, order), real(a)))


@pytest.mark.parametrize("whole", [1, 2, 7])
def test_what_is_left_beside_a_whole_number(whole):
    """A row is 1 + e^-3000 where its evidence is none: the truth is no 0."""
    with mp.workprec(_WIDE):
        beside = mp.exp(-3000)
        a = whole + beside
        shift = _value("lgamma", a) - mp.log(mp.factorial(whole - 1))
        slope = mp.digamma(mp.mpf(whole))
        apart = _value("digamma", a) - _value("digamma", mp.mpf(whole))
    with mp.workprec(600):
        if whole < 3:  # of others the whole part has 1024 bits
            assert abs(shift / beside / slope - 1) < mp.mpf(10) ** -100
        assert abs(apart / beside / mp.psi(1, whole) - 1) < mp.mpf(10) ** -100


@pytest.mark.parametrize("a", ["0.001", "1.3", "1.75", "40.1", "1e30"])
def test_enough_bits(a):
    with mp.workprec(_WIDE):
        given = mp.mpf(a)
        found = [_value("lgamma", given), _value("digamma", given), _value("polygamma", given, 2)]
    with mp.workprec(1100):
        exact = [mp.loggamma(given), mp.digamma(given), mp.psi(2, given)]
        for one, other in zip(found, exact, strict=True):
            assert abs(one / other - 1) < mp.mpf(10) ** -300


def test_below_zero_there_is_none():
    with reals():
        for name in ("lgamma", "digamma"):
            assert gmpy2.is_nan(RULES[name][0](real(-1.5)))
        assert gmpy2.is_nan(RULES["polygamma"][0](real(1), real(-1.5)))


_BATCH = """
name: b
let:
  count: batch_sum(p)
batch: {formula}
"""


def test_the_formula_of_a_batch_is_torchs():
    spec = load_text(_BATCH.format(formula="sum(lgamma(1 + count) - digamma(1 + count))"))
    text = text_of(spec)
    assert "torch.lgamma(" in text
    assert "torch.digamma(" in text


def test_no_order_in_the_formula_of_a_batch():
    spec = load_text(_BATCH.format(formula="sum(polygamma(1, 1 + count))"))
    with pytest.raises(NotOfFewNumbers, match=r"polygamma has no place in the formula of a batch"):
        text_of(spec)
