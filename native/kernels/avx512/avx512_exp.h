/* avx512_exp: exact_exp and what is made of it, sixteen lanes at a time, operation for operation as
 * in base/exact.c; and the tree that ends every sum in lanes.
 */
#ifndef LL_KERNELS_AVX512_EXP_H
#define LL_KERNELS_AVX512_EXP_H

#include <immintrin.h>
#include <stddef.h>

#define EXP_INLINE static inline __attribute__((always_inline))

/* The first n of 16 lanes. */
EXP_INLINE __mmask16 lanes_below(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1U << n) - 1);
}

EXP_INLINE __m512 exp_512(__m512 x) {
    const __m512 round_to_integer = _mm512_set1_ps(0x1.8p23f);
    __m512 z = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p0f), round_to_integer);
    __m512 n = _mm512_sub_ps(z, round_to_integer);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.63p-1f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(0x1.bd0106p-13f), r);
    __m512 p = _mm512_set1_ps(0x1.6a4f48p-10f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.123984p-7f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.5558aep-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555492p-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffffcp-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), exponent);
    __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_castsi512_ps(bits), is_zero, _mm512_setzero_ps());
}

EXP_INLINE __m512 sigmoid_512(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = exp_512(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
    __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_div_ps(_mm512_mask_mov_ps(one, is_negative, e), _mm512_add_ps(one, e));
}

EXP_INLINE __m512 silu_512(__m512 x) { return _mm512_mul_ps(x, sigmoid_512(x)); }

EXP_INLINE __m512 gelu_512(__m512 x) {
    __m512 inner = _mm512_fmadd_ps(_mm512_set1_ps(0.0713548163f), _mm512_mul_ps(x, x),
                                   _mm512_set1_ps(1.5957691216f));
    return _mm512_mul_ps(x, sigmoid_512(_mm512_mul_ps(x, inner)));
}

/* exact_tree16 */
EXP_INLINE float tree_512(__m512 lanes) {
    __m256 high = _mm512_extractf32x8_ps(lanes, 1);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
