/* The elementwise vocabulary for one type: include with REAL and REAL_IS_FLOAT defined.

   Each function is total over its domain (infinities included; NaN in gives NaN out) and written
   without branches, so that loops over it vectorise.  In float nothing calls a library; in
   double all but exp comes from libm.  Bounds as in lossgen.runtime.elementwise:
   4 ulp (1 + condition number); results below 2^-125, about the smallest normal number, may be
   flushed to 0. */

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define FN(name) PASTE(name, REAL)
#define OPERATION static inline __attribute__((always_inline, unused)) REAL
#define K(c) ((REAL)(c))

/* ------------------------------------------------------------------ exp, expm1, log, log1p */
#if REAL_IS_FLOAT

#define ABS fabsf
#define COPYSIGN copysignf
#define SQRT sqrtf
#define EPSILON FLT_EPSILON
#ifdef FP_FAST_FMAF
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

/* x = n log 2 + r with |r| <= 0.347; n << 23 == bits << 23 */
#define SPLIT(x)                                               \
    const float shifted = FMA((x), 1.4426950408889634f, 12582912.0f); \
    const float n = shifted - 12582912.0f;                     \
    const float high = FMA(n, -0.693145751953125f, (x));       \
    const float r = FMA(n, -1.428606765330187e-06f, high);     \
    uint32_t bits;                                             \
    memcpy(&bits, &shifted, sizeof bits)

/* e^r - 1 for |r| <= 0.347: minimax.  Both polynomials are summed in pairs: short chains. */
OPERATION expm1_reduced(REAL r) {
    const float r2 = r * r;
    const float low = FMA(0.1666654348373413f, r, 0.4999999701976776f);
    const float high = FMA(0.008366595953702927f, r, 0.04166720062494278f);
    return FMA(FMA(FMA(0.001388250500895083f, r2, high), r2, low), r2, r);
}

/* 2^(n - 1), for n from -126 (then it is 0) to 128 */
OPERATION half_power(uint32_t bits) {
    const uint32_t halved = (bits << 23) + (126u << 23);
    float scale;
    memcpy(&scale, &halved, sizeof scale);
    return scale;
}

/* For x <= 0: any other result is unspecified. */
OPERATION FN(exp_below)(REAL x) {
    const float inside = x < -87.3f ? -87.3f : x; /* keeps NaN, as all bounds here do */
    SPLIT(inside);
    const float scale = half_power(bits);
    return 2.0f * FMA(expm1_reduced(r), scale, scale);
}

OPERATION FN(exp)(REAL x) {
    const float inside = 89.0f < x ? 89.0f : x;
    return FN(exp_below)(inside);
}

/* For |x| <= 80: any other result is unspecified. */
OPERATION FN(expm1_within)(REAL x) {
    SPLIT(x);
    const float scale = half_power(bits);
    return 2.0f * FMA(expm1_reduced(r), scale, scale - 0.5f);
}

OPERATION FN(expm1)(REAL x) {
    const float below = 89.0f < x ? 89.0f : x;
    return FN(expm1_within)(below < -18.0f ? -18.0f : below);
}

/* log(1 + m) for m in [-0.293, 0.415]: minimax */
OPERATION log1p_reduced(REAL m) {
    const float m2 = m * m, m3 = m2 * m, m4 = m2 * m2;
    const float p0 = FMA(-0.25000008940696716f, m, 0.3333333134651184f);
    const float p2 = FMA(-0.16667985916137695f, m, 0.2000211924314499f);
    const float p4 = FMA(-0.12405755370855331f, m, 0.1421951949596405f);
    const float p6 = FMA(-0.11674808710813522f, m, 0.11888600885868073f);
    const float high = FMA(0.06744550168514252f, m4, FMA(p6, m2, p4));
    return FMA(m3, FMA(high, m4, FMA(p2, m2, p0)), FMA(m2, -0.5f, m));
}

OPERATION FN(log)(REAL x) {
    const float lift = x < FLT_MIN ? 8388608.0f : 1.0f, lifted = x < FLT_MIN ? 23.0f : 0.0f;
    const float normal = x * lift;
    uint32_t bits;
    memcpy(&bits, &normal, sizeof bits);
    const int32_t exponent = (int32_t)(bits - 0x3f3504f3u) >> 23;
    bits -= (uint32_t)exponent << 23;
    float m;
    memcpy(&m, &bits, sizeof m);
    const float n = (float)exponent - lifted;
    float y = FMA(n, 1.428606765330187e-06f, log1p_reduced(m - 1.0f));
    y = FMA(n, 0.693145751953125f, y);
    y = x < INFINITY ? y : x;
    y = x == 0.0f ? -INFINITY : y;
    return x < 0.0f ? NAN : y;
}

