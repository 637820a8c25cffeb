/* The same functions as float32.h in double: part of vocabulary.h. */

#define ABS fabs
#define COPYSIGN copysign
#define SQRT sqrt
#define EPSILON DBL_EPSILON
#ifdef FP_FAST_FMA
#define FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

/* x = n log 2 + r with |r| <= 0.347; n << 52 == bits << 52 */
#define SPLIT(x)                                               \
    const double shifted = FMA((x), 1.4426950408889634, 6755399441055744.0); \
    const double n = shifted - 6755399441055744.0;             \
    const double high = FMA(n, -0x1.62e42fefa0000p-1, (x));    \
    const double r = FMA(n, -0x1.cf79abc9e3b3ap-40, high);     \
    uint64_t bits;                                             \
    memcpy(&bits, &shifted, sizeof bits)

/* e^r - 1 for |r| <= 0.347: Taylor's, summed in pairs, as the next step waits for it. */
OPERATION expm1_reduced_double(REAL r) {
    const double r2 = r * r, r4 = r2 * r2;
    const double p2 = FMA(1.0 / 6.0, r, 0.5);
    const double p4 = FMA(1.0 / 120.0, r, 1.0 / 24.0);
    const double p6 = FMA(1.0 / 5040.0, r, 1.0 / 720.0);
    const double p8 = FMA(1.0 / 362880.0, r, 1.0 / 40320.0);
    const double p10 = FMA(1.0 / 39916800.0, r, 1.0 / 3628800.0);
    const double p12 = FMA(1.0 / 6227020800.0, r, 1.0 / 479001600.0);
    const double high = FMA(FMA(p12, r2, p10), r4, FMA(p8, r2, p6));
    return FMA(FMA(high, r4, FMA(p4, r2, p2)), r2, r);
}

OPERATION FN(exp)(REAL x) {
    const double inside = x > 710.0 ? 710.0 : x < -709.0 ? -709.0 : x;
    SPLIT(inside);
    double y = 1.0 + expm1_reduced_double(r);
    uint64_t raised;
    memcpy(&raised, &y, sizeof raised);
    raised += bits << 52;
    memcpy(&y, &raised, sizeof y);
    y = x > 709.782712893384 ? INFINITY : y;
    return x >= -708.3964185322641 ? y : x == x ? 0.0 : x;
}

OPERATION FN(exp_below)(REAL a) { return FN(exp)(a); }

/* For |x| <= 700: any other result is unspecified. */
OPERATION FN(expm1_within)(REAL x) {
    SPLIT(x);
    const uint64_t halved = (bits << 52) + (1022ull << 52); /* 2^(n - 1) */
    double scale;
    memcpy(&scale, &halved, sizeof scale);
    return 2.0 * FMA(expm1_reduced_double(r), scale, scale - 0.5);
}

OPERATION FN(expm1)(REAL x) {
    const double below = 710.0 < x ? 710.0 : x;
    return FN(expm1_within)(below < -40.0 ? -40.0 : below);
}

/* log(1 + m) = 2 atanh(s) for m in [-0.293, 0.415], s = m / (2 + m), |s| <= 0.172. */
OPERATION log1p_reduced_double(REAL m) {
    const double s = m / (2.0 + m), s2 = s * s, s4 = s2 * s2, s8 = s4 * s4;
    const double p0 = FMA(2.0 / 5.0, s2, 2.0 / 3.0);
    const double p2 = FMA(2.0 / 9.0, s2, 2.0 / 7.0);
    const double p4 = FMA(2.0 / 13.0, s2, 2.0 / 11.0);
    const double p6 = FMA(2.0 / 17.0, s2, 2.0 / 15.0);
    const double p8 = FMA(2.0 / 21.0, s2, 2.0 / 19.0);
    const double low = FMA(p2, s4, p0), high = FMA(p8, s8, FMA(p6, s4, p4));
    const double half = 0.5 * m * m, rest = s2 * FMA(high, s8, low);
    return m - (half - s * (half + rest));
}

OPERATION FN(log)(REAL x) {
    const double lift = x < DBL_MIN ? 18014398509481984.0 : 1.0, lifted = x < DBL_MIN ? 54.0 : 0.0;
    const double normal = x * lift;
    uint64_t bits;
    memcpy(&bits, &normal, sizeof bits);
    const int64_t exponent = (int64_t)(bits - 0x3fe6a09e667f3bcdull) >> 52;
    bits -= (uint64_t)exponent << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    const double n = (double)exponent - lifted;
    double y = FMA(n, 0x1.cf79abc9e3b3ap-40, log1p_reduced_double(m - 1.0));
    y = FMA(n, 0x1.62e42fefa0000p-1, y);
    y = x < INFINITY ? y : x;
    y = x == 0.0 ? -INFINITY : y;
    return x < 0.0 ? NAN : y;
}

OPERATION FN(log1p)(REAL x) { /* as in float */
    const double u = 1.0 + x;
    uint64_t bits;
    memcpy(&bits, &u, sizeof bits);
    const int64_t exponent = (int64_t)(bits - 0x3fe6a09e667f3bcdull) >> 52;
    const uint64_t inverse = (uint64_t)(1025 - exponent) << 52;
    double scale; /* 2^(2 - n), which is not subnormal */
    memcpy(&scale, &inverse, sizeof scale);
    const double n = (double)exponent, m = FMA(0.25 * x, scale, FMA(0.25, scale, -1.0));
    double y = FMA(n, 0x1.cf79abc9e3b3ap-40, log1p_reduced_double(m));
    y = FMA(n, 0x1.62e42fefa0000p-1, y);
    y = x < INFINITY ? y : x;
    y = x == -1.0 ? -INFINITY : y;
    return x < -1.0 ? NAN : y;
}

OPERATION FN(tanh)(REAL x) {
    const double a = fabs(x);
    const double t = FN(expm1)(-2.0 * (a > 30.0 ? 30.0 : a));
    const double y = -t / (t + 2.0);
    return x < 0.0 ? -y : y;
}

OPERATION FN(power)(REAL a, REAL b) { return pow(a, b); }
OPERATION FN(erf)(REAL a) { return erf(a); }

#undef SPLIT
