/* The row program of every loss: its rows, a few together, and the loops over their classes.

   A loss states before it includes this file whether it HAS_TARGET, how many rows of class values
   are KEPT beside the logits, and in lists, X_OF(EACH) = EACH(0, x) EACH(1, t), what it is made of:

     STREAMS_OF, GRADIENTS_OF   rows of classes that it reads, and those that get a gradient
     VECTORS_OF, NUMBERS_OF     inputs per class; parameters, and the number of classes
     SAVED_OF, RESULTS_OF       row values that the forward saves, and its results
     SLOPES_OF                  what the gradients of the results are multiplied with
     KEPT_OF                    class values that one loop keeps for a later one
     BEGUN_OF, FOUND_OF         row values that the loops leave, and those that the gradient needs

   and writes after it three steps, in which all of these are variables, those of streams and vectors
   in a loop alone:

     ROW_LOOPS       the loops over a row: REDUCE for sums and maxima
     ROW_VALUES      results, and coefficients of the gradient; of several rows in vectors
     ROW_GRADIENTS   the gradients: EACH_CLASS

   and, where it is not 1, what a row counts for in a mean: ROW_WEIGHT. */

#include "row.h"

#define INLINE static inline __attribute__((always_inline))

#ifndef STREAMS_OF
#define STREAMS_OF(EACH) EACH(0, x)
#endif
#ifndef GRADIENTS_OF
#define GRADIENTS_OF(EACH) EACH(0, x)
#endif
#ifndef VECTORS_OF
#define VECTORS_OF(EACH)
#endif
#ifndef NUMBERS_OF
#define NUMBERS_OF(EACH)
#endif
#ifndef SAVED_OF
#define SAVED_OF(EACH)
#endif
#ifndef RESULTS_OF
#define RESULTS_OF(EACH) EACH(0, loss)
#endif
#ifndef SLOPES_OF
#define SLOPES_OF(EACH) EACH(0, g)
#endif
#ifndef KEPT_OF
#define KEPT_OF(EACH)
#endif
#ifndef FOUND_OF
#define FOUND_OF(EACH)
#endif

#define COUNTED(...) +1
enum {
    STREAMS = STREAMS_OF(COUNTED),
    GRADIENTS = GRADIENTS_OF(COUNTED),
    RESULTS = RESULTS_OF(COUNTED),
    SAVED = 0 SAVED_OF(COUNTED)
};

typedef struct {
    const Call *call;
    int64_t at, padded;         /* the row; elements of a kept one */
    int n_classes, y, in_range; /* y: a class, the first where the target is out of range */
    int ignored;
    const real *stream[STREAMS];
    real *grad[GRADIENTS]; /* NULL: not wanted */
    real *kept;
} Row;

#define COLUMN(name) double name[TOGETHER];
typedef struct {
    BEGUN_OF(COLUMN) FOUND_OF(COLUMN)
} Values; /* of a few rows, side by side */

/* ------------------------------------------------------------------ what a row reads and writes */
INLINE double row_entry(const Call *c, int k, int64_t row) {
    return c->input[k][row * c->input_stride[k]];
}
INLINE double row_input(const Row *r, int k) { return row_entry(r->call, k, r->at); }
INLINE void write_result(const Row *r, int k, double value) {
    r->call->result[k * r->call->rows + r->at] = (real)(r->in_range ? value : NAN);
}
INLINE void save(const Row *r, int k, double value) {
    r->call->saved[k * r->call->rows + r->at] = (real)value;
}
INLINE double saved(const Row *r, int k) { return r->call->saved[k * r->call->rows + r->at]; }
/* What the gradient of result k is multiplied with. */
INLINE double slope(const Row *r, int k) {
    const Call *c = r->call;
    if (!r->in_range) return NAN;
    return c->grad_rows[k * c->grad_outputs_stride + r->at * c->grad_rows_stride];
}
/* The k-th row of values that one loop keeps for a later one. */
INLINE real *kept_row(const Row *r, int k) { return r->kept + k * r->padded; }
/* The gradients that are wanted, a bit for each. */
INLINE int wanted(const Row *r) {
    int found = 0;
    for (int k = 0; k < GRADIENTS; ++k) found |= r->grad[k] ? 1 << k : 0;
    return found;
}

