/* The vocabulary, continued: circular and hyperbolic functions, erfc, log cosh, those of the gamma
   function.  Included at the end of vocabulary.h, once for each type; BY_TYPE is in row.h. */

#if REAL_IS_FLOAT

#define f_acosh(a) BY_TYPE(acosh, a)(a)
#define f_asinh(a) BY_TYPE(asinh, a)(a)
#define f_atan(a) BY_TYPE(atan, a)(a)
#define f_cos(a) BY_TYPE(cos, a)(a)
#define f_cosh(a) BY_TYPE(cosh, a)(a)
#define f_digamma(a) BY_TYPE(digamma, a)(a)
#define f_erfc(a) BY_TYPE(erfc, a)(a)
#define f_lgamma(a) BY_TYPE(lgamma, a)(a)
#define f_logcosh(a) BY_TYPE(logcosh, a)(a)
#define f_polygamma(n, a) BY_TYPE(polygamma, a)(n, a)
#define f_sin(a) BY_TYPE(sin, a)(a)
#define f_sinh(a) BY_TYPE(sinh, a)(a)

OPERATION FN(cosh)(REAL a) { /* e^|a| overflows before cosh a does */
    const float half = FN(exp)(0.5f * fabsf(a));
    return (0.5f * half) * half + 0.5f / (half * half);
}

OPERATION FN(sinh)(REAL a) {
    const float size = fabsf(a), near = FN(expm1)(size), half = FN(exp)(0.5f * size);
    const float y = size > 80.0f ? (0.5f * half) * half : 0.5f * (near + near / (1.0f + near));
    return a < 0.0f ? -y : y;
}

OPERATION FN(asinh)(REAL a) {
    const float size = fabsf(a), a2 = a * a;
    const float near = FN(log1p)(size + a2 / (1.0f + sqrtf(1.0f + a2)));
    const float y = size > 1e9f ? FN(log)(size) + 0.6931471805599453f : near;
    return a < 0.0f ? -y : y;
}

OPERATION FN(acosh)(REAL a) {
    const float t = a - 1.0f, near = FN(log1p)(t + sqrtf(t) * sqrtf(t + 2.0f));
    const float y = a > 1e9f ? FN(log)(a) + 0.6931471805599453f : near;
    return a < 1.0f ? NAN : y;
}

OPERATION FN(atan)(REAL a) { /* pi/2 - atan(1/a), pi/4 + atan((a - 1)/(a + 1)): |z| <= tan(pi/8) */
    const float size = fabsf(a);
    const int high = size > 2.414213562373095f, middle = size > 0.4142135623730950f;
    const float above = high ? -1.0f : middle ? size - 1.0f : size;
    const float below = high ? size : middle ? size + 1.0f : 1.0f;
    const float z = above / below, z2 = z * z;
    float p = 8.05374449538e-2f;
    p = FMA(p, z2, -1.38776856032e-1f);
    p = FMA(p, z2, 1.99777106478e-1f);
    p = FMA(p, z2, -3.33329491539e-1f);
    const float base = high ? 1.5707963267948966f : middle ? 0.7853981633974483f : 0.0f;
    const float y = base + FMA(p * z2, z, z);
    return a < 0.0f ? -y : y;
}

/* The angle's multiple of pi/2 is taken off in double; quarter 0 is sine, 1 cosine, 2 and 3 their
   opposites. */
OPERATION sine_of(REAL a, int64_t quarter) {
    const double shifted = (double)a * 0.6366197723675814 + 6755399441055744.0;
    const double n = shifted - 6755399441055744.0;
    const double rest = ((double)a - n * 1.5707963267341256) - n * 6.077100506506192e-11;
    const double r = rest > 0.8 ? 0.8 : rest < -0.8 ? -0.8 : rest;
    int64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    const int64_t at = bits + quarter;
    const float x = (float)r, x2 = x * x;
    float s = -1.9515295891e-4f;
    s = FMA(s, x2, 8.3321608736e-3f);
    s = FMA(s, x2, -1.6666654611e-1f);
    s = FMA(s * x2, x, x);
    float c = 2.443315711809948e-5f;
    c = FMA(c, x2, -1.388731625493765e-3f);
    c = FMA(c, x2, 4.166664568298827e-2f);
    c = FMA(c * x2, x2, FMA(x2, -0.5f, 1.0f));
    const float y = at & 1 ? c : s;
    return at & 2 ? -y : y;
}

