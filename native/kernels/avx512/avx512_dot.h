/* avx512_dot: the dots of tiles with columns, by the class of a format's block. */
#ifndef LL_KERNELS_AVX512_DOT_H
#define LL_KERNELS_AVX512_DOT_H

#include "kernels/avx512/avx512_tile.h"

/* Blocks of 32: codes with a zero point, or with a minimum. */
extern tile_dots avx512_dot32_zero, avx512_dot32_min;

/* Superblocks: sub-blocks of 32 or 16, codes with a zero point (in the tile's bias) or with
 * minimums; `half` where the dots of 16 values fit an int16. */
extern tile_dots avx512_dot256_8_zero, avx512_dot256_8_min, avx512_dot256_16_zero,
    avx512_dot256_8_min_half, avx512_dot256_16_zero_half, avx512_dot256_16_min_half;

/* The accumulating instructions are written out: gcc copies accumulators around its intrinsics for
 * them, which costs a third of the speed. Without the instructions, where other code emulates the
 * intrinsics, those stand. */

/* sums += unsigned bytes of w times signed bytes of x, four a lane. */
TILE_INLINE __m512i dot_bytes(__m512i sums, __m512i w, __m512i x) {
#ifdef __AVX512VNNI__
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
#else
    return _mm512_dpbusd_epi32(sums, w, x);
#endif
}

/* sums += int16 of a times int16 of b, two a lane. */
TILE_INLINE __m512i dot_pairs(__m512i sums, __m512i a, __m512i b) {
#ifdef __AVX512VNNI__
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
#else
    return _mm512_dpwssd_epi32(sums, a, b);
#endif
}

/* Four bytes in every lane. */
TILE_INLINE __m512i dot_broadcast(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* Slab h of what lies TILE_SPAN_BYTES apart. */
TILE_INLINE const void *dot_slab(const void *first, int h) {
    return (const uint8_t *)first + h * TILE_SPAN_BYTES;
}

TILE_INLINE __m512i dot_load(const void *first, int h) {
    return _mm512_load_si512(dot_slab(first, h));
}

/* One step of four values: dots[slab][c] += w of the slab times the bytes at q + c * col_bytes. */
TILE_INLINE void dot_step(int n_slabs, int n_cols, const __m512i *w, const int8_t *q,
                          size_t col_bytes, __m512i dots[TILE_SLABS][TILE_COLS]) {
    const __m512i w0 = dot_load(w, 0), w1 = dot_load(w, n_slabs - 1);
#pragma GCC unroll 6
    for (size_t c = 0; c < (size_t)n_cols; c++) {
        __m512i x = dot_broadcast(q + c * col_bytes);
        dots[0][c] = dot_bytes(dots[0][c], w0, x);
        if (n_slabs > 1) dots[1][c] = dot_bytes(dots[1][c], w1, x);
    }
}

/* The sums of slab h with column c before the span, and after it. */
TILE_INLINE __m512 dot_sum_in(tile_sums s, size_t h, size_t c) {
    return s.in ? _mm512_loadu_ps(s.in + c * s.in_stride + TILE_ROWS * h) : _mm512_setzero_ps();
}

TILE_INLINE void dot_sum_out(tile_sums s, size_t h, size_t c, __m512 sums) {
    _mm512_storeu_ps(s.out + c * s.out_stride + TILE_ROWS * h, sums);
}

/* All twelve dots of a class. DOT(class, slabs, columns) defines one, class_slabs_columns. */
#define DOT_TABLE(class, DOT)                                                                      \
    DOT(class, 1, 1)                                                                               \
    DOT(class, 1, 2)                                                                               \
    DOT(class, 1, 3)                                                                               \
    DOT(class, 1, 4)                                                                               \
    DOT(class, 1, 5)                                                                               \
    DOT(class, 1, 6)                                                                               \
    DOT(class, 2, 1)                                                                               \
    DOT(class, 2, 2)                                                                               \
    DOT(class, 2, 3)                                                                               \
    DOT(class, 2, 4)                                                                               \
    DOT(class, 2, 5)                                                                               \
    DOT(class, 2, 6)                                                                               \
    tile_dots avx512_##class = {                                                                   \
        {class##_1_1, class##_1_2, class##_1_3, class##_1_4, class##_1_5, class##_1_6},            \
        {class##_2_1, class##_2_2, class##_2_3, class##_2_4, class##_2_5, class##_2_6},            \
    };

/* The loop over a slab's blocks and the matmul_kernel of one format; stem_unpack unpacks one block
 * of 16 rows into one tile, `class` are its dots and `zero_point` its codes' zero point, which for
 * superblocks lies in the tiles. */
#define DOT_MATMUL(stem, class, dim, tile, zero_point)                                             \
    static void stem##_unpack_slab(tile_rows rows, size_t n_blocks, const uint8_t *ahead,          \
                                   void *tiles) {                                                  \
        const size_t n_ahead = TILE_ROWS * sizeof(block_##stem);                                   \
        tile *t = tiles;                                                                           \
        for (size_t b = 0; b < n_blocks; b++, t++, rows.first += sizeof(block_##stem)) {           \
            if (ahead) tile_prefetch(ahead + b * n_ahead, n_ahead);                                \
            stem##_unpack(rows, t);                                                                \
        }                                                                                          \
    }                                                                                              \
    void avx512_matmul_##stem(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,    \
                              size_t col0, size_t n_cols, float *y, size_t y_stride,               \
                              void *scratch) {                                                     \
        static const tile_quant quant = {dim,        sizeof(block_##stem), sizeof(tile),           \
                                         zero_point, stem##_unpack_slab,   &avx512_##class};       \
        avx512_tile_matmul(&quant, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride,          \
                           scratch);                                                               \
    }

#endif
