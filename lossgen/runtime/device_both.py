"""The elementwise vocabulary as Triton device functions, continued: what is right in float32 and in
float64 alike, as all coefficients are.  :mod:`lossgen.runtime.device` and
:mod:`lossgen.runtime.device64` have these functions as their own.

The quotients of polynomials have positive coefficients: nothing cancels in them.
"""

from __future__ import annotations

from lossgen.runtime.primitives import jit, tl

__all__ = ["digamma", "lgamma", "polygamma"]

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


@jit
def lgamma(a):
    """log(gamma(a)), a >= 0: (z - 1)(z - 2) times a quotient for 0.75 <= z <= 2.5, to which the
    recurrence leads; Stirling's series from 8; 2.7 ulp of the value itself."""
    low = a < 0.75
    far = a >= 8.0
    z = tl.where(low, a + 1.0, tl.where(far, 2.0, a))
    product = tl.where(z == z, 1.0, z)
    for _ in tl.static_range(6):
        high = z >= 2.5
        z = tl.where(high, z - 1.0, z)
        product = tl.where(high, product * z, product)
    p = z * 0.008291091015562402 + 3.8495085697831293
    p = p * z + 107.56958751281714
    p = p * z + 812.4653237768774
    p = p * z + 2218.8489436030804
    p = p * z + 2396.542690593807
    p = p * z + 1005.3508803679939
    p = p * z + 141.64052795062935
    p = p * z + 4.279715395820672
    q = z + 47.15976075712922
    q = q * z + 561.3752321694636
    q = q * z + 2425.6735667905245
    q = q * z + 4309.7597143780295
    q = q * z + 3215.025433385883
    q = q * z + 940.0879260820468
    q = q * z + 89.38521338862839
    q = q * z + 1.6175183750145912
    above_one = tl.where(low, a, z - 1.0)  # exact
    near = above_one * (above_one - 1.0) * (p / q)
    near = near + tl.where(low, -1.0, 1.0) * tl.log(tl.where(low, a, product))
    w = tl.where(far, a, 8.0)
    r = 1.0 / w
    r2 = r * r
    s = r2 * -0.029550653594771242 + 0.00641025641025641
    s = s * r2 + -0.0019175269175269176
    s = s * r2 + 0.0008417508417508417
    s = s * r2 + -0.0005952380952380953
    s = s * r2 + 0.0007936507936507937
    s = s * r2 + -0.002777777777777778
    s = s * r2 + 0.08333333333333333
    stirling = (w - 0.5) * (tl.log(w) - 1.0) + (s * r + 0.4189385332046727)
    return tl.where(far, stirling, near)


@jit
def digamma(a):
    """The derivative of lgamma, a >= 0: z less its zero, times a quotient for 1 <= z <= 4, and the
    logarithm and a series of a + 4 above; 2.3 ulp of the value itself."""
    low = a < 1.0
    far = a >= 4.0
    z = tl.where(low, a + 1.0, tl.where(far, 4.0, a))
    p = z * 0.0051705927765805385 + 5.327910469928194
    p = p * z + 291.62510295557286
    p = p * z + 4561.17146876152
    p = p * z + 27766.65260695553
    p = p * z + 71897.2553987721
    p = p * z + 74897.87308637952
    p = p * z + 22757.186829709768
    q = z + 78.85003782621173
    q = q * z + 1650.3709760488532
    q = q * z + 13250.586591108558
    q = q * z + 45932.80963040824
    q = q * z + 67516.2555533541
    q = q * z + 33262.632695654116
    q = q * z + 0.00026691275827835494
    above_zero = (tl.where(low, a, z - 1.0) - 0.4616321325302124) - 1.2438149938918909e-08
    near = above_zero * (p / q)
    near = tl.where(low, near - 1.0 / a, near)
    b = tl.where(far, tl.where(a > 1e15, 1e15, a), 4.0)
    v = b * (b + 3.0)
    below = (2.0 * b + 3.0) * (1.0 / v + 1.0 / (v + 2.0))
    w = tl.where(far, a, 4.0) + 4.0
    r = 1.0 / w
    r2 = r * r
    s = r2 * 3.0539543302701198 + -0.4432598039215686
    s = s * r2 + 0.08333333333333333
    s = s * r2 + -0.021092796092796094
    s = s * r2 + 0.007575757575757576
    s = s * r2 + -0.004166666666666667
    s = s * r2 + 0.003968253968253968
    s = s * r2 + -0.008333333333333333
    s = s * r2 + 0.08333333333333333
    series = tl.log(w) - (0.5 * r + s * r2 + below)
    return tl.where(a < 0.0, float("nan"), tl.where(far, series, near))


@jit
def polygamma(n, a):
    """The n-th derivative of digamma, a >= 0, 1 <= n <= 8: -(-1)^n n! times Hurwitz' zeta function
    of n + 1 and a, as eight terms and the series of Euler and Maclaurin; 2.1 ulp for n = 1."""
    r = 1.0 / (a + 8.0)
    power = tl.where(a == a, 1.0, a)
    sign = -power
    for k in tl.static_range(8):
        power = tl.where(k < n, power * r, power)
        sign = tl.where(k < n, sign * (-1.0 - k), sign)
    e = power * r
    total = power / n + 0.5 * e
    e = e * r * (n + 1.0)
    r2 = r * r
    total = total + 0.08333333333333333 * e
    e = e * r2 * ((n + 2.0) * (n + 3.0))
    total = total + -0.001388888888888889 * e
    e = e * r2 * ((n + 4.0) * (n + 5.0))
    total = total + 3.306878306878307e-05 * e
    e = e * r2 * ((n + 6.0) * (n + 7.0))
    total = total + -8.267195767195768e-07 * e
    e = e * r2 * ((n + 8.0) * (n + 9.0))
    total = total + 2.08767569878681e-08 * e
    e = e * r2 * ((n + 10.0) * (n + 11.0))
    total = total + -5.284190138687493e-10 * e
    e = e * r2 * ((n + 12.0) * (n + 13.0))
    total = total + 1.3382536530684679e-11 * e
    e = e * r2 * ((n + 14.0) * (n + 15.0))
    total = total + -3.3896802963225827e-13 * e
    for k in tl.static_range(8):
        r = 1.0 / (a + (7.0 - k))
        e = r
        for i in tl.static_range(8):
            e = tl.where(i < n, e * r, e)
        total = total + e
    return tl.where(a < 0.0, float("nan"), sign * total)
