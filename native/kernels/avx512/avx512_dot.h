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

/* The same with the four bytes at p in every lane. */
TILE_INLINE __m512i dot_bytes_at(__m512i sums, __m512i w, const void *p) {
#ifdef __AVX512VNNI__
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*(const int32_t *)p));
    return sums;
#else
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(x));
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

/* What is the same for all superblocks of a class of formats. */
typedef struct dot_traits {
    int n_sub;    /* sub-blocks with a scale of their own */
    bool is_half; /* dots of 16 values fit an int16 */
    bool has_min;
} dot_traits;

/* clang-format off */
#define dot256_8_zero_traits (dot_traits){8, false, false}
#define dot256_8_min_traits (dot_traits){8, false, true}
#define dot256_16_zero_traits (dot_traits){16, false, false}
#define dot256_8_min_half_traits (dot_traits){8, true, true}
#define dot256_16_zero_half_traits (dot_traits){16, true, false}
#define dot256_16_min_half_traits (dot_traits){16, true, true}
/* clang-format on */

enum { dot32_zero_has_min = false, dot32_min_has_min = true };

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

#endif
