/* avx2_vector: rounding of activations, norms, activations, conversions, sums over logits.
 *
 * Lane for lane what the scalar functions do; a tail that does not fill a register goes through
 * the scalar function itself.
 */
#include "kernels/avx2/avx2_kernels.h"

#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/avx2/avx2_exp.h"

/* ---- quantize ------------------------------------------------------------------------------ */

/* The largest magnitude, compared as integers, so that anything not finite wins. */
EXP_INLINE float largest_magnitude(const float *x, size_t n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8) {
        __m256i bits = _mm256_loadu_si256((const void *)(x + i));
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    __m128i four =
        _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

EXP_INLINE float quantize_block(const float *x, size_t n, int8_t *q) {
    float amax = largest_magnitude(x, n);
    if (!isfinite(amax) || amax < 1e-30f) {
        memset(q, 0, n);
        return isfinite(amax) ? 0 : NAN;
    }
    const __m256 inverse = _mm256_set1_ps(127.0f / amax);
    /* Both packs work within halves; this puts the dwords back in order. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t i = 0; i < n; i += 32) {
        __m256i v[4];
        for (size_t k = 0; k < 4; k++) {
            v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), inverse));
        }
        __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256((void *)(q + i), bytes);
    }
    return amax / 127.0f;
}

/* Sums of 4 values in dwords. */
EXP_INLINE __m256i sums_of_4(const int8_t *q) {
    __m256i bytes = _mm256_loadu_si256((const void *)q);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* The sums of 16 values each of 32: every half's four dwords. */
EXP_INLINE void sums_of_16(const int8_t *q, int32_t sums[2]) {
    __m256i s = sums_of_4(q);
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    sums[0] = _mm256_extract_epi32(s, 0);
    sums[1] = _mm256_extract_epi32(s, 4);
}

static void quantize_32(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 32;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int8_t *q = a->q + block * 32;
        int32_t sums[2];
        a->d[block] = quantize_block(x + b * 32, 32, q);
        sums_of_16(q, sums);
        a->sum[block] = (float)(sums[0] + sums[1]);
    }
}

static void quantize_256(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 256;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int8_t *q = a->q + block * 256;
        a->d[block] = quantize_block(x + b * 256, 256, q);
        for (size_t i = 0; i < 8; i++) {
            int32_t sums[2];
            sums_of_16(q + 32 * i, sums);
            a->sums[block * 16 + 2 * i] = (int16_t)sums[0];
            a->sums[block * 16 + 2 * i + 1] = (int16_t)sums[1];
        }
    }
}

void avx2_quantize(acts *a, size_t col, const float *x) {
    if (a->kind == ACTS_Q8_32) {
        quantize_32(a, col, x);
    } else if (a->kind == ACTS_Q8_256) {
        quantize_256(a, col, x);
    } else {
        acts_quantize(a, col, x);
    }
}

/* ---- norms and sums ------------------------------------------------------------------------ */

static float sum_squares(const float *x, size_t n) {
    float lanes[64] = {0};
    __m256 v[8];
    size_t i = 0;
    for (int k = 0; k < 8; k++) v[k] = _mm256_setzero_ps();
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++) {
            __m256 t = _mm256_loadu_ps(x + i + 8 * k);
            v[k] = _mm256_fmadd_ps(t, t, v[k]);
        }
    }
    for (int k = 0; k < 8; k++) _mm256_storeu_ps(lanes + 8 * k, v[k]);
    for (size_t l = 0; i + l < n; l++) lanes[l] = fmaf(x[i + l], x[i + l], lanes[l]);
    for (int k = 0; k < 8; k++) v[k] = _mm256_loadu_ps(lanes + 8 * k);
    __m256 low = _mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[4], v[6]));
    __m256 high = _mm256_add_ps(_mm256_add_ps(v[1], v[3]), _mm256_add_ps(v[5], v[7]));
    return tree_256(low, high);
}

void avx2_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n) {
    const float scale = 1.0f / sqrtf(sum_squares(x, n) / (float)n + eps);
    const __m256 scales = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 t = _mm256_mul_ps(_mm256_loadu_ps(x + i), scales);
        if (weight) t = _mm256_mul_ps(t, _mm256_loadu_ps(weight + i));
        _mm256_storeu_ps(y + i, t);
    }
    for (; i < n; i++) y[i] = weight ? (x[i] * scale) * weight[i] : x[i] * scale;
}

void avx2_add(const float *x, float *y, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
    for (; i < n; i++) y[i] = x[i] + y[i];
}

/* ---- activations --------------------------------------------------------------------------- */

void avx2_silu_mul(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = silu_256(_mm256_loadu_ps(gate + i));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(g, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) y[i] = exact_silu(gate[i]) * up[i];
}

void avx2_gelu_mul(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = gelu_256(_mm256_loadu_ps(gate + i));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(g, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) y[i] = exact_gelu(gate[i]) * up[i];
}

void avx2_to_f16(const float *x, uint16_t *y, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((void *)(y + i), h);
    }
    for (; i < n; i++) y[i] = exact_f32_to_f16(x[i]);
}

/* ---- logits -------------------------------------------------------------------------------- */

float avx2_largest(const float *x, size_t n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 most = _mm256_set1_ps(-INFINITY);
    __m256i bits = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 t = _mm256_loadu_ps(x + i);
        most = _mm256_max_ps(most, t);
        bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(t), magnitude));
    }
    const __m256i last_finite = _mm256_set1_epi32(0x7f7fffff);
    if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(bits, last_finite)) != 0) return NAN;
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    four = _mm_max_ss(four, _mm_movehdup_ps(four));
    float largest = _mm_cvtss_f32(four);
    if (i < n) {
        float tail = exact_largest(x + i, n - i);
        if (!(tail <= largest)) largest = tail; /* also where it is NaN */
    }
    return largest + 0.0f;
}

/* exact_weight of four, 0 where y is too low. The shift takes the power of two of the polynomial,
 * which is 1/2 or 1, along with that of the weight. */
EXP_INLINE __m256i weights_256(__m256d y) {
    static const double series[] = {
        1.3215486790144305e-06, 1.5252733804059838e-05, 1.5403530393381606e-04,
        1.3333558146428441e-03, 9.6181291076284769e-03, 5.5504108664821576e-02,
        2.4022650695910069e-01, 6.9314718055994529e-01, 1.0};
    const __m256d lowest = _mm256_set1_pd(-EXACT_WEIGHT_BITS);
    __m256i wanted = _mm256_castpd_si256(_mm256_cmp_pd(y, lowest, _CMP_GT_OQ));
    __m128i whole = _mm256_cvttpd_epi32(_mm256_sub_pd(y, _mm256_set1_pd(0.5)));
    __m256d r = _mm256_sub_pd(y, _mm256_cvtepi32_pd(whole));
    __m256d p = _mm256_set1_pd(series[0]);
#pragma GCC unroll 8
    for (int i = 1; i < 9; i++) p = _mm256_add_pd(_mm256_mul_pd(p, r), _mm256_set1_pd(series[i]));
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
