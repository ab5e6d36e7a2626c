/* avx512_matmul_float: F32 and F16 weights with f32 activations.
 *
 * The 16 lanes of a dot are one register, so one dot is one chain of fmaf, too few to hide its
 * latency; tiles of several rows or columns run eight to twenty-four chains at once.
 */
#include "kernels/avx512/avx512_exp.h"
#include "kernels/avx512/avx512_matmul.h"

#include <stdbool.h>

enum {
    N_LANES = 16,
    MANY_ROWS = 4, /* a tile of 4 rows and 6 columns: 24 chains */
    MANY_COLS = 6,
    ONE_COL_ROWS = 8,        /* a tile of 8 rows and 1 column: 8 chains */
    COLS_BYTES = 256 * 1024, /* of columns that stay in L2 while the rows pass */
    AHEAD_BYTES = 2 * 1024,  /* prefetch distance within a row */
};

EXP_INLINE __m512 load_weights(bool is_f16, const void *row, size_t i, __mmask16 m) {
    if (!is_f16) return _mm512_maskz_loadu_ps(m, (const float *)row + i);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, (const uint16_t *)row + i));
}

/* One step of 16 values, of which m are there; lanes beyond them keep their sums, bit for bit. */
EXP_INLINE void dot_step(bool is_f16, int n_rows, int n_cols, const uint8_t *rows, size_t row_bytes,
                         const float *x, size_t n, size_t i, __mmask16 m,
                         __m512 sums[ONE_COL_ROWS][MANY_COLS]) {
    __m512 a[MANY_COLS];
#pragma GCC unroll 6
    for (size_t c = 0; c < (size_t)n_cols; c++) a[c] = _mm512_maskz_loadu_ps(m, x + c * n + i);
#pragma GCC unroll 8
    for (size_t r = 0; r < (size_t)n_rows; r++) {
        __m512 w = load_weights(is_f16, rows + r * row_bytes, i, m);
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) sums[r][c] = _mm512_mask3_fmadd_ps(w, a[c], sums[r][c], m);
    }
}

EXP_INLINE void dot_tile(bool is_f16, int n_rows, int n_cols, const uint8_t *rows, size_t row_bytes,
                         const float *x, size_t n, float *y, size_t y_stride) {
    __m512 sums[ONE_COL_ROWS][MANY_COLS];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) sums[r][c] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + N_LANES <= n; i += N_LANES) {
        dot_step(is_f16, n_rows, n_cols, rows, row_bytes, x, n, i, 0xffff, sums);
        if (n_cols == 1) {
            for (int r = 0; r < n_rows; r++) {
                size_t at = i * (is_f16 ? sizeof(uint16_t) : sizeof(float)) + AHEAD_BYTES;
                _mm_prefetch((const void *)(rows + (size_t)r * row_bytes + at), _MM_HINT_T0);
            }
        }
    }
    if (i < n) {
        dot_step(is_f16, n_rows, n_cols, rows, row_bytes, x, n, i, lanes_below(n - i), sums);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < (size_t)n_rows; r++) {
#pragma GCC unroll 6
        for (size_t c = 0; c < (size_t)n_cols; c++) y[c * y_stride + r] = tree_512(sums[r][c]);
    }
}

EXP_INLINE void dot_rows(bool is_f16, int n_rows, size_t n_cols, const uint8_t *rows,
                         size_t row_bytes, const float *x, size_t n, float *y, size_t y_stride) {
    size_t c = 0;
    for (; c + MANY_COLS <= n_cols; c += MANY_COLS) {
        dot_tile(is_f16, n_rows, MANY_COLS, rows, row_bytes, x + c * n, n, y + c * y_stride,
                 y_stride);
    }
    for (; c < n_cols; c++) {
        dot_tile(is_f16, n_rows, 1, rows, row_bytes, x + c * n, n, y + c * y_stride, y_stride);
    }
}

EXP_INLINE void matmul(bool is_f16, const uint8_t *rows, size_t row_bytes, size_t n_rows,
                       const acts *a, size_t col0, size_t n_cols, float *y, size_t y_stride) {
    const size_t n = a->n;
    const float *x = a->f32 + col0 * n;
    size_t pass = COLS_BYTES / sizeof(float) / (n ? n : 1) / MANY_COLS * MANY_COLS;
    if (pass < MANY_COLS) pass = MANY_COLS;
    for (size_t c = 0; c < n_cols; c += pass) {
        size_t cols = n_cols - c < pass ? n_cols - c : pass;
        const float *xc = x + c * n;
        float *yc = y + c * y_stride;
        size_t r = 0;
        if (cols == 1) {
            for (; r + ONE_COL_ROWS <= n_rows; r += ONE_COL_ROWS) {
                dot_tile(is_f16, ONE_COL_ROWS, 1, rows + r * row_bytes, row_bytes, xc, n, yc + r,
                         y_stride);
            }
        }
        for (; r + MANY_ROWS <= n_rows; r += MANY_ROWS) {
            dot_rows(is_f16, MANY_ROWS, cols, rows + r * row_bytes, row_bytes, xc, n, yc + r,
                     y_stride);
        }
        for (; r < n_rows; r++) {
            dot_rows(is_f16, 1, cols, rows + r * row_bytes, row_bytes, xc, n, yc + r, y_stride);
        }
    }
}

void avx512_matmul_f32(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,
                       size_t col0, size_t n_cols, float *y, size_t y_stride, void *scratch) {
    (void)scratch;
    matmul(false, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride);
}

void avx512_matmul_f16(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,
                       size_t col0, size_t n_cols, float *y, size_t y_stride, void *scratch) {
    (void)scratch;
    matmul(true, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride);
}
