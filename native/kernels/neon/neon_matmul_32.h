/* neon_matmul_32: the formats of 32-value blocks; each is one function that unpacks four rows'
 * blocks into a group of a tile, and one row of the list at the end. Compiled once for each set of
 * NEON kernels, after neon_dot.h.
 *
 * Nibbles are arranged while still packed, so a block takes half the shuffles.
 */
#ifndef LL_KERNELS_NEON_MATMUL_32_H
#define LL_KERNELS_NEON_MATMUL_32_H

#include "kernels/neon/neon_dot.h"

#include "format/quant_blocks.h"

/* 16 bytes of nibbles at `offset`: values 0 to 15 are the low halves, 16 to 31 the high ones. */
TILE_INLINE void unpack_nibbles(const uint8_t *const row[4], size_t offset, int g, tile16 w[2]) {
    uint8x16_t packed[4];
    load_arranged(row, offset, packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        w[0].w[g][i] = tile_low4(packed[i]);
        w[1].w[g][i] = tile_high4(packed[i]);
    }
}

/* Codes of four bits and their fifth bit, of value j in bit j of the dword at `bits`; less 16,
 * which are the upper bits of those without it all ones. */
TILE_INLINE void unpack_5_bits_signed(const uint8_t *const row[4], size_t bits, size_t nibbles,
                                      int g, tile16 w[2]) {
    uint8x16_t is_less[2][4];
    dot_arrange_bits(vmvnq_u32(tile_gather32(row, bits)), is_less);
    unpack_nibbles(row, nibbles, g, w);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        uint8x16_t *v = &w[i / 4].w[g][i % 4];
        *v = vsliq_n_u8(*v, is_less[i / 4][i % 4], 4);
    }
}

TILE_INLINE void unpack_5_bits(const uint8_t *const row[4], size_t bits, size_t nibbles, int g,
                               tile16 w[2]) {
    uint8x16_t is_more[2][4];
    dot_arrange_bits(tile_gather32(row, bits), is_more);
    unpack_nibbles(row, nibbles, g, w);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        uint8x16_t *v = &w[i / 4].w[g][i % 4];
        *v = vbslq_u8(vdupq_n_u8(16), is_more[i / 4][i % 4], *v);
    }
}

TILE_INLINE void look_up(const int8_t values[16], int g, tile16 w[2]) {
    const uint8x16_t table = vreinterpretq_u8_s8(vld1q_s8(values));
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) w[h].w[g][i] = vqtbl1q_u8(table, w[h].w[g][i]);
    }
}

/* An f16 scale and an f16 minimum at the head of each block. */
TILE_INLINE void unpack_d_m(const uint8_t *const row[4], int g, tile32 *t) {
    const uint32x4_t header = tile_gather32(row, 0);
    t->d[g] = tile_low_f16(header);
    t->m[g] = tile_high_f16(header);
}

/* Codes are 16 times too large: a nibble's top bit flipped is its code less 8 as a signed number,
 * and in the upper half of a byte it needs no sign extended. */
TILE_INLINE void q4_0_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    uint8x16_t packed[4];
    t->d[g] = vmulq_n_f32(tile_gather_f16(row, offsetof(block_q4_0, d)), 1.0f / 16);
    load_arranged(row, offsetof(block_q4_0, qs), packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        uint8x16_t flipped = veorq_u8(packed[i], vdupq_n_u8(0x88));
        t->w[0].w[g][i] = vshlq_n_u8(flipped, 4);
        t->w[1].w[g][i] = tile_and(flipped, 0xf0);
    }
}

TILE_INLINE void q4_1_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    unpack_d_m(row, g, t);
    unpack_nibbles(row, offsetof(block_q4_1, qs), g, t->w);
}

TILE_INLINE void q5_0_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    t->d[g] = tile_gather_f16(row, offsetof(block_q5_0, d));
    unpack_5_bits_signed(row, offsetof(block_q5_0, qh), offsetof(block_q5_0, qs), g, t->w);
}

TILE_INLINE void q5_1_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    unpack_d_m(row, g, t);
    unpack_5_bits(row, offsetof(block_q5_1, qh), offsetof(block_q5_1, qs), g, t->w);
}

TILE_INLINE void q8_0_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    t->d[g] = tile_gather_f16(row, offsetof(block_q8_0, d));
    load_arranged(row, offsetof(block_q8_0, qs), t->w[0].w[g]);
    load_arranged(row, offsetof(block_q8_0, qs) + 16, t->w[1].w[g]);
}

TILE_INLINE void iq4_nl_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    t->d[g] = tile_gather_f16(row, offsetof(block_iq4_nl, d));
    unpack_nibbles(row, offsetof(block_iq4_nl, qs), g, t->w);
    look_up(quant_iq4_values, g, t->w);
}

TILE_INLINE void mxfp4_unpack(const uint8_t *const row[4], int g, tile32 *t) {
    float d[4];
    for (int r = 0; r < 4; r++) d[r] = quant_mxfp4_scale(row[r][offsetof(block_mxfp4, e)]);
    t->d[g] = vld1q_f32(d);
    unpack_nibbles(row, offsetof(block_mxfp4, qs), g, t->w);
    look_up(quant_mxfp4_values, g, t->w);
}

DOT_FORMAT(q4_0, 32, .is_wide = true)
DOT_FORMAT(q4_1, 32, .has_min = true)
DOT_FORMAT(q5_0, 32, .is_wide = false)
DOT_FORMAT(q5_1, 32, .has_min = true)
DOT_FORMAT(q8_0, 32, .is_wide = true)
DOT_FORMAT(iq4_nl, 32, .is_wide = true)
DOT_FORMAT(mxfp4, 32, .is_wide = false)

#endif