OPERATION FN(sin)(REAL a) { return sine_of(a, 0); }
OPERATION FN(cos)(REAL a) { return sine_of(a, 1); }

OPERATION FN(erfc)(REAL a) { /* minimax: erfc(a) e^(a^2) (1 + 2a) in (a - 2)/(a + 2) */
    const float size = fabsf(a) > 10.0f ? 10.0f : fabsf(a), t = (size - 2.0f) / (size + 2.0f);
    float p = 1.1783392437791917e-05f;
    p = FMA(p, t, -0.00039429974276572466f);
    p = FMA(p, t, -0.001255810959264636f);
    p = FMA(p, t, 0.0012988019734621048f);
    p = FMA(p, t, 0.008647440932691097f);
    p = FMA(p, t, -0.008051899261772633f);
    p = FMA(p, t, -0.054208047688007355f);
    p = FMA(p, t, 0.16405396163463593f);
    p = FMA(p, t, -0.1660311073064804f);
    p = FMA(p, t, -0.09276392310857773f);
    p = FMA(p, t, 1.2769783735275269f);
    const float far = FN(exp_below)(-(size * size)) * (p / FMA(2.0f, size, 1.0f));
    const float tail = size < 10.0f ? far : far != far ? far : 0.0f;
    return a < 0.0f ? 2.0f - tail : tail;
}

#else

OPERATION FN(cosh)(REAL a) { return cosh(a); }
OPERATION FN(sinh)(REAL a) { return sinh(a); }
OPERATION FN(asinh)(REAL a) { return asinh(a); }
OPERATION FN(acosh)(REAL a) { return acosh(a); }
OPERATION FN(atan)(REAL a) { return atan(a); }
OPERATION FN(sin)(REAL a) { return sin(a); }
OPERATION FN(cos)(REAL a) { return cos(a); }
OPERATION FN(erfc)(REAL a) { return erfc(a); }

#endif

OPERATION FN(logcosh)(REAL a) {
    const REAL size = ABS(a), t = FN(expm1)(size > K(1) ? K(1) : size);
    const REAL near = FN(log1p)(t * t / (K(2) * (K(1) + t))); /* cosh a - 1 inside */
    const REAL far = size - K(0.6931471805599453) + FN(log1p)(FN(exp)(K(-2) * size));
    return size < K(1) ? near : far;
}

/* ------------------------------------------------------------------ the gamma function
   lgamma of C writes signgam, and no compiler makes vectors of it.  All coefficients of the quotients
   of polynomials are positive. */

/* (z - 1)(z - 2) times a quotient for 0.75 <= z <= 2.5, to which z + 1 and z - 1 lead; Stirling's
   series from 8. */
OPERATION FN(lgamma)(REAL a) {
    const int low = a < K(0.75), far = a >= K(8);
    REAL z = low ? a + K(1) : far ? K(2) : a, product = K(1);
    for (int k = 0; k < 6; ++k) {
        const int high = z >= K(2.5);
        z = high ? z - K(1) : z;
        product = high ? product * z : product;
    }
    REAL p = FMA(K(0.008291091015562402), z, K(3.8495085697831293));
    p = FMA(p, z, K(107.56958751281714));
    p = FMA(p, z, K(812.4653237768774));
    p = FMA(p, z, K(2218.8489436030804));
    p = FMA(p, z, K(2396.542690593807));
    p = FMA(p, z, K(1005.3508803679939));
    p = FMA(p, z, K(141.64052795062935));
    p = FMA(p, z, K(4.279715395820672));
    REAL q = z + K(47.15976075712922);
    q = FMA(q, z, K(561.3752321694636));
    q = FMA(q, z, K(2425.6735667905245));
    q = FMA(q, z, K(4309.7597143780295));
    q = FMA(q, z, K(3215.025433385883));
    q = FMA(q, z, K(940.0879260820468));
    q = FMA(q, z, K(89.38521338862839));
    q = FMA(q, z, K(1.6175183750145912));
    const REAL above_one = low ? a : z - K(1); /* exact */
    const REAL near = above_one * (above_one - K(1)) * (p / q);
    const REAL w = far ? a : K(8), r = K(1) / w, r2 = r * r;
    const REAL logarithm = FN(log)(low || far ? a : product);
    REAL s = FMA(K(-0.029550653594771242), r2, K(0.00641025641025641));
    s = FMA(s, r2, K(-0.0019175269175269176));
    s = FMA(s, r2, K(0.0008417508417508417));
    s = FMA(s, r2, K(-0.0005952380952380953));
    s = FMA(s, r2, K(0.0007936507936507937));
    s = FMA(s, r2, K(-0.002777777777777778));
    s = FMA(s, r2, K(0.08333333333333333));
    const REAL stirling = (w - K(0.5)) * (logarithm - K(1)) + FMA(s, r, K(0.4189385332046727));
    return far ? stirling : near + (low ? -logarithm : logarithm);
}

