/* neon_vector: the kernels over vectors, of which only rounding to int8 and sums over logits are
 * NEON's own.
 */
#include "kernels/neon/neon_kernels.h"
#include "kernels/neon/neon_vec.h"

/* ---- rounding of activations --------------------------------------------------------------- */

VEC_INLINE void round_values(const float *x, size_t n, float factor, int8_t *q) {
    const float32x4_t factors = vdupq_n_f32(factor);
    for (size_t i = 0; i < n; i += 16) {
        int16x4_t v[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            v[k] = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i + 4 * k), factors)));
        }
        int8x8_t low = vmovn_s16(vcombine_s16(v[0], v[1]));
        vst1q_s8(q + i, vcombine_s8(low, vmovn_s16(vcombine_s16(v[2], v[3]))));
    }
}

VEC_INLINE void sum_values(const int8_t *q, size_t n, int16_t *sums) {
    for (size_t i = 0; i < n; i += 16) sums[i / 16] = vaddlvq_s8(vld1q_s8(q + i));
}

#define VEC_KERNEL(name) neon_##name
#include "kernels/vec_kernels.h"

/* ---- sums over logits ---------------------------------------------------------------------- */

/* exact_weight of two, 0 where y is too low. */
VEC_INLINE uint64x2_t weights_of_two(float64x2_t y) {
    static const double series[EXACT_WEIGHT_TERMS] = EXACT_WEIGHT_SERIES;
    uint64x2_t wanted = vcgtq_f64(y, vdupq_n_f64(-EXACT_WEIGHT_BITS));
    int64x2_t whole = vcvtq_s64_f64(vsubq_f64(y, vdupq_n_f64(0.5)));
    float64x2_t r = vsubq_f64(y, vcvtq_f64_s64(whole));
    float64x2_t p = vdupq_n_f64(series[0]);
#pragma GCC unroll 8
    for (int i = 1; i < EXACT_WEIGHT_TERMS; i++)
        p = vaddq_f64(vmulq_f64(p, r), vdupq_n_f64(series[i]));
    uint64x2_t fixed = vcvtq_u64_f64(vmulq_f64(p, vdupq_n_f64(0x1p52)));
    int64x2_t left = vsubq_s64(whole, vdupq_n_s64(52 - EXACT_WEIGHT_BITS)); /* negative: right */
    return vandq_u64(wanted, vshlq_u64(fixed, left));
}

uint64_t neon_sum_weights(const float *x, size_t n, float best, double scale) {
    const float64x2_t bests = vdupq_n_f64((double)best), scales = vdupq_n_f64(scale);
    uint64x2_t sums[2] = {vdupq_n_u64(0), vdupq_n_u64(0)};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t four = vld1q_f32(x + i);
        float64x2_t low = vcvt_f64_f32(vget_low_f32(four)), high = vcvt_high_f64_f32(four);
        sums[0] = vaddq_u64(sums[0], weights_of_two(vmulq_f64(vsubq_f64(low, bests), scales)));
        sums[1] = vaddq_u64(sums[1], weights_of_two(vmulq_f64(vsubq_f64(high, bests), scales)));
    }
    uint64_t sum = vaddvq_u64(vaddq_u64(sums[0], sums[1]));
    return sum + exact_sum_weights(x + i, n - i, best, scale);
}
