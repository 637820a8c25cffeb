/* What the C row programs share: the vocabulary in float and double, and the call.

   A program is compiled once per type of its arithmetic: real is float (float32, bfloat16 and
   float16 tensors) or double.  Row scalars are always double. */

#include <float.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REAL float
#define REAL_IS_FLOAT 1
#include "vocabulary.h"
#undef REAL
#undef REAL_IS_FLOAT
#define REAL double
#define REAL_IS_FLOAT 0
#include "vocabulary.h"
#undef REAL
#undef REAL_IS_FLOAT

#ifdef LOSSGEN_DOUBLE
typedef double real;
#else
typedef float real;
#endif

/* 1/sqrt of a row scalar that joins numbers of type real, whose squares underflow first: what real
   cannot hold is 0, as at a = 0, and not 1/0 of a sum that is 0 there. */
static inline double safe_rsqrt_row(double a)
{
    return sizeof(real) < sizeof(double) && a < 8.7e-78 ? 0.0 : safe_rsqrt_double(a);
}

/* A coefficient that is a number but too large for real, as real has it: times what underflows it is
   no 0·inf. */
static inline double as_number(double a)
{
    const double most = sizeof(real) < sizeof(double) ? FLT_MAX : DBL_MAX;
    return isinf(a) ? a : a > most ? most : a < -most ? -most : a;
}

#define R(c) ((real)(c))
#define BLOCK 1024 /* classes that are summed in real before they join a double */
#define LANES 32   /* partial results side by side: what vectors are made of */
#define PARTS 8    /* doubles side by side that they join */
#define TOGETHER 16 /* rows, at most, whose row values are computed side by side */

/* Functions by the type of their first argument. */
#define BY_TYPE(name, a) _Generic((a), float: name##_float, default: name##_double)
#define f_exp(a) BY_TYPE(exp, a)(a)
#define f_exp_below(a) BY_TYPE(exp_below, a)(a)
#define f_expm1_within(a) BY_TYPE(expm1_within, a)(a)
#define f_expm1(a) BY_TYPE(expm1, a)(a)
#define f_log(a) BY_TYPE(log, a)(a)
#define f_log1p(a) BY_TYPE(log1p, a)(a)
#define f_sqrt(a) BY_TYPE(sqrt, a)(a)
#define f_tanh(a) BY_TYPE(tanh, a)(a)
#define f_erf(a) BY_TYPE(erf, a)(a)
#define f_power(a, b) BY_TYPE(power, a)(a, b)
#define f_softplus(a) BY_TYPE(softplus, a)(a)
#define f_sigmoid(a) BY_TYPE(sigmoid, a)(a)
#define f_log1mexp(a) BY_TYPE(log1mexp, a)(a)
#define f_exprel(a) BY_TYPE(exprel, a)(a)
#define f_expm1div(a, b) BY_TYPE(expm1div, a)(a, b)
#define f_recipexpm1x(a) BY_TYPE(recipexpm1x, a)(a)
#define f_cloglog(a) BY_TYPE(cloglog, a)(a)
#define f_logsoftplus(a) BY_TYPE(logsoftplus, a)(a)
#define f_sigrel(a) BY_TYPE(sigrel, a)(a)
#define f_sprel(a) BY_TYPE(sprel, a)(a)
#define f_sech2(a) BY_TYPE(sech2, a)(a)
#define f_expm1x(a) BY_TYPE(expm1x, a)(a)
#define f_log1pmx(a) BY_TYPE(log1pmx, a)(a)
#define f_softcap(a, b) BY_TYPE(softcap, a)(a, b)
#define f_xlogy(a, b) BY_TYPE(xlogy, a)(a, b)
#define f_logaddexp(a, b) BY_TYPE(logaddexp, a)(a, b)
#define f_mercator(a, b) BY_TYPE(mercator, a)(a, b)
#define f_geometric(a, b) BY_TYPE(geometric, a)(a, b)
#define f_safe_rsqrt(a) _Generic((a), float: safe_rsqrt_float, default: safe_rsqrt_row)(a)
#define f_relu(a) BY_TYPE(relu, a)(a)
#define f_absf(a) BY_TYPE(absf, a)(a)
#define f_sgn(a) BY_TYPE(sgn, a)(a)
#define f_step(a) BY_TYPE(step, a)(a)
#define f_above(a, b) BY_TYPE(above, a)(a, b)
#define f_minimum(a, b) BY_TYPE(minimum, a)(a, b)
#define f_maximum(a, b) BY_TYPE(maximum, a)(a, b)
#define f_clamp(a, b) BY_TYPE(clamp, a)(a, b)
#define f_clip(a, b, c) BY_TYPE(clip, a)(a, b, c)
#define f_inrange(a, b, c) BY_TYPE(inrange, a)(a, b, c)
#define f_lt(a, b) BY_TYPE(lt, a)(a, b)
#define f_le(a, b) BY_TYPE(le, a)(a, b)
#define f_eq(a, b) BY_TYPE(eq, a)(a, b)
#define f_ne(a, b) BY_TYPE(ne, a)(a, b)
#define f_where(a, b, c) BY_TYPE(where, a)(a, b, c)
#define f_stop_gradient(a) (a)

