/* neon_tile: weights as the NEON integer kernels read them.
 *
 * A slab is 8 rows, two groups of four. A tile is one block of a slab, unpacked to signed bytes:
 * 16 values of a group are four registers. Which byte lies where in the four is the instruction
 * set's own matter (its dot_arrange), as unpacking treats all bytes alike. What the block carries
 * beside its codes lies in lanes, one a row. A quant is one function that turns blocks into tiles;
 * the dots know only tiles.
 */
#ifndef LL_KERNELS_NEON_TILE_H
#define LL_KERNELS_NEON_TILE_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define TILE_INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 8,   /* rows of a slab */
    TILE_GROUPS = 2, /* of four rows */
    TILE_COLS = 4,   /* columns a dot takes at most: 2 x 4 sums twice, weights and columns fit 32 */
};

/* 16 values of a slab. */
typedef struct tile16 {
    uint8x16_t w[TILE_GROUPS][4];
} tile16;

/* A block of 32. */
typedef struct tile32 {
    tile16 w[2];
    float32x4_t d[TILE_GROUPS], m[TILE_GROUPS]; /* m only where the format has a minimum */
} tile32;

/* A superblock of 256. Formats with sub-blocks of 32 use the first half of scale and min. */
typedef struct tile256 {
    tile16 w[16];
    int32x4_t scale[16][TILE_GROUPS]; /* [sub-block] */
    int16x4_t min[16][TILE_GROUPS];   /* [sub-block]; only where the format has minimums */
    float32x4_t d[TILE_GROUPS], dmin[TILE_GROUPS];
} tile256;

/* Unpacks n_blocks blocks of 8 rows into as many tiles; row[r] points at the first block. */
typedef void tile_unpack(const uint8_t *const row[TILE_ROWS], size_t n_blocks, void *tiles);

/* out[c][r] = the whole dots of 8 rows with columns col, col + 1 …, straight from memory.
 * `ahead` is prefetched meanwhile, as many bytes as the 8 rows have. */
typedef void tile_stream(const uint8_t *const row[TILE_ROWS], const uint8_t *ahead, const acts *a,
                         size_t col, float out[TILE_COLS][TILE_ROWS]);

/* Adds blocks [block0, block0 + n_blocks) of the dots of a slab with columns col, col + 1 …:
 * out[c * out_stride + r]. tiles points at the tile of block0. */
typedef void tile_dot(const void *tiles, size_t block0, size_t n_blocks, const acts *a, size_t col,
                      float *out, size_t out_stride);

typedef struct tile_quant {
    size_t block_dim, block_bytes, tile_bytes;
    tile_unpack *unpack;
    tile_stream *stream[TILE_COLS]; /* [columns - 1] */
    tile_dot *dot[TILE_COLS];       /* [columns - 1] */
} tile_quant;

/* The matmul of kernels.h for a quant that has tiles. */
void neon_tile_matmul(const tile_quant *q, const product *p);

/* ---- what unpacking is made of -------------------------------------------------------------- */

/* Dwords of four registers, transposed: lane r of t[i] is dword i of x[r]. */
TILE_INLINE void tile_transpose(const uint8x16_t x[4], uint8x16_t t[4]) {
    uint32x4_t a = vtrn1q_u32(vreinterpretq_u32_u8(x[0]), vreinterpretq_u32_u8(x[1]));
    uint32x4_t b = vtrn2q_u32(vreinterpretq_u32_u8(x[0]), vreinterpretq_u32_u8(x[1]));
    uint32x4_t c = vtrn1q_u32(vreinterpretq_u32_u8(x[2]), vreinterpretq_u32_u8(x[3]));
    uint32x4_t d = vtrn2q_u32(vreinterpretq_u32_u8(x[2]), vreinterpretq_u32_u8(x[3]));
#define PAIR(zip, low, high)                                                                       \
    vreinterpretq_u8_u64(zip(vreinterpretq_u64_u32(low), vreinterpretq_u64_u32(high)))
    t[0] = PAIR(vzip1q_u64, a, c);
    t[1] = PAIR(vzip1q_u64, b, d);
    t[2] = PAIR(vzip2q_u64, a, c);
    t[3] = PAIR(vzip2q_u64, b, d);
#undef PAIR
}

/* 16 bytes of each of four rows. */
TILE_INLINE void tile_load(const uint8_t *const row[4], size_t offset, uint8x16_t x[4]) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) x[r] = vld1q_u8(row[r] + offset);
}

/* The same transposed: lane r of t[i] is bytes 4i to 4i + 3 of row r. */
TILE_INLINE void tile_header(const uint8_t *const row[4], size_t offset, uint8x16_t t[4]) {
    uint8x16_t x[4];
    tile_load(row, offset, x);
    tile_transpose(x, t);
}

TILE_INLINE uint32_t tile_u32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

TILE_INLINE uint16_t tile_u16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Four bytes of each of four rows. */
TILE_INLINE uint32x4_t tile_gather32(const uint8_t *const row[4], size_t offset) {
    uint32x4_t x = vdupq_n_u32(tile_u32(row[0] + offset));
    x = vsetq_lane_u32(tile_u32(row[1] + offset), x, 1);
    x = vsetq_lane_u32(tile_u32(row[2] + offset), x, 2);
    return vsetq_lane_u32(tile_u32(row[3] + offset), x, 3);
}

TILE_INLINE float32x4_t tile_from_f16(uint16x4_t x) {
    return vcvt_f32_f16(vreinterpret_f16_u16(x));
}

/* An f16 of each of four rows, as f32. */
TILE_INLINE float32x4_t tile_gather_f16(const uint8_t *const row[4], size_t offset) {
    uint16x4_t x = vdup_n_u16(tile_u16(row[0] + offset));
    x = vset_lane_u16(tile_u16(row[1] + offset), x, 1);
    x = vset_lane_u16(tile_u16(row[2] + offset), x, 2);
    return tile_from_f16(vset_lane_u16(tile_u16(row[3] + offset), x, 3));
}

/* Two f16 a dword, as f32. */
TILE_INLINE float32x4_t tile_low_f16(uint32x4_t pairs) { return tile_from_f16(vmovn_u32(pairs)); }
TILE_INLINE float32x4_t tile_high_f16(uint32x4_t pairs) {
    return tile_from_f16(vshrn_n_u32(pairs, 16));
}

TILE_INLINE uint8x16_t tile_and(uint8x16_t x, uint8_t mask) {
    return vandq_u8(x, vdupq_n_u8(mask));
}

/* The low and the high four bits of every byte. */
TILE_INLINE uint8x16_t tile_low4(uint8x16_t x) { return tile_and(x, 15); }
TILE_INLINE uint8x16_t tile_high4(uint8x16_t x) { return vshrq_n_u8(x, 4); }

/* Every byte shifted up by n (down by -n). */
TILE_INLINE uint8x16_t tile_shift(uint8x16_t x, int n) {
    return vshlq_u8(x, vdupq_n_s8((int8_t)n));
}

/* Ones in every byte of which a bit of `bits` is set. */
TILE_INLINE uint8x16_t tile_test(uint8x16_t x, int bits) {
    return vtstq_u8(x, vdupq_n_u8((uint8_t)bits));
}

TILE_INLINE void tile_prefetch(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) __builtin_prefetch(p + i, 0, 3);
}

#endif