/* Its zero times a quotient for 1 <= z <= 4, the logarithm and a series of a + 4 above. */
OPERATION FN(digamma)(REAL a) {
    const int low = a < K(1), far = a >= K(4);
    const REAL z = low ? a + K(1) : far ? K(4) : a;
    REAL p = FMA(K(0.0051705927765805385), z, K(5.327910469928194));
    p = FMA(p, z, K(291.62510295557286));
    p = FMA(p, z, K(4561.17146876152));
    p = FMA(p, z, K(27766.65260695553));
    p = FMA(p, z, K(71897.2553987721));
    p = FMA(p, z, K(74897.87308637952));
    p = FMA(p, z, K(22757.186829709768));
    REAL q = z + K(78.85003782621173);
    q = FMA(q, z, K(1650.3709760488532));
    q = FMA(q, z, K(13250.586591108558));
    q = FMA(q, z, K(45932.80963040824));
    q = FMA(q, z, K(67516.2555533541));
    q = FMA(q, z, K(33262.632695654116));
    q = FMA(q, z, K(0.00026691275827835494));
    const REAL above_zero = ((low ? a : z - K(1)) - K(0.4616321325302124)) - K(1.2438149938918909e-08);
    const REAL near = above_zero * (p / q) - (low ? K(1) / a : K(0));
    const REAL b = far ? a > K(1e15) ? K(1e15) : a : K(4), v = b * (b + K(3));
    const REAL below = (K(2) * b + K(3)) * (K(1) / v + K(1) / (v + K(2)));
    const REAL w = (far ? a : K(4)) + K(4), r = K(1) / w, r2 = r * r;
    REAL s = FMA(K(3.0539543302701198), r2, K(-0.4432598039215686));
    s = FMA(s, r2, K(0.08333333333333333));
    s = FMA(s, r2, K(-0.021092796092796094));
    s = FMA(s, r2, K(0.007575757575757576));
    s = FMA(s, r2, K(-0.004166666666666667));
    s = FMA(s, r2, K(0.003968253968253968));
    s = FMA(s, r2, K(-0.008333333333333333));
    s = FMA(s, r2, K(0.08333333333333333));
    const REAL series = FN(log)(w) - (FMA(K(0.5), r, s * r2) + below);
    return a < K(0) ? NAN : far ? series : near;
}

/* -(-1)^n n! times Hurwitz' zeta function of n + 1 and a: eight terms, and the series of Euler and
   Maclaurin. */
OPERATION FN(polygamma)(REAL n, REAL a) {
    const int order = (int)n;
    REAL r = K(1) / (a + K(8)), power = K(1), sign = K(-1);
    for (int k = 1; k <= order; ++k) {
        power *= r;
        sign *= K(-k);
    }
    const REAL r2 = r * r;
    REAL e = power * r, total = power / n + K(0.5) * e;
    e *= r * (n + K(1));
    total += K(0.08333333333333333) * e;
    e *= r2 * ((n + K(2)) * (n + K(3)));
    total += K(-0.001388888888888889) * e;
    e *= r2 * ((n + K(4)) * (n + K(5)));
    total += K(3.306878306878307e-05) * e;
    e *= r2 * ((n + K(6)) * (n + K(7)));
    total += K(-8.267195767195768e-07) * e;
    e *= r2 * ((n + K(8)) * (n + K(9)));
    total += K(2.08767569878681e-08) * e;
    e *= r2 * ((n + K(10)) * (n + K(11)));
    total += K(-5.284190138687493e-10) * e;
    e *= r2 * ((n + K(12)) * (n + K(13)));
    total += K(1.3382536530684679e-11) * e;
    e *= r2 * ((n + K(14)) * (n + K(15)));
    total += K(-3.3896802963225827e-13) * e;
    for (int k = 7; k >= 0; --k) {
        REAL term = r = K(1) / (a + K(k));
        for (int i = 0; i < order; ++i) term *= r;
        total += term;
    }
    return a < K(0) ? NAN : sign * total;
}
