/* neon_dot: the dots of tiles with columns, one for blocks of 32 and one for superblocks, and what
 * makes a matmul_kernel of a format. Compiled once for each set of NEON kernels, whose file defines
 * beforehand how it multiplies:
 *
 *   dot_arrange       four rows' 16 bytes -> the four registers of a group in a tile16
 *   dot_arrange_bits  32 bits of each of four rows -> bytes of ones or zeros, arranged alike
 *   dot_values        dots of n tile16 with the values of up to four columns, in lanes of its own
 *   dot_spread        a row's factor in each lane -> the same for dot_values' even and odd
 * registers dot_rows          dot_values' registers -> one register a column, a row in each lane
 *
 * All of it is integer arithmetic, and exact, so only the last lines of each function, one per
 * block, have an order, and there every row and column is its own chain. Codes may be a power of
 * two too large where that saves shifting them into place; d carries its inverse. Both are exact:
 * (float)(16 * isum) * (d / 16) is the product that (float)isum * d is.
 */
#ifndef LL_KERNELS_NEON_DOT_H
#define LL_KERNELS_NEON_DOT_H

#include <stdbool.h>

#include "kernels/neon/neon_tile.h"

/* 16 bytes of each of four rows, as the dots want them. */
TILE_INLINE void load_arranged(const uint8_t *const row[4], size_t offset, uint8x16_t w[4]) {
    uint8x16_t x[4];
    tile_load(row, offset, x);
    dot_arrange(x, w);
}

/* How a format's codes are summed. */
typedef struct dot_traits {
    bool is_wide; /* codes use all 8 bits; others are within -32 to 31 */
    bool has_min;
    int n_sub; /* sub-blocks of a superblock: 8 or 16 */
} dot_traits;

/* The activations of up to four columns from one block on; the next block's lie n_cols blocks
 * behind. sums are f32 (blocks of 32) or int16 (superblocks). */
typedef struct dot_columns {
    const int8_t *q;
    const float *d;
    const void *sums;
    size_t n_cols;
} dot_columns;

TILE_INLINE dot_columns dot_columns_at(const acts *a, size_t dim, size_t col, size_t block) {
    size_t i = acts_block(a, block, col);
    const void *sums = dim == 32 ? (const void *)(a->sum + i) : (const void *)(a->sums + 16 * i);
    return (dot_columns){a->q + i * dim, a->d + i, sums, a->n_cols};
}

TILE_INLINE dot_columns dot_columns_next(dot_columns at, size_t dim) {
    size_t sums_bytes = at.n_cols * (dim == 32 ? sizeof(float) : 16 * sizeof(int16_t));
    return (dot_columns){at.q + dim * at.n_cols, at.d + at.n_cols,
                         (const uint8_t *)at.sums + sums_bytes, at.n_cols};
}

/* One block of 32: acc[group][c] = fmaf(t, d_a, acc). */
TILE_INLINE void dot32(dot_traits f, int n_cols, const tile32 *t, dot_columns a,
                       float32x4_t acc[TILE_GROUPS][TILE_COLS]) {
    const float *a_sums = a.sums;
    int32x4_t dots[TILE_GROUPS][TILE_COLS];
    dot_values(2, f.is_wide, n_cols, t->w, a.q, 32, dots);
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) {
        dot_rows(n_cols, dots[g]);
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
            float32x4_t x = vmulq_f32(vcvtq_f32_s32(dots[g][c]), t->d[g]);
            if (f.has_min) x = vfmaq_n_f32(x, t->m[g], a_sums[c]);
            acc[g][c] = vfmaq_n_f32(acc[g][c], x, a.d[c]);
        }
    }
}

