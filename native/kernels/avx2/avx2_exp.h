/* avx2_exp: exact_exp and what is made of it, eight lanes at a time, operation for operation as in
 * base/exact.c; and the tree that ends every sum in lanes.
 */
#ifndef LL_KERNELS_AVX2_EXP_H
#define LL_KERNELS_AVX2_EXP_H

#include <immintrin.h>

#define EXP_INLINE static inline __attribute__((always_inline))

EXP_INLINE __m256 exp_256(__m256 x) {
    const __m256 round_to_integer = _mm256_set1_ps(0x1.8p23f);
    __m256 z = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p0f), round_to_integer);
    __m256 n = _mm256_sub_ps(z, round_to_integer);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.63p-1f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(0x1.bd0106p-13f), r);
    __m256 p = _mm256_set1_ps(0x1.6a4f48p-10f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.123984p-7f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.5558aep-5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555492p-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffffcp-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(z), 23);
    p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ), p);
}

EXP_INLINE __m256 sigmoid_256(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 e = exp_256(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
    __m256 is_negative = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_div_ps(_mm256_blendv_ps(one, e, is_negative), _mm256_add_ps(one, e));
}

EXP_INLINE __m256 silu_256(__m256 x) { return _mm256_mul_ps(x, sigmoid_256(x)); }

EXP_INLINE __m256 gelu_256(__m256 x) {
    __m256 inner = _mm256_fmadd_ps(_mm256_set1_ps(0.0713548163f), _mm256_mul_ps(x, x),
                                   _mm256_set1_ps(1.5957691216f));
    return _mm256_mul_ps(x, sigmoid_256(_mm256_mul_ps(x, inner)));
}

/* exact_tree16 of lanes 0 to 7 and 8 to 15. */
EXP_INLINE float tree_256(__m256 low, __m256 high) {
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
