/* neon_matmul_256: the formats of 256-value superblocks; each is one function that unpacks four
 * rows' superblocks into a group of a tile, and one row of the list at the end. Compiled once for
 * each set of NEON kernels, after neon_dot.h.
 *
 * Headers are transposed, so the scales of four rows are decoded at once, a row in each lane.
 */
#ifndef LL_KERNELS_NEON_MATMUL_256_H
#define LL_KERNELS_NEON_MATMUL_256_H

#include "kernels/neon/neon_dot.h"

#include "format/quant_blocks.h"

/* scale[i] = byte i of every dword, a signed number. */
TILE_INLINE void spread_scales(uint8x16_t bytes, int g, int32x4_t scale[4][TILE_GROUPS]) {
    int32x4_t x = vreinterpretq_s32_u8(bytes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int32x4_t upper = i < 3 ? vshlq_s32(x, vdupq_n_s32(24 - 8 * i)) : x;
        scale[i][g] = vshrq_n_s32(upper, 24);
    }
}

/* min[i] = byte i of every dword, below 128. */
TILE_INLINE void spread_mins(uint8x16_t bytes, int g, int16x4_t min[4][TILE_GROUPS]) {
    uint32x4_t x = vreinterpretq_u32_u8(bytes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        uint32x4_t lower = vandq_u32(vshlq_u32(x, vdupq_n_s32(-8 * i)), vdupq_n_u32(255));
        min[i][g] = vreinterpret_s16_u16(vmovn_u32(lower));
    }
}

/* The header of Q4_K and Q5_K: d and dmin, then 12 bytes of 6-bit scales and minimums. */
TILE_INLINE void unpack_header(const uint8_t *const row[4], int g, tile256 *t) {
    uint8x16_t h[4];
    tile_header(row, 0, h);
    t->d[g] = tile_low_f16(vreinterpretq_u32_u8(h[0]));
    t->dmin[g] = tile_high_f16(vreinterpretq_u32_u8(h[0]));
    uint8x16_t sc_top = tile_and(vshrq_n_u8(h[1], 2), 0x30);
    uint8x16_t mn_top = tile_and(vshrq_n_u8(h[2], 2), 0x30);
    spread_scales(tile_and(h[1], 63), g, t->scale);
    spread_scales(vorrq_u8(tile_low4(h[3]), sc_top), g, t->scale + 4);
    spread_mins(tile_and(h[2], 63), g, t->min);
    spread_mins(vorrq_u8(tile_high4(h[3]), mn_top), g, t->min + 4);
}

TILE_INLINE void q4_k_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    unpack_header(row, g, t);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* 16 bytes: half of two sub-blocks */
        uint8x16_t x[4];
        load_arranged(row, offsetof(block_q4_k, qs) + (size_t)i * 16, x);
        tile16 *w = t->w + i / 2 * 4 + i % 2;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[0].w[g][s] = tile_low4(x[s]);
            w[2].w[g][s] = tile_high4(x[s]);
        }
    }
}

TILE_INLINE void q5_k_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    unpack_header(row, g, t);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) { /* 16 values of each sub-block */
        uint8x16_t top[4];
        load_arranged(row, offsetof(block_q5_k, qh) + (size_t)half * 16, top);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            uint8x16_t x[4];
            load_arranged(row, offsetof(block_q5_k, qs) + (size_t)(i * 32 + half * 16), x);
            tile16 *w = t->w + i * 4 + half;
            const uint8x16_t fifth = vdupq_n_u8(16);
#pragma GCC unroll 4
            for (int s = 0; s < 4; s++) {
                uint8x16_t low = tile_test(top[s], 1 << 2 * i);
                uint8x16_t high = tile_test(top[s], 2 << 2 * i);
                w[0].w[g][s] = vbslq_u8(fifth, low, tile_low4(x[s]));
                w[2].w[g][s] = vbslq_u8(fifth, high, tile_high4(x[s]));
            }
        }
    }
}

/* Codes are 4 times too large: their two top bits are a byte's, the upper one flipped, which makes
 * of 6 bits the code less 32 as a signed number. */
TILE_INLINE void q6_k_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    uint8x16_t sc[4];
    t->d[g] = vmulq_n_f32(tile_gather_f16(row, offsetof(block_q6_k, d)), 1.0f / 4);
    tile_header(row, offsetof(block_q6_k, scales), sc);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) spread_scales(sc[i], g, t->scale + 4 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* 16 values of each plane of a half */
        const size_t half = (size_t)i / 2, l = (size_t)i % 2 * 16;
        uint8x16_t low[4], high[4], top[4];
        load_arranged(row, offsetof(block_q6_k, ql) + half * 64 + l, low);
        load_arranged(row, offsetof(block_q6_k, ql) + half * 64 + 32 + l, high);
        load_arranged(row, offsetof(block_q6_k, qh) + half * 32 + l, top);
        tile16 *w = t->w + half * 8 + l / 16;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            uint8x16_t two = veorq_u8(top[s], vdupq_n_u8(0xaa));
            w[0].w[g][s] = vsriq_n_u8(vshlq_n_u8(two, 6), vshlq_n_u8(low[s], 4), 2);
            w[2].w[g][s] = vsriq_n_u8(vshlq_n_u8(two, 4), vshlq_n_u8(high[s], 4), 2);
            w[4].w[g][s] = vsriq_n_u8(vshlq_n_u8(two, 2), tile_and(low[s], 0xf0), 2);
            w[6].w[g][s] = vsriq_n_u8(two, tile_and(high[s], 0xf0), 2);
        }
    }
}

