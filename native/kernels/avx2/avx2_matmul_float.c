/* avx2_matmul_float: F32, F16 and BF16 weights.
 *
 * All three are one walk in steps of 16 lanes, lane by lane one fmaf. A block of F32 or F16 is one
 * step of 16 values; a block of BF16 is 32 values, the odd ones first and then the even ones, so
 * that pair p meets lane p mod 16 as vdpbf16ps has it. Steps that a row does not fill are filled
 * with -0 * 0, which leaves every lane as it is, also one that is -0.
 *
 * BF16 counts subnormals as zero, on the way in and out. Denormals-are-zero does the former, and
 * with it the latter, since a lane is the next step's input; the last step's lanes are cleared by
 * hand. Flush-to-zero would not do: it judges a result before it is rounded to where subnormals
 * end.
 *
 * A few columns are met straight from the file. Of many columns six at a time, a span of values
 * each, lie in L1 while the rows pass, whose values have been widened to f32 once.
 */
#include <assert.h>
#include <float.h>
#include <stdbool.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_vec.h"

typedef enum number { F32, F16, BF16 } number;

enum {
    N_LANES = 16,
    FEW_COLS = 4,
    FEW_ROWS = 64, /* whose lanes are summed up together */
    PANEL_COLS = 6,
    MANY_COLS = 12,  /* from here on widening the rows pays */
    SPAN_STEPS = 32, /* of six columns: 12 KB */
    ROWS_BYTES = 384 * 1024,
    MOST_ROWS = 64,
};

/* Where the panel's arrays lie in scratch. */
typedef struct panel {
    float rows[ROWS_BYTES / sizeof(float)]; /* [span][row][step][lane] */
    float cols[SPAN_STEPS][PANEL_COLS][N_LANES];
    float lanes[MOST_ROWS][PANEL_COLS][N_LANES];
} panel;

static_assert(sizeof(panel) <= (size_t)KERNELS_SCRATCH_BYTES, "fits scratch");

/* ---- steps --------------------------------------------------------------------------------- */

VEC_INLINE size_t value_bytes(number k) { return k == F32 ? sizeof(float) : sizeof(uint16_t); }
VEC_INLINE size_t block_dim(number k) { return k == BF16 ? 2 * N_LANES : N_LANES; }
VEC_INLINE size_t block_steps(number k) { return k == BF16 ? 2 : 1; }

VEC_INLINE const void *value_at(number k, const void *values, size_t i) {
    return (const uint8_t *)values + i * value_bytes(k);
}

