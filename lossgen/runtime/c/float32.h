/* exp, expm1, log, log1p, tanh, power, erf in float, by polynomials: part of vocabulary.h. */

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
