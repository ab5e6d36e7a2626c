/* neon_base: kernels for every aarch64 (Cortex-A53, A72 and whatever else lacks SDOT).
 *
 * SMLAL multiplies four values of two rows with the same four activations into int16, where
 * products of one value rest for as many steps as provably cannot overflow (|a| <= 127): 8 of codes
 * within -32 to 31 (32,512), 2 of any code (also 32,512). SADALP and ADDP then add a row's up. One
 * column at a time, as the sums in int16 take twice the registers.
 */
#include <stdbool.h>

#include "kernels/neon/neon_lanes.h"

/* pairs[g][h] = (or +=) products of step s; the halves are rows 0 and 1, 2 and 3 of a group. */
#define STEP(s, add)                                                                               \
    {                                                                                              \
        int8x16_t x = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(a), s));           \
        for (int g = 0; g < TILE_GROUPS; g++) {                                                    \
            int8x16_t v = vreinterpretq_s8_u8(w->w[g][s]);                                         \
            int8x8_t low = vget_low_s8(v), x_low = vget_low_s8(x);                                 \
            pairs[g][0] = add ? vmlal_s8(pairs[g][0], low, x_low) : vmull_s8(low, x_low);          \
            pairs[g][1] = add ? vmlal_high_s8(pairs[g][1], v, x) : vmull_high_s8(v, x);            \
        }                                                                                          \
    }

/* sums[g][h] = (or +=) neighbouring pairs. */
TILE_INLINE void widen(int16x8_t pairs[TILE_GROUPS][2], bool add, int32x4_t sums[TILE_GROUPS][2]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int32x4_t *sum = &sums[i / 2][i % 2];
        *sum = add ? vpadalq_s16(*sum, pairs[i / 2][i % 2]) : vpaddlq_s16(pairs[i / 2][i % 2]);
    }
}

TILE_INLINE void dot_values(int n, bool is_wide, int n_cols, const tile16 *weights, const int8_t *q,
                            size_t col_bytes, int32x4_t dots[TILE_GROUPS][TILE_COLS]) {
#pragma GCC unroll 4
    for (size_t c = 0; c < (size_t)n_cols; c++) {
        int32x4_t sums[TILE_GROUPS][2];
        int16x8_t pairs[TILE_GROUPS][2];
#pragma GCC unroll 2
        for (int k = 0; k < n; k++) {
            const tile16 *w = weights + k;
            int8x16_t a = vld1q_s8(q + c * col_bytes + 16 * k);
            STEP(0, k && !is_wide)
            STEP(1, true)
            if (is_wide) widen(pairs, k, sums);
            STEP(2, !is_wide)
            STEP(3, true)
            if (is_wide || k == n - 1) widen(pairs, is_wide, sums);
        }
#pragma GCC unroll 2
        for (int g = 0; g < TILE_GROUPS; g++) {
            dots[g][c] = vpaddq_s32(sums[g][0], sums[g][1]);
            /* Nothing of the next column comes before: gcc would begin all and spill their sums. */
            __asm__ volatile("" : "+w"(dots[g][c]));
        }
    }
}

#include "kernels/neon/neon_matmul_256.h"
#include "kernels/neon/neon_matmul_32.h"
#include "kernels/neon/neon_set.h"

#define PEAK_FMA(i) "fmla v" #i ".4s, v24.4s, v25.4s\n\t"
PEAK_LOOP(neon_peak_float, PEAK_FMA)

#define PEAK_DOT(i) "smlal v" #i ".8h, v24.8b, v25.8b\n\t"
NEON_KERNELS(neon, PEAK_DOT, 8);
