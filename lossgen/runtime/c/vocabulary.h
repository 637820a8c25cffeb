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

#if REAL_IS_FLOAT
#include "float32.h"
#else
#include "float64.h"
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