/* Lanes 8 half to 8 half + 7 of a step of the whole block at `block`. */
VEC_INLINE __m256 load_lanes(number k, const void *block, size_t step, size_t half) {
    const void *at = value_at(k, block, half * block_dim(k) / 2);
    if (k == F32) return _mm256_loadu_ps(at);
    if (k == F16) return _mm256_cvtph_ps(_mm_loadu_si128(at));
    __m256i pairs = _mm256_loadu_si256(at);
    if (step) return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

static float value_of(number k, const void *values, size_t i) {
    uint16_t bits;
    if (k == F32) return ((const float *)values)[i];
    memcpy(&bits, value_at(k, values, i), sizeof bits);
    return k == F16 ? exact_f16_to_f32(bits) : exact_bf16_to_f32(bits);
}

/* The steps of the block that begins with value i, of which n - i are there. */
static void load_last(number k, const void *values, size_t i, size_t n, float fill,
                      float steps[2][N_LANES]) {
    for (size_t s = 0; s < block_steps(k); s++) {
        for (size_t l = 0; l < N_LANES; l++) {
            size_t j = k == BF16 ? i + 2 * l + (s == 0) : i + l;
            steps[s][l] = j < n ? value_of(k, values, j) : fill;
        }
    }
}

static const float row_fill = -0.0f, col_fill = 0.0f;

/* ---- a few columns -------------------------------------------------------------------------- */

/* Columns of activations; x_bytes apart. */
typedef struct columns {
    number k;
    const uint8_t *x;
    size_t x_bytes;
} columns;

/* lanes[row][column] of n_rows x n_cols dots over n values. `ahead` is prefetched: the rows behind
 * these, in the order they lie in. */
VEC_INLINE void dot_tile(number k, int n_rows, int n_cols, const uint8_t *rows, size_t row_bytes,
                         columns x, size_t n, float (*lanes)[FEW_COLS][N_LANES]) {
    const size_t dim = block_dim(k);
    const uint8_t *ahead = rows + (size_t)n_rows * row_bytes;
    __m256 sums[4][FEW_COLS][2];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) sums[r][c][0] = sums[r][c][1] = _mm256_setzero_ps();
    }
    size_t i = 0;
    for (; i + dim <= n; i += dim) {
#pragma GCC unroll 2
        for (size_t s = 0; s < block_steps(k); s++) {
#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) {
                __m256 a[FEW_COLS];
#pragma GCC unroll 4
                for (size_t c = 0; c < (size_t)n_cols; c++) {
                    a[c] = load_lanes(x.k, value_at(x.k, x.x + c * x.x_bytes, i), s, h);
                }
#pragma GCC unroll 4
                for (size_t r = 0; r < (size_t)n_rows; r++) {
                    __m256 w = load_lanes(k, value_at(k, rows + r * row_bytes, i), s, h);
#pragma GCC unroll 4
                    for (int c = 0; c < n_cols; c++) {
                        sums[r][c][h] = _mm256_fmadd_ps(w, a[c], sums[r][c][h]);
                    }
                }
            }
        }
        const size_t step = (size_t)n_rows * dim * value_bytes(k);
        for (size_t at = 0; at < step; at += 64)
            _mm_prefetch((const void *)(ahead + at), _MM_HINT_T0);
        ahead += step;
    }
    for (size_t r = 0; r < (size_t)n_rows; r++) {
        for (size_t c = 0; c < (size_t)n_cols; c++) {
            float w[2][N_LANES], a[2][N_LANES];
            if (i < n) {
                load_last(k, rows + r * row_bytes, i, n, row_fill, w);
                load_last(x.k, x.x + c * x.x_bytes, i, n, col_fill, a);
            }
            for (size_t s = 0; i < n && s < block_steps(k); s++) {
                for (size_t h = 0; h < 2; h++) {
                    sums[r][c][h] = _mm256_fmadd_ps(_mm256_loadu_ps(w[s] + 8 * h),
                                                    _mm256_loadu_ps(a[s] + 8 * h), sums[r][c][h]);
                }
            }
            _mm256_storeu_ps(lanes[r][c], sums[r][c][0]);
            _mm256_storeu_ps(lanes[r][c] + 8, sums[r][c][1]);
        }
    }
}

/* Rows of a tile: one column's dots have two chains of fmaf each, too few to hide their latency. */
VEC_INLINE size_t few_rows(int n_cols) { return n_cols == 1 ? 4 : n_cols == FEW_COLS ? 1 : 2; }

VEC_INLINE void dot_few(number k, int n_cols, const uint8_t *rows, size_t row_bytes, size_t n_rows,
                        columns x, size_t n, float (*lanes)[FEW_COLS][N_LANES]) {
    const size_t tile = few_rows(n_cols);
    size_t r = 0;
    for (; r + tile <= n_rows; r += tile) {
        dot_tile(k, (int)tile, n_cols, rows + r * row_bytes, row_bytes, x, n, lanes + r);
    }
    for (; r < n_rows; r++) {
        dot_tile(k, 1, n_cols, rows + r * row_bytes, row_bytes, x, n, lanes + r);
    }
}

/* ---- many columns --------------------------------------------------------------------------- */

/* The steps of values [i, end) of `values`, which has n, `stride` lanes apart. */
VEC_INLINE void widen(number k, const void *values, size_t i, size_t end, size_t n, float fill,
                      float *to, size_t stride) {
    for (; i < end; i += block_dim(k)) {
        float last[2][N_LANES];
        const bool is_whole = i + block_dim(k) <= n;
        if (!is_whole) load_last(k, values, i, n, fill, last);
        for (size_t s = 0; s < block_steps(k); s++, to += stride) {
            for (size_t h = 0; h < 2; h++) {
                __m256 x = is_whole ? load_lanes(k, value_at(k, values, i), s, h)
                                    : _mm256_loadu_ps(last[s] + 8 * h);
                _mm256_storeu_ps(to + 8 * h, x);
            }
        }
    }
}

