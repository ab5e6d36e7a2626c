/* avx512_vec: sixteen floats in a register, under the names that the kernels over vectors are
 * written in; see vec_exp.h and vec_kernels.h.
 */
#ifndef LL_KERNELS_AVX512_VEC_H
#define LL_KERNELS_AVX512_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_INLINE static inline __attribute__((always_inline))

enum { VEC_DIM = 16 };

typedef __m512 vec;
typedef __m512i vec_bits;

/* The first n of 16 lanes. */
VEC_INLINE __mmask16 lanes_below(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1U << n) - 1);
}

VEC_INLINE vec vec_all(float x) { return _mm512_set1_ps(x); }
VEC_INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
VEC_INLINE void vec_store(float *y, vec v) { _mm512_storeu_ps(y, v); }

VEC_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }

VEC_INLINE vec vec_negated_magnitude(vec x) { return _mm512_or_ps(x, _mm512_set1_ps(-0.0f)); }
VEC_INLINE vec vec_where_negative(vec x, vec a, vec b) {
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), a);
}
VEC_INLINE vec vec_zero_below(vec x, vec low, vec y) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ), _mm512_setzero_ps());
}
VEC_INLINE vec vec_times_power(vec p, vec z) {
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}

/* The bits of |x|, which are ordered as the magnitudes are, whatever is not finite above all. */
VEC_INLINE vec_bits vec_magnitude(vec x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}
VEC_INLINE vec_bits vec_bits_none(void) { return _mm512_setzero_si512(); }
VEC_INLINE vec_bits vec_bits_max(vec_bits a, vec_bits b) { return _mm512_max_epi32(a, b); }
VEC_INLINE uint32_t vec_bits_largest(vec_bits bits) {
    return (uint32_t)_mm512_reduce_max_epi32(bits);
}
VEC_INLINE float vec_largest(vec x) { return _mm512_reduce_max_ps(x); }

/* exact_tree16 */
VEC_INLINE float vec_tree16(const vec v[1]) {
    __m256 high = _mm512_extractf32x8_ps(v[0], 1);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v[0]), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE void vec_store_f16(uint16_t *y, vec x) {
    _mm256_storeu_si256((void *)y, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#include "kernels/vec_exp.h"

#endif