/* ------------------------------------------------------------------ the call
   Mirrored by lossgen.runtime.c_backend.  Strides are in elements; classes have stride 1. */
enum storage { SAME, BFLOAT16, FLOAT16, FLOAT32 };
enum mode { FORWARD, BACKWARD, FUSED };

typedef struct {
    int64_t rows, classes, ignore_index, target_stride;
    int64_t storage;                /* of streams and gradients; SAME: real; FLOAT32: real is double */
    const int64_t *target;          /* [rows] */
    const void *const *stream;      /* [rows, classes] each, the logits first */
    const int64_t *stream_stride;
    const real *const *input;       /* [classes] or [rows] */
    const int64_t *input_stride;
    const double *parameter;
    real *result;                   /* [outputs, rows] */
    real *saved;                    /* [n_saved, rows] */
    const real *grad_rows;          /* [outputs, rows] */
    int64_t grad_rows_stride, grad_outputs_stride;
    void *const *grad;              /* [rows, classes] each; NULL: not wanted */
    const int64_t *grad_stride;
} Call;

/* Scratch rows: whole vectors, and not a multiple of a page apart, which caches dislike. */
#define ALIGNED 128
static inline int64_t padded_row(int64_t classes) { return ((classes / LANES + 1) | 1) * LANES; }

static inline float from_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, body = h & 0x7fffu;
    uint32_t bits = body << 13; /* the exponent is rebased by a product, subnormals included */
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits = body >= 0x7c00u ? 0x7f800000u | (body & 0x3ffu) << 13 : bits;
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t to_half(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u, body = bits & 0x7fffffffu;
    float size, small;
    memcpy(&size, &body, sizeof size);
    small = size + 0.5f; /* rounds to a multiple of 2^-24, the subnormals' unit */
    uint32_t low;
    memcpy(&low, &small, sizeof low);
    const uint32_t subnormal = low - 0x3f000000u;
    const uint32_t normal = (body - 0x38000000u + 0xfffu + (body >> 13 & 1u)) >> 13;
    uint32_t half = size < 0x1p-14f ? subnormal : normal;
    half = size >= 65520.0f ? 0x7c00u : half;
    half = f == f ? half : 0x7e00u;
    return (uint16_t)(sign | half);
}