/* One row with six columns, n_steps. */
VEC_INLINE void dot_span(const float *w, float (*x)[PANEL_COLS][N_LANES], size_t n_steps,
                         float lanes[PANEL_COLS][N_LANES]) {
    __m256 sums[PANEL_COLS][2];
#pragma GCC unroll 6
    for (int c = 0; c < PANEL_COLS; c++) {
        sums[c][0] = _mm256_loadu_ps(lanes[c]);
        sums[c][1] = _mm256_loadu_ps(lanes[c] + 8);
    }
    for (; n_steps; n_steps--, w += N_LANES, x++) {
        __m256 low = _mm256_loadu_ps(w), high = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 6
        for (int c = 0; c < PANEL_COLS; c++) {
            sums[c][0] = _mm256_fmadd_ps(low, _mm256_loadu_ps((*x)[c]), sums[c][0]);
            sums[c][1] = _mm256_fmadd_ps(high, _mm256_loadu_ps((*x)[c] + 8), sums[c][1]);
        }
    }
#pragma GCC unroll 6
    for (int c = 0; c < PANEL_COLS; c++) {
        _mm256_storeu_ps(lanes[c], sums[c][0]);
        _mm256_storeu_ps(lanes[c] + 8, sums[c][1]);
    }
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t n_steps_of(number k, size_t n) {
    return (n + block_dim(k) - 1) / block_dim(k) * block_steps(k);
}

VEC_INLINE void widen_rows(number k, const uint8_t *rows, size_t row_bytes, size_t n_rows, size_t n,
                           float *to) {
    const size_t span = SPAN_STEPS / block_steps(k) * block_dim(k);
    for (size_t i = 0; i < n; i += span) {
        const size_t end = smaller(i + span, n);
        for (size_t r = 0; r < n_rows; r++) {
            widen(k, rows + r * row_bytes, i, end, n, row_fill, to, N_LANES);
            to += n_steps_of(k, end - i) * N_LANES;
        }
    }
}

/* p->lanes of n_rows widened rows with six columns. */
VEC_INLINE void dot_panel(number k, panel *p, size_t n_rows, columns x, size_t n) {
    const size_t span = SPAN_STEPS / block_steps(k) * block_dim(k);
    const float *w = p->rows;
    memset(p->lanes, 0, n_rows * sizeof *p->lanes);
    for (size_t i = 0; i < n; i += span) {
        const size_t end = smaller(i + span, n), n_steps = n_steps_of(k, end - i);
        for (size_t c = 0; c < PANEL_COLS; c++) {
            widen(x.k, x.x + c * x.x_bytes, i, end, n, col_fill, p->cols[0][c],
                  PANEL_COLS * N_LANES);
        }
        for (size_t r = 0; r < n_rows; r++, w += n_steps * N_LANES) {
            dot_span(w, p->cols, n_steps, p->lanes[r]);
        }
    }
}

/* ---- the product ----------------------------------------------------------------------------- */

/* Denormals-are-zero while a BF16 function runs; it is a call of its own, as what it computes must
 * not be moved across the switch. */
static unsigned enter(number k) {
    unsigned state = _mm_getcsr();
    if (k == BF16) _mm_setcsr(state | _MM_DENORMALS_ZERO_MASK);
    return state;
}
static void leave(number k, unsigned state) {
    if (k == BF16) _mm_setcsr(state);
}

VEC_INLINE __m256 without_subnormals(__m256 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 is_tiny = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(FLT_MIN), _CMP_LT_OQ);
    return _mm256_blendv_ps(x, _mm256_and_ps(x, sign), is_tiny);
}

VEC_INLINE float sum_lanes(number k, const float lanes[N_LANES]) {
    __m256 low = _mm256_loadu_ps(lanes), high = _mm256_loadu_ps(lanes + 8);
    if (k == BF16) low = without_subnormals(low), high = without_subnormals(high);
    return vec_tree16((const vec[2]){low, high});
}

typedef void few_function(const uint8_t *rows, size_t row_bytes, size_t n_rows, columns x, size_t n,
                          float (*lanes)[FEW_COLS][N_LANES]);
typedef void panel_function(panel *p, size_t n_rows, columns x, size_t n);
typedef void widen_function(const uint8_t *rows, size_t row_bytes, size_t n_rows, size_t n,
                            float *to);

typedef struct float_quant {
    number k;
    few_function *few[FEW_COLS]; /* [columns - 1] */
    widen_function *widen;
    panel_function *panel;
} float_quant;

/* Columns [col, col + n_cols) of the product, FEW_COLS at most. */
static void multiply_few(const float_quant *q, const product *p, columns x, size_t col,
                         size_t n_cols) {
    float lanes[FEW_ROWS][FEW_COLS][N_LANES];
    for (size_t row0 = 0; row0 < p->n_rows; row0 += FEW_ROWS) {
        const size_t n_here = smaller(FEW_ROWS, p->n_rows - row0);
        const columns at = {x.k, x.x + col * x.x_bytes, x.x_bytes};
        const unsigned state = enter(q->k);
        q->few[n_cols - 1](p->rows + row0 * p->row_bytes, p->row_bytes, n_here, at, p->a->n, lanes);
        leave(q->k, state);
        for (size_t c = 0; c < n_cols; c++) {
            for (size_t r = 0; r < n_here; r++) {
                p->y[(col + c) * p->y_stride + row0 + r] = sum_lanes(q->k, lanes[r][c]);
            }
        }
    }
}

