/* avx512_matmul_256: the formats of 256-value superblocks; each is a function that unpacks the head
 * of sixteen rows' superblock, one that unpacks a part of its codes, and one row of the list at the
 * end.
 *
 * Headers are transposed like codes, so the scales of sixteen rows are decoded at once.
 */
#include "kernels/avx512/avx512_kernels.h"
#include "kernels/avx512/avx512_stream.h"

#include "format/quant_blocks.h"

enum { IQ4_ZERO_LOG = 7, IQ4_ZERO = 1 << IQ4_ZERO_LOG };

/* scale[i] = byte i of every dword, a signed number. */
TILE_INLINE void spread_scales(__m512i bytes, __m512i scale[4]) {
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) {
        scale[i] = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * i), 24);
    }
}

/* Bytes i and j of every dword as two int16, times 2^shift; the sign is kept. */
TILE_INLINE __m512i byte_pair(__m512i bytes, int i, int j, int shift) {
    const __m128i select =
        _mm_set_epi8((char)(j + 12), -1, (char)(i + 12), -1, (char)(j + 8), -1, (char)(i + 8), -1,
                     (char)(j + 4), -1, (char)(i + 4), -1, (char)j, -1, (char)i, -1);
    __m512i high = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(select));
    return _mm512_sra_epi16(high, _mm_cvtsi32_si128(8 - shift));
}

/* Biases of four sub-blocks: bytes times 2^shift. */
TILE_INLINE void spread_bias(__m512i bytes, int shift, __m512i bias[2]) {
    bias[0] = byte_pair(bytes, 0, 1, shift);
    bias[1] = byte_pair(bytes, 2, 3, shift);
}

/* The f16 that ends at byte `end` of every row's block. */
TILE_INLINE __m512 last_f16(tile_rows rows, size_t end) {
    __m512i t[4];
    tile_transpose(rows, end - 16, t);
    return tile_high_f16(t[3]);
}

/* A superblock is unpacked in parts, of 16 bytes of codes a row: two groups of 16 values in their
 * nibbles, or four in planes of two bits. `top` is what a head keeps of a separate plane of bits.
 * Part i's group g is the superblock's group number stem_group(i, g). */

/* Nibble p of sub-blocks 2p and 2p + 1, half of each. */
TILE_INLINE int nibble_group(int i, int g) { return 4 * (i / 2) + i % 2 + 2 * g; }

/* Planes of two bits, 128 values apart in their halves. */
TILE_INLINE int plane_group(int i, int g) { return 8 * (i / 2) + i % 2 + 2 * g; }

/* The header of Q4_K and Q5_K: d and dmin, then 12 bytes of 6-bit scales and minimums. */
TILE_INLINE void unpack_header(tile_rows rows, tile256 *t) {
    __m512i h[4];
    tile_transpose(rows, 0, h);
    t->d = tile_f16(h[0]);
    t->dmin = tile_high_f16(h[0]);
    __m512i sc_top = tile_and8(tile_shift(h[1], -2), 0x30);
    __m512i mn_top = tile_and8(tile_shift(h[2], -2), 0x30);
    spread_scales(tile_and8(h[1], 63), t->scale);
    spread_scales(_mm512_or_si512(tile_low4(h[3]), sc_top), t->scale + 4);
    spread_bias(tile_and8(h[2], 63), 0, t->bias);
    spread_bias(_mm512_or_si512(tile_high4(h[3]), mn_top), 0, t->bias + 2);
}

/* ---- Q4_K ---- */

TILE_INLINE void q4_k_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    (void)top;
    unpack_header(rows, t);
}

TILE_INLINE void q4_k_part(tile_rows rows, const __m512i top[8], int i, __m512i w[8]) {
    (void)top;
    __m512i x[4];
    tile_transpose(rows, offsetof(block_q4_k, qs) + (size_t)i * 16, x);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        w[s] = tile_low4(x[s]);
        w[s + 4] = tile_high4(x[s]);
    }
}

