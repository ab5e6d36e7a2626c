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
    int n_steps; /* of 4 values that stay in int16 before they are widened; 1: signed codes */
    int zero;    /* subtracted from every code; superblocks have it in their bias */
    bool has_min;
    int n_sub; /* sub-blocks of a superblock: 8 or 16 */
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

/* Where the columns' values, scales and sums of one block begin; the next block's lie n_cols blocks
 * behind. sums are f32 (blocks of 32) or int16 (superblocks). */
typedef struct dot_columns {
    const int8_t *q;
    const float *d;
    const void *sums;
    size_t n_cols;
} dot_columns;

TILE_INLINE dot_columns dot_columns_at(const acts *a, size_t dim, size_t col, size_t block) {
    size_t i = acts_block(a, block, col);
    const void *sums = dim == 32 ? (const void *)(a->sum + i) : (const void *)(a->sums + 16 * i);
    return (dot_columns){a->q + i * dim, a->d + i, sums, a->n_cols};
}

/* The next block: pointers that advance cost fewer instructions than an index for each array. */
TILE_INLINE dot_columns dot_columns_next(dot_columns at, size_t dim) {
    size_t sums_bytes = at.n_cols * (dim == 32 ? sizeof(float) : 16 * sizeof(int16_t));
    return (dot_columns){at.q + dim * at.n_cols, at.d + at.n_cols,
                         (const uint8_t *)at.sums + sums_bytes, at.n_cols};
}

/* out[c][slab][row] = fmaf(t, d_a, out). */
TILE_INLINE void dot_finish(float *out, __m256 t, __m256 d_a) {
    _mm256_storeu_ps(out, _mm256_fmadd_ps(t, d_a, _mm256_loadu_ps(out)));
}

/* One block of 32. */
TILE_INLINE void dot32(dot_traits f, int n_slabs, int n_cols, const tile32 *const tile[TILE_SLABS],
                       dot_columns a, float *out, size_t out_stride) {
    const __m256i ones[TILE_SLABS] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    const float *a_sums = a.sums;
    const __m256i *w[TILE_SLABS];
    const int8_t *q[TILE_COLS];
    __m256i sums[TILE_SLABS][TILE_COLS];
    for (int h = 0; h < n_slabs; h++) w[h] = tile[h]->w;
    for (int c = 0; c < n_cols; c++) q[c] = a.q + (size_t)c * 32;
    dot_sub(f, 8, n_slabs, n_cols, w, q, ones, false, sums);
    __m256 d[TILE_SLABS], m[TILE_SLABS];
    for (int h = 0; h < n_slabs; h++) {
        d[h] = tile[h]->d;
        if (f.has_min) m[h] = tile[h]->m;
    }
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        __m256 a_sum = _mm256_broadcast_ss(a_sums + (size_t)c);
        __m256 a_d = _mm256_broadcast_ss(a.d + (size_t)c);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            __m256 t = _mm256_cvtepi32_ps(sums[h][c]);
            if (f.zero) t = _mm256_fnmadd_ps(_mm256_set1_ps((float)f.zero), a_sum, t);
            t = _mm256_mul_ps(t, d[h]);
            if (f.has_min) t = _mm256_fmadd_ps(a_sum, m[h], t);
            dot_finish(out + (size_t)c * out_stride + TILE_ROWS * h, t, a_d);
        }
    }
}

/* bias[slab][c] = the biases of a superblock times the sums of the activations' groups. */
TILE_INLINE void dot_bias(int n_slabs, int n_cols, const tile256 *const tile[TILE_SLABS],
                          dot_columns a, __m256i bias[TILE_SLABS][TILE_COLS]) {
    const int16_t *groups = a.sums;
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) bias[h][c] = _mm256_setzero_si256();
    }
#pragma GCC unroll 1
    for (int g = 0; g < 8; g++) {
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
            __m256i pair = tile_broadcast(groups + (size_t)c * 16 + 2 * g);
#pragma GCC unroll 2
            for (int h = 0; h < n_slabs; h++) {
                __m256i p = _mm256_madd_epi16(tile[h]->bias[g], pair);
                bias[h][c] = _mm256_add_epi32(bias[h][c], p);
            }
        }
    }
}

/* One superblock. */
TILE_INLINE void dot256(dot_traits f, int n_slabs, int n_cols,
                        const tile256 *const tile[TILE_SLABS], dot_columns a, float *out,
                        size_t out_stride) {
    const int n_steps = 64 / f.n_sub;
    __m256i sums[TILE_SLABS][TILE_COLS], bias[TILE_SLABS][TILE_COLS];
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) sums[h][c] = _mm256_setzero_si256();
    }
