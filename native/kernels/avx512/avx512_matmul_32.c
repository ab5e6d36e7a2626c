/* avx512_matmul_32: the formats of 32-value blocks; each is one function that unpacks sixteen
 * rows' block into a tile, and one row of the list at the end.
 *
 * Nibbles are transposed while still packed, so a block of sixteen rows takes half the shuffles. A
 * block's head is transposed with the first 16 bytes, which lie within the block.
 */
#include "kernels/avx512/avx512_kernels.h"
#include "kernels/avx512/avx512_stream.h"

#include "format/quant_blocks.h"

enum {
    MXFP4_ZERO = 12,  /* the smallest of MXFP4's values */
    SIGNED_ZERO = 128 /* makes any int8 unsigned */
};

/* 16 bytes of nibbles at `offset`: values 0 to 15 are the low halves, 16 to 31 the high ones. */
TILE_INLINE void unpack_nibbles(tile_rows rows, size_t offset, __m512i w[8]) {
    __m512i packed[4];
    tile_transpose(rows, offset, packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        w[i] = tile_low4(packed[i]);
        w[i + 4] = tile_high4(packed[i]);
    }
}

/* Bit j of a dword is the fifth bit of value j. */
TILE_INLINE void unpack_fifth_bits(__m512i bits, __m512i w[8]) {
    const __m512i sixteen = _mm512_set1_epi8(16);
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) {
        /* Byte s / 2 of each row four times, one of its bits tested in each. */
        const int byte = 0x01010101 * (s / 2);
        const __m512i copy =
            _mm512_set4_epi32(byte + 0x0c0c0c0c, byte + 0x08080808, byte + 0x04040404, byte);
        const __m512i one = _mm512_set1_epi32(s % 2 ? (int)0x80402010 : 0x08040201);
        __mmask64 is_set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, copy), one);
        w[s] = _mm512_mask_add_epi8(w[s], is_set, w[s], sixteen);
    }
}

/* Codes become values + zero. */
TILE_INLINE void look_up(const int8_t values[16], int zero, __m512i w[8]) {
    __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)values));
    table = _mm512_add_epi8(table, _mm512_set1_epi8((char)zero));
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) w[s] = _mm512_shuffle_epi8(table, w[s]);
}

/* The first 4 bytes of every row. */
TILE_INLINE __m512i head(tile_rows rows) {
    __m512i t[4];
    tile_transpose(rows, 0, t);
    return t[0];
}

TILE_INLINE void q4_0_block(tile_rows rows, tile32 *t) {
    t->d = tile_f16(head(rows));
    unpack_nibbles(rows, offsetof(block_q4_0, qs), t->w);
}

TILE_INLINE void q4_1_block(tile_rows rows, tile32 *t) {
    __m512i h = head(rows);
    t->d = tile_f16(h);
    t->m = tile_high_f16(h);
    unpack_nibbles(rows, offsetof(block_q4_1, qs), t->w);
}

TILE_INLINE void q5_0_block(tile_rows rows, tile32 *t) {
    __m512i h[4]; /* d in bytes 0 and 1, the fifth bits in bytes 2 to 5 */
    tile_transpose(rows, 0, h);
    t->d = tile_f16(h[0]);
    __m512i bits = _mm512_or_si512(_mm512_srli_epi32(h[0], 16), _mm512_slli_epi32(h[1], 16));
    unpack_nibbles(rows, offsetof(block_q5_0, qs), t->w);
    unpack_fifth_bits(bits, t->w);
}

TILE_INLINE void q5_1_block(tile_rows rows, tile32 *t) {
    __m512i h[4];
    tile_transpose(rows, 0, h);
    t->d = tile_f16(h[0]);
    t->m = tile_high_f16(h[0]);
    unpack_nibbles(rows, offsetof(block_q5_1, qs), t->w);
    unpack_fifth_bits(h[1], t->w);
}

TILE_INLINE void q8_0_block(tile_rows rows, tile32 *t) {
    t->d = tile_f16(head(rows));
    tile_transpose(rows, offsetof(block_q8_0, qs), t->w);
    tile_transpose(rows, offsetof(block_q8_0, qs) + 16, t->w + 4);
    const __m512i top = _mm512_set1_epi8((char)SIGNED_ZERO);
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) t->w[s] = _mm512_xor_si512(t->w[s], top);
}

TILE_INLINE void iq4_nl_block(tile_rows rows, tile32 *t) {
    t->d = tile_f16(head(rows));
    unpack_nibbles(rows, offsetof(block_iq4_nl, qs), t->w);
    look_up(quant_iq4_values, SIGNED_ZERO, t->w);
}

TILE_INLINE void mxfp4_block(tile_rows rows, tile32 *t) {
    float d[TILE_ROWS];
    for (size_t r = 0; r < TILE_ROWS; r++) d[r] = quant_mxfp4_scale(rows.first[r * rows.stride]);
    t->d = _mm512_loadu_ps(d);
    unpack_nibbles(rows, offsetof(block_mxfp4, qs), t->w);
    look_up(quant_mxfp4_values, MXFP4_ZERO, t->w);
}

STREAM_32(q4_0, dot32_zero, 8)
STREAM_32(q4_1, dot32_min, 0)
STREAM_32(q5_0, dot32_zero, 16)
STREAM_32(q5_1, dot32_min, 0)
STREAM_32(q8_0, dot32_zero, SIGNED_ZERO)
STREAM_32(iq4_nl, dot32_zero, SIGNED_ZERO)
STREAM_32(mxfp4, dot32_zero, MXFP4_ZERO)
