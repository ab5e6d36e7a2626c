/* avx2_dot: the dots of tiles with columns, one for blocks of 32 and one for superblocks.
 *
 * Codes are unsigned with a zero point, so that vpmaddubsw multiplies them with signed activations
 * and adds pairs into int16; sums of pairs stay in int16 for as many steps as provably cannot
 * overflow (|a| <= 127; a pair adds at most 2 * max code * 127):
 *
 *   4 bits  8 steps  30,480      5 bits  4 steps  31,496      6 bits  2 steps  32,004
 *
 * Codes of 8 bits are signed and take one step: |w| is the unsigned side and the sign goes to the
 * activation, whose magnitude is at most 127 and so survives it; 2 * 128 * 127 = 32,512.
 *
 * The zero point is taken back from the exact sums of the activations. All of it is integer
 * arithmetic (or floats below 2^24), so only the last lines of each function, one per block, have
 * an order, and there every row and column is its own chain.
 */
#ifndef LL_KERNELS_AVX2_DOT_H
#define LL_KERNELS_AVX2_DOT_H

#include <stdbool.h>

#include "kernels/avx2/avx2_tile.h"

/* How a format's codes are summed. */
typedef struct dot_traits {
    int n_steps;  /* of 4 values that stay in int16 before they are widened; 1: signed codes */
    int zero;     /* subtracted from every code; superblocks have it in their bias */
    bool has_min;
    int n_sub;    /* sub-blocks of a superblock: 8 or 16 */
} dot_traits;

/* Keeps x where it is in the order of things: gcc would otherwise turn a chain of sums into a tree,
 * hold all its terms at once and spill them, at half the speed. */
#define DOT_FENCE(x) __asm__("" : "+x"(x))

/* Pair sums of four values. */
TILE_INLINE __m256i dot_pairs(bool is_signed, __m256i w, __m256i a) {
    if (!is_signed) return _mm256_maddubs_epi16(w, a);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
}

/* sums[slab][c] = (or +=) scale * dot over n steps of 4 values, for w[slab] and the bytes at q[c].
 * scale holds int16 pairs. */
TILE_INLINE void dot_sub(dot_traits f, int n, int n_slabs, int n_cols,
                         const __m256i *const w[TILE_SLABS], const int8_t *const q[TILE_COLS],
                         const __m256i scale[TILE_SLABS], bool add,
                         __m256i sums[TILE_SLABS][TILE_COLS]) {
#pragma GCC unroll 8
    for (int s0 = 0; s0 < n; s0 += f.n_steps) {
        __m256i pairs[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 8
        for (int s = s0; s < s0 + f.n_steps; s++) {
#pragma GCC unroll 4
            for (int c = 0; c < n_cols; c++) {
                __m256i a = tile_broadcast(q[c] + 4 * s);
#pragma GCC unroll 2
                for (int h = 0; h < n_slabs; h++) {
                    __m256i p = dot_pairs(f.n_steps == 1, w[h][s], a);
                    pairs[h][c] = s == s0 ? p : _mm256_add_epi16(pairs[h][c], p);
                    DOT_FENCE(pairs[h][c]);
                }
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                __m256i p = _mm256_madd_epi16(pairs[h][c], scale[h]);
                sums[h][c] = s0 || add ? _mm256_add_epi32(sums[h][c], p) : p;
                DOT_FENCE(sums[h][c]);
            }
        }
    }
}

TILE_INLINE void dot_finish(float *out, __m256 t, __m256 d_a) {
    _mm256_storeu_ps(out, _mm256_fmadd_ps(t, d_a, _mm256_loadu_ps(out)));
}

TILE_INLINE void dot32(dot_traits f, int n_slabs, int n_cols, const void *const tiles[TILE_SLABS],
                       size_t block0, size_t n_blocks, const acts *a, size_t col, float *out,
                       size_t out_stride) {
    const tile32 *tile[TILE_SLABS];
    const size_t col_blocks = a->n / 32;
    size_t block = col * col_blocks + block0;
    for (int h = 0; h < n_slabs; h++) tile[h] = tiles[h];
    for (size_t b = 0; b < n_blocks; b++, block++) {
        const __m256i ones[TILE_SLABS] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
        const __m256i *w[TILE_SLABS];
        const int8_t *q[TILE_COLS];
        __m256i sums[TILE_SLABS][TILE_COLS];
        for (int h = 0; h < n_slabs; h++) w[h] = tile[h][b].w;
        for (int c = 0; c < n_cols; c++) q[c] = a->q + (block + (size_t)c * col_blocks) * 32;
        dot_sub(f, 8, n_slabs, n_cols, w, q, ones, false, sums);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            const __m256 d = tile[h][b].d, m = tile[h][b].m;
#pragma GCC unroll 4
            for (int c = 0; c < n_cols; c++) {
                __m256 a_sum = _mm256_broadcast_ss(a->sum + block + (size_t)c * col_blocks);
                __m256 a_d = _mm256_broadcast_ss(a->d + block + (size_t)c * col_blocks);
                __m256 t = _mm256_cvtepi32_ps(sums[h][c]);
                if (f.zero) t = _mm256_fnmadd_ps(_mm256_set1_ps((float)f.zero), a_sum, t);
                t = _mm256_mul_ps(t, d);
                if (f.has_min) t = _mm256_fmadd_ps(a_sum, m, t);
                dot_finish(out + (size_t)c * out_stride + TILE_ROWS * h, t, a_d);
            }
        }
    }
}

