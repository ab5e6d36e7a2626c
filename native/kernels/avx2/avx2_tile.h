/* avx2_tile: weights as the AVX2 integer kernels read them.
 *
 * A slab is 8 rows, one 32-bit lane of a register each. A tile is one block of a slab, unpacked:
 * register w[s] holds values 4s to 4s+3 of all 8 rows, so that one broadcast of four activations
 * meets eight rows and no sum ever crosses lanes; what the block carries beside its codes lies in
 * the same lanes. A quant is one function that turns blocks into tiles; the dots know only tiles.
 */
#ifndef LL_KERNELS_AVX2_TILE_H
#define LL_KERNELS_AVX2_TILE_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define TILE_INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 8, /* rows of a slab */
    TILE_COLS = 4, /* columns that are streamed at once */
    FEWEST_FEW = 2 * TILE_COLS,
    /* The panel product goes by spans of 256 values (fewer at a row's end) and groups of slabs:
     * their tiles and the columns that pass lie in L1, and a broadcast serves all slabs. */
    PANEL_DIM = 256,
    PANEL_SLABS = 4,
    PANEL_ROWS = PANEL_SLABS * TILE_ROWS,
};

/* Where a block of 8 rows lies: row r's is at first + r * stride. A stride instead of 8 pointers
 * lets every load compute its address from four registers. */
typedef struct tile_rows {
    const uint8_t *first;
    size_t stride;
} tile_rows;

/* A block of 32. */
typedef struct tile32 {
    __m256i w[8];     /* [value / 4][row][value % 4] bytes */
    __m256i start[2]; /* [run] of a panel's sums, see avx2_panel.h */
    __m256 d, m;      /* [row]; m only where the format has a minimum */
} tile32;

/* A superblock of 256. A dword of `bias` holds two int16, which the sums of the activations' groups
 * 2g and 2g + 1 are multiplied with. */
typedef struct tile256 {
    __m256i w[64];     /* [value / 4][row][value % 4] bytes */
    __m256i start[16]; /* [run] as tile32's */
    __m256i scale[16]; /* [sub-block][row], see avx2_step.h; sub-blocks of 32 use the first 8 */
    __m256i bias[8];   /* [pair of groups of 16, or of 32][row] */
    __m256 d, dmin;    /* [row] */
} tile256;

/* out[c][r] = the whole dots of 8 rows with columns col, col + 1 …, straight from memory.
 * `ahead` is prefetched meanwhile, as many bytes as the 8 rows have: in the order they lie in,
 * which memory likes best, and into L1. Where long rows would drive each other out of it, a stream
 * of their own prefetches them into L2. */
typedef void tile_stream(tile_rows rows, const uint8_t *ahead, const acts *a, size_t col,
                         float out[TILE_COLS][TILE_ROWS]);

/* Unpacks n_blocks blocks of 8 rows, a span, into a slab. */
typedef void panel_unpack(tile_rows rows, size_t n_blocks, void *slab);

/* Copies a span, n_blocks blocks from block0 on, of columns [col, col + n_cols). */
typedef void panel_pack(const acts *a, size_t col, size_t n_cols, size_t block0, size_t n_blocks,
                        void *cols);

/* Adds a span of the dots of PANEL_SLABS slabs with n_cols columns: sums[c * stride + 8 slab + r].
 */
typedef void panel_dot(const void *slabs, const void *cols, size_t n_cols, size_t n_blocks,
                       float *sums, size_t stride);

typedef struct tile_quant {
    size_t block_dim, block_bytes;
    size_t few_cols;                /* up to here streaming once more is cheaper than storing tiles;
                                     * FEWEST_FEW at least */
    size_t slab_bytes, col_bytes;   /* of a span */
    tile_stream *stream[TILE_COLS]; /* [columns - 1] */
    tile_stream *stream_long;       /* one column, rows of more than l1_slab bytes in all */
    size_t l1_slab;
    panel_unpack *unpack;
    panel_pack *pack;
    panel_dot *dot;
} tile_quant;

/* The matmul of kernels.h for a quant that has tiles. */
void tile_matmul(const tile_quant *q, const product *p);

/* What it touches of scratch; see kernels.h. */
size_t tile_scratch(size_t n_rows, size_t n_cols);

/* ---- what unpacking is made of -------------------------------------------------------------- */

/* 16 bytes of 8 rows, transposed: t[i] holds bytes 4i to 4i + 3 of every row. */
TILE_INLINE void tile_transpose(tile_rows rows, size_t offset, __m256i t[4]) {
    __m256i pair[4]; /* rows i and i + 4 in the halves; a broadcast and a blend, as inserting a half
                        from memory takes the one shuffle port twice */
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *p = rows.first + offset + i * rows.stride;
        __m128i low = _mm_loadu_si128((const void *)p);
        __m128i high = _mm_loadu_si128((const void *)(p + 4 * rows.stride));
        pair[i] = _mm256_blend_epi32(_mm256_castsi128_si256(low), _mm256_broadcastsi128_si256(high),
                                     0xf0);
    }
    __m256i a = _mm256_unpacklo_epi32(pair[0], pair[1]);
    __m256i b = _mm256_unpacklo_epi32(pair[2], pair[3]);
    __m256i c = _mm256_unpackhi_epi32(pair[0], pair[1]);
    __m256i d = _mm256_unpackhi_epi32(pair[2], pair[3]);
    t[0] = _mm256_unpacklo_epi64(a, b);
    t[1] = _mm256_unpackhi_epi64(a, b);
    t[2] = _mm256_unpacklo_epi64(c, d);
    t[3] = _mm256_unpackhi_epi64(c, d);
}

/* Four bytes everywhere. */
TILE_INLINE __m256i tile_broadcast(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* Four bytes of every row. A broadcast is only a load and a blend finds a port easily, whereas the
 * shuffles that inserting takes are what transposing is short of. */
TILE_INLINE __m256i tile_gather32(tile_rows rows, size_t offset) {
    const uint8_t *p = rows.first + offset;
    __m256i x = tile_broadcast(p);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 1 * rows.stride), 1 << 1);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 2 * rows.stride), 1 << 2);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 3 * rows.stride), 1 << 3);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 4 * rows.stride), 1 << 4);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 5 * rows.stride), 1 << 5);
    x = _mm256_blend_epi32(x, tile_broadcast(p + 6 * rows.stride), 1 << 6);
    return _mm256_blend_epi32(x, tile_broadcast(p + 7 * rows.stride), 1 << 7);
}

/* f16 in dwords below 2^16, as f32. */
TILE_INLINE __m256 tile_from_f16(__m256i x) {
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm256_cvtph_ps(packed);
}

/* Two f16 a dword, as f32. */
TILE_INLINE __m256 tile_low_f16(__m256i pairs) {
    return tile_from_f16(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)));
}
TILE_INLINE __m256 tile_high_f16(__m256i pairs) {
    return tile_from_f16(_mm256_srli_epi32(pairs, 16));
}

/* The low and the high four bits of every byte. */
TILE_INLINE __m256i tile_low4(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
TILE_INLINE __m256i tile_high4(__m256i x) { return tile_low4(_mm256_srli_epi16(x, 4)); }

/* A table of 16 bytes, for looking up by vpshufb. */
TILE_INLINE __m256i tile_table(const int8_t values[16]) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)values));
}

TILE_INLINE void tile_prefetch(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) _mm_prefetch((const void *)(p + i), _MM_HINT_T0);
}
TILE_INLINE void tile_prefetch_l2(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) _mm_prefetch((const void *)(p + i), _MM_HINT_T1);
}

#endif