OPERATION FN(log1p)(REAL x) { /* 1 + x = 2^n (1 + m), and m = x 2^-n + (2^-n - 1) in one rounding */
    const float u = 1.0f + x;
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    const int32_t exponent = (int32_t)(bits - 0x3f3504f3u) >> 23;
    const uint32_t inverse = (uint32_t)(129 - exponent) << 23;
    float scale; /* 2^(2 - n), which is not subnormal */
    memcpy(&scale, &inverse, sizeof scale);
    const float n = (float)exponent, m = FMA(0.25f * x, scale, FMA(0.25f, scale, -1.0f));
    float y = FMA(n, 1.428606765330187e-06f, log1p_reduced(m));
    y = FMA(n, 0.693145751953125f, y);
    y = x < INFINITY ? y : x;
    y = x == -1.0f ? -INFINITY : y;
    return x < -1.0f ? NAN : y;
}

OPERATION FN(tanh)(REAL x) {
    const float a = fabsf(x);
    const float t = FN(expm1)(-2.0f * (a > 20.0f ? 20.0f : a));
    const float y = -t / (t + 2.0f);
    return x < 0.0f ? -y : y;
}

/* a^b = 2^(b log2 |a|), in double: the exponent's error is multiplied by up to 128. */
OPERATION FN(power)(REAL a, REAL b) {
    const float size = fabsf(a);
    const float lift = size < FLT_MIN ? 8388608.0f : 1.0f, lifted = size < FLT_MIN ? 23.0f : 0.0f;
    const float normal = size * lift;
    uint32_t bits;
    memcpy(&bits, &normal, sizeof bits);
    const int32_t exponent = (int32_t)(bits - 0x3f3504f3u) >> 23;
    bits -= (uint32_t)exponent << 23;
    float m;
    memcpy(&m, &bits, sizeof m);
    const double s = ((double)m - 1.0) / ((double)m + 1.0), s2 = s * s; /* log m = 2 atanh s */
    double p = 0.2623081892525388;
    p = p * s2 + 0.3205988979753252;
    p = p * s2 + 0.4121985831111324;
    p = p * s2 + 0.5770780163555854;
    p = p * s2 + 0.9617966939259756;
    p = p * s2 + 2.8853900817779268;
    double log2 = p * s + (double)((float)exponent - lifted);
    log2 = size == 0.0f ? -1e30 : size == INFINITY ? 1e30 : log2;
    const double y = log2 == 0.0 ? 0.0 : (double)b * log2; /* 1^b = 1 */
    const double inside = y > 200.0 ? 200.0 : y < -200.0 ? -200.0 : y;
    const double shifted = inside + 6755399441055744.0;
    const double f = inside - (shifted - 6755399441055744.0);
    double e = 1.5252733804059838e-05;
    e = e * f + 0.00015403530393381606;
    e = e * f + 0.0013333558146428441;
    e = e * f + 0.009618129107628477;
    e = e * f + 0.055504108664821576;
    e = e * f + 0.2402265069591007;
    e = e * f + 0.6931471805599453;
    e = e * f + 1.0;
    uint64_t raised, n;
    memcpy(&n, &shifted, sizeof n);
    memcpy(&raised, &e, sizeof raised);
    raised += n << 52;
    memcpy(&e, &raised, sizeof e);
    const float far = fabsf(b) > 16777216.0f ? 16777216.0f : fabsf(b); /* and beyond: even */
    const int32_t whole = (int32_t)far, below = a < 0.0f;
    const float found = (float)e;
    uint32_t signed_bits;
    memcpy(&signed_bits, &found, sizeof signed_bits);
    signed_bits ^= (uint32_t)(whole & below) << 31;
    float power;
    memcpy(&power, &signed_bits, sizeof power);
    const int32_t unknown = (size != size) & (b != 0.0f);
    return unknown | (below & ((float)whole != far)) ? NAN : power;
}

/* Minimax: erf(a)/a - 1 in a^2 up to 1, and -log(1 - erf(a)) in a up to 4, where erf rounds to 1. */
OPERATION FN(erf)(REAL a) {
    const float size = fabsf(a) > 4.0f ? 4.0f : fabsf(a), a2 = a * a;
    float near = 7.853846909711137e-05f;
    near = FMA(near, a2, -0.0008010189048945904f);
    near = FMA(near, a2, 0.00518832728266716f);
    near = FMA(near, a2, -0.026853810995817184f);
    near = FMA(near, a2, 0.1128358542919159f);
    near = FMA(near, a2, -0.3761262595653534f);
    near = FMA(near, a2, 0.12837916612625122f);
    float far = -0.00018638273468241096f;
    far = FMA(far, size, 0.00294769206084311f);
    far = FMA(far, size, -0.021838195621967316f);
    far = FMA(far, size, 0.1031070202589035f);
    far = FMA(far, size, 0.6381445527076721f);
    far = FMA(far, size, 1.1270893812179565f);
    far = FMA(far, size, 0.0003414814709685743f);
    const float tail = 1.0f - FN(exp_below)(-far);
    return fabsf(a) < 1.0f ? FMA(near, a, a) : COPYSIGN(tail, a);
}