/* mins[group] = the minimums of a superblock times the sums of the activations of one column. */
TILE_INLINE void dot_mins(int n_sub, const tile256 *t, const int16_t *groups,
                          int32x4_t mins[TILE_GROUPS]) {
    int16x8_t low = vld1q_s16(groups), high = vld1q_s16(groups + 8);
    if (n_sub == 8) low = vpaddq_s16(low, high);
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) {
        int32x4_t m = vdupq_n_s32(0);
#define LANE(sums, first, j) m = vmlal_laneq_s16(m, t->min[(first) + (j)][g], sums, j)
#define LANES(sums, first)                                                                         \
    LANE(sums, first, 0);                                                                          \
    LANE(sums, first, 1);                                                                          \
    LANE(sums, first, 2);                                                                          \
    LANE(sums, first, 3);                                                                          \
    LANE(sums, first, 4);                                                                          \
    LANE(sums, first, 5);                                                                          \
    LANE(sums, first, 6);                                                                          \
    LANE(sums, first, 7)
        LANES(low, 0);
        if (n_sub == 16) {
            LANES(high, 8);
        }
#undef LANES
#undef LANE
        mins[g] = m;
    }
}

/* One superblock: acc[group][c] = fmaf(t, d_a, acc). */
TILE_INLINE void dot256(dot_traits f, int n_cols, const tile256 *t, dot_columns a,
                        float32x4_t acc[TILE_GROUPS][TILE_COLS]) {
    const int n = 16 / f.n_sub;
    int32x4_t sums[TILE_GROUPS][TILE_COLS];
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) {
#pragma GCC unroll 4
        for (int c = 0; c < TILE_COLS; c++) sums[g][c] = vdupq_n_s32(0);
    }
#pragma GCC unroll 1
    for (int j = 0; j < f.n_sub; j++) {
        int32x4_t dots[TILE_GROUPS][TILE_COLS];
        dot_values(n, f.is_wide, n_cols, t->w + j * n, a.q + j * n * 16, 256, dots);
#pragma GCC unroll 2
        for (int g = 0; g < TILE_GROUPS; g++) {
            int32x4_t scale[2];
            dot_spread(t->scale[j][g], scale);
#pragma GCC unroll 4
            for (int c = 0; c < DOT_REGISTERS(n_cols); c++) {
                sums[g][c] = vmlaq_s32(sums[g][c], dots[g][c], scale[c % 2]);
            }
        }
    }
#pragma GCC unroll 2
    for (int g = 0; g < TILE_GROUPS; g++) dot_rows(n_cols, sums[g]);
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        int32x4_t mins[TILE_GROUPS];
        if (f.has_min) dot_mins(f.n_sub, t, (const int16_t *)a.sums + 16 * c, mins);
#pragma GCC unroll 2
        for (int g = 0; g < TILE_GROUPS; g++) {
            float32x4_t x = vmulq_f32(vcvtq_f32_s32(sums[g][c]), t->d[g]);
            if (f.has_min) x = vfmsq_f32(x, vcvtq_f32_s32(mins[g]), t->dmin[g]);
            acc[g][c] = vfmaq_n_f32(acc[g][c], x, a.d[c]);
        }
    }
}

/* Sums to and from out[c * stride + row]. */
TILE_INLINE void dot_load(int n_cols, const float *out, size_t stride,
                          float32x4_t acc[TILE_GROUPS][TILE_COLS]) {
#pragma GCC unroll 4
    for (size_t c = 0; c < (size_t)n_cols; c++) {
        acc[0][c] = vld1q_f32(out + c * stride);
        acc[1][c] = vld1q_f32(out + c * stride + 4);
    }
}
TILE_INLINE void dot_store(int n_cols, float *out, size_t stride,
                           float32x4_t acc[TILE_GROUPS][TILE_COLS]) {
#pragma GCC unroll 4
    for (size_t c = 0; c < (size_t)n_cols; c++) {
        vst1q_f32(out + c * stride, acc[0][c]);
        vst1q_f32(out + c * stride + 4, acc[1][c]);
    }
}

/* Superblocks are unpacked by a call, those of 32 in line. */
#define DOT_UNPACK_256 static __attribute__((noinline))
#define DOT_UNPACK_32  TILE_INLINE

/* One line for each number of columns. */
/* clang-format off */

