/* avx2_matmul_256: the formats of 256-value superblocks; each is a function for the headers of a
 * slab's superblocks, one for a quarter of their codes, and one row of the list at the end.
 *
 * Headers are transposed like codes, so the scales of eight rows are decoded at once. Which values
 * a quarter holds is told in avx2_dot.h.
 */
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_panel.h"

#include "format/quant_blocks.h"

/* scale[i] = byte i of every dword, signed or not. */
TILE_INLINE void spread_unsigned(__m256i bytes, __m256i scale[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) scale[i] = step_scale_unsigned(bytes, i);
}
TILE_INLINE void spread_signed(__m256i bytes, __m256i scale[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) scale[i] = step_scale_signed(bytes, i);
}

/* bias[g] = bytes 2g and 2g + 1 of every dword, times 2^shift. */
TILE_INLINE void spread_bias(__m256i bytes, int shift, __m256i bias[2]) {
    bias[0] = _mm256_srai_epi16(dot_byte_pair(bytes, 0, 1), 8 - shift);
    bias[1] = _mm256_srai_epi16(dot_byte_pair(bytes, 2, 3), 8 - shift);
}

TILE_INLINE __m256i and8(__m256i x, int mask) {
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

/* The header of Q4_K and Q5_K: d and dmin, then 12 bytes of 6-bit scales and minimums. */
TILE_INLINE void header_4_5(tile_rows rows, size_t at, tile256 *t) {
    __m256i h[4];
    tile_transpose(rows, at, h);
    t->d = tile_low_f16(h[0]);
    t->dmin = tile_high_f16(h[0]);
    __m256i sc_top = and8(_mm256_srli_epi16(h[1], 2), 0x30);
    __m256i mn_top = and8(_mm256_srli_epi16(h[2], 2), 0x30);
    spread_unsigned(and8(h[1], 63), t->scale);
    spread_unsigned(_mm256_or_si256(tile_low4(h[3]), sc_top), t->scale + 4);
    spread_bias(and8(h[2], 63), 0, t->bias);
    spread_bias(_mm256_or_si256(tile_high4(h[3]), mn_top), 0, t->bias + 2);
}

TILE_INLINE void q4_k_header(tile_rows rows, size_t at, tile256 *t) { header_4_5(rows, at, t); }

TILE_INLINE void q4_k_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    at += offsetof(block_q4_k, qs) + 32 * (size_t)c;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) { /* 16 bytes: half of two sub-blocks */
        __m256i x[4];
        tile_transpose(rows, at + 16 * (size_t)i, x);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[4 * i + s] = tile_low4(x[s]);
            w[4 * i + s + 8] = tile_high4(x[s]);
        }
    }
}

TILE_INLINE void q5_k_header(tile_rows rows, size_t at, tile256 *t) { header_4_5(rows, at, t); }

TILE_INLINE void q5_k_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    const __m256i shift = _mm256_set1_epi32(2 * c);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256i x[4], top[4];
        tile_transpose(rows, at + offsetof(block_q5_k, qs) + (size_t)(32 * c + 16 * i), x);
        tile_transpose(rows, at + offsetof(block_q5_k, qh) + (size_t)(16 * i), top);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) { /* bits 0 and 1 of `top` are the two sub-blocks' */
            top[s] = _mm256_srlv_epi32(top[s], shift);
            __m256i low = and8(_mm256_slli_epi16(top[s], 4), 16);
            __m256i high = and8(_mm256_slli_epi16(top[s], 3), 16);
            w[4 * i + s] = _mm256_or_si256(tile_low4(x[s]), low);
            w[4 * i + s + 8] = _mm256_or_si256(tile_high4(x[s]), high);
        }
    }
}

/* Two bits of every byte, plane p of 4, at bits 4 and 5. */
TILE_INLINE __m256i top_two(__m256i x, int p) {
    return and8(p < 2 ? _mm256_slli_epi16(x, 4 - 2 * p) : _mm256_srli_epi16(x, 2 * p - 4), 0x30);
}

TILE_INLINE void q6_k_header(tile_rows rows, size_t at, tile256 *t) {
    __m256i sc[4];
    t->d = tile_high_f16(tile_gather32(rows, at + offsetof(block_q6_k, d) - 2));
    tile_transpose(rows, at + offsetof(block_q6_k, scales), sc);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        spread_signed(sc[i], t->scale + 4 * i);
        spread_bias(sc[i], 5, t->bias + 2 * i); /* the zero point, 32 */
    }
}

TILE_INLINE void q6_k_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    const size_t half = (size_t)c / 2, l = (size_t)c % 2 * 16;
    __m256i low[4], high[4], top[4];
    tile_transpose(rows, at + offsetof(block_q6_k, ql) + half * 64 + l, low);
    tile_transpose(rows, at + offsetof(block_q6_k, ql) + half * 64 + 32 + l, high);
    tile_transpose(rows, at + offsetof(block_q6_k, qh) + half * 32 + l, top);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        w[s] = _mm256_or_si256(tile_low4(low[s]), top_two(top[s], 0));
        w[s + 4] = _mm256_or_si256(tile_low4(high[s]), top_two(top[s], 1));
        w[s + 8] = _mm256_or_si256(tile_high4(low[s]), top_two(top[s], 2));
        w[s + 12] = _mm256_or_si256(tile_high4(high[s]), top_two(top[s], 3));
    }
}

