/* avx512_stream: what a format's unpacking is used for: tiles for many columns, and the stream of
 * one to eight columns, in which codes meet the activations in the registers they are unpacked in.
 */
#ifndef LL_KERNELS_AVX512_STREAM_H
#define LL_KERNELS_AVX512_STREAM_H

#include "kernels/avx512/avx512_dot.h"

enum { STREAM_GROUPS = 16 }; /* groups of 16 values in a superblock */

/* M of one superblock: the biases times the sums of the activations. */
TILE_INLINE __m512i stream_bias(int n_sub, const tile256 *t, const int16_t *groups) {
    __m512i bias = _mm512_setzero_si512();
    int16_t halves[STREAM_GROUPS / 2];
    const int16_t *sums = groups;
    if (n_sub < STREAM_GROUPS) {
        __m256i pairs = _mm256_loadu_si256((const void *)groups);
        pairs = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        _mm_storeu_si128((void *)halves, _mm256_cvtepi32_epi16(pairs));
        sums = halves;
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_sub / 2; i++) {
        bias = dot_pairs(bias, t->bias[i], dot_broadcast(sums + 2 * i));
    }
    return bias;
}

/* sums += scale * dot of one group's 16 values. */
TILE_INLINE __m512i stream_group(bool is_half, const __m512i w[4], __m512i scale, const int8_t *q,
                                 __m512i sums) {
    __m512i dots = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) dots = dot_bytes_at(dots, w[s], q + 4 * s);
    if (is_half) return dot_pairs(sums, dots, scale);
    return _mm512_add_epi32(sums, _mm512_mullo_epi32(dots, scale));
}

/* acc = fmaf(t, d_a, acc) with the t of one superblock. */
TILE_INLINE __m512 stream_finish(dot_traits f, const tile256 *t, __m512i sums, __m512i bias,
                                 float d_a, __m512 acc) {
    if (!f.has_min) sums = _mm512_sub_epi32(sums, bias);
    __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), t->d);
    if (f.has_min) x = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(bias), t->dmin, x);
    return _mm512_fmadd_ps(x, _mm512_set1_ps(d_a), acc);
}

/* Formats whose head lies behind their codes are not read in ascending order, which is what the
 * processor's own prefetching wants to see; so their next block is fetched in that order. */
TILE_INLINE void stream_fetch_next(tile_rows rows, size_t block_bytes) {
    enum { LONG_BLOCK = 192 };
    if (block_bytes < LONG_BLOCK) return;
#pragma GCC unroll 16
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const uint8_t *next = rows.first + r * rows.stride + block_bytes;
#pragma GCC unroll 4
        for (size_t i = 0; i < block_bytes; i += 64)
            _mm_prefetch((const void *)(next + i), _MM_HINT_T0);
    }
}

/* ---- superblocks --------------------------------------------------------------------------- */

/* All of one format: STREAM_256(name in quant_blocks.h, class of dots, parts, groups a part,
 * which). Its author writes stem_head(rows, tile, top), which unpacks all but the codes, and
 * stem_part(rows, top, i, w), which unpacks part i of the codes, group which(i, g) at w[4 g]. */
#define STREAM_256(stem, class, n_parts, n_groups, which)                                          \
    static void stem##_unpack(tile_rows rows, size_t n_blocks, void *tiles) {                      \
        tile256 *t = tiles;                                                                        \
        for (size_t b = 0; b < n_blocks; b++, t++, rows.first += sizeof(block_##stem)) {           \
            __m512i top[8];                                                                        \
            stem##_head(rows, t, top);                                                             \
            _Pragma("GCC unroll 8") for (int i = 0; i < (n_parts); i++) {                          \
                __m512i w[4 * (n_groups)];                                                         \
                stem##_part(rows, top, i, w);                                                      \
                _Pragma("GCC unroll 16") for (int k = 0; k < 4 * (n_groups); k++) {                \
                    t->w[4 * which(i, k / 4) + k % 4] = w[k];                                      \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 1)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 2)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 3)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 4)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 5)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 6)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 7)                                   \
    STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, 8)                                   \
    STREAM_MATMUL(stem, class, 256, tile256, 0)

