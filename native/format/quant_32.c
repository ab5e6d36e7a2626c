/* quant_32: the formats with one scale for 32 values.
 *
 * A format is one function that decodes a block into integer codes and its scale (and minimum);
 * the value of a code and the dot of a row are the same two loops for all of them:
 *
 *   x   = d * w (+ m)
 *   t   = (float)sum(w * a) * d;  t = fmaf((float)sum(a), m, t) where there is a minimum
 *   acc = fmaf(t, d_a, acc), blocks ascending
 */
#include <math.h>
#include <stdbool.h>

#include "base/exact.h"
#include "format/quant_blocks.h"

/* llama.cpp's non-linear 4-bit codebook. */
const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
/* OCP Microscaling Formats v1.0, E2M1: 0 0.5 1 1.5 2 3 4 6 and their negatives, doubled. */
const int8_t quant_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

typedef struct codes32 {
    int8_t w[32];
    float d, m;
} codes32;

typedef void decode32(const void *block, codes32 *out);

static inline float dot32(decode32 *decode, size_t block_bytes, bool has_min, const void *row,
                          const acts *a, size_t col) {
    size_t n_blocks = a->n / QUANT_DIM_32;
    const uint8_t *block = row;
    float acc = 0;
    for (size_t b = 0; b < n_blocks; b++, block += block_bytes) {
        size_t at = acts_block(a, b, col);
        const int8_t *q = a->q + at * QUANT_DIM_32;
        codes32 c;
        decode(block, &c);
        int32_t isum = 0;
        for (int i = 0; i < QUANT_DIM_32; i++) isum += c.w[i] * q[i];
        float t = (float)isum * c.d;
        if (has_min) t = fmaf(a->sum[at], c.m, t);
        acc = fmaf(t, a->d[at], acc);
    }
    return acc;
}

static inline void dequantize32(decode32 *decode, size_t block_bytes, bool has_min,
                                const void *blocks, float *out, size_t n) {
    const uint8_t *block = blocks;
    for (; n; n -= QUANT_DIM_32, block += block_bytes, out += QUANT_DIM_32) {
        codes32 c;
        decode(block, &c);
        for (int i = 0; i < QUANT_DIM_32; i++) {
            float x = c.d * (float)c.w[i];
            out[i] = has_min ? x + c.m : x;
        }
    }
}

static inline void split_nibbles(const uint8_t qs[16], int offset, int8_t w[32]) {
    for (int j = 0; j < 16; j++) {
        w[j] = (int8_t)((qs[j] & 15) - offset);
        w[j + 16] = (int8_t)((qs[j] >> 4) - offset);
    }
}

static inline void split_5_bits(const uint8_t qs[16], const uint8_t qh[4], int offset,
                                int8_t w[32]) {
    split_nibbles(qs, offset, w);
    for (int j = 0; j < 32; j++) w[j] = (int8_t)(w[j] + ((qh[j / 8] >> j % 8 & 1) << 4));
}

static inline void look_up_nibbles(const uint8_t qs[16], const int8_t values[16], int8_t w[32]) {
    for (int j = 0; j < 16; j++) {
        w[j] = values[qs[j] & 15];
        w[j + 16] = values[qs[j] >> 4];
    }
}

static inline void q4_0_decode(const void *block, codes32 *out) {
    const block_q4_0 *b = block;
    out->d = exact_f16_to_f32(b->d);
    split_nibbles(b->qs, 8, out->w);
}

static inline void q4_1_decode(const void *block, codes32 *out) {
    const block_q4_1 *b = block;
    out->d = exact_f16_to_f32(b->d);
    out->m = exact_f16_to_f32(b->m);
    split_nibbles(b->qs, 0, out->w);
}

static inline void q5_0_decode(const void *block, codes32 *out) {
    const block_q5_0 *b = block;
    out->d = exact_f16_to_f32(b->d);
    split_5_bits(b->qs, b->qh, 16, out->w);
}

static inline void q5_1_decode(const void *block, codes32 *out) {
    const block_q5_1 *b = block;
    out->d = exact_f16_to_f32(b->d);
    out->m = exact_f16_to_f32(b->m);
    split_5_bits(b->qs, b->qh, 0, out->w);
}

static inline void q8_0_decode(const void *block, codes32 *out) {
    const block_q8_0 *b = block;
    out->d = exact_f16_to_f32(b->d);
    memcpy(out->w, b->qs, sizeof out->w);
}

static inline void iq4_nl_decode(const void *block, codes32 *out) {
    const block_iq4_nl *b = block;
    out->d = exact_f16_to_f32(b->d);
    look_up_nibbles(b->qs, quant_iq4_values, out->w);
}

static inline void mxfp4_decode(const void *block, codes32 *out) {
    const block_mxfp4 *b = block;
    out->d = quant_mxfp4_scale(b->e);
    look_up_nibbles(b->qs, quant_mxfp4_values, out->w);
}

#define FORMAT(name, has_min)                                                                      \
    float quant_##name##_dot(const void *row, const acts *a, size_t col) {                         \
        return dot32(name##_decode, sizeof(block_##name), has_min, row, a, col);                   \
    }                                                                                              \
    void quant_##name##_dequantize(const void *blocks, float *out, size_t n) {                     \
        dequantize32(name##_decode, sizeof(block_##name), has_min, blocks, out, n);                \
    }

FORMAT(q4_0, false)
FORMAT(q4_1, true)
FORMAT(q5_0, false)
FORMAT(q5_1, true)
FORMAT(q8_0, false)
FORMAT(iq4_nl, false)
FORMAT(mxfp4, false)