/* The 2-bit planes of Q2_K and Q3_K. */
TILE_INLINE void two_bit_planes(tile_rows rows, size_t offset, int c, __m256i w[16]) {
    __m256i x[4];
    tile_transpose(rows, offset + (size_t)(c / 2 * 32 + c % 2 * 16), x);
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) w[4 * p + s] = and8(_mm256_srli_epi16(x[s], 2 * p), 3);
    }
}

TILE_INLINE void q2_k_header(tile_rows rows, size_t at, tile256 *t) {
    __m256i packed[4];
    const __m256i header = tile_gather32(rows, at + offsetof(block_q2_k, d));
    t->d = tile_low_f16(header);
    t->dmin = tile_high_f16(header);
    tile_transpose(rows, at + offsetof(block_q2_k, scales), packed);
    for (int i = 0; i < 4; i++) {
        spread_unsigned(tile_low4(packed[i]), t->scale + 4 * i);
        spread_bias(tile_high4(packed[i]), 0, t->bias + 2 * i);
    }
}

TILE_INLINE void q2_k_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    two_bit_planes(rows, at + offsetof(block_q2_k, qs), c, w);
}

TILE_INLINE void q3_k_header(tile_rows rows, size_t at, tile256 *t) {
    __m256i packed[3];
    t->d = tile_high_f16(tile_gather32(rows, at + offsetof(block_q3_k, d) - 2));
    for (size_t i = 0; i < 3; i++) {
        packed[i] = tile_gather32(rows, at + offsetof(block_q3_k, scales) + 4 * i);
    }
    for (int i = 0; i < 4; i++) { /* low halves, then high ones; two top bits from the third */
        __m256i low = i < 2 ? tile_low4(packed[i]) : tile_high4(packed[i - 2]);
        __m256i high = and8(_mm256_srli_epi16(packed[2], 2 * i), 3);
        __m256i sc = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
        sc = _mm256_sub_epi8(sc, _mm256_set1_epi8(32));
        spread_signed(sc, t->scale + 4 * i);
        spread_bias(sc, 2, t->bias + 2 * i); /* the zero point, 4 */
    }
}

TILE_INLINE void q3_k_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    const __m256i shift = _mm256_set1_epi32(c / 2 * 4);
    __m256i top[4];
    two_bit_planes(rows, at + offsetof(block_q3_k, qs), c, w);
    tile_transpose(rows, at + offsetof(block_q3_k, hmask) + (size_t)(c % 2 * 16), top);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) { /* bits 0 to 3 of `top` are the planes' */
        top[s] = _mm256_srlv_epi32(top[s], shift);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            __m256i bit =
                p < 2 ? _mm256_slli_epi16(top[s], 2 - p) : _mm256_srli_epi16(top[s], p - 2);
            w[4 * p + s] = _mm256_or_si256(w[4 * p + s], and8(bit, 4));
        }
    }
}

TILE_INLINE void iq4_xs_header(tile_rows rows, size_t at, tile256 *t) {
    int8_t sc[2][TILE_ROWS][4];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        int8_t row_sc[8];
        quant_iq4_xs_scales((const void *)(rows.first + r * rows.stride + at), row_sc);
        memcpy(sc[0][r], row_sc, 4);
        memcpy(sc[1][r], row_sc + 4, 4);
    }
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_loadu_si256((const void *)sc[i]);
        spread_signed(bytes, t->scale + 4 * i);
        spread_bias(bytes, 7, t->bias + 2 * i); /* the zero point, where there is one: 128 */
    }
    t->d = tile_low_f16(tile_gather32(rows, at + offsetof(block_iq4_xs, d)));
}

TILE_INLINE void iq4_xs_codes(tile_rows rows, size_t at, int c, __m256i w[16]) {
    const __m256i values = dot_from_signed(tile_table(quant_iq4_values));
    at += offsetof(block_iq4_xs, qs) + 32 * (size_t)c;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256i x[4];
        tile_transpose(rows, at + 16 * (size_t)i, x);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[8 * i + s] = _mm256_shuffle_epi8(values, tile_low4(x[s]));
            w[8 * i + s + 4] = _mm256_shuffle_epi8(values, tile_high4(x[s]));
        }
    }
}

PANEL_256(q2_k, .largest = 3, .has_min = true, .n_sub = 16)
PANEL_256(q3_k, .largest = 7, .zero = 4, .n_sub = 16)
PANEL_256(q4_k, .largest = 15, .has_min = true, .n_sub = 8)
PANEL_256(q5_k, .largest = 31, .has_min = true, .n_sub = 8)
PANEL_256(q6_k, .largest = 63, .zero = 32, .n_sub = 16)
PANEL_256(iq4_xs, .largest = 128, .zero = STEP_SIGNED_ZERO, .n_sub = 8)