#undef SPLIT
#else

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
#endif

/* ------------------------------------------------------------------ what is made of them */
OPERATION FN(sqrt)(REAL a) { return SQRT(a); }

OPERATION FN(softplus)(REAL a) {
    return FN(log1p)(FN(exp)(-ABS(a))) + (a > K(0) ? a : K(0));
}

OPERATION FN(sigmoid)(REAL a) {
    const REAL e = FN(exp)(-ABS(a)), r = K(1) / (K(1) + e);
    return a < K(0) ? e * r : r;
}

OPERATION FN(log1mexp)(REAL a) {
    const int far = a > K(0.6931471805599453);
    const REAL e = -FN(exp)(-a), near = -FN(expm1)(-a);
    const REAL small = FN(log)(near), large = FN(log1p)(e);
    return far ? large : small;
}

OPERATION FN(exprel)(REAL a) { /* e^a overflows before e^a / a does */
    const REAL b = a > K(1e30) ? K(1e30) : a, half = FN(exp)(K(0.5) * b);
    const REAL near = b == K(0) ? K(1) : FN(expm1)(b) / b;
    return b > K(80) ? half / b * half : near;
}

OPERATION FN(expm1div)(REAL v, REAL c) {
    const REAL a = c * v, half = FN(exp)(K(0.5) * a);
    const REAL y = a > K(80) ? half / c * half : FN(expm1)(a) / c;
    return v == K(0) || c == K(0) || ABS(a) < K(0.1) * EPSILON ? v : y;
}

OPERATION FN(recipexpm1x)(REAL a) { /* e^-a underflows before a e^-a does */
    const REAL b = a > K(1e30) ? K(1e30) : a;
    const REAL half = FN(exp)(K(-0.5) * (b > K(0) ? b : K(0)));
    const REAL near = b == K(0) ? K(1) : b / FN(expm1)(b);
    return b > K(60) ? b * half * half : near;
}

OPERATION FN(cloglog)(REAL a) {
    const REAL inside = a < K(-40) ? K(-40) : a > K(10) ? K(10) : a;
    const REAL y = FN(log1mexp)(FN(exp)(inside));
    return a < K(-40) ? a : y;
}

OPERATION FN(logsoftplus)(REAL a) {
    const REAL y = FN(log)(FN(softplus)(a < K(-40) ? K(-40) : a));
    return a < K(-40) ? a : y;
}

OPERATION FN(sigrel)(REAL a) {
    const REAL w = FN(exp)(a < K(-40) ? K(-40) : a > K(0) ? K(0) : a);
    const REAL low = w / (FN(log1p)(w) * (w + K(1)));
    const REAL high = FN(sigmoid)(a) / FN(softplus)(a < K(0) ? K(0) : a);
    return a <= K(0) ? low : high;
}

OPERATION FN(sprel)(REAL a) {
    const REAL w = FN(exp)(a < K(-40) ? K(-40) : a > K(0) ? K(0) : a);
    const REAL low = FN(log1p)(w) / w;
    const REAL half = FN(exp)(K(-0.5) * (a < K(0) ? K(0) : a));
    const REAL high = FN(softplus)(a > K(1e30) ? K(1e30) : a) * half * half;
    return a <= K(0) ? low : high;
}

OPERATION FN(sech2)(REAL a) {
    const REAL e = FN(exp)(K(-2) * ABS(a)), d = K(1) + e;
    return K(4) * e / (d * d);
}

OPERATION FN(expm1x)(REAL a) {
    const REAL s = a < K(-1) ? K(-1) : a > K(1) ? K(1) : a;
    REAL p = K(1) / K(2432902008176640000.0); /* 1/20! */
    p = FMA(p, s, K(1) / K(121645100408832000.0));
    p = FMA(p, s, K(1) / K(6402373705728000.0));
    p = FMA(p, s, K(1) / K(355687428096000.0));
    p = FMA(p, s, K(1) / K(20922789888000.0));
    p = FMA(p, s, K(1) / K(1307674368000.0));
    p = FMA(p, s, K(1) / K(87178291200.0));
    p = FMA(p, s, K(1) / K(6227020800.0));
    p = FMA(p, s, K(1) / K(479001600.0));
    p = FMA(p, s, K(1) / K(39916800.0));
    p = FMA(p, s, K(1) / K(3628800.0));
    p = FMA(p, s, K(1) / K(362880.0));
    p = FMA(p, s, K(1) / K(40320.0));
    p = FMA(p, s, K(1) / K(5040.0));
    p = FMA(p, s, K(1) / K(720.0));
    p = FMA(p, s, K(1) / K(120.0));
    p = FMA(p, s, K(1) / K(24.0));
    p = FMA(p, s, K(1) / K(6.0));
    p = FMA(p, s, K(0.5));
    const REAL far = FN(expm1)(a) - (a > K(1e30) ? K(1e30) : a);
    return ABS(a) <= K(1) ? p * s * s : far;
}