/* ---- Q5_K ---- */

/* Bit `from` of every byte as 16. */
TILE_INLINE __m512i fifth_bit(__m512i x, int from) {
    return tile_and8(tile_shift(x, 4 - from), 16);
}

TILE_INLINE void q5_k_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    unpack_header(rows, t);
    tile_transpose(rows, offsetof(block_q5_k, qh), top);
    tile_transpose(rows, offsetof(block_q5_k, qh) + 16, top + 4);
}

TILE_INLINE void q5_k_part(tile_rows rows, const __m512i top[8], int i, __m512i w[8]) {
    __m512i x[4];
    tile_transpose(rows, offsetof(block_q5_k, qs) + (size_t)i * 16, x);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        __m512i bits = top[i % 2 * 4 + s];
        w[s] = _mm512_or_si512(tile_low4(x[s]), fifth_bit(bits, i / 2 * 2));
        w[s + 4] = _mm512_or_si512(tile_high4(x[s]), fifth_bit(bits, i / 2 * 2 + 1));
    }
}

/* ---- Q6_K ---- */

/* Two bits of every byte, plane p of 4, at bits 4 and 5. */
TILE_INLINE __m512i top_two(__m512i x, int p) { return tile_and8(tile_shift(x, 4 - 2 * p), 0x30); }

TILE_INLINE void q6_k_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    (void)top;
    __m512i sc[4];
    t->d = last_f16(rows, sizeof(block_q6_k));
    tile_transpose(rows, offsetof(block_q6_k, scales), sc);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        spread_scales(sc[i], t->scale + 4 * i);
        spread_bias(sc[i], 5, t->bias + 2 * i); /* the zero point, 32 */
    }
}

TILE_INLINE void q6_k_part(tile_rows rows, const __m512i top[8], int i, __m512i w[16]) {
    (void)top;
    const size_t half = (size_t)i / 2, l = (size_t)i % 2 * 16;
    __m512i low[4], high[4], two[4];
    tile_transpose(rows, offsetof(block_q6_k, ql) + half * 64 + l, low);
    tile_transpose(rows, offsetof(block_q6_k, ql) + half * 64 + 32 + l, high);
    tile_transpose(rows, offsetof(block_q6_k, qh) + half * 32 + l, two);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        w[s] = _mm512_or_si512(tile_low4(low[s]), top_two(two[s], 0));
        w[s + 4] = _mm512_or_si512(tile_low4(high[s]), top_two(two[s], 1));
        w[s + 8] = _mm512_or_si512(tile_high4(low[s]), top_two(two[s], 2));
        w[s + 12] = _mm512_or_si512(tile_high4(high[s]), top_two(two[s], 3));
    }
}

/* ---- Q2_K ---- */

TILE_INLINE void q2_k_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    (void)top;
    __m512i packed[4];
    tile_transpose(rows, sizeof(block_q2_k) - 16, packed);
    t->d = tile_f16(packed[3]);
    t->dmin = tile_high_f16(packed[3]);
    tile_transpose(rows, offsetof(block_q2_k, scales), packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        spread_scales(tile_low4(packed[i]), t->scale + 4 * i);
        spread_bias(tile_high4(packed[i]), 0, t->bias + 2 * i);
    }
}

TILE_INLINE void q2_k_part(tile_rows rows, const __m512i top[8], int i, __m512i w[16]) {
    (void)top;
    __m512i x[4];
    tile_transpose(rows, offsetof(block_q2_k, qs) + (size_t)i * 16, x);
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) w[k] = tile_and8(tile_shift(x[k % 4], -2 * (k / 4)), 3);
}

/* ---- Q3_K ---- */

