/* neon_matmul_float: F32 and F16 weights with f32 activations, BF16 weights with BF16 ones.
 *
 * The 16 lanes of a dot are four registers; tiles of several rows or columns share what they load
 * and run enough chains of fmaf at once to hide their latency. A format is a function that takes
 * sixteen lanes one step further; the tiles and the walk are the same.
 */
#include "kernels/neon/neon_kernels.h"

#include <arm_neon.h>
#include <float.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/neon/neon_vec.h"

enum {
    N_VECTORS = 4, /* of the 16 lanes */
    MANY_ROWS = 2, /* a tile of 2 rows and 3 columns: 24 chains */
    MANY_COLS = 3,
    ONE_COL_ROWS = 4,        /* a tile of 4 rows and 1 column: 16 chains */
    COLS_BYTES = 128 * 1024, /* of columns that stay in L2 while the rows pass */
};

typedef enum kind { F32, F16, BF16 } kind;

VEC_INLINE size_t weight_bytes(kind k) { return k == F32 ? sizeof(float) : sizeof(uint16_t); }
VEC_INLINE size_t act_bytes(kind k) { return k == BF16 ? sizeof(uint16_t) : sizeof(float); }

/* Values that a step takes: BF16 has pairs, each in one lane. */
VEC_INLINE size_t step_dim(kind k) { return k == BF16 ? 32 : 16; }

/* Subnormals as zeros of their sign. */
VEC_INLINE float32x4_t without_subnormals(float32x4_t x) {
    uint32x4_t is_subnormal = vcaltq_f32(x, vdupq_n_f32(FLT_MIN));
    uint32x4_t cleared = vandq_u32(is_subnormal, vdupq_n_u32(0x7fffffff));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), cleared));
}

/* What a step holds of a row or a column: lanes 4v to 4v + 3 are in [v]; of pairs the even values
 * come in [0], the odd ones in [1]. */
typedef struct lanes {
    float32x4_t v[2];
} lanes;

/* Where the exponent is zero only the sign is kept. */
VEC_INLINE lanes load_bf16_pairs(const void *from, size_t i) {
    uint16x8_t x = vld1q_u16((const uint16_t *)from + i);
    uint16x8_t is_normal = vtstq_u16(x, vdupq_n_u16(0x7f80));
    x = vandq_u16(x, vorrq_u16(is_normal, vdupq_n_u16(0x8000)));
    uint32x4_t pairs = vreinterpretq_u32_u16(x);
    float32x4_t even = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    float32x4_t odd = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
    return (lanes){
        {even, odd}
    };
}

VEC_INLINE lanes load_weights(kind k, const void *row, size_t i) {
    if (k == BF16) return load_bf16_pairs(row, i);
    if (k == F32) return (lanes){{vld1q_f32((const float *)row + i)}};
    return (lanes){{vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)row + i)))}};
}

VEC_INLINE lanes load_acts(kind k, const void *col, size_t i) {
    if (k == BF16) return load_bf16_pairs(col, i);
    return (lanes){{vld1q_f32((const float *)col + i)}};
}

VEC_INLINE float32x4_t step(kind k, float32x4_t sum, lanes w, lanes a) {
    if (k != BF16) return vfmaq_f32(sum, w.v[0], a.v[0]);
    sum = without_subnormals(vfmaq_f32(sum, w.v[1], a.v[1]));
    return without_subnormals(vfmaq_f32(sum, w.v[0], a.v[0]));
}

/* The last n values, fewer than a step, from copies that are filled up with -0 and 0: their product
 * is -0, which added to any sum is that sum, bit for bit. */
VEC_INLINE void add_tail(kind k, const uint8_t *row, const uint8_t *col, size_t n,
                         float32x4_t sums[N_VECTORS]) {
    uint32_t w[16], a[16] = {0};
    for (int i = 0; i < 16; i++) w[i] = k == F32 ? 0x80000000 : 0x80008000;
    memcpy(w, row, n * weight_bytes(k));
    memcpy(a, col, n * act_bytes(k));
    for (size_t v = 0; v < N_VECTORS; v++) {
        const size_t i = v * step_dim(k) / N_VECTORS;
        sums[v] = step(k, sums[v], load_weights(k, w, i), load_acts(k, a, i));
    }
}

