/* neon_dotprod: kernels for processors with SDOT (Cortex-A55, A75, A76 and later, Neoverse, Apple).
 *
 * SDOT by lane multiplies four values of four rows with four of the sixteen activations that a
 * register holds, and adds each row's products to its lane.
 */
#include <stdbool.h>

#include "kernels/neon/neon_lanes.h"

TILE_INLINE void dot_values(int n, bool is_wide, int n_cols, const tile16 *w, const int8_t *q,
                            size_t col_bytes, int32x4_t dots[TILE_GROUPS][TILE_COLS]) {
    (void)is_wide;
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) {
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) dots[g][c] = vdupq_n_s32(0);
    }
#pragma GCC unroll 2
    for (int k = 0; k < n; k++) {
        int8x16_t a[TILE_COLS];
#pragma GCC unroll 4
        for (size_t c = 0; c < (size_t)n_cols; c++) a[c] = vld1q_s8(q + c * col_bytes + 16 * k);
#pragma GCC unroll 2
        for (int g = 0; g < TILE_GROUPS; g++) {
#define STEP(s)                                                                                    \
    for (int c = 0; c < n_cols; c++) {                                                             \
        int8x16_t x = vreinterpretq_s8_u8(w[k].w[g][s]);                                           \
        dots[g][c] = vdotq_laneq_s32(dots[g][c], x, a[c], s);                                      \
    }
            STEP(0)
            STEP(1)
            STEP(2)
            STEP(3)
#undef STEP
        }
    }
}

#include "kernels/neon/neon_matmul_256.h"
#include "kernels/neon/neon_matmul_32.h"
#include "kernels/neon/neon_set.h"

#define PEAK_DOT(i) "sdot v" #i ".4s, v24.16b, v25.16b\n\t"
NEON_KERNELS(neon_dotprod, PEAK_DOT, 16);
