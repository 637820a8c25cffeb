/* The vocabulary, continued: circular and hyperbolic functions, erfc, log cosh.  Included at the end
   of vocabulary.h, once for each type; BY_TYPE is in row.h. */

#if REAL_IS_FLOAT

#define f_acosh(a) BY_TYPE(acosh, a)(a)
#define f_asinh(a) BY_TYPE(asinh, a)(a)
#define f_atan(a) BY_TYPE(atan, a)(a)
#define f_cos(a) BY_TYPE(cos, a)(a)
#define f_cosh(a) BY_TYPE(cosh, a)(a)
#define f_erfc(a) BY_TYPE(erfc, a)(a)
#define f_logcosh(a) BY_TYPE(logcosh, a)(a)
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