#define STREAM_256_COLUMNS(stem, class, n_parts, n_groups, which, N)                               \
    static void stem##_stream_##N(tile_rows rows, const uint8_t *ahead, const acts *a, size_t col, \
                                  float out[TILE_STREAM_COLS][TILE_ROWS]) {                        \
        const dot_traits f = class##_traits;                                                       \
        const size_t n_bytes = TILE_ROWS * sizeof(block_##stem), next = a->n_cols;                 \
        const int8_t *q = a->q + col * 256;                                                        \
        const int16_t *groups = a->sums + col * STREAM_GROUPS;                                     \
        const float *d_a = a->d + col;                                                             \
        __m512 acc[N];                                                                             \
        for (int c = 0; c < (N); c++) acc[c] = _mm512_setzero_ps();                                \
        for (size_t b = 0; b < a->n / 256; b++, rows.first += sizeof(block_##stem)) {              \
            tile256 t; /* but for its codes */                                                     \
            __m512i top[8], sums[N];                                                               \
            stream_fetch_next(rows, sizeof(block_##stem));                                         \
            if (ahead) tile_prefetch(ahead + b * n_bytes, n_bytes);                                \
            stem##_head(rows, &t, top);                                                            \
            for (int c = 0; c < (N); c++) sums[c] = _mm512_setzero_si512();                        \
            _Pragma("GCC unroll 8") for (int i = 0; i < (n_parts); i++) {                          \
                __m512i w[4 * (n_groups)];                                                         \
                stem##_part(rows, top, i, w);                                                      \
                _Pragma("GCC unroll 4") for (int g = 0; g < (n_groups); g++) {                     \
                    const int at = which(i, g);                                                    \
                    const __m512i scale = t.scale[at * f.n_sub / STREAM_GROUPS];                   \
                    _Pragma("GCC unroll 8") for (int c = 0; c < (N); c++) {                        \
                        sums[c] = stream_group(f.is_half, w + 4 * g, scale, q + c * 256 + 16 * at, \
                                               sums[c]);                                           \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            _Pragma("GCC unroll 8") for (int c = 0; c < (N); c++) {                                \
                __m512i bias = stream_bias(f.n_sub, &t, groups + c * STREAM_GROUPS);               \
                acc[c] = stream_finish(f, &t, sums[c], bias, d_a[c], acc[c]);                      \
            }                                                                                      \
            q += next * 256, groups += next * STREAM_GROUPS, d_a += next;                          \
        }                                                                                          \
        for (int c = 0; c < (N); c++) _mm512_storeu_ps(out[c], acc[c]);                            \
    }

/* ---- blocks of 32 -------------------------------------------------------------------------- */

/* One block with one column. */
TILE_INLINE __m512 stream_block(bool has_min, float zero, const tile32 *t, const int8_t *q,
                                float d_a, float sum_a, __m512 acc) {
    __m512i sums = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) sums = dot_bytes_at(sums, t->w[s], q + 4 * s);
    __m512 x = _mm512_cvtepi32_ps(sums);
    /* Exact: the result is an integer below 2^24. */
    if (!has_min) x = _mm512_fnmadd_ps(_mm512_set1_ps(zero), _mm512_set1_ps(sum_a), x);
    x = _mm512_mul_ps(x, t->d);
    if (has_min) x = _mm512_fmadd_ps(_mm512_set1_ps(sum_a), t->m, x);
    return _mm512_fmadd_ps(x, _mm512_set1_ps(d_a), acc);
}

/* All of one format: STREAM_32(name, class of dots, zero point). Its author writes
 * stem_block(rows, tile), which unpacks one block of 16 rows. */
#define STREAM_32(stem, class, zero_point)                                                         \
    static void stem##_unpack(tile_rows rows, size_t n_blocks, void *tiles) {                      \
        tile32 *t = tiles;                                                                         \
        for (size_t b = 0; b < n_blocks; b++, rows.first += sizeof(block_##stem)) {                \
            stem##_block(rows, t + b);                                                             \
        }                                                                                          \
    }                                                                                              \
    STREAM_32_COLUMNS(stem, class, zero_point, 1)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 2)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 3)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 4)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 5)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 6)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 7)                                                  \
    STREAM_32_COLUMNS(stem, class, zero_point, 8)                                                  \
    STREAM_MATMUL(stem, class, 32, tile32, zero_point)

#define STREAM_32_COLUMNS(stem, class, zero_point, N)                                              \
    static void stem##_stream_##N(tile_rows rows, const uint8_t *ahead, const acts *a, size_t col, \
                                  float out[TILE_STREAM_COLS][TILE_ROWS]) {                        \
        const size_t n_bytes = TILE_ROWS * sizeof(block_##stem), next = a->n_cols;                 \
        const int8_t *q = a->q + col * 32;                                                         \
        const float *d_a = a->d + col, *sum_a = a->sum + col;                                      \
        __m512 acc[N];                                                                             \
        for (int c = 0; c < (N); c++) acc[c] = _mm512_setzero_ps();                                \
        for (size_t b = 0; b < a->n / 32; b++, rows.first += sizeof(block_##stem)) {               \
            tile32 t;                                                                              \
            if (ahead) tile_prefetch(ahead + b * n_bytes, n_bytes);                                \
            stem##_block(rows, &t);                                                                \
            _Pragma("GCC unroll 8") for (int c = 0; c < (N); c++) {                                \
                acc[c] = stream_block(class##_has_min, zero_point, &t, q + c * 32, d_a[c],         \
                                      sum_a[c], acc[c]);                                           \
            }                                                                                      \
            q += next * 32, d_a += next, sum_a += next;                                            \
        }                                                                                          \
        for (int c = 0; c < (N); c++) _mm512_storeu_ps(out[c], acc[c]);                            \
    }

/* The matmul_kernel of one format. */
#define STREAM_MATMUL(stem, class, dim, tile, zero_point)                                          \
    void avx512_matmul_##stem(const product *p) {                                                  \
        static const tile_quant quant = {                                                          \
            .block_dim = dim,                                                                      \
            .block_bytes = sizeof(block_##stem),                                                   \
            .tile_bytes = sizeof(tile),                                                            \
            .zero = zero_point,                                                                    \
            .unpack = stem##_unpack,                                                               \
            .stream = {stem##_stream_1, stem##_stream_2, stem##_stream_3, stem##_stream_4,         \
                       stem##_stream_5, stem##_stream_6, stem##_stream_7, stem##_stream_8},        \
            .dots = &avx512_##class,                                                               \
        };                                                                                         \
        avx512_tile_matmul(&quant, p);                                                             \
    }

#endif
