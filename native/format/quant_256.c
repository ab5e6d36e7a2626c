/* quant_256: the formats of 256-value superblocks whose sub-blocks have integer scales.
 *
 * A format is one function that decodes a superblock into integer codes, a scale (and minimum) for
 * every 16 of them, and the floats both are multiplied with. Formats with sub-blocks of 32 repeat
 * the scale, which changes no integer sum. The rest is the same two loops for all:
 *
 *   x   = (d * sc) * w - dmin * mn
 *   S   = sum of sc * dot(w, a);  M = sum of mn * sum(a), both exact in int32
 *   t   = (float)S * d;  t = fmaf(-(float)M, dmin, t) where there are minimums
 *   acc = fmaf(t, d_a, acc), superblocks ascending
 */
#include <math.h>
#include <stdbool.h>

#include "base/exact.h"
#include "format/quant_blocks.h"

enum { GROUP_DIM = 16, N_GROUPS = QUANT_DIM_K / GROUP_DIM };

typedef struct codes256 {
    int8_t w[QUANT_DIM_K];
    int8_t sc[N_GROUPS], mn[N_GROUPS];
    float d, dmin;
} codes256;

typedef void decode256(const void *block, codes256 *out);

static inline float dot256(decode256 *decode, size_t block_bytes, bool has_min, const void *row,
                           const acts *a, size_t col) {
    size_t n_blocks = a->n / QUANT_DIM_K;
    const uint8_t *block = row;
    float acc = 0;
    for (size_t b = 0; b < n_blocks; b++, block += block_bytes) {
        size_t at = acts_block(a, b, col);
        const int8_t *q = a->q + at * QUANT_DIM_K;
        const int16_t *sums = a->sums + at * N_GROUPS;
        codes256 c;
        decode(block, &c);
        int32_t scaled = 0, minimums = 0;
        for (int g = 0; g < N_GROUPS; g++) {
            int32_t isum = 0;
            for (int i = 0; i < GROUP_DIM; i++) isum += c.w[g * GROUP_DIM + i] * *q++;
            scaled += c.sc[g] * isum;
            if (has_min) minimums += c.mn[g] * sums[g];
        }
        float t = (float)scaled * c.d;
        if (has_min) t = fmaf(-(float)minimums, c.dmin, t);
        acc = fmaf(t, a->d[at], acc);
    }
    return acc;
}

static inline void dequantize256(decode256 *decode, size_t block_bytes, bool has_min,
                                 const void *blocks, float *out, size_t n) {
    const uint8_t *block = blocks;
    for (; n; n -= QUANT_DIM_K, block += block_bytes) {
        codes256 c;
        decode(block, &c);
        for (int i = 0; i < QUANT_DIM_K; i++) {
            int g = i / GROUP_DIM;
            float x = c.d * (float)c.sc[g] * (float)c.w[i];
            *out++ = has_min ? x - c.dmin * (float)c.mn[g] : x;
        }
    }
}

/* 64 bytes hold four 2-bit planes of 32 values for each half of the superblock. */
static inline void split_2_bits(const uint8_t qs[64], int8_t w[QUANT_DIM_K]) {
    for (int i = 0; i < QUANT_DIM_K; i++) {
        int half = i / 128, plane = i / 32 % 4, l = i % 32;
        w[i] = (int8_t)(qs[32 * half + l] >> 2 * plane & 3);
    }
}

static inline void split_nibble_runs(const uint8_t *qs, int run_dim, int8_t w[QUANT_DIM_K]) {
    for (int i = 0; i < QUANT_DIM_K; i++) {
        int run = i / (2 * run_dim), high = i / run_dim % 2, l = i % run_dim;
        w[i] = (int8_t)(qs[run_dim * run + l] >> 4 * high & 15);
    }
}

static inline void q2_k_decode(const void *block, codes256 *out) {
    const block_q2_k *b = block;
    out->d = exact_f16_to_f32(b->d);
    out->dmin = exact_f16_to_f32(b->dmin);
    split_2_bits(b->qs, out->w);
    for (int g = 0; g < N_GROUPS; g++) {
        out->sc[g] = (int8_t)(b->scales[g] & 15);
        out->mn[g] = (int8_t)(b->scales[g] >> 4);
    }
}

static inline void q3_k_decode(const void *block, codes256 *out) {
    const block_q3_k *b = block;
    out->d = exact_f16_to_f32(b->d);
    split_2_bits(b->qs, out->w);
    for (int i = 0; i < QUANT_DIM_K; i++) {
        int added = b->hmask[i % 32] >> i / 32 & 1;
        out->w[i] = (int8_t)(out->w[i] - (added ? 0 : 4));
    }
    quant_q3_scales(b->scales, out->sc);
}

static inline void repeat_scales(const uint8_t packed[12], codes256 *out) {
    uint8_t sc[8], mn[8];
    quant_k_scales(packed, sc, mn);
    for (int g = 0; g < N_GROUPS; g++) {
        out->sc[g] = (int8_t)sc[g / 2];
        out->mn[g] = (int8_t)mn[g / 2];
    }
}

static inline void q4_k_decode(const void *block, codes256 *out) {
    const block_q4_k *b = block;
    out->d = exact_f16_to_f32(b->d);
    out->dmin = exact_f16_to_f32(b->dmin);
    split_nibble_runs(b->qs, 32, out->w);
    repeat_scales(b->scales, out);
}

static inline void q5_k_decode(const void *block, codes256 *out) {
    const block_q5_k *b = block;
    out->d = exact_f16_to_f32(b->d);
    out->dmin = exact_f16_to_f32(b->dmin);
    split_nibble_runs(b->qs, 32, out->w);
    for (int i = 0; i < QUANT_DIM_K; i++) {
        out->w[i] = (int8_t)(out->w[i] + ((b->qh[i % 32] >> i / 32 & 1) << 4));
    }
    repeat_scales(b->scales, out);
}

static inline void q6_k_decode(const void *block, codes256 *out) {
    const block_q6_k *b = block;
    out->d = exact_f16_to_f32(b->d);
    int8_t top[QUANT_DIM_K];
    split_2_bits(b->qh, top);
    split_nibble_runs(b->ql, 64, out->w);
    for (int i = 0; i < QUANT_DIM_K; i++) out->w[i] = (int8_t)(out->w[i] + top[i] * 16 - 32);
    memcpy(out->sc, b->scales, sizeof out->sc);
}

static inline void iq4_xs_decode(const void *block, codes256 *out) {
    const block_iq4_xs *b = block;
    out->d = exact_f16_to_f32(b->d);
    split_nibble_runs(b->qs, 16, out->w);
    for (int i = 0; i < QUANT_DIM_K; i++) out->w[i] = quant_iq4_values[out->w[i]];
    int8_t sc[8];
    quant_iq4_xs_scales(b, sc);
    for (int g = 0; g < N_GROUPS; g++) out->sc[g] = sc[g / 2];
}

#define FORMAT(name, has_min)                                                                      \
    float quant_##name##_dot(const void *row, const acts *a, size_t col) {                         \
        return dot256(name##_decode, sizeof(block_##name), has_min, row, a, col);                  \
    }                                                                                              \
    void quant_##name##_dequantize(const void *blocks, float *out, size_t n) {                     \
        dequantize256(name##_decode, sizeof(block_##name), has_min, blocks, out, n);               \
    }

FORMAT(q2_k, true)
FORMAT(q3_k, false)
FORMAT(q4_k, true)
FORMAT(q5_k, true)
FORMAT(q6_k, false)
FORMAT(iq4_xs, false)
