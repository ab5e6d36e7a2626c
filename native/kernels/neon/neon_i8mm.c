/* neon_i8mm: kernels for processors with SMMLA (Cortex-A510, A710, X2 and later, Neoverse V1 and
 * N2, Apple from the M2).
 *
 * SMMLA multiplies eight values of two rows with eight of two columns and adds up all eight: twice
 * the work of SDOT. So registers are pairs of rows, and sums are two rows by two columns until
 * dot_rows. A column without a partner is its own.
 */
#include <stdbool.h>

#include "kernels/neon/neon_tile.h"

#define DOT_REGISTERS(n_cols) (((n_cols) + 1) / 2 * 2)

TILE_INLINE uint8x16_t zip_low(uint8x16_t x, uint8x16_t y) {
    return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(x), vreinterpretq_u64_u8(y)));
}
TILE_INLINE uint8x16_t zip_high(uint8x16_t x, uint8x16_t y) {
    return vreinterpretq_u8_u64(vzip2q_u64(vreinterpretq_u64_u8(x), vreinterpretq_u64_u8(y)));
}

/* Rows 0 and 1, values 0 to 7 and 8 to 15; then rows 2 and 3. */
TILE_INLINE void dot_arrange(const uint8x16_t x[4], uint8x16_t w[4]) {
    w[0] = zip_low(x[0], x[1]);
    w[1] = zip_high(x[0], x[1]);
    w[2] = zip_low(x[2], x[3]);
    w[3] = zip_high(x[2], x[3]);
}

TILE_INLINE void dot_arrange_bits(uint32x4_t bits, uint8x16_t w[2][4]) {
    static const uint8_t first[16] = {0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4};
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
#pragma GCC unroll 8
    for (int i = 0; i < 8;
         i++) { /* byte 2 (i / 4) + i % 2 of the dwords of two rows, eight times */
        const int at = i / 4 * 2 + i % 2 + i % 4 / 2 * 8;
        uint8x16_t byte = vaddq_u8(vld1q_u8(first), vdupq_n_u8((uint8_t)at));
        w[i / 4][i % 4] = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u32(bits), byte), bit);
    }
}

TILE_INLINE void dot_spread(int32x4_t factor, int32x4_t spread[2]) {
    spread[0] = vzip1q_s32(factor, factor);
    spread[1] = vzip2q_s32(factor, factor);
}

TILE_INLINE void dot_rows(int n_cols, int32x4_t registers[TILE_COLS]) {
#pragma GCC unroll 2
    for (int c = 0; c < n_cols; c += 2) {
        int32x4_t rows_01 = registers[c], rows_23 = registers[c + 1];
        registers[c] = vuzp1q_s32(rows_01, rows_23);
        registers[c + 1] = vuzp2q_s32(rows_01, rows_23);
    }
}

TILE_INLINE void dot_values(int n, bool is_wide, int n_cols, const tile16 *w, const int8_t *q,
                            size_t col_bytes, int32x4_t dots[TILE_GROUPS][TILE_COLS]) {
    (void)is_wide;
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) {
#pragma GCC unroll 4
        for (int c = 0; c < DOT_REGISTERS(n_cols); c++) dots[g][c] = vdupq_n_s32(0);
    }
#pragma GCC unroll 2
    for (int k = 0; k < n; k++) {
#pragma GCC unroll 2
        for (int c = 0; c < n_cols; c += 2) {
            const int8_t *p = q + (size_t)c * col_bytes + 16 * k;
            uint8x16_t x = vreinterpretq_u8_s8(vld1q_s8(p));
            uint8x16_t y = c + 1 < n_cols ? vreinterpretq_u8_s8(vld1q_s8(p + col_bytes)) : x;
            int8x16_t low = vreinterpretq_s8_u8(zip_low(x, y));
            int8x16_t high = vreinterpretq_s8_u8(zip_high(x, y));
#pragma GCC unroll 2
            for (int part = 0; part < 2; part++) { /* values 0 to 7, 8 to 15 */
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) { /* pairs of rows */
                    int32x4_t *sum = &dots[r / 2][c + r % 2];
                    int8x16_t v = vreinterpretq_s8_u8(w[k].w[r / 2][2 * (r % 2) + part]);
                    *sum = vmmlaq_s32(*sum, v, part ? high : low);
                }
            }
        }
    }
}

#include "kernels/neon/neon_matmul_256.h"
#include "kernels/neon/neon_matmul_32.h"
#include "kernels/neon/neon_set.h"

#define PEAK_DOT(i) "smmla v" #i ".4s, v24.16b, v25.16b\n\t"
NEON_KERNELS(neon_i8mm, PEAK_DOT, 32);