/* ------------------------------------------------------------------ what a row counts for
   ROW_WEIGHT, which a loss without a normalizer has not, sets counts. */
#define ROW_WEIGHT                                    \
    double row_weight(const Call *call, int64_t row) { \
        double counts;
#define ROW_WEIGHT_END \
        return counts; \
    }
INLINE double class_entry(const Call *c, int k, int64_t row) {
    return c->input[k][c->target[row * c->target_stride]];
}

/* ------------------------------------------------------------------ the steps of a row */
#define POINTER(k, name) const real *const name##_ptr = r->stream[k];
#define VECTOR(k, name) const real *const name##_ptr = r->call->input[k];
#define KEPT_POINTER(k, name) real *const name##_ptr = mode == BACKWARD ? NULL : kept_row(r, k);
#define GRADIENT_POINTER(k, name) real *const grad_##name##_ptr = r->grad[k];
#define NUMBER(of_call, name) const double name = call->of_call;
#define UNKNOWN(name) double name = 0;
#define GET(name) double name = values->name[at];
#define GET_NUMBER(name) double name = as_number(values->name[at]);
#define PUT(name) values->name[at] = name;
#define SLOPE(k, name) name = slope(r, k);
#define RELOAD(k, name) name = saved(r, k);
#define SAVE(k, name) save(r, k, name);
#define WRITE_RESULT(k, name) write_result(r, k, name);

INLINE void begin_row(const Row *r, const enum mode mode, Values *values, const int at);
INLINE void row_values(const Call *call, const enum mode mode, Values *values, const int at);
INLINE void end_row(const Row *r, const enum mode mode, const Values *values, const int at,
    const int want);

#define OPEN_ROW                                                         \
    const Call *call = r->call;                                          \
    const int n_classes = r->n_classes, y = r->y, fused = mode == FUSED; \
    STREAMS_OF(POINTER) VECTORS_OF(VECTOR) KEPT_OF(KEPT_POINTER) NUMBERS_OF(NUMBER)
#define ROW_LOOPS                                                                             \
    INLINE void begin_row(const Row *r, const enum mode mode, Values *values, const int at) { \
        OPEN_ROW                                                                              \
        BEGUN_OF(UNKNOWN)                                                                     \
        if (mode != FORWARD) {                                                                \
            SLOPES_OF(SLOPE)                                                                  \
        }                                                                                     \
        if (mode == BACKWARD) {                                                               \
            SAVED_OF(RELOAD)                                                                  \
        }
#define ROW_LOOPS_END \
        BEGUN_OF(PUT) \
    }
/* All is computed before anything is stored: a condition that is met twice would else become a
   branch around the stores between, which cannot be in a vector. */
#define ROW_VALUES                                                                                  \
    INLINE void row_values(const Call *call, const enum mode mode, Values *values, const int at) { \
        NUMBERS_OF(NUMBER) BEGUN_OF(GET) FOUND_OF(UNKNOWN)
#define ROW_VALUES_END              \
        BEGUN_OF(PUT)           \
        if (mode != FORWARD) {  \
            FOUND_OF(PUT)       \
        }                       \
    }
