/* neon_vec: four floats in a register, under the names that the kernels over vectors are written
 * in; see vec_exp.h and vec_kernels.h.
 */
#ifndef LL_KERNELS_NEON_VEC_H
#define LL_KERNELS_NEON_VEC_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_INLINE static inline __attribute__((always_inline))

enum { VEC_DIM = 4 };

typedef float32x4_t vec;
typedef uint32x4_t vec_bits;

VEC_INLINE vec vec_all(float x) { return vdupq_n_f32(x); }
VEC_INLINE vec vec_load(const float *x) { return vld1q_f32(x); }
VEC_INLINE void vec_store(float *y, vec v) { vst1q_f32(y, v); }

VEC_INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
VEC_INLINE vec vec_max(vec a, vec b) { return vmaxq_f32(a, b); }

VEC_INLINE vec vec_negated_magnitude(vec x) { return vnegq_f32(vabsq_f32(x)); }
VEC_INLINE vec vec_where_negative(vec x, vec a, vec b) { return vbslq_f32(vcltzq_f32(x), a, b); }
VEC_INLINE vec vec_zero_below(vec x, vec low, vec y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, low)));
}
VEC_INLINE vec vec_times_power(vec p, vec z) {
    uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(z), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p), exponent));
}

/* The bits of |x|, which are ordered as the magnitudes are, whatever is not finite above all. */
VEC_INLINE vec_bits vec_magnitude(vec x) {
    return vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffffff));
}
VEC_INLINE vec_bits vec_bits_none(void) { return vdupq_n_u32(0); }
VEC_INLINE vec_bits vec_bits_max(vec_bits a, vec_bits b) { return vmaxq_u32(a, b); }
VEC_INLINE uint32_t vec_bits_largest(vec_bits bits) { return vmaxvq_u32(bits); }
VEC_INLINE float vec_largest(vec x) { return vmaxvq_f32(x); }

/* exact_tree16 of the lanes of four registers, lanes 0 to 3 first. */
VEC_INLINE float vec_tree16(const vec v[4]) {
    float32x4_t four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

VEC_INLINE float vec_first(vec x) { return vgetq_lane_f32(x, 0); }

VEC_INLINE vec vec_load_f16(const uint16_t *x) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
}
VEC_INLINE vec vec_all_f16(uint16_t x) { return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x))); }
VEC_INLINE void vec_store_f16(uint16_t *y, vec x) {
    vst1_u16(y, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

#include "kernels/vec_exp.h"

#endif
