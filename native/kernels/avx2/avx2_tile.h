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

#include "format/acts.h"

#define TILE_INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 8,  /* rows of a slab */
    TILE_SLABS = 2, /* slabs of a dot; two share each broadcast */
    TILE_COLS = 4,  /* columns a dot takes at most: 2 x 4 sums, 2 weights and a broadcast fit 16 */
};

/* A block of 32. */
typedef struct tile32 {
    __m256i w[8]; /* [value / 4][row][value % 4] bytes */
    __m256 d, m;  /* [row]; m only where the format has a minimum */
} tile32;

/* A superblock of 256. A dword of `scale` holds one row's scale twice as int16; a dword of `bias`
 * two int16, which the sums of the activations' groups 2g and 2g + 1 are multiplied with. */
typedef struct tile256 {
    __m256i w[64];     /* [value / 4][row][value % 4] bytes */
    __m256i scale[16]; /* [sub-block][row]; sub-blocks of 32 use the first 8 */
    __m256i bias[8];   /* [pair of groups of 16][row] */
    __m256 d, dmin;    /* [row] */
} tile256;

/* Unpacks n_blocks blocks of 8 rows into as many tiles; row[r] points at the first block. */
typedef void tile_unpack(const uint8_t *const row[TILE_ROWS], size_t n_blocks, void *tiles);

/* out[c][r] = the whole dots of 8 rows with columns col, col + 1 …, straight from memory.
 * `ahead` is prefetched meanwhile, as many bytes as the 8 rows have. */
typedef void tile_stream(const uint8_t *const row[TILE_ROWS], const uint8_t *ahead, const acts *a,
                         size_t col, float out[TILE_COLS][TILE_ROWS]);

/* Adds blocks [block0, block0 + n_blocks) of the dots of two slabs with columns col, col + 1 …:
 * out[c * out_stride + 8 * slab + r]. tiles[slab] points at the tile of block0. */
typedef void tile_dot(const void *const tiles[TILE_SLABS], size_t block0, size_t n_blocks,
                      const acts *a, size_t col, float *out, size_t out_stride);

typedef struct tile_quant {
    size_t block_dim, block_bytes, tile_bytes;
    tile_unpack *unpack;
    tile_stream *stream[TILE_COLS]; /* [columns - 1] */
    tile_dot *dot[TILE_COLS];       /* [columns - 1] */
} tile_quant;

/* The matmul of kernels.h for a quant that has tiles. */
void tile_matmul(const tile_quant *q, const void *rows, size_t row_bytes, size_t n_rows,
                 const acts *a, size_t col0, size_t n_cols, float *y, size_t y_stride,
                 void *scratch);

/* ---- what unpacking is made of -------------------------------------------------------------- */

/* 16 bytes of 8 rows, transposed: t[i] holds bytes 4i to 4i + 3 of every row. */
TILE_INLINE void tile_transpose(const uint8_t *const row[TILE_ROWS], size_t offset, __m256i t[4]) {
    __m256i pair[4]; /* rows i and i + 4 in the halves; a broadcast and a blend, as inserting a half
                        from memory takes the one shuffle port twice */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(row[i] + offset));
        __m128i high = _mm_loadu_si128((const void *)(row[i + 4] + offset));
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
TILE_INLINE __m256i tile_gather32(const uint8_t *const row[TILE_ROWS], size_t offset) {
    __m256i x = tile_broadcast(row[0] + offset);
    x = _mm256_blend_epi32(x, tile_broadcast(row[1] + offset), 1 << 1);
    x = _mm256_blend_epi32(x, tile_broadcast(row[2] + offset), 1 << 2);
    x = _mm256_blend_epi32(x, tile_broadcast(row[3] + offset), 1 << 3);
    x = _mm256_blend_epi32(x, tile_broadcast(row[4] + offset), 1 << 4);
    x = _mm256_blend_epi32(x, tile_broadcast(row[5] + offset), 1 << 5);
    x = _mm256_blend_epi32(x, tile_broadcast(row[6] + offset), 1 << 6);
    return _mm256_blend_epi32(x, tile_broadcast(row[7] + offset), 1 << 7);
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

TILE_INLINE void tile_prefetch(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) _mm_prefetch((const void *)(p + i), _MM_HINT_T0);
}

#endif
