/* avx2_vector: the kernels over vectors, of which only rounding to int8 and sums over logits are
 * AVX2's own.
 */
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_vec.h"

/* ---- rounding of activations --------------------------------------------------------------- */

VEC_INLINE void round_values(const float *x, size_t n, float factor, int8_t *q) {
    const __m256 factors = _mm256_set1_ps(factor);
    /* Both packs work within halves; this puts the dwords back in order. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t i = 0; i < n; i += 32) {
        __m256i v[4];
        for (size_t k = 0; k < 4; k++) {
            v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), factors));
        }
        __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256((void *)(q + i), bytes);
    }
}

/* 32 values at a time: sums of 4 in dwords, then those of every half. */
VEC_INLINE void sum_values(const int8_t *q, size_t n, int16_t *sums) {
    for (size_t i = 0; i < n; i += 32) {
        __m256i bytes = _mm256_loadu_si256((const void *)(q + i));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        __m256i s = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
        s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
        sums[i / 16] = (int16_t)_mm256_extract_epi32(s, 0);
        sums[i / 16 + 1] = (int16_t)_mm256_extract_epi32(s, 4);
    }
}

#define VEC_KERNEL(name) avx2_##name
#include "kernels/vec_kernels.h"

/* ---- sums over logits ---------------------------------------------------------------------- */

/* exact_weight of four, 0 where y is too low. The shift takes the power of two of the polynomial,
 * which is 1/2 or 1, along with that of the weight. */
VEC_INLINE __m256i weights_256(__m256d y) {
    static const double series[EXACT_WEIGHT_TERMS] = EXACT_WEIGHT_SERIES;
    const __m256d lowest = _mm256_set1_pd(-EXACT_WEIGHT_BITS);
    __m256i wanted = _mm256_castpd_si256(_mm256_cmp_pd(y, lowest, _CMP_GT_OQ));
    __m128i whole = _mm256_cvttpd_epi32(_mm256_sub_pd(y, _mm256_set1_pd(0.5)));
    __m256d r = _mm256_sub_pd(y, _mm256_cvtepi32_pd(whole));
    __m256d p = _mm256_set1_pd(series[0]);
#pragma GCC unroll 8
    for (int i = 1; i < EXACT_WEIGHT_TERMS; i++)
        p = _mm256_add_pd(_mm256_mul_pd(p, r), _mm256_set1_pd(series[i]));
    __m256i bits = _mm256_castpd_si256(p);
    __m256i fraction = _mm256_and_si256(bits, _mm256_set1_epi64x((INT64_C(1) << 52) - 1));
    __m256i fixed = _mm256_or_si256(fraction, _mm256_set1_epi64x(INT64_C(1) << 52));
    __m256i shift = _mm256_sub_epi64(
        _mm256_set1_epi64x(52 - EXACT_WEIGHT_BITS + 1023),
        _mm256_add_epi64(_mm256_cvtepi32_epi64(whole), _mm256_srli_epi64(bits, 52)));
    return _mm256_and_si256(wanted, _mm256_srlv_epi64(fixed, shift));
}

uint64_t avx2_sum_weights(const float *x, size_t n, float best, double scale) {
    const __m256d bests = _mm256_set1_pd((double)best), scales = _mm256_set1_pd(scale);
    __m256i sums = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        __m256d y = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), bests);
        sums = _mm256_add_epi64(sums, weights_256(_mm256_mul_pd(y, scales)));
    }
    uint64_t four[4];
    _mm256_storeu_si256((void *)four, sums);
    return four[0] + four[1] + four[2] + four[3] + exact_sum_weights(x + i, n - i, best, scale);
}
