/* avx2_matmul_k: the formats of 256-value superblocks; each is one function that unpacks a slab's
 * superblocks into tiles, and one row of the list at the end.
 *
 * Headers are transposed like codes, so the scales of eight rows are decoded at once.
 */
#include "kernels/avx2/avx2_dot.h"
#include "kernels/avx2/avx2_matmul.h"

#include "format/quant_blocks.h"

/* Bytes i and j of every dword as the high halves of two int16: << 8, sign kept. */
TILE_INLINE __m256i byte_pair(__m256i x, int i, int j) {
    const __m256i select =
        _mm256_set_epi8((char)(j + 12), -1, (char)(i + 12), -1, (char)(j + 8), -1, (char)(i + 8),
                        -1, (char)(j + 4), -1, (char)(i + 4), -1, (char)j, -1, (char)i, -1,
                        (char)(j + 12), -1, (char)(i + 12), -1, (char)(j + 8), -1, (char)(i + 8),
                        -1, (char)(j + 4), -1, (char)(i + 4), -1, (char)j, -1, (char)i, -1);
    return _mm256_shuffle_epi8(x, select);
}

/* scale[i] = byte i of every dword, signed or not, twice as int16. */
TILE_INLINE void spread_unsigned(__m256i bytes, __m256i scale[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int pair = (int)0x80008000 + 0x00010001 * i; /* a set top bit writes zero */
        const __m256i select =
            _mm256_setr_epi32(pair, pair + 0x00040004, pair + 0x00080008, pair + 0x000c000c, pair,
                              pair + 0x00040004, pair + 0x00080008, pair + 0x000c000c);
        scale[i] = _mm256_shuffle_epi8(bytes, select);
    }
}
TILE_INLINE void spread_signed(__m256i bytes, __m256i scale[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) scale[i] = _mm256_srai_epi16(byte_pair(bytes, i, i), 8);
}

/* bias[g] = bytes 2g and 2g + 1 of every dword, times 2^shift. */
TILE_INLINE void spread_bias(__m256i bytes, int shift, __m256i bias[2]) {
    bias[0] = _mm256_srai_epi16(byte_pair(bytes, 0, 1), 8 - shift);
    bias[1] = _mm256_srai_epi16(byte_pair(bytes, 2, 3), 8 - shift);
}

TILE_INLINE __m256i and8(__m256i x, int mask) {
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

/* The header of Q4_K and Q5_K: d and dmin, then 12 bytes of 6-bit scales and minimums. */
TILE_INLINE void unpack_header(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    __m256i h[4];
    tile_transpose(row, at, h);
    t->d = tile_low_f16(h[0]);
    t->dmin = tile_high_f16(h[0]);
    __m256i sc_top = and8(_mm256_srli_epi16(h[1], 2), 0x30);
    __m256i mn_top = and8(_mm256_srli_epi16(h[2], 2), 0x30);
    spread_unsigned(and8(h[1], 63), t->scale);
    spread_unsigned(_mm256_or_si256(tile_low4(h[3]), sc_top), t->scale + 4);
    spread_unsigned(and8(h[2], 63), t->bias);
    spread_unsigned(_mm256_or_si256(tile_high4(h[3]), mn_top), t->bias + 4);
}

TILE_INLINE void q4_k_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    unpack_header(row, at, t);
    for (int i = 0; i < 8; i++) { /* 16 bytes: half of two sub-blocks */
        __m256i x[4];
        tile_transpose(row, at + offsetof(block_q4_k, qs) + (size_t)i * 16, x);
        __m256i *w = t->w + i / 2 * 16 + i % 2 * 4;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[s] = tile_low4(x[s]);
            w[s + 8] = tile_high4(x[s]);
        }
    }
}

/* Bit `from` of every byte as 16. */
TILE_INLINE __m256i fifth_bit(__m256i x, int from) {
    return and8(from < 4 ? _mm256_slli_epi16(x, 4 - from) : _mm256_srli_epi16(x, from - 4), 16);
}

TILE_INLINE void q5_k_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    unpack_header(row, at, t);
    __m256i top[8];
    tile_transpose(row, at + offsetof(block_q5_k, qh), top);
    tile_transpose(row, at + offsetof(block_q5_k, qh) + 16, top + 4);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m256i x[4];
        tile_transpose(row, at + offsetof(block_q5_k, qs) + (size_t)i * 16, x);
        const int sub = i / 2 * 2;
        __m256i *w = t->w + sub * 8 + i % 2 * 4;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            __m256i bits = top[i % 2 * 4 + s];
            w[s] = _mm256_or_si256(tile_low4(x[s]), fifth_bit(bits, sub));
            w[s + 8] = _mm256_or_si256(tile_high4(x[s]), fifth_bit(bits, sub + 1));
        }
    }
}

/* Two bits of every byte, plane p of 4, at bits 4 and 5. */
TILE_INLINE __m256i top_two(__m256i x, int p) {
    return and8(p < 2 ? _mm256_slli_epi16(x, 4 - 2 * p) : _mm256_srli_epi16(x, 2 * p - 4), 0x30);
}