OPERATION FN(log1pmx)(REAL a) { /* log1p(b) = 2 atanh(s), and 2 s - b = -s b */
    const REAL b = a < K(-0.5) ? K(-0.5) : a > K(1) ? K(1) : a;
    const REAL s = b / (K(2) + b), s2 = s * s;
    REAL p = K(0);
    for (int k = REAL_IS_FLOAT ? 8 : 17; k >= 0; --k) p = FMA(p, s2, K(2) / K(2 * k + 3));
    const REAL direct = FN(log1p)(a > K(1e30) ? K(1e30) : a) - a;
    return a >= K(-0.5) && a <= K(1) ? s * (s2 * p - b) : direct;
}

OPERATION FN(softcap)(REAL x, REAL c) {
    const REAL y = FN(tanh)(x / c) * c;
    return c == INFINITY ? x : y;
}

OPERATION FN(xlogy)(REAL a, REAL b) {
    const REAL y = a * FN(log)(b);
    return a == K(0) && b == b ? K(0) : y;
}

OPERATION FN(logaddexp)(REAL a, REAL b) {
    const REAL top = a > b ? a : b, gap = a == b ? K(0) : ABS(a - b);
    const REAL y = top + FN(log1p)(FN(exp)(-gap));
    return a == a && b == b ? y : a + b;
}

OPERATION FN(mercator)(REAL q, REAL t) {
    const int terms = (int)t;
    REAL total = q / K(terms);
    for (int k = terms - 1; k > 0; --k) total = (total + K(1) / K(k)) * q;
    return total;
}

OPERATION FN(geometric)(REAL q, REAL t) {
    REAL total = q == q ? K(1) : q;
    for (int k = 1; k < (int)t; ++k) total = total * q + K(1);
    return total;
}

/* ------------------------------------------------------------------ pieces */
OPERATION FN(safe_rsqrt)(REAL a) { return a == K(0) ? K(0) : K(1) / SQRT(a); }
OPERATION FN(relu)(REAL a) { return a < K(0) ? K(0) : a; }
OPERATION FN(absf)(REAL a) { return ABS(a); }
OPERATION FN(sgn)(REAL a) { return a > K(0) ? K(1) : a < K(0) ? K(-1) : a; }
OPERATION FN(step)(REAL a) { return a > K(0) ? K(1) : a < K(0) ? K(0) : K(0.5) + a; }
OPERATION FN(minimum)(REAL a, REAL b) { return b < a || b != b ? b : a; }
OPERATION FN(maximum)(REAL a, REAL b) { return b > a || b != b ? b : a; }
OPERATION FN(clip)(REAL x, REAL lo, REAL hi) { return FN(minimum)(FN(maximum)(x, lo), hi); }
OPERATION FN(clamp)(REAL x, REAL c) { return ABS(x) > c ? COPYSIGN(c, x) : x; }
OPERATION FN(lt)(REAL a, REAL b) { return a < b ? K(1) : K(0); }
OPERATION FN(le)(REAL a, REAL b) { return a <= b ? K(1) : K(0); }
OPERATION FN(eq)(REAL a, REAL b) { return a == b ? K(1) : K(0); }
OPERATION FN(ne)(REAL a, REAL b) { return a != b ? K(1) : K(0); }
OPERATION FN(where)(REAL c, REAL a, REAL b) { return c != K(0) ? a : b; }
OPERATION FN(stop_gradient)(REAL a) { return a; }

OPERATION FN(above)(REAL a, REAL b) {
    const REAL known = a > b ? K(1) : a == b ? K(0.5) : K(0);
    return a == a && b == b ? known : a + b;
}

OPERATION FN(inrange)(REAL x, REAL lo, REAL hi) {
    const REAL known = x >= lo && x <= hi ? K(1) : K(0);
    return x == x && lo == lo && hi == hi ? known : x + lo + hi;
}

#include "special.h"

#undef PASTE_
#undef PASTE
#undef FN
#undef OPERATION
#undef K
#undef ABS
#undef COPYSIGN
#undef SQRT
#undef EPSILON
#undef FMA