TILE_INLINE void q2_k_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    uint8x16_t packed[4];
    const uint32x4_t header = tile_gather32(row, offsetof(block_q2_k, d));
    t->d[g] = tile_low_f16(header);
    t->dmin[g] = tile_high_f16(header);
    tile_header(row, offsetof(block_q2_k, scales), packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        spread_scales(tile_low4(packed[i]), g, t->scale + 4 * i);
        spread_mins(tile_high4(packed[i]), g, t->min + 4 * i);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* 16 values of each plane of a half */
        uint8x16_t x[4];
        load_arranged(row, offsetof(block_q2_k, qs) + (size_t)i * 16, x);
        tile16 *w = t->w + i / 2 * 8 + i % 2;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[0].w[g][s] = tile_and(x[s], 3);
            w[2].w[g][s] = tile_and(vshrq_n_u8(x[s], 2), 3);
            w[4].w[g][s] = tile_and(vshrq_n_u8(x[s], 4), 3);
            w[6].w[g][s] = vshrq_n_u8(x[s], 6);
        }
    }
}

/* A code is its two bits, less 4 where its bit in hmask is clear: then all its upper bits are
 * ones. */
TILE_INLINE void q3_k_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    uint8x16_t packed[3];
    t->d[g] = tile_gather_f16(row, offsetof(block_q3_k, d));
    for (size_t i = 0; i < 3; i++) {
        packed[i] = vreinterpretq_u8_u32(tile_gather32(row, offsetof(block_q3_k, scales) + 4 * i));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* low halves, then high ones; two top bits from the third */
        uint8x16_t low = i < 2 ? tile_low4(packed[i]) : tile_high4(packed[i - 2]);
        uint8x16_t high = tile_and(tile_shift(packed[2], -2 * i), 3);
        uint8x16_t sc = vsubq_u8(vsliq_n_u8(low, high, 4), vdupq_n_u8(32));
        spread_scales(sc, g, t->scale + 4 * i);
    }
#pragma GCC unroll 2
    for (int l = 0; l < 2; l++) { /* 16 values of each plane */
        uint8x16_t top[4];
        load_arranged(row, offsetof(block_q3_k, hmask) + (size_t)l * 16, top);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) top[s] = vmvnq_u8(top[s]);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            uint8x16_t x[4];
            load_arranged(row, offsetof(block_q3_k, qs) + (size_t)(half * 32 + l * 16), x);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                tile16 *w = t->w + half * 8 + p * 2 + l;
#pragma GCC unroll 4
                for (int s = 0; s < 4; s++) {
                    uint8x16_t is_less = tile_test(top[s], 1 << (4 * half + p));
                    uint8x16_t two = tile_and(tile_shift(x[s], -2 * p), 3);
                    w->w[g][s] = vsliq_n_u8(two, is_less, 2);
                }
            }
        }
    }
}

TILE_INLINE void iq4_xs_unpack(const uint8_t *const row[4], int g, tile256 *t) {
    const uint8x16_t values = vreinterpretq_u8_s8(vld1q_s8(quant_iq4_values));
    int32_t sc[8][4];
    for (int r = 0; r < 4; r++) {
        int8_t row_sc[8];
        quant_iq4_xs_scales((const block_iq4_xs *)(const void *)row[r], row_sc);
        for (int j = 0; j < 8; j++) sc[j][r] = row_sc[j];
    }
    for (int j = 0; j < 8; j++) t->scale[j][g] = vld1q_s32(sc[j]);
    t->d[g] = tile_gather_f16(row, offsetof(block_iq4_xs, d));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        uint8x16_t x[4];
        load_arranged(row, offsetof(block_iq4_xs, qs) + (size_t)i * 16, x);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            t->w[2 * i].w[g][s] = vqtbl1q_u8(values, tile_low4(x[s]));
            t->w[2 * i + 1].w[g][s] = vqtbl1q_u8(values, tile_high4(x[s]));
        }
    }
}

DOT_FORMAT(q2_k, 256, .has_min = true, .n_sub = 16)
DOT_FORMAT(q3_k, 256, .n_sub = 16)
DOT_FORMAT(q4_k, 256, .has_min = true, .n_sub = 8)
DOT_FORMAT(q5_k, 256, .has_min = true, .n_sub = 8)
DOT_FORMAT(q6_k, 256, .is_wide = true, .n_sub = 16)
DOT_FORMAT(iq4_xs, 256, .is_wide = true, .n_sub = 8)

#endif
