/* avx512_vector: rounding of activations, norms, gates, conversions, sums over logits.
 *
 * Lane for lane what the scalar functions do; a tail that does not fill a register is loaded and
 * stored under a mask, so it takes the same path.
 */
#include "kernels/avx512/avx512_kernels.h"

#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/avx512/avx512_exp.h"

enum { N_LANES = 16 };

/* ---- quantize ------------------------------------------------------------------------------ */

/* The largest magnitude, compared as integers, so that anything not finite wins. */
static float largest_magnitude(const float *x, size_t n) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += N_LANES) {
        __m512i bits = _mm512_loadu_si512(x + i);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
    }
    int32_t bits = _mm512_reduce_max_epi32(largest);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    return amax;
}

static float quantize_block(const float *x, size_t n, int8_t *q) {
    float amax = largest_magnitude(x, n);
    if (!isfinite(amax) || amax < 1e-30f) {
        memset(q, 0, n);
        return isfinite(amax) ? 0 : NAN;
    }
    const __m512 inverse = _mm512_set1_ps(127.0f / amax);
    for (size_t i = 0; i < n; i += N_LANES) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
        _mm_storeu_si128((void *)(q + i), _mm512_cvtepi32_epi8(v));
    }
    return amax / 127.0f;
}

/* Sums of 4 values in dwords. */
EXP_INLINE __m512i sums_of_4(const int8_t *q) {
    const __m512i none = _mm512_setzero_si512();
    return _mm512_dpbusd_epi32(none, _mm512_set1_epi8(1), _mm512_loadu_si512(q));
}

EXP_INLINE __m512i add_halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The sums of 16 values each of 256, in order: a transpose that adds on its way. */
EXP_INLINE __m256i sums_of_16(const int8_t *q) {
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

static void quantize_32(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 32;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int8_t *q = a->q + block * 32;
        a->d[block] = quantize_block(x + b * 32, 32, q);
        const __m256i ones = _mm256_set1_epi8(1);
        __m256i sums =
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), ones, _mm256_loadu_si256((const void *)q));
        a->sum[block] = (float)_mm512_reduce_add_epi32(_mm512_zextsi256_si512(sums));
    }
}

static void quantize_256(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 256;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int8_t *q = a->q + block * 256;
        a->d[block] = quantize_block(x + b * 256, 256, q);
        _mm256_storeu_si256((void *)(a->sums + block * 16), sums_of_16(q));
    }
}

void avx512_quantize(acts *a, size_t col, const float *x) {
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
    __m512 v[4];
    for (int k = 0; k < 4; k++) v[k] = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            __m512 t = _mm512_loadu_ps(x + i + N_LANES * k);
            v[k] = _mm512_fmadd_ps(t, t, v[k]);
        }
    }
    /* Lanes the tail does not reach keep their sums: adding the square of 0 changes no bit. */
    for (size_t k = 0; i < n; i += N_LANES, k++) {
        __m512 t = _mm512_maskz_loadu_ps(lanes_below(n - i), x + i);
        v[k] = _mm512_fmadd_ps(t, t, v[k]);
    }
    return tree_512(_mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
}

void avx512_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n) {
    const float scale = 1.0f / sqrtf(sum_squares(x, n) / (float)n + eps);
    const __m512 scales = _mm512_set1_ps(scale);
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 t = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), scales);
        if (weight) t = _mm512_mul_ps(t, _mm512_maskz_loadu_ps(m, weight + i));
        _mm512_mask_storeu_ps(y + i, m, t);
    }
}

void avx512_add(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 t = _mm512_maskz_loadu_ps(m, x + i);
        _mm512_mask_storeu_ps(y + i, m, _mm512_add_ps(t, _mm512_maskz_loadu_ps(m, y + i)));
    }
}

/* ---- activations --------------------------------------------------------------------------- */

void avx512_silu_mul(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 g = silu_512(_mm512_maskz_loadu_ps(m, gate + i));
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, up + i)));
    }
}

void avx512_gelu_mul(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 g = gelu_512(_mm512_maskz_loadu_ps(m, gate + i));
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, up + i)));
    }
}

void avx512_to_f16(const float *x, uint16_t *y, size_t n) {
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 t = _mm512_maskz_loadu_ps(m, x + i);
        _mm256_mask_storeu_epi16(y + i, m, _mm512_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT));
    }
}

/* ---- logits -------------------------------------------------------------------------------- */

float avx512_largest(const float *x, size_t n) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 most = _mm512_set1_ps(-INFINITY);
    __m512i bits = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += N_LANES) {
        __mmask16 m = lanes_below(n - i);
        __m512 t = _mm512_maskz_loadu_ps(m, x + i);
        most = _mm512_mask_max_ps(most, m, most, t);
        bits = _mm512_max_epi32(bits, _mm512_and_si512(_mm512_castps_si512(t), magnitude));
    }
    if (_mm512_reduce_max_epi32(bits) >= 0x7f800000) return NAN;
    return _mm512_reduce_max_ps(most) + 0.0f;
}

/* exact_weight of eight, 0 where y is too low. */
EXP_INLINE __m512i weights_512(__m512d y, __mmask8 wanted) {
    const __m512d lowest = _mm512_set1_pd(-EXACT_WEIGHT_BITS);
    static const double series[] = {
        1.3215486790144305e-06, 1.5252733804059838e-05, 1.5403530393381606e-04,
        1.3333558146428441e-03, 9.6181291076284769e-03, 5.5504108664821576e-02,
        2.4022650695910069e-01, 6.9314718055994529e-01, 1.0};
    wanted = _mm512_mask_cmp_pd_mask(wanted, y, lowest, _CMP_GT_OQ);
    __m512i whole = _mm512_cvttpd_epi64(_mm512_sub_pd(y, _mm512_set1_pd(0.5)));
    __m512d r = _mm512_sub_pd(y, _mm512_cvtepi64_pd(whole));
    __m512d p = _mm512_set1_pd(series[0]);
#pragma GCC unroll 8
    for (int i = 1; i < 9; i++) p = _mm512_add_pd(_mm512_mul_pd(p, r), _mm512_set1_pd(series[i]));
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
