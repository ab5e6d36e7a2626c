/* neon_lanes: what the sets of kernels share whose dots take a lane of four activations at a time:
 * four rows' values of a step lie in one register, so every sum is a row's and stays in its lane.
 */
#ifndef LL_KERNELS_NEON_LANES_H
#define LL_KERNELS_NEON_LANES_H

#include "kernels/neon/neon_tile.h"

#define DOT_REGISTERS(n_cols) (n_cols)

TILE_INLINE void dot_arrange(const uint8x16_t x[4], uint8x16_t w[4]) { tile_transpose(x, w); }

TILE_INLINE void dot_arrange_bits(uint32x4_t bits, uint8x16_t w[2][4]) {
    /* Byte s / 2 of each row four times, of which a step has the lower or the upper bits. */
    static const uint8_t first[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    const uint8x16_t bit[2] = {vreinterpretq_u8_u32(vdupq_n_u32(0x08040201)),
                               vreinterpretq_u8_u32(vdupq_n_u32(0x80402010))};
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) {
        uint8x16_t byte = vaddq_u8(vld1q_u8(first), vdupq_n_u8((uint8_t)(s / 2)));
        w[s / 4][s % 4] = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u32(bits), byte), bit[s % 2]);
    }
}

TILE_INLINE void dot_spread(int32x4_t factor, int32x4_t spread[2]) {
    spread[0] = spread[1] = factor;
}

TILE_INLINE void dot_rows(int n_cols, int32x4_t registers[TILE_COLS]) {
    (void)n_cols;
    (void)registers;
}

#endif
