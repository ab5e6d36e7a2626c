/* avx512_vector: the kernels over vectors, of which only rounding to int8 and sums over logits are
 * AVX-512's own.
 */
#include "kernels/avx512/avx512_kernels.h"
#include "kernels/avx512/avx512_vec.h"

/* ---- rounding of activations --------------------------------------------------------------- */

VEC_INLINE void round_values(const float *x, size_t n, float factor, int8_t *q) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (size_t i = 0; i < n; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factors));
        _mm_storeu_si128((void *)(q + i), _mm512_cvtepi32_epi8(v));
    }
}

/* Sums of 4 values in dwords. */
VEC_INLINE __m512i sums_of_4(const int8_t *q) {
    const __m512i none = _mm512_setzero_si512();
    return _mm512_dpbusd_epi32(none, _mm512_set1_epi8(1), _mm512_loadu_si512(q));
}

VEC_INLINE __m512i add_halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The sums of 16 values each of 256, in order: a transpose that adds on its way. */
VEC_INLINE __m256i sums_of_16(const int8_t *q) {
    __m512i pair[2];
    for (int i = 0; i < 2; i++) {
        __m512i a = sums_of_4(q + 128 * i), b = sums_of_4(q + 128 * i + 64);
        pair[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    /* Lane l holds group l of each of the four vectors. */
    __m512i sums = add_halves(pair[0], pair[1]);
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order, sums));
}

/* The sums of 16 values each of 32: those of 4, then of every half. */
VEC_INLINE void sums_of_32(const int8_t *q, int16_t sums[2]) {
    const __m256i none = _mm256_setzero_si256();
    __m256i s = _mm256_dpbusd_epi32(none, _mm256_set1_epi8(1), _mm256_loadu_si256((const void *)q));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    sums[0] = (int16_t)_mm256_extract_epi32(s, 0);
    sums[1] = (int16_t)_mm256_extract_epi32(s, 4);
}

VEC_INLINE void sum_values(const int8_t *q, size_t n, int16_t *sums) {
    if (n == 32) {
        sums_of_32(q, sums);
    } else {
        _mm256_storeu_si256((void *)sums, sums_of_16(q));
    }
}

#define VEC_KERNEL(name) avx512_##name
#include "kernels/vec_kernels.h"

/* ---- sums over logits ---------------------------------------------------------------------- */

/* exact_weight of eight, 0 where y is too low. */
VEC_INLINE __m512i weights_512(__m512d y, __mmask8 wanted) {
    const __m512d lowest = _mm512_set1_pd(-EXACT_WEIGHT_BITS);
    static const double series[EXACT_WEIGHT_TERMS] = EXACT_WEIGHT_SERIES;
    wanted = _mm512_mask_cmp_pd_mask(wanted, y, lowest, _CMP_GT_OQ);
    __m512i whole = _mm512_cvttpd_epi64(_mm512_sub_pd(y, _mm512_set1_pd(0.5)));
    __m512d r = _mm512_sub_pd(y, _mm512_cvtepi64_pd(whole));
    __m512d p = _mm512_set1_pd(series[0]);
#pragma GCC unroll 8
    for (int i = 1; i < EXACT_WEIGHT_TERMS; i++)
        p = _mm512_add_pd(_mm512_mul_pd(p, r), _mm512_set1_pd(series[i]));
    __m512i fixed = _mm512_cvttpd_epu64(_mm512_mul_pd(p, _mm512_set1_pd(0x1p52)));
    __m512i shift = _mm512_sub_epi64(_mm512_set1_epi64(52 - EXACT_WEIGHT_BITS), whole);
    return _mm512_maskz_srlv_epi64(wanted, fixed, shift);
}

uint64_t avx512_sum_weights(const float *x, size_t n, float best, double scale) {
    const __m512d bests = _mm512_set1_pd((double)best), scales = _mm512_set1_pd(scale);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 8) {
        __mmask8 m = n - i < 8 ? (__mmask8)((1u << (n - i)) - 1) : 0xff;
        __m512d y = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(m, x + i));
        y = _mm512_mul_pd(_mm512_sub_pd(y, bests), scales);
        sum = _mm512_add_epi64(sum, weights_512(y, m));
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}
