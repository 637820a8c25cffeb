/* The row program of every loss: its rows, a few together, and the loops over their classes.

   A loss states before it includes this file, in an enum, how many STREAMS it reads, GRADIENTS it
   writes, RESULTS it computes and values it has SAVED per row, how many rows of class values are
   KEPT beside the logits, how many row values are HELD between the steps of a row, and whether it
   HAS_TARGET; and defines after it

     begin_row    the statistics of a row, or what was saved of them
     row_values   from those to results and coefficients of the gradient; of several rows in vectors
     end_row      results, what is saved, and gradients

   with REDUCE for its sums and maxima, and EACH_CLASS for its gradients. */

#include "row.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const Call *call;
    int64_t at, padded;         /* the row; elements of a kept one */
    int n_classes, y, in_range; /* y: a class, the first where the target is out of range */
    int ignored;
    const real *stream[STREAMS];
    real *grad[GRADIENTS]; /* NULL: not wanted */
    real *kept;
} Row;

INLINE void begin_row(const Row *r, const enum mode mode, double held[][TOGETHER], const int at);
INLINE void row_values(const Call *call, const enum mode mode, double held[][TOGETHER], const int at);
INLINE void end_row(const Row *r, const enum mode mode, double held[][TOGETHER], const int at);

/* ------------------------------------------------------------------ what a row reads and writes */
INLINE double row_input(const Row *r, int k) {
    return r->call->input[k][r->at * r->call->input_stride[k]];
}
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
/* The gradients that are wanted, a bit for each: as constants the loops have no conditions. */
INLINE int wanted(const Row *r) {
    int found = 0;
    for (int k = 0; k < GRADIENTS; ++k) found |= r->grad[k] ? 1 << k : 0;
    return found;
}
INLINE void write_own(const Row *r, int k, int64_t at, double value) {
    if (r->grad[k]) r->grad[k][at] = (real)value;
}

/* ------------------------------------------------------------------ loops over the classes
   REDUCE(OF, ...): the text computes values of the class cols, and those that OF lists with their
   kinds, OF(EACH) = EACH(SUM, e) EACH(MAX, l), are reduced over the row and go to out in order.
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

#define ROW_OF(KIND, name) double name##_row[PARTS];
#define ROW_BEGUN(KIND, name) name##_row[part] = IDENTITY_##KIND;
#define LANES_OF(KIND, name) TYPE_##KIND name##_lanes[LANES];
#define LANE_BEGUN(KIND, name) name##_lanes[lane] = IDENTITY_##KIND;
#define LANE_JOINED(KIND, name) name##_lanes[lane] = JOINED_##KIND(name##_lanes[lane], name);
#define FIRST_JOINED(KIND, name) name##_lanes[0] = JOINED_##KIND(name##_lanes[0], name);
#define PART_JOINED(KIND, name) \
    name##_row[part] = JOINED_##KIND(name##_row[part], name##_lanes[lane + part]);
#define PARTS_JOINED(KIND, name) \
    name##_row[part] = JOINED_##KIND(name##_row[part], name##_row[part + half]);
#define OUT_OF(KIND, name) *out++ = RESULT_##KIND(name##_row[0]);

#define REDUCE(OF, ...)                                                                     \
    OF(ROW_OF)                                                                              \
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
                __VA_ARGS__                                                                 \
                OF(LANE_JOINED)                                                             \
            }                                                                               \
        }                                                                                   \
        for (; at + PARTS <= stop; at += PARTS) {                                           \
            _Pragma("GCC ivdep") for (int lane = 0; lane < PARTS; ++lane) {                 \
                const int cols = at + lane;                                                 \
                __VA_ARGS__                                                                 \
                OF(LANE_JOINED)                                                             \
            }                                                                               \
        }                                                                                   \
        for (int cols = at; cols < stop; ++cols) {                                          \
            __VA_ARGS__                                                                     \
            OF(FIRST_JOINED)                                                                \
        }                                                                                   \
        /* Without LANES classes in the block, all is in the first PARTS. */                \
        for (int lane = 0; lane < LANES && (lane == 0 || first + LANES <= stop); lane += PARTS) { \
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
    OF(OUT_OF)

#define EACH_CLASS(...) \
    _Pragma("GCC ivdep") for (int cols = 0; cols < n_classes; ++cols) { __VA_ARGS__ }

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

INLINE int program(const Call *call, int64_t start, int64_t stop, const enum mode mode) {
    const int64_t padded = padded_row(call->classes), width = call->storage == SAME ? 0 : padded;
    const int64_t own = (STREAMS + GRADIENTS) * width + (mode == BACKWARD ? 0 : KEPT * padded);
    const int together = rows_together(stop - start, own + (STREAMS + GRADIENTS) * call->classes);
    real *scratch = NULL;
    if (own && !(scratch = aligned_alloc(ALIGNED, (size_t)(together * own) * sizeof(real)))) return 1;
    double held[HELD][TOGETHER];
    memset(held, 0, sizeof held);
    Row rows[TOGETHER];
    for (int at = 0; at < together; ++at) {
        rows[at] = (Row){.call = call, .padded = padded, .n_classes = (int)call->classes, .in_range = 1};
    }
    for (int64_t first = start; first < stop; first += together) {
        const int n = stop - first < together ? (int)(stop - first) : together;
        for (int at = 0; at < n; ++at) {
            set_row(&rows[at], call, first + at, scratch + at * own, mode);
            if (!rows[at].ignored) begin_row(&rows[at], mode, held, at);
        }
        for (int begin = 0; begin < n; begin += PARTS) {
            _Pragma("GCC ivdep") for (int at = begin; at < begin + PARTS; ++at) {
                row_values(call, mode, held, at);
            }
        }
        for (int at = 0; at < n; ++at) {
            if (rows[at].ignored) continue;
            end_row(&rows[at], mode, held, at);
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