/* y[c * y_stride + r] of n_rows rows and n_cols columns. */
VEC_INLINE void dot_tile(kind k, int n_rows, int n_cols, const uint8_t *rows, size_t row_bytes,
                         const uint8_t *cols, size_t n, float *y, size_t y_stride) {
    const size_t col_bytes = n * act_bytes(k);
    float32x4_t sums[ONE_COL_ROWS][MANY_COLS][N_VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 3
        for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 4
            for (int v = 0; v < N_VECTORS; v++) sums[r][c][v] = vdupq_n_f32(0);
        }
    }
    size_t i = 0;
    for (; i + step_dim(k) <= n; i += step_dim(k)) {
#pragma GCC unroll 4
        for (size_t v = 0; v < N_VECTORS; v++) {
            const size_t at = i + v * step_dim(k) / N_VECTORS;
            lanes a[MANY_COLS];
#pragma GCC unroll 3
            for (int c = 0; c < n_cols; c++) a[c] = load_acts(k, cols + (size_t)c * col_bytes, at);
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                lanes w = load_weights(k, rows + (size_t)r * row_bytes, at);
#pragma GCC unroll 3
                for (int c = 0; c < n_cols; c++) sums[r][c][v] = step(k, sums[r][c][v], w, a[c]);
            }
        }
        if (n_cols == 1) { /* the next tile's rows, in the order they lie in */
            const size_t n_ahead = (size_t)n_rows * step_dim(k) * weight_bytes(k);
            const uint8_t *ahead = rows + (size_t)n_rows * (row_bytes + i * weight_bytes(k));
            for (size_t at = 0; at < n_ahead; at += 64) __builtin_prefetch(ahead + at, 0, 3);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 3
        for (int c = 0; c < n_cols; c++) {
            if (i < n) {
                add_tail(k, rows + (size_t)r * row_bytes + i * weight_bytes(k),
                         cols + (size_t)c * col_bytes + i * act_bytes(k), n - i, sums[r][c]);
            }
            y[(size_t)c * y_stride + (size_t)r] = vec_tree16(sums[r][c]);
        }
    }
}

VEC_INLINE void dot_rows(kind k, int n_rows, size_t n_cols, const uint8_t *rows, size_t row_bytes,
                         const uint8_t *cols, size_t n, float *y, size_t y_stride) {
    const size_t col_bytes = n * act_bytes(k);
    size_t c = 0;
    for (; c + MANY_COLS <= n_cols; c += MANY_COLS) {
        dot_tile(k, n_rows, MANY_COLS, rows, row_bytes, cols + c * col_bytes, n, y + c * y_stride,
                 y_stride);
    }
    for (; c < n_cols; c++) {
        dot_tile(k, n_rows, 1, rows, row_bytes, cols + c * col_bytes, n, y + c * y_stride,
                 y_stride);
    }
}

VEC_INLINE void matmul(kind k, const product *p) {
    const size_t n = p->a->n, col_bytes = n * act_bytes(k);
    const uint8_t *cols = k == BF16 ? (const uint8_t *)p->a->bf16 : (const uint8_t *)p->a->f32;
    cols += p->col0 * col_bytes;
    size_t pass = COLS_BYTES / (n ? col_bytes : 1) / MANY_COLS * MANY_COLS;
    if (pass < MANY_COLS) pass = MANY_COLS;
    for (size_t c = 0; c < p->n_cols; c += pass) {
        const size_t n_pass = p->n_cols - c < pass ? p->n_cols - c : pass;
        const uint8_t *at = cols + c * col_bytes, *row = p->rows;
        float *to = p->y + c * p->y_stride;
        size_t r = 0;
        for (; n_pass == 1 && r + ONE_COL_ROWS <= p->n_rows; r += ONE_COL_ROWS) {
            dot_tile(k, ONE_COL_ROWS, 1, row, p->row_bytes, at, n, to + r, p->y_stride);
            row += ONE_COL_ROWS * p->row_bytes;
        }
        for (; r + MANY_ROWS <= p->n_rows; r += MANY_ROWS) {
            dot_rows(k, MANY_ROWS, n_pass, row, p->row_bytes, at, n, to + r, p->y_stride);
            row += MANY_ROWS * p->row_bytes;
        }
        if (r < p->n_rows) dot_rows(k, 1, n_pass, row, p->row_bytes, at, n, to + r, p->y_stride);
    }
}

#define MATMUL(name, kind)                                                                         \
    void neon_matmul_##name(const product *p) { matmul(kind, p); }

MATMUL(f32, F32)
MATMUL(f16, F16)
MATMUL(bf16, BF16)
