/* avx512_vector: rounding of activations, norms, gates, conversions.
 *
 * Lane for lane what the scalar functions do; a tail that does not fill a register is loaded and
 * stored under a mask, so it takes the same path.
 */
#include "kernels/avx512/avx512_vector.h"

#include <math.h>
#include <string.h>

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
