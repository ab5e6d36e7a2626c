/* avx512_dot32: dots of blocks of 32.
 *
 * Within a block everything is integer and exact; only the last lines, once per block, have an
 * order, and there every row and column is its own chain, in a register from the first block to
 * the last. A zero point is the sums' start, minus the zero point times the activations' exact
 * sum, so it costs the multiply ports nothing per row.
 */
#include <stdbool.h>

#include "kernels/avx512/avx512_dot.h"

TILE_INLINE void dot32(bool has_min, int n_slabs, int n_cols, const void *const tiles[TILE_SLABS],
                       float zero, size_t block0, size_t n_blocks, const acts *a, size_t col,
                       float *out, size_t out_stride) {
    const tile32 *tile[TILE_SLABS] = {tiles[0], tiles[n_slabs - 1]};
    const size_t col_blocks = a->n / 32;
    const size_t first = col * col_blocks + block0;
    const int8_t *q = a->q + first * 32;
    const float *d_a = a->d + first, *sum_a = a->sum + first;
    __m512 acc[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (size_t c = 0; c < (size_t)n_cols; c++) {
            acc[h][c] = _mm512_loadu_ps(out + c * out_stride + (size_t)(TILE_ROWS * h));
        }
    }
    for (size_t b = 0; b < n_blocks; b++, q += 32) {
        __m512i sums[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 6
        for (size_t c = 0; c < (size_t)n_cols; c++) {
            __m512i start = _mm512_setzero_si512();
            if (!has_min) {
                __m512 sum = _mm512_set1_ps(sum_a[c * col_blocks + b]);
                start = _mm512_cvtps_epi32(_mm512_mul_ps(sum, _mm512_set1_ps(-zero)));
            }
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) sums[h][c] = start;
        }
#pragma GCC unroll 8
        for (int s = 0; s < 8; s++) {
            const __m512i w[TILE_SLABS] = {tile[0][b].w[s], tile[n_slabs - 1][b].w[s]};
#pragma GCC unroll 6
            for (size_t c = 0; c < (size_t)n_cols; c++) {
                __m512i x = dot_broadcast(q + c * a->n + 4 * s, n_slabs);
#pragma GCC unroll 2
                for (int h = 0; h < n_slabs; h++) {
                    sums[h][c] = _mm512_dpbusd_epi32(sums[h][c], w[h], x);
                }
            }
        }
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            const __m512 d = tile[h][b].d, m = tile[h][b].m;
#pragma GCC unroll 6
            for (size_t c = 0; c < (size_t)n_cols; c++) {
                __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h][c]), d);
                if (has_min) {
                    t = _mm512_fmadd_ps(_mm512_set1_ps(sum_a[c * col_blocks + b]), m, t);
                }
                acc[h][c] = _mm512_fmadd_ps(t, _mm512_set1_ps(d_a[c * col_blocks + b]), acc[h][c]);
            }
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (size_t c = 0; c < (size_t)n_cols; c++) {
            _mm512_storeu_ps(out + c * out_stride + (size_t)(TILE_ROWS * h), acc[h][c]);
        }
    }
}

#define DOT(class, n_slabs, n_cols)                                                                \
    static void class##_##n_slabs##_##n_cols(const void *const tiles[TILE_SLABS], float zero,      \
                                             size_t block0, size_t n_blocks, const acts *a,        \
                                             size_t col, float *out, size_t out_stride) {          \
        dot32(class##_has_min, n_slabs, n_cols, tiles, zero, block0, n_blocks, a, col, out,        \
              out_stride);                                                                         \
    }

enum { dot32_zero_has_min = false, dot32_min_has_min = true };

DOT_TABLE(dot32_zero, DOT)
DOT_TABLE(dot32_min, DOT)