TILE_INLINE void dot256(dot_traits f, int n_slabs, int n_cols, const void *const tiles[TILE_SLABS],
                        size_t block0, size_t n_blocks, const acts *a, size_t col, float *out,
                        size_t out_stride) {
    const tile256 *tile[TILE_SLABS];
    const int8_t *q[TILE_COLS];
    const int16_t *group_sums[TILE_COLS];
    const float *d[TILE_COLS];
    for (int h = 0; h < n_slabs; h++) tile[h] = tiles[h];
    for (int c = 0; c < n_cols; c++) {
        size_t block = (col + (size_t)c) * (a->n / 256) + block0;
        q[c] = a->q + block * 256;
        d[c] = a->d + block;
        group_sums[c] = a->sums + block * 16;
    }
    const int sub_steps = 64 / f.n_sub;
    for (size_t b = 0; b < n_blocks; b++) {
        __m256i sums[TILE_SLABS][TILE_COLS], bias[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                sums[h][c] = bias[h][c] = _mm256_setzero_si256();
            }
        }
#pragma GCC unroll 1
        for (int j = 0; j < f.n_sub; j++) {
            const __m256i *w[TILE_SLABS];
            __m256i scale[TILE_SLABS];
            for (int h = 0; h < n_slabs; h++) {
                w[h] = tile[h][b].w + j * sub_steps;
                scale[h] = tile[h][b].scale[j];
            }
            dot_sub(f, sub_steps, n_slabs, n_cols, w, q, scale, true, sums);
            for (int c = 0; c < n_cols; c++) q[c] += 4 * sub_steps;
        }
        if (f.has_min || f.zero) {
#pragma GCC unroll 1
            for (int g = 0; g < 8; g++) {
#pragma GCC unroll 4
                for (int c = 0; c < n_cols; c++) {
                    __m256i pair = tile_broadcast(group_sums[c] + 2 * g);
#pragma GCC unroll 2
                    for (int h = 0; h < n_slabs; h++) {
                        __m256i p = _mm256_madd_epi16(tile[h][b].bias[g], pair);
                        bias[h][c] = _mm256_add_epi32(bias[h][c], p);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
            __m256 a_d = _mm256_broadcast_ss(&d[c][b]);
            group_sums[c] += 16;
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                __m256i s = sums[h][c];
                if (f.zero) s = _mm256_sub_epi32(s, bias[h][c]);
                __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(s), tile[h][b].d);
                if (f.has_min) {
                    t = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(bias[h][c]), tile[h][b].dmin, t);
                }
                dot_finish(out + (size_t)c * out_stride + TILE_ROWS * h, t, a_d);
            }
        }
    }
}

/* The loop over a slab's blocks, the dots and the matmul_kernel of one format; stem_unpack unpacks
 * one block of 8 rows. `body` is dot32 or dot256; the rest of the arguments are its dot_traits. */
#define DOT_MATMUL(stem, body, dim, tile, ...)                                                     \
    static void stem##_unpack_slab(const uint8_t *const rows[TILE_ROWS], size_t n_blocks,          \
                                   const uint8_t *ahead, void *tiles) {                            \
        const uint8_t *row[TILE_ROWS];                                                             \
        tile *t = tiles;                                                                           \
        memcpy(row, rows, sizeof row);                                                             \
        for (size_t b = 0; b < n_blocks; b++, t++) {                                               \
            if (ahead) tile_prefetch(ahead + b * TILE_ROWS * sizeof(block_##stem),                 \
                                     TILE_ROWS * sizeof(block_##stem));                            \
            stem##_unpack(row, t);                                                                 \
            for (int r = 0; r < TILE_ROWS; r++) row[r] += sizeof(block_##stem);                    \
        }                                                                                          \
    }                                                                                              \
    DOT_ONE(stem, body, 1, 1, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 1, 2, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 1, 3, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 1, 4, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 2, 1, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 2, 2, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 2, 3, __VA_ARGS__)                                                         \
    DOT_ONE(stem, body, 2, 4, __VA_ARGS__)                                                         \
    void avx2_matmul_##stem(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,      \
                            size_t col0, size_t n_cols, float *y, size_t y_stride,                 \
                            void *scratch) {                                                       \
        static const tile_quant row = {                                                            \
            dim,                                                                                   \
            sizeof(block_##stem),                                                                  \
            sizeof(tile),                                                                          \
            stem##_unpack_slab,                                                                    \
            {{stem##_dot_1_1, stem##_dot_1_2, stem##_dot_1_3, stem##_dot_1_4},                     \
             {stem##_dot_2_1, stem##_dot_2_2, stem##_dot_2_3, stem##_dot_2_4}},                    \
        };                                                                                         \
        tile_matmul(&row, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride, scratch);         \
    }
#define DOT_ONE(stem, body, n_slabs, n_cols, ...)                                                  \
    static void stem##_dot_##n_slabs##_##n_cols(const void *const tiles[TILE_SLABS],               \
                                                size_t block0, size_t n_blocks, const acts *a,     \
                                                size_t col, float *out, size_t out_stride) {       \
        body((dot_traits){__VA_ARGS__}, n_slabs, n_cols, tiles, block0, n_blocks, a, col, out,     \
             out_stride);                                                                          \
    }

#endif
