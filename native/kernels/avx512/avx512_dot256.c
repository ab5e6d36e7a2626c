/* avx512_dot256: dots of superblocks of 256.
 *
 * S, the sum of scale * dot over the sub-blocks, and M, the sum of bias * sum of the activations,
 * are integer and exact. Where the dot of 16 values fits an int16 (16 * 15 * 127 = 30,480 for codes
 * of 4 bits) one vpdpwssd multiplies it with its scale and adds it to S; else that takes a vpmulld,
 * which is two operations, and an addition. M takes two sub-blocks in one vpdpwssd. A zero point is
 * S's start, -M, as its bias is the zero point times the scale; minimums keep M for the one float
 * step that has them. Only that last step, once per superblock, has an order; its sums rest in
 * `out`, as the registers are full.
 */
#include <stdbool.h>

#include "kernels/avx512/avx512_dot.h"

enum { GROUPS = 16 }; /* sums of 16 activations in a superblock */

/* The sums of the activations by sub-block, for n_cols columns: those of 16 where they are, those
 * of 32 added up in `memory`. */
TILE_INLINE void dot256_sub_sums(int n_sub, int n_cols, const int16_t *groups,
                                 int16_t memory[TILE_COLS][8], const int16_t *sums[TILE_COLS]) {
#pragma GCC unroll 6
    for (int c = 0; c < n_cols; c++) {
        sums[c] = groups + c * GROUPS;
        if (n_sub == GROUPS) continue;
        __m256i pairs = _mm256_loadu_si256((const void *)sums[c]);
        pairs = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        _mm_storeu_si128((void *)memory[c], _mm256_cvtepi32_epi16(pairs));
        sums[c] = memory[c];
    }
}

/* M of one superblock. */
TILE_INLINE void dot256_bias(int n_sub, int n_slabs, int n_cols, const tile256 *tile,
                             const int16_t *groups, __m512i bias[TILE_SLABS][TILE_COLS]) {
    int16_t memory[TILE_COLS][8];
    const int16_t *sums[TILE_COLS];
    dot256_sub_sums(n_sub, n_cols, groups, memory, sums);
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) bias[h][c] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_sub / 2; i++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) {
            __m512i pair = dot_broadcast(sums[c] + 2 * i);
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                bias[h][c] = dot_pairs(bias[h][c], dot_load(&tile->bias[i], h), pair);
            }
        }
    }
}

/* sums[slab][c] += scale * dot of 4 * n_steps values; a column's values lie 256 bytes apart. */
TILE_INLINE void dot256_scaled(bool is_half, int n_steps, int n_slabs, int n_cols, const __m512i *w,
                               const __m512i *scale, const int8_t *q,
                               __m512i sums[TILE_SLABS][TILE_COLS]) {
    __m512i dots[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) dots[h][c] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int s = 0; s < n_steps; s++) dot_step(n_slabs, n_cols, w + s, q + 4 * s, 256, dots);
#pragma GCC unroll 2
    for (int h = 0; h < n_slabs; h++) {
        const __m512i sc = dot_load(scale, h);
#pragma GCC unroll 6
        for (int c = 0; c < n_cols; c++) {
            if (is_half) {
                sums[h][c] = dot_pairs(sums[h][c], dots[h][c], sc);
            } else {
                sums[h][c] = _mm512_add_epi32(sums[h][c], _mm512_mullo_epi32(dots[h][c], sc));
            }
        }
    }
}

TILE_INLINE void dot256(dot_traits f, int n_slabs, int n_cols, const void *tiles, size_t block0,
                        size_t n_blocks, const acts *a, size_t col, tile_sums at) {
    const int sub_steps = 64 / f.n_sub, n_steps = f.is_half ? 4 : sub_steps;
    const size_t first = acts_block(a, block0, col), next = a->n_cols;
    const tile256 *tile = tiles;
    const int8_t *block = a->q + first * 256;
    const int16_t *groups = a->sums + first * GROUPS;
    const float *d_a = a->d + first;
    for (size_t b = 0; b < n_blocks; b++) {
        __m512i sums[TILE_SLABS][TILE_COLS], bias[TILE_SLABS][TILE_COLS];
        if (!f.has_min) dot256_bias(f.n_sub, n_slabs, n_cols, tile, groups, bias);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
#pragma GCC unroll 6
            for (int c = 0; c < n_cols; c++) {
                const __m512i none = _mm512_setzero_si512();
                sums[h][c] = f.has_min ? none : _mm512_sub_epi32(none, bias[h][c]);
            }
        }
        const __m512i *w = tile->w, *scale = tile->scale;
        const int8_t *q = block;
        do { /* a sub-block; pointers that advance keep the loop free of other arithmetic */
#pragma GCC unroll 2
            for (int s = 0; s < sub_steps; s += n_steps) {
                dot256_scaled(f.is_half, n_steps, n_slabs, n_cols, w + s, scale, q + 4 * s, sums);
            }
            w += sub_steps, q += 4 * sub_steps, scale++;
        } while (w != tile->w + 64);
        if (f.has_min) dot256_bias(f.n_sub, n_slabs, n_cols, tile, groups, bias);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            const tile256 *slab = dot_slab(tile, h);
            const __m512 d = slab->d, dmin = slab->dmin;
#pragma GCC unroll 6
            for (int c = 0; c < n_cols; c++) {
                __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h][c]), d);
                if (f.has_min) t = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(bias[h][c]), dmin, t);
                const __m512 before = dot_sum_in(at, (size_t)h, (size_t)c);
                t = _mm512_fmadd_ps(t, _mm512_set1_ps(d_a[c]), before);
                dot_sum_out(at, (size_t)h, (size_t)c, t);
            }
        }
        at.in = at.out, at.in_stride = at.out_stride;
        tile++, block += next * 256, groups += next * GROUPS, d_a += next;
    }
}

#define DOT(class, n_slabs, n_cols)                                                                \
    static void class##_##n_slabs##_##n_cols(const void *tiles, float zero, size_t block0,         \
                                             size_t n_blocks, const acts *a, size_t col,           \
                                             tile_sums at) {                                       \
        (void)zero;                                                                                \
        dot256(class##_traits, n_slabs, n_cols, tiles, block0, n_blocks, a, col, at);              \
    }

DOT_TABLE(dot256_8_zero, DOT)
DOT_TABLE(dot256_8_min, DOT)
DOT_TABLE(dot256_16_zero, DOT)
DOT_TABLE(dot256_8_min_half, DOT)
DOT_TABLE(dot256_16_zero_half, DOT)
DOT_TABLE(dot256_16_min_half, DOT)