TILE_INLINE void q6_k_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    __m256i sc[4];
    t->d = tile_high_f16(tile_gather32(row, at + offsetof(block_q6_k, d) - 2));
    tile_transpose(row, at + offsetof(block_q6_k, scales), sc);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        spread_signed(sc[i], t->scale + 4 * i);
        spread_bias(sc[i], 5, t->bias + 2 * i); /* the zero point, 32 */
    }
    for (int i = 0; i < 4; i++) { /* 16 values of each plane of a half */
        const size_t half = (size_t)i / 2, l = (size_t)i % 2 * 16;
        __m256i low[4], high[4], top[4];
        tile_transpose(row, at + offsetof(block_q6_k, ql) + half * 64 + l, low);
        tile_transpose(row, at + offsetof(block_q6_k, ql) + half * 64 + 32 + l, high);
        tile_transpose(row, at + offsetof(block_q6_k, qh) + half * 32 + l, top);
        __m256i *w = t->w + half * 32 + l / 4;
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            w[s] = _mm256_or_si256(tile_low4(low[s]), top_two(top[s], 0));
            w[s + 8] = _mm256_or_si256(tile_low4(high[s]), top_two(top[s], 1));
            w[s + 16] = _mm256_or_si256(tile_high4(low[s]), top_two(top[s], 2));
            w[s + 24] = _mm256_or_si256(tile_high4(high[s]), top_two(top[s], 3));
        }
    }
}

/* The 2-bit planes of Q2_K and Q3_K; `top` (NULL: none) adds bit 4 half + plane of its bytes as
 * 4. */
TILE_INLINE void unpack_planes(const uint8_t *const row[TILE_ROWS], size_t offset,
                               const __m256i *top, __m256i w[64]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int half = i / 2, l = i % 2 * 16;
        __m256i x[4];
        tile_transpose(row, offset + (size_t)(half * 32 + l), x);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const int bit = 4 * half + p;
#pragma GCC unroll 4
            for (int s = 0; s < 4; s++) {
                __m256i code = and8(_mm256_srli_epi16(x[s], 2 * p), 3);
                if (top) {
                    __m256i bits = top[l / 4 + s];
                    bits = bit < 2 ? _mm256_slli_epi16(bits, 2 - bit)
                                   : _mm256_srli_epi16(bits, bit - 2);
                    code = _mm256_or_si256(code, and8(bits, 4));
                }
                w[half * 32 + p * 8 + l / 4 + s] = code;
            }
        }
    }
}

TILE_INLINE void q2_k_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    __m256i packed[4];
    const __m256i header = tile_gather32(row, at + offsetof(block_q2_k, d));
    t->d = tile_low_f16(header);
    t->dmin = tile_high_f16(header);
    tile_transpose(row, at + offsetof(block_q2_k, scales), packed);
    for (int i = 0; i < 4; i++) {
        spread_unsigned(tile_low4(packed[i]), t->scale + 4 * i);
        spread_bias(tile_high4(packed[i]), 0, t->bias + 2 * i);
    }
    unpack_planes(row, at + offsetof(block_q2_k, qs), NULL, t->w);
}

TILE_INLINE void q3_k_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    __m256i packed[3];
    __m256i top[8];
    t->d = tile_high_f16(tile_gather32(row, at + offsetof(block_q3_k, d) - 2));
    for (size_t i = 0; i < 3; i++) {
        packed[i] = tile_gather32(row, at + offsetof(block_q3_k, scales) + 4 * i);
    }
    for (int i = 0; i < 4; i++) { /* low halves, then high ones; two top bits from the third */
        __m256i low = i < 2 ? tile_low4(packed[i]) : tile_high4(packed[i - 2]);
        __m256i high = and8(_mm256_srli_epi16(packed[2], 2 * i), 3);
        __m256i sc = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
        sc = _mm256_sub_epi8(sc, _mm256_set1_epi8(32));
        spread_signed(sc, t->scale + 4 * i);
        spread_bias(sc, 2, t->bias + 2 * i); /* the zero point, 4 */
    }
    tile_transpose(row, at + offsetof(block_q3_k, hmask), top);
    tile_transpose(row, at + offsetof(block_q3_k, hmask) + 16, top + 4);
    unpack_planes(row, at + offsetof(block_q3_k, qs), top, t->w);
}

TILE_INLINE void iq4_xs_unpack(const uint8_t *const row[TILE_ROWS], size_t at, tile256 *t) {
    const __m256i values =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)quant_iq4_values));
    int16_t sc[8][TILE_ROWS][2];
    for (int r = 0; r < TILE_ROWS; r++) {
        int8_t row_sc[8];
        quant_iq4_xs_scales((const block_iq4_xs *)(const void *)(row[r] + at), row_sc);
        for (int j = 0; j < 8; j++) sc[j][r][0] = sc[j][r][1] = row_sc[j];
    }
    memcpy(t->scale, sc, sizeof sc);
    t->d = tile_low_f16(tile_gather32(row, at + offsetof(block_iq4_xs, d)));
    for (int i = 0; i < 8; i++) {
        __m256i x[4];
        tile_transpose(row, at + offsetof(block_iq4_xs, qs) + (size_t)i * 16, x);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            t->w[8 * i + s] = _mm256_shuffle_epi8(values, tile_low4(x[s]));
            t->w[8 * i + 4 + s] = _mm256_shuffle_epi8(values, tile_high4(x[s]));
        }
    }
}

DOT_FORMAT(q2_k, 256, .n_steps = 4, .has_min = true, .n_sub = 16)
DOT_FORMAT(q3_k, 256, .n_steps = 4, .zero = 4, .n_sub = 16)
DOT_FORMAT(q4_k, 256, .n_steps = 8, .has_min = true, .n_sub = 8)
DOT_FORMAT(q5_k, 256, .n_steps = 4, .has_min = true, .n_sub = 8)
DOT_FORMAT(q6_k, 256, .n_steps = 2, .zero = 32, .n_sub = 16)
DOT_FORMAT(iq4_xs, 256, .n_steps = 1, .n_sub = 8)
