/* avx512_dot32: dots of blocks of 32.
 *
 * Within a block everything is integer and exact; only the last lines, once per block, have an
 * order, and there every row and column is its own chain, in a register from the first block of a
 * span to the last. A zero point is the sums' start, minus the zero point times the activations'
 * exact sum, so it costs the multiply ports nothing per row.
 */
#include <stdbool.h>

#include "kernels/avx512/avx512_dot.h"

TILE_INLINE void dot32(bool has_min, int n_slabs, int n_cols, const void *tiles, float zero,
                       size_t block0, size_t n_blocks, const acts *a, size_t col, tile_sums at) {
    const tile32 *tile = tiles;
    const size_t first = acts_block(a, block0, col), next = a->n_cols;
    const int8_t *q = a->q + first * 32;
    const float *d_a = a->d + first, *sum_a = a->sum + first;
    __m512 acc[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 6
    for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            acc[h][c] = dot_sum_in(at, (size_t)h, (size_t)c);
        }
    }
    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sums[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) {
            __m512i start = _mm512_setzero_si512();
            if (!has_min) {
                __m512 sum = _mm512_set1_ps(sum_a[c]);
                start = _mm512_cvtps_epi32(_mm512_mul_ps(sum, _mm512_set1_ps(-zero)));
            }
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) sums[h][c] = start;
        }
#pragma GCC unroll 8
        for (int s = 0; s < 8; s++) {
            dot_step(n_slabs, n_cols, &tile->w[s], q + 4 * s, 32, sums);
        }
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            const tile32 *slab = dot_slab(tile, h);
            const __m512 d = slab->d, m = slab->m;
#pragma GCC unroll 6
            for (int c = 0; c < n_cols; c++) {
                __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h][c]), d);
                if (has_min) t = _mm512_fmadd_ps(_mm512_set1_ps(sum_a[c]), m, t);
                acc[h][c] = _mm512_fmadd_ps(t, _mm512_set1_ps(d_a[c]), acc[h][c]);
            }
        }
        tile++, q += next * 32, d_a += next, sum_a += next;
    }
#pragma GCC unroll 6
    for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            dot_sum_out(at, (size_t)h, (size_t)c, acc[h][c]);
        }
    }
}

#define DOT(class, n_slabs, n_cols)                                                                \
    static void class##_##n_slabs##_##n_cols(const void *tiles, float zero, size_t block0,         \
                                             size_t n_blocks, const acts *a, size_t col,           \
                                             tile_sums at) {                                       \
        dot32(class##_has_min, n_slabs, n_cols, tiles, zero, block0, n_blocks, a, col, at);        \
    }

DOT_TABLE(dot32_zero, DOT)
DOT_TABLE(dot32_min, DOT)