/* The first n_cols columns, a multiple of PANEL_COLS, a group of rows at a time. */
static void multiply_many(const float_quant *q, const product *p, columns x, size_t n_cols,
                          size_t group) {
    panel *const scratch = p->scratch;
    for (size_t row0 = 0; row0 < p->n_rows; row0 += group) {
        const size_t n_here = smaller(group, p->n_rows - row0);
        q->widen(p->rows + row0 * p->row_bytes, p->row_bytes, n_here, p->a->n, scratch->rows);
        for (size_t col = 0; col < n_cols; col += PANEL_COLS) {
            const columns at = {x.k, x.x + col * x.x_bytes, x.x_bytes};
            const unsigned state = enter(q->k);
            q->panel(scratch, n_here, at, p->a->n);
            leave(q->k, state);
            for (size_t c = 0; c < PANEL_COLS; c++) {
                float *to = p->y + (col + c) * p->y_stride + row0;
                for (size_t r = 0; r < n_here; r++) to[r] = sum_lanes(q->k, scratch->lanes[r][c]);
            }
        }
    }
}

static void multiply(const float_quant *q, const product *p) {
    const number k = q->k == BF16 ? BF16 : F32;
    const size_t n = p->a->n, x_bytes = n * value_bytes(k);
    const size_t row_floats = n_steps_of(q->k, n) * N_LANES;
    const void *values = k == BF16 ? (const void *)p->a->bf16 : (const void *)p->a->f32;
    const columns x = {k, (const uint8_t *)values + p->col0 * x_bytes, x_bytes};
    size_t c = 0;
    if (p->n_cols >= MANY_COLS && row_floats && row_floats * sizeof(float) <= ROWS_BYTES) {
        c = p->n_cols / PANEL_COLS * PANEL_COLS;
        multiply_many(q, p, x, c, smaller(MOST_ROWS, ROWS_BYTES / sizeof(float) / row_floats));
    }
    for (; c < p->n_cols; c += FEW_COLS) multiply_few(q, p, x, c, smaller(FEW_COLS, p->n_cols - c));
}

size_t avx2_float_scratch(size_t n_cols) { return n_cols >= MANY_COLS ? sizeof(panel) : 0; }

/* clang-format off */

#define FEW(stem, number, n_cols)                                                                  \
    static __attribute__((noinline)) void stem##_few_##n_cols(                                     \
        const uint8_t *rows, size_t row_bytes, size_t n_rows, columns x, size_t n,                 \
        float (*lanes)[FEW_COLS][N_LANES]) {                                                       \
        x.k = number == BF16 ? BF16 : F32;                                                         \
        dot_few(number, n_cols, rows, row_bytes, n_rows, x, n, lanes);                             \
    }
#define FORMAT(stem, number)                                                                       \
    FEW(stem, number, 1)                                                                           \
    FEW(stem, number, 2)                                                                           \
    FEW(stem, number, 3)                                                                           \
    FEW(stem, number, 4)                                                                           \
    static __attribute__((noinline)) void stem##_widen(const uint8_t *rows, size_t row_bytes,      \
                                                       size_t n_rows, size_t n, float *to) {       \
        widen_rows(number, rows, row_bytes, n_rows, n, to);                                        \
    }                                                                                              \
    static __attribute__((noinline)) void stem##_panel(panel *p, size_t n_rows, columns x,         \
                                                       size_t n) {                                 \
        x.k = number == BF16 ? BF16 : F32;                                                         \
        dot_panel(number, p, n_rows, x, n);                                                        \
    }                                                                                              \
    void avx2_matmul_##stem(const product *p) {                                                    \
        static const float_quant q = {                                                             \
            number,                                                                                \
            {stem##_few_1, stem##_few_2, stem##_few_3, stem##_few_4},                              \
            stem##_widen,                                                                          \
            stem##_panel,                                                                          \
        };                                                                                         \
        multiply(&q, p);                                                                           \
    }

/* clang-format on */

FORMAT(f32, F32)
FORMAT(f16, F16)
FORMAT(bf16, BF16)