static inline float from_bfloat(uint16_t b) {
    const uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t to_bfloat(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (uint16_t)(f == f ? rounded : 0x7fc0u);
}

/* Row i of stream k in real; ``scratch`` holds it where it is stored in another type. */
static inline const real *read_row(const Call *c, int k, int64_t i, real *scratch) {
    const int64_t at = i * c->stream_stride[k];
    if (c->storage == SAME) return (const real *)c->stream[k] + at;
    if (c->storage == FLOAT32) {
        const float *single = (const float *)c->stream[k] + at;
        for (int64_t j = 0; j < c->classes; ++j) scratch[j] = (real)single[j];
        return scratch;
    }
    const uint16_t *row = (const uint16_t *)c->stream[k] + at;
    if (c->storage == BFLOAT16) {
        for (int64_t j = 0; j < c->classes; ++j) scratch[j] = (real)from_bfloat(row[j]);
    } else {
        for (int64_t j = 0; j < c->classes; ++j) scratch[j] = (real)from_half(row[j]);
    }
    return scratch;
}

/* As many rows as stay in a near cache with all that is read and written of them. */
static inline int rows_together(int64_t rows, int64_t numbers_of_one) {
    const int64_t fit = ((int64_t)1 << 17) / ((int64_t)sizeof(real) * numbers_of_one);
    const int64_t most = fit < rows ? fit : rows;
    return most < 1 ? 1 : most < TOGETHER ? (int)most : TOGETHER;
}

/* Where row i of gradient k is computed; NULL: not wanted. */
static inline real *grad_row(const Call *c, int k, int64_t i, real *scratch) {
    if (c->grad == NULL || c->grad[k] == NULL) return NULL;
    return c->storage == SAME ? (real *)c->grad[k] + i * c->grad_stride[k] : scratch;
}

static inline void write_row(const Call *c, int k, int64_t i, const real *scratch) {
    if (scratch == NULL || c->storage == SAME) return;
    if (c->storage == FLOAT32) {
        float *single = (float *)c->grad[k] + i * c->grad_stride[k];
        for (int64_t j = 0; j < c->classes; ++j) single[j] = (float)scratch[j];
        return;
    }
    uint16_t *row = (uint16_t *)c->grad[k] + i * c->grad_stride[k];
    if (c->storage == BFLOAT16) {
        for (int64_t j = 0; j < c->classes; ++j) row[j] = to_bfloat((float)scratch[j]);
    } else {
        for (int64_t j = 0; j < c->classes; ++j) row[j] = to_half((float)scratch[j]);
    }
}

/* ------------------------------------------------------------------ threads
   One call takes every row and comes back after the last share that a thread took.  The caller is
   an interpreter that looks at signals between calls: no exception of it can free what a thread
   still reads or writes.

   The threads are those of a team where there is one: GOMP_parallel of the OpenMP that the caller
   computes with, whose threads are awake.  All of its threads are waited for, so that on a busy
   machine, where one does not get a processor, a team is left alone for a while.  Without one,
   threads are started for this call.  Of these one that has not begun by the end is not waited for; and a
   forked child, which has none of its parent's threads, finds none that it would wait for. */
typedef int Rows(const Call *call, int64_t start, int64_t stop);
typedef void Team(void (*work)(void *), void *data, unsigned threads, unsigned flags);

struct shares {
    const Call *call; /* read by those alone who hold a share */
    Rows *rows;
    int64_t count, step, next; /* rows; of a share; first that is not taken */
    int failed;
};

/* Shares until none is left; how many rows they were. */
static int64_t taken(struct shares *s) {
    for (int64_t done = 0;;) {
        const int64_t start = __atomic_fetch_add(&s->next, s->step, __ATOMIC_RELAXED);
        if (start >= s->count) return done;
        const int64_t size = s->step < s->count - start ? s->step : s->count - start;
        if (s->rows(s->call, start, start + size)) __atomic_store_n(&s->failed, 1, __ATOMIC_RELAXED);
        done += size;
    }
}

#define PATIENCE 500000 /* nanoseconds that a thread of a team may come late */
#define ALONE 64        /* calls in which a team is not asked after one did */

struct team_shares {
    struct shares shares;
    pthread_t caller;
    int64_t finished; /* when the caller was */
};

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void take_part(void *team_shares) {
    struct team_shares *s = team_shares;
    taken(&s->shares);
    if (pthread_equal(pthread_self(), s->caller)) s->finished = nanoseconds();
}

static int alone; /* calls in which the team is not asked from now on */

static int in_team(struct shares shares, Team *team) {
    struct team_shares s = {.shares = shares, .caller = pthread_self()};
    const int64_t began = nanoseconds();
    s.finished = began;
    team(take_part, &s, 0, 0); /* as many as the caller's last had: others would be new */
    const int64_t worked = s.finished - began, waited = nanoseconds() - s.finished;
    if (waited > worked + PATIENCE) __atomic_store_n(&alone, ALONE, __ATOMIC_RELAXED);
    return s.shares.failed;
}

struct started {
    struct shares shares;
    int64_t left;                   /* rows that are not finished */
    unsigned threads, begun, users; /* wanted; asked for; that know this struct: the last frees it */
    pthread_mutex_t lock;           /* of left's way to 0 */
    pthread_cond_t done;
};

static void *help(void *started);

/* Two threads more: those that start them start two each. */
static void ask_for_help(struct started *s) {
    for (int k = 0; k < 2; ++k) {
        if (__atomic_load_n(&s->shares.next, __ATOMIC_RELAXED) >= s->shares.count) return;
        if (__atomic_add_fetch(&s->begun, 1, __ATOMIC_RELAXED) > s->threads) return;
        pthread_attr_t attributes;
        pthread_t thread;
        if (pthread_attr_init(&attributes)) return;
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, (size_t)1 << 20); /* small ones are kept for reuse */
        __atomic_add_fetch(&s->users, 1, __ATOMIC_RELAXED);
        const int refused = pthread_create(&thread, &attributes, help, s);
        if (refused) __atomic_sub_fetch(&s->users, 1, __ATOMIC_RELAXED); /* the caller is another */
        pthread_attr_destroy(&attributes);
        if (refused) return;
    }
}

static void finish_shares(struct started *s) {
    const int64_t done = taken(&s->shares);
    if (done && __atomic_sub_fetch(&s->left, done, __ATOMIC_ACQ_REL) == 0) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_signal(&s->done);
        pthread_mutex_unlock(&s->lock);
    }
}

