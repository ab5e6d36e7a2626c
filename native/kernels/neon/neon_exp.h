/* neon_exp: exact_exp and what is made of it, four lanes at a time, operation for operation as in
 * base/exact.c; and the tree that ends every sum in lanes.
 */
#ifndef LL_KERNELS_NEON_EXP_H
#define LL_KERNELS_NEON_EXP_H

#include <arm_neon.h>

#define EXP_INLINE static inline __attribute__((always_inline))

EXP_INLINE float32x4_t exp_f32x4(float32x4_t x) {
    const float32x4_t round_to_integer = vdupq_n_f32(0x1.8p23f);
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t z = vfmaq_f32(round_to_integer, x, vdupq_n_f32(0x1.715476p0f));
    float32x4_t n = vsubq_f32(z, round_to_integer);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0x1.63p-1f));
    r = vfmaq_f32(r, n, vdupq_n_f32(0x1.bd0106p-13f));
    float32x4_t p = vdupq_n_f32(0x1.6a4f48p-10f);
    p = vfmaq_f32(vdupq_n_f32(0x1.123984p-7f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.5558aep-5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.555492p-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(z), 23);
    uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(p), exponent);
    return vreinterpretq_f32_u32(vbicq_u32(bits, vcltq_f32(x, vdupq_n_f32(-87.0f))));
}

EXP_INLINE float32x4_t sigmoid_f32x4(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    float32x4_t e = exp_f32x4(vnegq_f32(vabsq_f32(x)));
    return vdivq_f32(vbslq_f32(vcltzq_f32(x), e, one), vaddq_f32(one, e));
}

EXP_INLINE float32x4_t silu_f32x4(float32x4_t x) { return vmulq_f32(x, sigmoid_f32x4(x)); }

EXP_INLINE float32x4_t gelu_f32x4(float32x4_t x) {
    float32x4_t inner =
        vfmaq_f32(vdupq_n_f32(1.5957691216f), vdupq_n_f32(0.0713548163f), vmulq_f32(x, x));
    return vmulq_f32(x, sigmoid_f32x4(vmulq_f32(x, inner)));
}

/* exact_tree16 of the lanes of four registers, lanes 0 to 3 first. */
EXP_INLINE float tree_f32x4(const float32x4_t v[4]) {
    float32x4_t four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

#endif