TILE_INLINE void q3_k_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    __m512i packed[4]; /* the 12 bytes of scales, after 4 others */
    const __m512i low_half = _mm512_set1_epi32(0xffff);
    t->d = last_f16(rows, sizeof(block_q3_k));
    tile_transpose(rows, offsetof(block_q3_k, scales) - 4, packed);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* low halves, then high ones; two top bits from the third */
        __m512i low = i < 2 ? tile_low4(packed[1 + i]) : tile_high4(packed[i - 1]);
        __m512i sc = _mm512_or_si512(low, tile_and8(tile_shift(packed[3], 4 - 2 * i), 0x30));
        sc = _mm512_sub_epi8(sc, _mm512_set1_epi8(32));
        spread_scales(sc, t->scale + 4 * i);
        spread_bias(sc, 2, t->bias + 2 * i); /* the zero point, 4 */
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) { /* halves: what the sign filled is cleared */
            t->scale[4 * i + s] = _mm512_and_si512(t->scale[4 * i + s], low_half);
        }
    }
    tile_transpose(rows, offsetof(block_q3_k, hmask), top);
    tile_transpose(rows, offsetof(block_q3_k, hmask) + 16, top + 4);
}

TILE_INLINE void q3_k_part(tile_rows rows, const __m512i top[8], int i, __m512i w[16]) {
    __m512i x[4];
    tile_transpose(rows, offsetof(block_q3_k, qs) + (size_t)i * 16, x);
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) { /* plane p of half h has bit 4 h + p of the mask, as 4 */
        const int s = k % 4, p = k / 4;
        __m512i bits = tile_shift(top[i % 2 * 4 + s], 2 - (4 * (i / 2) + p));
        w[k] = _mm512_or_si512(tile_and8(tile_shift(x[s], -2 * p), 3), tile_and8(bits, 4));
    }
}

/* ---- IQ4_XS ---- */

/* A part is a whole sub-block. */
TILE_INLINE int iq4_xs_group(int i, int g) { return 2 * i + g; }

TILE_INLINE void iq4_xs_head(tile_rows rows, tile256 *t, __m512i top[8]) {
    (void)top;
    uint8_t sc[TILE_ROWS][8];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const void *block = rows.first + r * rows.stride;
        quant_iq4_xs_scales(block, (int8_t *)sc[r]);
    }
    for (int i = 0; i < 2; i++) {
        uint8_t four[TILE_ROWS][4];
        for (int r = 0; r < TILE_ROWS; r++) memcpy(four[r], sc[r] + 4 * i, 4);
        __m512i bytes = _mm512_loadu_si512(four);
        spread_scales(bytes, t->scale + 4 * i);
        spread_bias(bytes, IQ4_ZERO_LOG, t->bias + 2 * i);
    }
    __m512i h[4];
    tile_transpose(rows, 0, h);
    t->d = tile_f16(h[0]);
}

TILE_INLINE void iq4_xs_part(tile_rows rows, const __m512i top[8], int i, __m512i w[8]) {
    (void)top;
    __m512i values = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)quant_iq4_values));
    values = _mm512_add_epi8(values, _mm512_set1_epi8((char)IQ4_ZERO));
    __m512i x[4];
    tile_transpose(rows, offsetof(block_iq4_xs, qs) + (size_t)i * 16, x);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        w[s] = _mm512_shuffle_epi8(values, tile_low4(x[s]));
        w[s + 4] = _mm512_shuffle_epi8(values, tile_high4(x[s]));
    }
}

STREAM_256(q2_k, dot256_16_min_half, 4, 4, plane_group)
STREAM_256(q3_k, dot256_16_zero_half, 4, 4, plane_group)
STREAM_256(q4_k, dot256_8_min_half, 8, 2, nibble_group)
STREAM_256(q5_k, dot256_8_min, 8, 2, nibble_group)
STREAM_256(q6_k, dot256_16_zero, 4, 4, plane_group)
STREAM_256(iq4_xs, dot256_8_zero, 8, 2, iq4_xs_group)