/* All of one format: DOT_FORMAT(name in quant_blocks.h, values a block, dot_traits …). Its author
 * writes name_unpack(row, g, tile), which unpacks the blocks that begin at row[0] to row[3] into
 * group g of the tile.
 */
#define DOT_FORMAT(name, dim, ...)                                                                 \
    DOT_UNPACK_##dim void name##_unpack_block(const uint8_t *const row[TILE_ROWS], size_t b,       \
                                              tile##dim *t) {                                      \
        const uint8_t *at[TILE_ROWS];                                                              \
        for (int r = 0; r < TILE_ROWS; r++) at[r] = row[r] + b * sizeof(block_##name);             \
        for (int g = 0; g < TILE_GROUPS; g++) name##_unpack(at + 4 * g, g, t);                     \
    }                                                                                              \
    static void name##_unpack_slab(const uint8_t *const row[TILE_ROWS], size_t n_blocks,           \
                                   void *tiles) {                                                  \
        for (size_t b = 0; b < n_blocks; b++) {                                                    \
            name##_unpack_block(row, b, (tile##dim *)tiles + b);                                   \
        }                                                                                          \
    }                                                                                              \
    DOT_COLUMNS(name, dim, 1, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 2, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 3, __VA_ARGS__)                                                         \
    DOT_COLUMNS(name, dim, 4, __VA_ARGS__)                                                         \
    static void matmul_##name(const product *p) {                                                  \
        static const tile_quant q = {                                                              \
            .block_dim = dim,                                                                      \
            .block_bytes = sizeof(block_##name),                                                   \
            .tile_bytes = sizeof(tile##dim),                                                       \
            .unpack = name##_unpack_slab,                                                          \
            .stream = {name##_stream_1, name##_stream_2, name##_stream_3, name##_stream_4},        \
            .dot = {name##_dot_1, name##_dot_2, name##_dot_3, name##_dot_4},                       \
        };                                                                                         \
        neon_tile_matmul(&q, p);                                                                   \
    }

/* The tile_stream and the tile_dot of one number of columns. */
#define DOT_COLUMNS(name, dim, n_cols, ...)                                                        \
    static void name##_stream_##n_cols(const uint8_t *const row[TILE_ROWS], const uint8_t *ahead,  \
                                       const acts *a, size_t col,                                  \
                                       float out[TILE_COLS][TILE_ROWS]) {                          \
        const size_t n_blocks = a->n / dim, n_ahead = sizeof(block_##name) * TILE_ROWS;            \
        dot_columns at = dot_columns_at(a, dim, col, 0);                                           \
        float32x4_t acc[TILE_GROUPS][TILE_COLS];                                                   \
        memset(acc, 0, sizeof acc);                                                                \
        for (size_t b = 0; b < n_blocks; b++, ahead += n_ahead) {                                  \
            tile##dim t;                                                                           \
            tile_prefetch(ahead, n_ahead);                                                         \
            name##_unpack_block(row, b, &t);                                                       \
            dot##dim((dot_traits){__VA_ARGS__}, n_cols, &t, at, acc);                              \
            at = dot_columns_next(at, dim);                                                        \
        }                                                                                          \
        dot_store(n_cols, out[0], TILE_ROWS, acc);                                                 \
    }                                                                                              \
    static void name##_dot_##n_cols(const void *tiles, size_t block0, size_t n_blocks,             \
                                    const acts *a, size_t col, float *out, size_t out_stride) {    \
        const tile##dim *t = tiles;                                                                \
        dot_columns at = dot_columns_at(a, dim, col, block0);                                      \
        float32x4_t acc[TILE_GROUPS][TILE_COLS];                                                   \
        dot_load(n_cols, out, out_stride, acc);                                                    \
        for (size_t b = 0; b < n_blocks; b++, t++) {                                               \
            dot##dim((dot_traits){__VA_ARGS__}, n_cols, t, at, acc);                               \
            at = dot_columns_next(at, dim);                                                        \
        }                                                                                          \
        dot_store(n_cols, out, out_stride, acc);                                                   \
    }

/* clang-format on */

#endif
