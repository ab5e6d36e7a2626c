/* avx2_matmul_float: F32 and F16 weights with f32 activations.
 *
 * The 16 lanes of a dot are two registers, so one dot has two chains of fmaf, too few to hide
 * their latency; tiles of several rows or columns run eight to twelve chains at once.
 */
#include "kernels/avx2/avx2_exp.h"
#include "kernels/avx2/avx2_matmul.h"

#include <stdbool.h>

enum {
    N_LANES = 16,
    MANY_ROWS = 2, /* a tile of 2 rows and 3 columns: 12 chains */
    MANY_COLS = 3,
    ONE_COL_ROWS = 4,        /* a tile of 4 rows and 1 column: 8 chains */
    COLS_BYTES = 128 * 1024, /* of columns that stay in L2 while the rows pass */
};

EXP_INLINE __m256 load_weights(bool is_f16, const void *row, size_t i) {
    if (!is_f16) return _mm256_loadu_ps((const float *)row + i);
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const uint16_t *)row + i)));
}

EXP_INLINE float weight_at(bool is_f16, const void *row, size_t i) {
    return is_f16 ? _cvtsh_ss(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}

/* The last n % 16 values: lanes beyond them keep their sums, bit for bit. */
EXP_INLINE void add_tail(bool is_f16, const void *row, const float *x, size_t i, size_t n,
                         __m256 sums[2]) {
    float w[N_LANES] = {0}, a[N_LANES] = {0};
    int32_t used[N_LANES] = {0};
    for (size_t l = 0; i + l < n; l++) {
        w[l] = weight_at(is_f16, row, i + l);
        a[l] = x[i + l];
        used[l] = -1;
    }
    for (int h = 0; h < 2; h++) {
        __m256 sum =
            _mm256_fmadd_ps(_mm256_loadu_ps(w + 8 * h), _mm256_loadu_ps(a + 8 * h), sums[h]);
        __m256i mask = _mm256_loadu_si256((const void *)(used + 8 * h));
        sums[h] = _mm256_blendv_ps(sums[h], sum, _mm256_castsi256_ps(mask));
    }
}

EXP_INLINE void dot_tile(bool is_f16, int n_rows, int n_cols, const uint8_t *rows, size_t row_bytes,
                         const float *x, size_t n, float *y, size_t y_stride) {
    __m256 sums[ONE_COL_ROWS][MANY_COLS][2];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 3
        for (int c = 0; c < n_cols; c++) sums[r][c][0] = sums[r][c][1] = _mm256_setzero_ps();
    }
    size_t i = 0;
    for (; i + N_LANES <= n; i += N_LANES) {
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            __m256 a[MANY_COLS];
#pragma GCC unroll 3
            for (int c = 0; c < n_cols; c++) {
                a[c] = _mm256_loadu_ps(x + (size_t)c * n + i + 8 * h);
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                const uint8_t *row = rows + (size_t)r * row_bytes;
                __m256 w = load_weights(is_f16, row, i + 8 * h);
#pragma GCC unroll 3
                for (int c = 0; c < n_cols; c++) {
                    sums[r][c][h] = _mm256_fmadd_ps(w, a[c], sums[r][c][h]);
                }
            }
        }
        if (n_cols == 1) { /* the next tile's rows, in the order they lie in */
            const size_t step =
                (size_t)n_rows * N_LANES * (is_f16 ? sizeof(uint16_t) : sizeof(float));
            const uint8_t *ahead = rows + (size_t)n_rows * row_bytes + i / N_LANES * step;
            for (size_t at = 0; at < step; at += 64) {
                _mm_prefetch((const void *)(ahead + at), _MM_HINT_T0);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        for (int c = 0; c < n_cols; c++) {
            if (i < n) {
                add_tail(is_f16, rows + (size_t)r * row_bytes, x + (size_t)c * n, i, n, sums[r][c]);
            }
            y[(size_t)c * y_stride + (size_t)r] = tree_256(sums[r][c][0], sums[r][c][1]);
        }
    }
}

EXP_INLINE void dot_row_pair(bool is_f16, int n_rows, size_t n_cols, const uint8_t *rows,
                             size_t row_bytes, const float *x, size_t n, float *y,
                             size_t y_stride) {
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
            dot_row_pair(is_f16, MANY_ROWS, cols, rows + r * row_bytes, row_bytes, xc, n, yc + r,
                         y_stride);
        }
        if (r < n_rows) {
            dot_row_pair(is_f16, 1, cols, rows + r * row_bytes, row_bytes, xc, n, yc + r, y_stride);
        }
    }
}

void avx2_matmul_f32(const void *rows, size_t row_bytes, size_t n_rows, const acts *a, size_t col0,
                     size_t n_cols, float *y, size_t y_stride, void *scratch) {
    (void)scratch;
    matmul(false, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride);
}

void avx2_matmul_f16(const void *rows, size_t row_bytes, size_t n_rows, const acts *a, size_t col0,
                     size_t n_cols, float *y, size_t y_stride, void *scratch) {
    (void)scratch;
    matmul(true, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride);
}
