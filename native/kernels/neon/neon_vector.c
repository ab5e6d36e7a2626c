/* neon_vector: rounding of activations, norms, activations, conversions.
 *
 * Lane for lane what the scalar functions do; a tail that does not fill a register goes through
 * the scalar function itself.
 */
#include "kernels/neon/neon_kernels.h"

#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/neon/neon_exp.h"

/* ---- quantize ------------------------------------------------------------------------------ */

/* The largest magnitude, compared as integers, so that anything not finite wins. */
EXP_INLINE float largest_magnitude(const float *x, size_t n) {
    const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
    uint32x4_t largest = vdupq_n_u32(0);
    for (size_t i = 0; i < n; i += 4) {
        uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + i));
        largest = vmaxq_u32(largest, vandq_u32(bits, magnitude));
    }
    uint32_t bits = vmaxvq_u32(largest);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    return amax;
}

/* Rounds n values, a multiple of 16, and gives sums[i] of 16 each. */
EXP_INLINE float quantize_block(const float *x, size_t n, int8_t *q, int16_t *sums) {
    float amax = largest_magnitude(x, n);
    if (!isfinite(amax) || amax < 1e-30f) {
        memset(q, 0, n);
        memset(sums, 0, n / 16 * sizeof *sums);
        return isfinite(amax) ? 0 : NAN;
    }
    const float32x4_t inverse = vdupq_n_f32(127.0f / amax);
    for (size_t i = 0; i < n; i += 16) {
        int16x4_t v[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            v[k] = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i + 4 * k), inverse)));
        }
        int8x8_t low = vmovn_s16(vcombine_s16(v[0], v[1]));
        int8x16_t bytes = vcombine_s8(low, vmovn_s16(vcombine_s16(v[2], v[3])));
        vst1q_s8(q + i, bytes);
        sums[i / 16] = vaddlvq_s8(bytes);
    }
    return amax / 127.0f;
}

static void quantize_32(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 32;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int16_t sums[2];
        a->d[block] = quantize_block(x + b * 32, 32, a->q + block * 32, sums);
        a->sum[block] = (float)(sums[0] + sums[1]);
    }
}

static void quantize_256(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 256;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        a->d[block] = quantize_block(x + b * 256, 256, a->q + block * 256, a->sums + block * 16);
    }
}

void neon_quantize(acts *a, size_t col, const float *x) {
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
    float32x4_t v[16];
    size_t i = 0;
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) v[k] = vdupq_n_f32(0);
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 16
        for (size_t k = 0; k < 16; k++) {
            float32x4_t t = vld1q_f32(x + i + 4 * k);
            v[k] = vfmaq_f32(v[k], t, t);
        }
    }
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) vst1q_f32(lanes + 4 * k, v[k]);
    for (size_t l = 0; i + l < n; l++) lanes[l] = fmaf(x[i + l], x[i + l], lanes[l]);
    float32x4_t sixteen[4];
    for (int k = 0; k < 4; k++) {
        const float *p = lanes + 4 * k;
        float32x4_t low = vaddq_f32(vld1q_f32(p), vld1q_f32(p + 16));
        sixteen[k] = vaddq_f32(low, vaddq_f32(vld1q_f32(p + 32), vld1q_f32(p + 48)));
    }
    return tree_f32x4(sixteen);
}

void neon_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n) {
    const float scale = 1.0f / sqrtf(sum_squares(x, n) / (float)n + eps);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t t = vmulq_n_f32(vld1q_f32(x + i), scale);
        if (weight) t = vmulq_f32(t, vld1q_f32(weight + i));
        vst1q_f32(y + i, t);
    }
    for (; i < n; i++) y[i] = weight ? (x[i] * scale) * weight[i] : x[i] * scale;
}

void neon_add(const float *x, float *y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
    for (; i < n; i++) y[i] = x[i] + y[i];
}

/* ---- activations --------------------------------------------------------------------------- */

void neon_silu_mul(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vmulq_f32(silu_f32x4(vld1q_f32(gate + i)), vld1q_f32(up + i)));
    }
    for (; i < n; i++) y[i] = exact_silu(gate[i]) * up[i];
}

void neon_gelu_mul(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vmulq_f32(gelu_f32x4(vld1q_f32(gate + i)), vld1q_f32(up + i)));
    }
    for (; i < n; i++) y[i] = exact_gelu(gate[i]) * up[i];
}

void neon_to_f16(const float *x, uint16_t *y, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    }
    for (; i < n; i++) y[i] = exact_f32_to_f16(x[i]);
}

float neon_largest(const float *x, size_t n) { return exact_largest(x, n); }

uint64_t neon_sum_weights(const float *x, size_t n, float best, double scale) {
    return exact_sum_weights(x, n, best, scale);
}
