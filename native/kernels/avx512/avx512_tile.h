/* avx512_tile: weights as the AVX-512 integer kernels read them.
 *
 * A slab is 16 rows, one 32-bit lane of a register each. A tile is one block of a slab, unpacked:
 * register w[s] holds values 4s to 4s+3 of all 16 rows, so that one broadcast of four activations
 * meets sixteen rows and no sum ever crosses lanes; what the block carries beside its codes lies in
 * the same lanes. Codes are unsigned bytes with a zero point, which is what vpdpbusd multiplies
 * with signed activations. A quant is one function that turns blocks into tiles; the dots know
 * only tiles.
 */
#ifndef LL_KERNELS_AVX512_TILE_H
#define LL_KERNELS_AVX512_TILE_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define TILE_INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 16,       /* rows of a slab */
    TILE_SLABS = 2,       /* slabs a dot takes at most; two share each broadcast */
    TILE_COLS = 6,        /* columns a dot takes at most: 2 x 6 sums, twice, fit 32 registers */
    TILE_STREAM_COLS = 8, /* columns up to which unpacking again is cheaper than storing tiles */
    TILE_SPAN_BYTES = 12 * 1024, /* of one slab's tiles: two spans and some columns fit L1 */
};

/* A block of 32. */
typedef struct tile32 {
    __m512i w[8]; /* [value / 4][row][value % 4] bytes */
    __m512 d, m;  /* [row]; m only where the format has a minimum */
} tile32;

/* A superblock of 256. A dword of `scale` is a sub-block's scale: an int32, or, for formats whose
 * dots of 16 values fit an int16, that in its low half and 0 in the high one. A dword of `bias` is
 * two int16, which the sums of the activations of sub-blocks 2i and 2i + 1 are multiplied with: the
 * minimums, or the zero point times the scales. Formats with sub-blocks of 32 use the first half of
 * both arrays. */
typedef struct tile256 {
    __m512i w[64];     /* [value / 4][row][value % 4] bytes */
    __m512i scale[16]; /* [sub-block][row] */
    __m512i bias[8];   /* [pair of sub-blocks][row] */
    __m512 d, dmin;    /* [row]; dmin only where the format has minimums */
} tile256;

/* Where a block of 16 rows lies: row r's is at first + r * stride. A stride instead of 16 pointers
 * lets every load compute its address from six registers. */
typedef struct tile_rows {
    const uint8_t *first;
    size_t stride;
} tile_rows;

/* Unpacks n_blocks blocks of 16 rows into n_blocks tiles. */
typedef void tile_unpack(tile_rows rows, size_t n_blocks, void *tiles);

/* Where the dots of 1 or 2 slabs with some columns come from and go to: column c's rows lie at
 * [c * stride]. The first span of blocks has no `in`; `out` may be `in`. */
typedef struct tile_sums {
    const float *in;
    float *out;
    size_t in_stride, out_stride;
} tile_sums;

/* Adds blocks [block0, block0 + n_blocks) of the dots of 1 or 2 slabs with columns col, col + 1 ….
 * `tiles` points at the tile of block0; a second slab's lies TILE_SPAN_BYTES behind it, so that one
 * register addresses both. `zero` is the codes' zero point, which only blocks of 32 ask for. */
typedef void tile_dot(const void *tiles, float zero, size_t block0, size_t n_blocks, const acts *a,
                      size_t col, tile_sums sums);

typedef tile_dot *const tile_dots[TILE_SLABS][TILE_COLS]; /* [slabs - 1][columns - 1] */

/* out[c][row] = the whole dots of 16 rows with columns col, col + 1 …, straight from memory.
 * `ahead` (NULL: nothing) is fetched meanwhile, as many bytes as the rows have. */
typedef void tile_stream(tile_rows rows, const uint8_t *ahead, const acts *a, size_t col,
                         float out[TILE_STREAM_COLS][TILE_ROWS]);

typedef struct tile_quant {
    size_t block_dim, block_bytes, tile_bytes;
    float zero;
    tile_unpack *unpack;
    tile_stream *stream[TILE_STREAM_COLS]; /* [columns - 1] */
    tile_dots *dots;
} tile_quant;

/* The matmul of kernels.h for a quant that has tiles. */
void avx512_tile_matmul(const tile_quant *q, const product *p);

/* What it touches of scratch; see kernels.h. */
size_t avx512_tile_scratch(size_t n_rows, size_t n_cols);

/* ---- what unpacking is made of -------------------------------------------------------------- */

/* Lane i of the result: 16 bytes of row r + 4i. */
TILE_INLINE __m512i tile_four_rows(tile_rows rows, size_t r, size_t offset) {
    const uint8_t *p = rows.first + r * rows.stride + offset;
    const size_t four = 4 * rows.stride;
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const void *)p));
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const void *)(p + four)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const void *)(p + 2 * four)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const void *)(p + 3 * four)), 3);
}

/* 16 bytes of 16 rows, transposed: t[i] holds bytes 4i to 4i + 3 of every row. Rows enter four
 * apart, so that the shuffles within 128-bit lanes leave them in order. */
TILE_INLINE void tile_transpose(tile_rows rows, size_t offset, __m512i t[4]) {
    __m512i x[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) x[i] = tile_four_rows(rows, i, offset);
    __m512i a = _mm512_unpacklo_epi32(x[0], x[1]);
    __m512i b = _mm512_unpacklo_epi32(x[2], x[3]);
    __m512i c = _mm512_unpackhi_epi32(x[0], x[1]);
    __m512i d = _mm512_unpackhi_epi32(x[2], x[3]);
    t[0] = _mm512_unpacklo_epi64(a, b);
    t[1] = _mm512_unpackhi_epi64(a, b);
    t[2] = _mm512_unpacklo_epi64(c, d);
    t[3] = _mm512_unpackhi_epi64(c, d);
}

/* The f16 in the low halves of the dwords, as f32. */
TILE_INLINE __m512 tile_f16(__m512i x) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }

/* The f16 in the high halves. */
TILE_INLINE __m512 tile_high_f16(__m512i x) { return tile_f16(_mm512_srli_epi32(x, 16)); }

TILE_INLINE __m512i tile_and8(__m512i x, int mask) {
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

/* The low and the high four bits of every byte. */
TILE_INLINE __m512i tile_low4(__m512i x) { return tile_and8(x, 15); }
TILE_INLINE __m512i tile_high4(__m512i x) { return tile_low4(_mm512_srli_epi32(x, 4)); }

/* Bits of every byte moved up by n (down by -n); what crosses into the next byte is for the caller
 * to mask off. */
TILE_INLINE __m512i tile_shift(__m512i x, int n) {
    if (n >= 0) return _mm512_slli_epi32(x, (unsigned)n);
    return _mm512_srli_epi32(x, (unsigned)-n);
}

TILE_INLINE void tile_prefetch(const uint8_t *p, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) _mm_prefetch((const void *)(p + i), _MM_HINT_T0);
}

#endif