static void leave(struct started *s) {
    if (__atomic_sub_fetch(&s->users, 1, __ATOMIC_ACQ_REL)) return;
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void *help(void *started) {
    ask_for_help(started);
    finish_shares(started);
    leave(started);
    return NULL;
}

/* ``rows`` over all rows, ``step`` at a time; 0, or 1 where a share found no memory. */
int in_shares(const Call *call, Rows *rows, int64_t step, unsigned threads, Team *team) {
    if (threads < 2) return rows(call, 0, call->rows);
    struct shares shares = {.call = call, .rows = rows, .count = call->rows, .step = step};
    if (team && __atomic_load_n(&alone, __ATOMIC_RELAXED) <= 0) return in_team(shares, team);
    if (team) __atomic_sub_fetch(&alone, 1, __ATOMIC_RELAXED);
    struct started *s = malloc(sizeof *s);
    if (!s) return rows(call, 0, call->rows);
    *s = (struct started){.shares = shares, .left = call->rows, .threads = threads, .begun = 1,
        .users = 1};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
    ask_for_help(s);
    finish_shares(s);
    pthread_mutex_lock(&s->lock);
    while (__atomic_load_n(&s->left, __ATOMIC_ACQUIRE)) pthread_cond_wait(&s->done, &s->lock);
    pthread_mutex_unlock(&s->lock);
    const int failed = __atomic_load_n(&s->shares.failed, __ATOMIC_RELAXED);
    leave(s);
    return failed;
}

/* How many rows are not ignored; or -1 - the first row whose target is neither a class nor ignored. */
int64_t count_rows(const int64_t *target, int64_t stride, int64_t rows, int64_t classes,
    int64_t ignore_index) {
    int64_t ignored = 0, wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = target[row * stride];
        const int64_t known = y == ignore_index;
        ignored += known;
        wrong += !known & ((uint64_t)y >= (uint64_t)classes);
    }
    if (!wrong) return rows - ignored;
    for (int64_t row = 0;; ++row) {
        const int64_t y = target[row * stride];
        if (y != ignore_index && (uint64_t)y >= (uint64_t)classes) return -1 - row;
    }
}

/* ------------------------------------------------------------------ prepared calls
   Mirrored by lossgen.runtime.frames: what calls of one kind share is written once. */
typedef double Weight(const Call *call, int64_t row);

typedef struct {
    Call call;
    Rows *rows;
    Team *team;
    int64_t step, threads;
    Weight *weight_of; /* what a row that is not ignored counts for in a mean; NULL: weight */
    double weight;     /* 0: the rows are summed */
    double divisor;    /* of the sum, where it is divided by a number of the caller's */
    int64_t divided;
    int64_t n_saved;   /* of rows that are summed, when they have no gradients */
    real *scale;       /* what gradients of rows are multiplied by in the total */
    void *total;
    int64_t total_is_double;
} Job;

/* How many rows count; or -1 - the first row whose target is neither a class nor ignored. */
static int64_t checked_rows(const Call *c) {
    return c->target ? count_rows(c->target, c->target_stride, c->rows, c->classes, c->ignore_index)
                     : c->rows;
}

static double weight_of_rows(const Job *job) {
    const Call *c = &job->call;
    double found = 0;
    for (int64_t row = 0; row < c->rows; ++row) {
        if (c->target && c->target[row * c->target_stride] == c->ignore_index) continue;
        found += job->weight_of(c, row);
    }
    return job->total_is_double ? found : (float)found; /* of a sum in float as well, elsewhere */
}

/* Of each row by itself; 0, 1 where memory is missing, or as checked_rows. */
int64_t run_rows(const Job *job) {
    const int64_t counted = checked_rows(&job->call);
    if (counted < 0) return counted;
    return in_shares(&job->call, job->rows, job->step, (unsigned)job->threads, job->team);
}

/* The sum of all rows, divided by what they count for; returns as run_rows. */
int64_t sum_rows(Job *job) {
    Call *call = &job->call;
    const int64_t n = call->rows, counted = checked_rows(call);
    if (counted < 0) return counted;
    real *result = malloc((size_t)((1 + job->n_saved) * n) * sizeof(real));
    if (!result) return 1;
    call->result = result;
    call->saved = result + n;
    call->grad_rows = job->scale;
    double count = 1;
    if (job->divided) count = job->divisor;
    else if (job->weight_of) count = weight_of_rows(job);
    else if (job->weight) count = job->weight * counted;
    *job->scale = R(1 / count);
    const int failed = in_shares(call, job->rows, job->step, (unsigned)job->threads, job->team);
    double parts[PARTS] = {0}, sum = 0;
    for (int64_t row = 0; row < n; ++row) parts[row % PARTS] += result[row];
    for (int k = 0; k < PARTS; ++k) sum += parts[k];
    free(result);
    if (job->total_is_double) *(double *)job->total = sum / count;
    else *(float *)job->total = (float)(sum / count);
    return failed;
}
