/* avx2_vec: eight floats in a register, under the names that the kernels over vectors are written
 * in; see vec_exp.h and vec_kernels.h.
 */
#ifndef LL_KERNELS_AVX2_VEC_H
#define LL_KERNELS_AVX2_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_INLINE static inline __attribute__((always_inline))

enum { VEC_DIM = 8 };

typedef __m256 vec;
typedef __m256i vec_bits;

VEC_INLINE vec vec_all(float x) { return _mm256_set1_ps(x); }
VEC_INLINE vec vec_load(const float *x) { return _mm256_loadu_ps(x); }
VEC_INLINE void vec_store(float *y, vec v) { _mm256_storeu_ps(y, v); }

VEC_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }

VEC_INLINE vec vec_negated_magnitude(vec x) { return _mm256_or_ps(x, _mm256_set1_ps(-0.0f)); }
VEC_INLINE vec vec_where_negative(vec x, vec a, vec b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
VEC_INLINE vec vec_zero_below(vec x, vec low, vec y) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, low, _CMP_LT_OQ), y);
}
VEC_INLINE vec vec_times_power(vec p, vec z) {
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(z), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

/* The bits of |x|, which are ordered as the magnitudes are, whatever is not finite above all. */
VEC_INLINE vec_bits vec_magnitude(vec x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
VEC_INLINE vec_bits vec_bits_none(void) { return _mm256_setzero_si256(); }
VEC_INLINE vec_bits vec_bits_max(vec_bits a, vec_bits b) { return _mm256_max_epi32(a, b); }
VEC_INLINE uint32_t vec_bits_largest(vec_bits bits) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(four);
}
VEC_INLINE float vec_largest(vec x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* exact_tree16 of lanes 0 to 7 and 8 to 15. */
VEC_INLINE float vec_tree16(const vec v[2]) {
    __m256 eight = _mm256_add_ps(v[0], v[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

VEC_INLINE float vec_first(vec x) { return _mm256_cvtss_f32(x); }

VEC_INLINE vec vec_load_f16(const uint16_t *x) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
}
VEC_INLINE vec vec_all_f16(uint16_t x) { return _mm256_cvtph_ps(_mm_set1_epi16((short)x)); }
VEC_INLINE void vec_store_f16(uint16_t *y, vec x) {
    _mm_storeu_si128((void *)y, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#include "kernels/vec_exp.h"

#endif
