/* neon_lanes: what the sets of kernels share whose dots take a lane of four activations at a time:
 * four rows' values of a step lie in one register, so every sum is a row's and stays in its lane.
 */
#ifndef LL_KERNELS_NEON_LANES_H
#define LL_KERNELS_NEON_LANES_H

#include "kernels/neon/neon_tile.h"

#define DOT_REGISTERS(n_cols) (n_cols)

TILE_INLINE void dot_arrange(const uint8x16_t x[4], uint8x16_t w[4]) { tile_transpose(x, w); }

TILE_INLINE void dot_spread(int32x4_t factor, int32x4_t spread[2]) {
    spread[0] = spread[1] = factor;
}

TILE_INLINE void dot_rows(int n_cols, int32x4_t registers[TILE_COLS]) {
    (void)n_cols;
    (void)registers;
}

#endif
