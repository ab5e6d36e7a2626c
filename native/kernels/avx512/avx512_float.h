/* avx512_float: F32, F16 and BF16 values as the float dots read them, in steps of 16 lanes.
 *
 * A block of F32 or F16 is one step; a block of BF16 is 32 values and two steps, the odd values and
 * then the even ones.
 */
#ifndef LL_KERNELS_AVX512_FLOAT_H
#define LL_KERNELS_AVX512_FLOAT_H

#include <stdint.h>
#include <string.h>

#include "kernels/avx512/avx512_vec.h"

typedef enum number { F32, F16, BF16 } number;

enum { N_LANES = 16 };

typedef float lanes[N_LANES];

VEC_INLINE size_t value_bytes(number k) { return k == F32 ? sizeof(float) : sizeof(uint16_t); }
VEC_INLINE size_t block_dim(number k) { return k == BF16 ? 2 * N_LANES : N_LANES; }
VEC_INLINE size_t block_steps(number k) { return k == BF16 ? 2 : 1; }
VEC_INLINE number acts_number(number k) { return k == BF16 ? BF16 : F32; }

VEC_INLINE size_t n_steps_of(number k, size_t n) {
    return k == BF16 ? (n + 31) / 32 * 2 : (n + 15) / 16; /* no division by a variable */
}

VEC_INLINE __m512 half_of_pairs(__m512i pairs, size_t step) {
    if (step) return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

/* A step of the block at `block`. */
VEC_INLINE __m512 load_step(number k, const uint8_t *block, size_t step) {
    if (k == F32) return _mm512_loadu_ps(block);
    if (k == F16) return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)block));
    return half_of_pairs(_mm512_loadu_si512(block), step);
}

/* Likewise where only n values of the block are there: the others are `fill`. */
VEC_INLINE __m512 load_last(number k, const uint8_t *block, size_t step, size_t n, float fill) {
    const __mmask16 m = lanes_below(k == BF16 ? (n + step) / 2 : n);
    __m512 x;
    if (k == F32) {
        x = _mm512_maskz_loadu_ps(m, block);
    } else if (k == F16) {
        x = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, block));
    } else {
        uint16_t values[2 * N_LANES] = {0};
        memcpy(values, block, n * sizeof *values);
        x = half_of_pairs(_mm512_loadu_si512(values), step);
    }
    return _mm512_mask_mov_ps(_mm512_set1_ps(fill), m, x);
}

#endif
