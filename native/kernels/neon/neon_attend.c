/* neon_attend: attention as attend_rows.h computes it, four lanes at a time. */
#include "kernels/neon/neon_kernels.h"
#include "kernels/neon/neon_vec.h"

VEC_INLINE vec vec_where_seen(size_t j, size_t first, size_t last, vec x, vec y) {
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32x4_t at = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)j));
    uint32x4_t in = vandq_u32(vcgeq_u32(at, vdupq_n_u32((uint32_t)first)),
                              vcltq_u32(at, vdupq_n_u32((uint32_t)last)));
    return vbslq_f32(in, x, y);
}

VEC_INLINE void convert_codes(int8x8_t bytes, vec to[2]) {
    int16x8_t codes = vmovl_s8(bytes);
    to[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes)));
    to[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(codes)));
}

VEC_INLINE void load_q8(const int8_t *from, size_t n, vec *to) {
#pragma GCC unroll 2
    for (size_t v = 0; v < n; v += 2) convert_codes(vld1_s8(from + 4 * v), to + v);
}

/* What eight u4 stand for. */
VEC_INLINE int8x8_t number_of_q4(uint8x8_t codes) {
    return vsub_s8(vreinterpret_s8_u8(codes), vdup_n_s8(8));
}

VEC_INLINE void load_q4_keys(const uint8_t *from, size_t d, size_t n, vec *to) {
    const int8x8_t shift = vdup_n_s8(d % 2 ? -4 : 0);
#pragma GCC unroll 2
    for (size_t v = 0; v < n; v += 2) {
        uint8x8_t codes = vand_u8(vshl_u8(vld1_u8(from + 4 * v), shift), vdup_n_u8(15));
        convert_codes(number_of_q4(codes), to + v);
    }
}

VEC_INLINE void load_q4_values(const uint8_t *from, size_t n, vec *to) {
#pragma GCC unroll 2
    for (size_t v = 0; v < n; v += 2) {
        uint32_t four;
        memcpy(&four, from + 2 * v, sizeof four);
        uint8x8_t pairs = vreinterpret_u8_u32(vdup_n_u32(four));
        uint8x8x2_t codes = vzip_u8(vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8(pairs, 4));
        convert_codes(number_of_q4(codes.val[0]), to + v);
    }
}

#define VEC_KERNEL(name) neon_##name
#include "kernels/attend_rows.h"