/* Of those gradients alone that are wanted: as a constant, so that a loop has no conditions. */
#define ROW_GRADIENTS                                                                                 \
    INLINE void end_row(const Row *r, const enum mode mode, const Values *values, const int at, \
        const int want) {                                                                       \
        OPEN_ROW                                                                                \
        BEGUN_OF(GET) FOUND_OF(GET_NUMBER)                                                      \
        if (mode != BACKWARD) {                                                                 \
            RESULTS_OF(WRITE_RESULT)                                                            \
        }                                                                                       \
        if (mode == FORWARD) {                                                                  \
            SAVED_OF(SAVE)                                                                      \
            return;                                                                             \
        }                                                                                       \
        GRADIENTS_OF(GRADIENT_POINTER)
#define ROW_GRADIENTS_END }

/* Loops that find a root run again, with a better trial, while it moves. */
#define REPEATED(most, moving) for (int times = 0; times < most && (moving); ++times)

/* ------------------------------------------------------------------ loops over the classes
   REDUCE(OF, ...): the text computes values of the class cols; OF(EACH) = EACH(SUM, a, e) lists what
   is reduced over the row: its kind, the row value that it becomes, and the value of a class.
   LANES partial results side by side are vectors; they join PARTS doubles after every BLOCK. */
#define TYPE_SUM real
#define TYPE_MAX real
#define TYPE_MAX_OR_NAN real
#define TYPE_MIN int /* of class indices */
#define IDENTITY_SUM 0
#define IDENTITY_MAX -INFINITY
#define IDENTITY_MAX_OR_NAN -INFINITY
#define IDENTITY_MIN INT_MAX
#define JOINED_SUM(a, b) a + b
#define JOINED_MAX(a, b) b > a ? b : a
#define JOINED_MAX_OR_NAN(a, b) b == b ? (b > a ? b : a) : b
#define JOINED_MIN(a, b) b < a ? b : a
#define RESULT_SUM(a) a
#define RESULT_MAX(a) a
#define RESULT_MAX_OR_NAN(a) a
#define RESULT_MIN(a) a < n_classes ? a : 0

#define ROW_OF(KIND, name, of) double name##_row[PARTS];
#define ROW_BEGUN(KIND, name, of) name##_row[part] = IDENTITY_##KIND;
#define LANES_OF(KIND, name, of) TYPE_##KIND name##_lanes[LANES];
#define LANE_BEGUN(KIND, name, of) name##_lanes[lane] = IDENTITY_##KIND;
#define LANE_JOINED(KIND, name, of) name##_lanes[lane] = JOINED_##KIND(name##_lanes[lane], of);
#define FIRST_JOINED(KIND, name, of) name##_lanes[0] = JOINED_##KIND(name##_lanes[0], of);
#define PART_JOINED(KIND, name, of) \
    name##_row[part] = JOINED_##KIND(name##_row[part], name##_lanes[lane + part]);
#define PARTS_JOINED(KIND, name, of) \
    name##_row[part] = JOINED_##KIND(name##_row[part], name##_row[part + half]);
#define FOUND_AS(KIND, name, of) name = RESULT_##KIND(name##_row[0]);

#define CLASS_VALUE(k, name) const real name = name##_ptr[cols];
#define CLASS_VALUES STREAMS_OF(CLASS_VALUE) VECTORS_OF(CLASS_VALUE)
/* The last classes, fewer than LANES: in vectors that are masked, where a compiler makes such of
   conditions; a kept row has room for those that are not there.  Otherwise in short vectors, and one
   by one: conditions would be branches. */
#if defined(__AVX2__) && !defined(__clang__)
#define TAIL 16
#define TAIL_VALUE(k, name) const real name = here ? name##_ptr[cols] : 0;
#define TAIL_VALUES STREAMS_OF(TAIL_VALUE) VECTORS_OF(TAIL_VALUE)
#define TAIL_JOINED(KIND, name, of) \
    name##_lanes[lane] = here ? (JOINED_##KIND(name##_lanes[lane], of)) : name##_lanes[lane];
#define REDUCE_TAIL(OF, ...)                                           \
    for (; at < stop; at += TAIL) {                                    \
        _Pragma("GCC ivdep") for (int lane = 0; lane < TAIL; ++lane) { \
            const int cols = at + lane, here = cols < stop;            \
            TAIL_VALUES __VA_ARGS__                                    \
            OF(TAIL_JOINED)                                            \
        }                                                              \
    }
#define WRITE_TAIL(k, name) \
    if (want & 1 << k && here) grad_##name##_ptr[cols] = grad_##name * factor;
#define CLASS_LOOP(...)                                                 \
    int at = 0;                                                         \
    for (; at + LANES <= n_classes; at += LANES) {                      \
        _Pragma("GCC ivdep") for (int lane = 0; lane < LANES; ++lane) { \
            const int cols = at + lane;                                 \
            CLASS_VALUES __VA_ARGS__                                    \
            GRADIENTS_OF(WRITE_GRADIENT)                                \
        }                                                               \
    }                                                                   \
    for (; at < n_classes; at += TAIL) {                                \
        _Pragma("GCC ivdep") for (int lane = 0; lane < TAIL; ++lane) {  \
            const int cols = at + lane, here = cols < n_classes;        \
            TAIL_VALUES __VA_ARGS__                                     \
            GRADIENTS_OF(WRITE_TAIL)                                    \
        }                                                               \
    }
#else
#define TAIL PARTS
#define REDUCE_TAIL(OF, ...)                                            \
    for (; at + PARTS <= stop; at += PARTS) {                           \
        _Pragma("GCC ivdep") for (int lane = 0; lane < PARTS; ++lane) { \
            const int cols = at + lane;                                 \
            CLASS_VALUES __VA_ARGS__                                    \
            OF(LANE_JOINED)                                             \
        }                                                               \
    }                                                                   \
    for (int cols = at; cols < stop; ++cols) {                          \
        CLASS_VALUES __VA_ARGS__                                        \
        OF(FIRST_JOINED)                                                \
    }
#define CLASS_LOOP(...)                                                 \
    _Pragma("GCC ivdep") for (int cols = 0; cols < n_classes; ++cols) { \
        CLASS_VALUES __VA_ARGS__                                        \
        GRADIENTS_OF(WRITE_GRADIENT)                                    \
    }
#endif

#define REDUCE(OF, ...)                                                                     \
    { OF(ROW_OF)                                                                              \
    for (int part = 0; part < PARTS; ++part) {                                              \
        OF(ROW_BEGUN)                                                                       \
    }                                                                                       \
    for (int first = 0; first < n_classes; first += BLOCK) {                                \
        const int stop = first + BLOCK < n_classes ? first + BLOCK : n_classes;             \
        OF(LANES_OF)                                                                        \
        for (int lane = 0; lane < LANES; ++lane) {                                          \
            OF(LANE_BEGUN)                                                                  \
        }                                                                                   \
        int at = first;                                                                     \
        for (; at + LANES <= stop; at += LANES) {                                           \
            _Pragma("GCC ivdep") for (int lane = 0; lane < LANES; ++lane) {                 \
                const int cols = at + lane;                                                 \
                CLASS_VALUES __VA_ARGS__                                                    \
                OF(LANE_JOINED)                                                             \
            }                                                                               \
        }                                                                                   \
        REDUCE_TAIL(OF, __VA_ARGS__)                                                        \
        /* Without LANES classes in the block, all is in the first TAIL. */                 \
        for (int lane = 0; lane < LANES && (lane < TAIL || first + LANES <= stop); lane += PARTS) { \
            for (int part = 0; part < PARTS; ++part) {                                      \
                OF(PART_JOINED)                                                             \
            }                                                                               \
        }                                                                                   \
    }                                                                                       \
    for (int half = PARTS / 2; half; half /= 2) {                                           \
        for (int part = 0; part < half; ++part) {                                           \
            OF(PARTS_JOINED)                                                                \
        }                                                                                   \
    }                                                                                       \
    OF(FOUND_AS) }

/* EACH_CLASS(FACTOR, ...): the text computes grad_x of each stream x, which is multiplied by FACTOR;
   AT_CLASS: that of the class that stands apart. */
#define WRITE_GRADIENT(k, name) \
    if (want & 1 << k) grad_##name##_ptr[cols] = grad_##name * factor;
#define EACH_CLASS(FACTOR, ...)                                                   \
    {                                                                             \
        const real factor = FACTOR;                                               \
        CLASS_LOOP(__VA_ARGS__)                                                   \
    }
#define WRITE_OWN(k, name) \
    if (want & 1 << k) grad_##name##_ptr[own] = (real)(values->grad_##name##_y[at] * factor);
#define AT_CLASS(FACTOR, AT)                 \
    {                                        \
        const double factor = FACTOR;        \
        const int64_t own = AT;              \
        GRADIENTS_OF(WRITE_OWN)              \
    }

/* ------------------------------------------------------------------ the rows */
/* Row ``at`` of the loss, as far as it does not depend on it; an ignored one is done with. */
INLINE void set_row(Row *r, const Call *call, int64_t at, real *scratch, const enum mode mode) {
    const int64_t width = call->storage == SAME ? 0 : r->padded;
    r->at = at;
    r->kept = KEPT ? scratch + (STREAMS + GRADIENTS) * width : NULL;
    for (int k = 0; k < GRADIENTS; ++k) {
        r->grad[k] = grad_row(call, k, at, scratch + (STREAMS + k) * width);
    }
    r->ignored = 0;
    if (HAS_TARGET) {
        const int64_t target = call->target[at * call->target_stride];
        r->ignored = target == call->ignore_index;
        r->in_range = target >= 0 && target < r->n_classes;
        r->y = r->in_range ? (int)target : 0;
    }
    if (r->ignored) {
        if (mode != BACKWARD) {
            for (int k = 0; k < RESULTS; ++k) call->result[k * call->rows + at] = 0;
        }
        if (mode == FORWARD) {
            for (int k = 0; k < SAVED; ++k) call->saved[k * call->rows + at] = 0;
        }
        for (int k = 0; k < GRADIENTS; ++k) {
            if (r->grad[k]) memset(r->grad[k], 0, (size_t)r->n_classes * sizeof(real));
            write_row(call, k, at, r->grad[k]);
        }
        return;
    }
    for (int k = 0; k < STREAMS; ++k) {
        r->stream[k] = read_row(call, k, at, scratch + k * width);
    }
}

/* With constants for what is wanted: one gradient, two of two, or all. */
INLINE void end_as_wanted(const Row *r, const enum mode mode, const Values *values, const int at) {
    const int all = (1 << GRADIENTS) - 1, want = mode == FORWARD ? 0 : wanted(r);
    if (mode == FORWARD || want == 0) {
        end_row(r, mode, values, at, 0);
    } else if (want == all) {
        end_row(r, mode, values, at, all);
    } else if (GRADIENTS > 1 && want == 1) {
        end_row(r, mode, values, at, 1);
    } else if (GRADIENTS > 1 && want == 2) {
        end_row(r, mode, values, at, 2);
    } else if (GRADIENTS > 2) {
        end_row(r, mode, values, at, want);
    }
}

/* Steps of rows that are together, whose values stand side by side. */
INLINE int program(const Call *call, int64_t start, int64_t stop, const enum mode mode) {
    const int64_t padded = padded_row(call->classes), width = call->storage == SAME ? 0 : padded;
    const int64_t own = (STREAMS + GRADIENTS) * width + (mode == BACKWARD ? 0 : KEPT * padded);
    const int together = rows_together(stop - start, own + (STREAMS + GRADIENTS) * call->classes);
    real *scratch = NULL;
    if (own && !(scratch = aligned_alloc(ALIGNED, (size_t)(together * own) * sizeof(real)))) return 1;
    Values values;
    memset(&values, 0, sizeof values);
    Row rows[TOGETHER];
    for (int at = 0; at < together; ++at) {
        rows[at] = (Row){.call = call, .padded = padded, .n_classes = (int)call->classes, .in_range = 1};
    }
    for (int64_t first = start; first < stop; first += together) {
        const int n = stop - first < together ? (int)(stop - first) : together;
        for (int at = 0; at < n; ++at) {
            set_row(&rows[at], call, first + at, scratch + at * own, mode);
            if (!rows[at].ignored) begin_row(&rows[at], mode, &values, at);
        }
        for (int begin = 0; begin < n; begin += PARTS) {
            _Pragma("GCC ivdep") for (int at = begin; at < begin + PARTS; ++at) {
                row_values(call, mode, &values, at);
            }
        }
        for (int at = 0; at < n; ++at) {
            if (rows[at].ignored) continue;
            end_as_wanted(&rows[at], mode, &values, at);
            if (mode != FORWARD) {
                for (int k = 0; k < GRADIENTS; ++k) {
                    write_row(call, k, rows[at].at, rows[at].grad[k]);
                }
            }
        }
    }
    free(scratch);
    return 0;
}

int forward(const Call *call, int64_t start, int64_t stop) {
    return program(call, start, stop, FORWARD);
}
int backward(const Call *call, int64_t start, int64_t stop) {
    return program(call, start, stop, BACKWARD);
}
int fused(const Call *call, int64_t start, int64_t stop) {
    return program(call, start, stop, FUSED);
}
