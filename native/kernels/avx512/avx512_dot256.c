/* avx512_dot256: dots of superblocks of 256.
 *
 * S, the sum of scale * dot over the sub-blocks, and M, the sum of bias * sum of the activations,
 * are integer and exact. M takes two sub-blocks in one vpdpwssd. A zero point is S's start, -M,
 * as its bias is the zero point times the scale; minimums keep M for the one float step that has
 * them. Only that last step, once per superblock, has an order; its sums rest in `out`, as the
 * registers are full.
 */
#include <stdbool.h>

#include "kernels/avx512/avx512_dot.h"

enum { GROUPS = 16 }; /* sums of 16 activations in a superblock */

/* The sums of the activations by sub-block, for n_cols columns whose groups lie col_groups apart:
 * those of 16 where they are, those of 32 added up in `memory`. */
TILE_INLINE void dot256_sub_sums(int n_sub, int n_cols, const int16_t *groups, size_t col_groups,
                                 int16_t memory[TILE_COLS][8], const int16_t *sums[TILE_COLS]) {
#pragma GCC unroll 6
    for (size_t c = 0; c < (size_t)n_cols; c++) {
        sums[c] = groups + c * col_groups;
        if (n_sub == GROUPS) continue;
        __m256i pairs = _mm256_loadu_si256((const void *)sums[c]);
        pairs = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        _mm_storeu_si128((void *)memory[c], _mm256_cvtepi32_epi16(pairs));
        sums[c] = memory[c];
    }
}

/* M of one superblock. */
TILE_INLINE void dot256_bias(int n_sub, int n_slabs, int n_cols,
                             const tile256 *const tile[TILE_SLABS], const int16_t *groups,
                             size_t col_groups, __m512i bias[TILE_SLABS][TILE_COLS]) {
    int16_t memory[TILE_COLS][8];
    const int16_t *sums[TILE_COLS];
    dot256_sub_sums(n_sub, n_cols, groups, col_groups, memory, sums);
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) bias[h][c] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_sub / 2; i++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) {
            __m512i pair = dot_broadcast(sums[c] + 2 * i, n_slabs);
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                bias[h][c] = _mm512_dpwssd_epi32(bias[h][c], tile[h]->bias[i], pair);
            }
        }
    }
}

/* sums[slab][c] += scale * dot of one sub-block of 4 * n_steps values; a column's values lie
 * col_bytes apart. */
TILE_INLINE void dot256_sub(int n_steps, int n_slabs, int n_cols,
                            const __m512i *const w[TILE_SLABS],
                            const __m512i *const scale[TILE_SLABS], const int8_t *q,
                            size_t col_bytes, __m512i sums[TILE_SLABS][TILE_COLS]) {
    __m512i dots[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 8
    for (int s = 0; s < n_steps; s++) {
        const __m512i v[TILE_SLABS] = {w[0][s], w[n_slabs - 1][s]};
#pragma GCC unroll 6
        for (size_t c = 0; c < (size_t)n_cols; c++) {
            __m512i x = dot_broadcast(q + c * col_bytes + 4 * s, n_slabs);
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                dots[h][c] = _mm512_dpbusd_epi32(s ? dots[h][c] : _mm512_setzero_si512(), v[h], x);
            }
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) {
            __m512i scaled = _mm512_mullo_epi32(dots[h][c], *scale[h]);
            sums[h][c] = _mm512_add_epi32(sums[h][c], scaled);
        }
    }
}

TILE_INLINE void dot256(int n_sub, bool has_min, int n_slabs, int n_cols,
                        const void *const tiles[TILE_SLABS], size_t block0, size_t n_blocks,
                        const acts *a, size_t col, float *out, size_t out_stride) {
    const int n_steps = 64 / n_sub;
    const size_t col_blocks = a->n / 256;
    const size_t first = col * col_blocks + block0;
    const tile256 *tile[TILE_SLABS] = {tiles[0], tiles[n_slabs - 1]};
    const int8_t *q = a->q + first * 256;
    const int16_t *groups = a->sums + first * GROUPS;
    const float *d_a = a->d + first;
    for (size_t b = 0; b < n_blocks; b++, tile[0]++, tile[1]++, groups += GROUPS, d_a++) {
        __m512i sums[TILE_SLABS][TILE_COLS], bias[TILE_SLABS][TILE_COLS];
        if (!has_min) dot256_bias(n_sub, n_slabs, n_cols, tile, groups, col_blocks * GROUPS, bias);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
            for (int c = 0; c < n_cols; c++) {
                const __m512i none = _mm512_setzero_si512();
                sums[h][c] = has_min ? none : _mm512_sub_epi32(none, bias[h][c]);
            }
        }
#pragma GCC unroll 1
        for (int j = 0; j < n_sub; j++, q += 256 / n_sub) {
            const __m512i *const w[TILE_SLABS] = {tile[0]->w + j * n_steps,
                                                  tile[1]->w + j * n_steps};
            const __m512i *const scale[TILE_SLABS] = {tile[0]->scale + j, tile[1]->scale + j};
            dot256_sub(n_steps, n_slabs, n_cols, w, scale, q, a->n, sums);
        }
        if (has_min) dot256_bias(n_sub, n_slabs, n_cols, tile, groups, col_blocks * GROUPS, bias);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            const __m512 d = tile[h]->d, dmin = tile[h]->dmin;
#pragma GCC unroll 6
            for (size_t c = 0; c < (size_t)n_cols; c++) {
                float *y = out + c * out_stride + (size_t)(TILE_ROWS * h);
                __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h][c]), d);
                if (has_min) t = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(bias[h][c]), dmin, t);
                t = _mm512_fmadd_ps(t, _mm512_set1_ps(d_a[c * col_blocks]), _mm512_loadu_ps(y));
                _mm512_storeu_ps(y, t);
            }
        }
    }
}

#define DOT(class, n_slabs, n_cols)                                                                \
    static void class##_##n_slabs##_##n_cols(const void *const tiles[TILE_SLABS], float zero,      \
                                             size_t block0, size_t n_blocks, const acts *a,        \
                                             size_t col, float *out, size_t out_stride) {          \
        (void)zero;                                                                                \
        dot256(class##_n_sub, class##_has_min, n_slabs, n_cols, tiles, block0, n_blocks, a, col,   \
               out, out_stride);                                                                   \
    }

enum {
    dot256_8_zero_n_sub = 8,
    dot256_8_zero_has_min = false,
    dot256_8_min_n_sub = 8,
    dot256_8_min_has_min = true,
    dot256_16_zero_n_sub = 16,
    dot256_16_zero_has_min = false,
    dot256_16_min_n_sub = 16,
    dot256_16_min_has_min = true,
};

DOT_TABLE(dot256_8_zero, DOT)
DOT_TABLE(dot256_8_min, DOT)
DOT_TABLE(dot256_16_zero, DOT)
DOT_TABLE(dot256_16_min, DOT)
