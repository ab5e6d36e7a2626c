/* avx2_matmul_32: the formats of 32-value blocks; each is one function that unpacks a slab's
 * blocks into tiles, and one row of the list at the end.
 *
 * Nibbles are transposed while still packed, so a block of eight rows takes half the shuffles.
 */
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_panel.h"

#include "format/quant_blocks.h"

/* 16 bytes of nibbles at `offset`: values 0 to 15 are the low halves, 16 to 31 the high ones. */
TILE_INLINE void unpack_nibbles(tile_rows rows, size_t offset, __m256i w[8]) {
    __m256i packed[4];
    tile_transpose(rows, offset, packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        w[i] = tile_low4(packed[i]);
        w[i + 4] = tile_high4(packed[i]);
    }
}

/* Bit j of a row's dword is the fifth bit of its value j. */
TILE_INLINE void unpack_fifth_bits(__m256i bits, __m256i w[8]) {
    const __m256i tops = _mm256_set1_epi32((int)0x80402010);
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) {
        /* Byte s / 2 of each row four times, one of its upper bits left in each; the bits of even
         * steps are moved there first. The smaller of what is left and 16 is the bit's worth. */
        const int byte = 0x01010101 * (s / 2);
        const __m256i copy =
            _mm256_setr_epi32(byte, byte + 0x04040404, byte + 0x08080808, byte + 0x0c0c0c0c, byte,
                              byte + 0x04040404, byte + 0x08080808, byte + 0x0c0c0c0c);
        __m256i upper = s % 2 ? bits : _mm256_slli_epi32(bits, 4);
        __m256i bit = _mm256_and_si256(_mm256_shuffle_epi8(upper, copy), tops);
        w[s] = _mm256_or_si256(w[s], _mm256_min_epu8(bit, _mm256_set1_epi8(16)));
    }
}

TILE_INLINE void look_up(__m256i table, __m256i w[8]) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++) w[s] = _mm256_shuffle_epi8(table, w[s]);
}

TILE_INLINE void q4_0_unpack(tile_rows rows, size_t at, tile32 *t) {
    t->d = tile_low_f16(tile_gather32(rows, at + offsetof(block_q4_0, d)));
    unpack_nibbles(rows, at + offsetof(block_q4_0, qs), t->w);
}

TILE_INLINE void q4_1_unpack(tile_rows rows, size_t at, tile32 *t) {
    const __m256i header = tile_gather32(rows, at + offsetof(block_q4_1, d));
    t->d = tile_low_f16(header);
    t->m = tile_high_f16(header);
    unpack_nibbles(rows, at + offsetof(block_q4_1, qs), t->w);
}

TILE_INLINE void q5_0_unpack(tile_rows rows, size_t at, tile32 *t) {
    __m256i header[4]; /* d and the fifth bits lie in the first six bytes */
    tile_transpose(rows, at, header);
    t->d = tile_low_f16(header[0]);
    unpack_nibbles(rows, at + offsetof(block_q5_0, qs), t->w);
    unpack_fifth_bits(
        _mm256_or_si256(_mm256_srli_epi32(header[0], 16), _mm256_slli_epi32(header[1], 16)), t->w);
}

TILE_INLINE void q5_1_unpack(tile_rows rows, size_t at, tile32 *t) {
    const __m256i header = tile_gather32(rows, at + offsetof(block_q5_1, d));
    t->d = tile_low_f16(header);
    t->m = tile_high_f16(header);
    unpack_nibbles(rows, at + offsetof(block_q5_1, qs), t->w);
    unpack_fifth_bits(tile_gather32(rows, at + offsetof(block_q5_1, qh)), t->w);
}

TILE_INLINE void q8_0_unpack(tile_rows rows, size_t at, tile32 *t) {
    t->d = tile_low_f16(tile_gather32(rows, at + offsetof(block_q8_0, d)));
    tile_transpose(rows, at + offsetof(block_q8_0, qs), t->w);
    tile_transpose(rows, at + offsetof(block_q8_0, qs) + 16, t->w + 4);
    for (int s = 0; s < 8; s++) t->w[s] = dot_from_signed(t->w[s]);
}

TILE_INLINE void iq4_nl_unpack(tile_rows rows, size_t at, tile32 *t) {
    t->d = tile_low_f16(tile_gather32(rows, at + offsetof(block_iq4_nl, d)));
    unpack_nibbles(rows, at + offsetof(block_iq4_nl, qs), t->w);
    look_up(dot_from_signed(tile_table(quant_iq4_values)), t->w);
}

/* The values are at least -12; 12 is added so that they are unsigned. */
enum { MXFP4_ZERO = 12 };

TILE_INLINE void mxfp4_unpack(tile_rows rows, size_t at, tile32 *t) {
    float d[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++)
        d[r] = quant_mxfp4_scale(rows.first[(size_t)r * rows.stride + at]);
    t->d = _mm256_loadu_ps(d);
    unpack_nibbles(rows, at + offsetof(block_mxfp4, qs), t->w);
    __m256i values = tile_table(quant_mxfp4_values);
    look_up(_mm256_add_epi8(values, _mm256_set1_epi8(MXFP4_ZERO)), t->w);
}

PANEL_32(q4_0, .largest = 15, .zero = 8)
PANEL_32(q4_1, .largest = 15, .has_min = true)
PANEL_32(q5_0, .largest = 31, .zero = 16)
PANEL_32(q5_1, .largest = 31, .has_min = true)
PANEL_32(q8_0, .largest = 128, .zero = STEP_SIGNED_ZERO)
PANEL_32(iq4_nl, .largest = 128, .zero = STEP_SIGNED_ZERO)
PANEL_32(mxfp4, .largest = 2 * MXFP4_ZERO, .zero = MXFP4_ZERO)