#pragma GCC unroll 1
    for (int j = 0; j < f.n_sub; j++) {
        const __m256i *w[TILE_SLABS];
        const int8_t *q[TILE_COLS];
        __m256i scale[TILE_SLABS];
        for (int h = 0; h < n_slabs; h++) {
            w[h] = tile[h]->w + j * n_steps;
            scale[h] = tile[h]->scale[j];
        }
        for (int c = 0; c < n_cols; c++) q[c] = a.q + (size_t)c * 256;
        dot_sub(f, n_steps, n_slabs, n_cols, w, q, scale, true, sums);
        a.q += 4 * n_steps;
    }
    if (f.has_min || f.zero) dot_bias(n_slabs, n_cols, tile, a, bias);
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        __m256 a_d = _mm256_broadcast_ss(a.d + (size_t)c);
#pragma GCC unroll 2
        for (int h = 0; h < n_slabs; h++) {
            __m256i s = sums[h][c];
            if (f.zero) s = _mm256_sub_epi32(s, bias[h][c]);
            __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(s), tile[h]->d);
            if (f.has_min) {
                t = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(bias[h][c]), tile[h]->dmin, t);
            }
            dot_finish(out + (size_t)c * out_stride + TILE_ROWS * h, t, a_d);
        }
    }
}

/* One line for each number of columns. */
/* clang-format off */

/* All of one format: DOT_FORMAT(name in quant_blocks.h, values a block, dot_traits …). Its author
 * writes name_unpack(row, at, tile), which unpacks the blocks of 8 rows that begin at row[r] + at.
 */
#define DOT_FORMAT(name, dim, ...)                                                                 \
    static void name##_unpack_slab(const uint8_t *const row[TILE_ROWS], size_t n_blocks,           \
                                   void *tiles) {                                                  \
        tile##dim *tile = tiles;                                                                   \
        for (size_t b = 0; b < n_blocks; b++) {                                                    \
            name##_unpack(row, b * sizeof(block_##name), &tile[b]);                                \
        }                                                                                          \
    }                                                                                              \
    DOT_COLUMNS(name, dim, 1, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 2, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 3, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 4, __VA_ARGS__)                                                         \
    void avx2_matmul_##name(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,      \
                            size_t col0, size_t n_cols, float *y, size_t y_stride,                 \
                            void *scratch) {                                                       \
        static const tile_quant q = {                                                              \
            .block_dim = dim,                                                                      \
            .block_bytes = sizeof(block_##name),                                                   \
            .tile_bytes = sizeof(tile##dim),                                                       \
            .unpack = name##_unpack_slab,                                                          \
            .stream = {name##_stream_1, name##_stream_2, name##_stream_3, name##_stream_4},        \
            .dot = {name##_dot_1, name##_dot_2, name##_dot_3, name##_dot_4},                       \
        };                                                                                         \
        tile_matmul(&q, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride, scratch);           \
    }

/* The tile_stream and the tile_dot of one number of columns. */
#define DOT_COLUMNS(name, dim, n_cols, ...)                                                        \
    static void name##_stream_##n_cols(const uint8_t *const row[TILE_ROWS], const uint8_t *ahead,  \
                                       const acts *a, size_t col,                                  \
                                       float out[TILE_COLS][TILE_ROWS]) {                          \
        const acts copy = *a; /* which no store through a float pointer can change */              \
        float sums[TILE_COLS][TILE_ROWS] = {{0}};                                                  \
        for (size_t b = 0; b < copy.n / dim; b++) {                                                \
            tile##dim t;                                                                           \
            const tile##dim *const tile[TILE_SLABS] = {&t, &t};                                    \
            const size_t at = b * sizeof(block_##name);                                            \
            tile_prefetch(ahead + at * TILE_ROWS, sizeof(block_##name) * TILE_ROWS);               \
            name##_unpack(row, at, &t);                                                            \
            dot##dim((dot_traits){__VA_ARGS__}, 1, n_cols, tile,                                   \
                     dot_columns_at(&copy, dim, col, b), sums[0], TILE_ROWS);                      \
        }                                                                                          \
        memcpy(out, sums, sizeof sums);                                                            \
    }                                                                                              \
    static void name##_dot_##n_cols(const void *const tiles[TILE_SLABS], size_t block0,            \
                                    size_t n_blocks, const acts *a, size_t col, float *out,        \
                                    size_t out_stride) {                                           \
        dot_columns at = dot_columns_at(a, dim, col, block0);                                      \
        const tile##dim *tile[TILE_SLABS] = {tiles[0], tiles[1]};                                  \
        for (size_t b = 0; b < n_blocks; b++, tile[0]++, tile[1]++) {                              \
            dot##dim((dot_traits){__VA_ARGS__}, TILE_SLABS, n_cols, tile, at, out, out_stride);    \
            at = dot_columns_next(at, dim);                                                        \
        }                                                                                          \
    }

/* clang-format on */

#endif
