/* quant_blocks: the blocks as they lie in a file, one struct a format, and how their packed scales
 * are read.
 *
 * Fields are little-endian and in file order; f16 values are stored as uint16_t. "Nibbles" means
 * that byte j of a run of 16 holds value j in its low half and value j + 16 in its high half.
 * The rows of a tensor start at even addresses, so a block may be read in place.
 */
#ifndef LL_FORMAT_QUANT_BLOCKS_H
#define LL_FORMAT_QUANT_BLOCKS_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "format/quant.h"

enum { QUANT_DIM_32 = 32, QUANT_DIM_K = 256 };

/* ---- blocks of 32 -------------------------------------------------------------------------- */

typedef struct block_q4_0 { /* x = d * (q - 8) */
    uint16_t d;
    uint8_t qs[16]; /* nibbles */
} block_q4_0;
static_assert(sizeof(block_q4_0) == 18, "Q4_0");

typedef struct block_q4_1 { /* x = d * q + m */
    uint16_t d, m;
    uint8_t qs[16]; /* nibbles */
} block_q4_1;
static_assert(sizeof(block_q4_1) == 20, "Q4_1");

typedef struct block_q5_0 { /* x = d * (q - 16) */
    uint16_t d;
    uint8_t qh[4];  /* bit j of the little-endian word: fifth bit of value j */
    uint8_t qs[16]; /* nibbles */
} block_q5_0;
static_assert(sizeof(block_q5_0) == 22, "Q5_0");

typedef struct block_q5_1 { /* x = d * q + m */
    uint16_t d, m;
    uint8_t qh[4];  /* as Q5_0 */
    uint8_t qs[16]; /* nibbles */
} block_q5_1;
static_assert(sizeof(block_q5_1) == 24, "Q5_1");

typedef struct block_q8_0 { /* x = d * q */
    uint16_t d;
    int8_t qs[32];
} block_q8_0;
static_assert(sizeof(block_q8_0) == 34, "Q8_0");

typedef struct block_iq4_nl { /* x = d * quant_iq4_values[q] */
    uint16_t d;
    uint8_t qs[16]; /* nibbles */
} block_iq4_nl;
static_assert(sizeof(block_iq4_nl) == 18, "IQ4_NL");

typedef struct block_mxfp4 { /* x = quant_mxfp4_scale(e) * quant_mxfp4_values[q] */
    uint8_t e;
    uint8_t qs[16]; /* nibbles */
} block_mxfp4;
static_assert(sizeof(block_mxfp4) == 17, "MXFP4");

/* ---- superblocks of 256 -------------------------------------------------------------------- */

typedef struct block_q2_k { /* x = d * sc * q - dmin * mn, sub-blocks of 16 */
    uint8_t scales[16];     /* sc low, mn high */
    uint8_t qs[64];         /* bits 2t of qs[32 c + l]: value 128 c + 32 t + l */
    uint16_t d, dmin;
} block_q2_k;
static_assert(sizeof(block_q2_k) == 84, "Q2_K");

typedef struct block_q3_k { /* x = d * sc * q, q in [-4, 3], sub-blocks of 16 */
    uint8_t hmask[32];      /* bit 4 c + t of hmask[l] set: value 128 c + 32 t + l has 4 added */
    uint8_t qs[64];         /* as Q2_K */
    uint8_t scales[12];     /* see quant_q3_scales */
    uint16_t d;
} block_q3_k;
static_assert(sizeof(block_q3_k) == 110, "Q3_K");

typedef struct block_q4_k { /* x = d * sc * q - dmin * mn, sub-blocks of 32 */
    uint16_t d, dmin;
    uint8_t scales[12]; /* see quant_k_scales */
    uint8_t qs[128];    /* low half of qs[32 p + l]: value 64 p + l; high half: 64 p + 32 + l */
} block_q4_k;
static_assert(sizeof(block_q4_k) == 144, "Q4_K");

typedef struct block_q5_k { /* as Q4_K */
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32]; /* bit s of qh[l]: fifth bit of value 32 s + l */
    uint8_t qs[128];
} block_q5_k;
static_assert(sizeof(block_q5_k) == 176, "Q5_K");

typedef struct block_q6_k { /* x = d * sc * (q - 32), sub-blocks of 16 */
    uint8_t ql[128];        /* ql[64 c + l]: values 128 c + l (low half), 128 c + 64 + l (high) */
    uint8_t qh[64];         /* bits 2t of qh[32 c + l]: top bits of value 128 c + 32 t + l */
    int8_t scales[16];
    uint16_t d;
} block_q6_k;
static_assert(sizeof(block_q6_k) == 210, "Q6_K");

typedef struct block_iq4_xs { /* x = d * (sc - 32) * quant_iq4_values[q], sub-blocks of 32 */
    uint16_t d;
    uint16_t scales_h;   /* bits 2s: top two bits of sc of sub-block s */
    uint8_t scales_l[4]; /* nibble s: low four bits */
    uint8_t qs[128];     /* nibbles, 16 bytes a sub-block */
} block_iq4_xs;
static_assert(sizeof(block_iq4_xs) == 136, "IQ4_XS");

/* ---- values and scales --------------------------------------------------------------------- */

extern const int8_t quant_iq4_values[16];   /* IQ4_NL and IQ4_XS */
extern const int8_t quant_mxfp4_values[16]; /* E2M1, doubled so that they are integers */

/* 2^(e - 128) exactly: half of MXFP4's E8M0 scale, as its values are doubled. Subnormal for
 * e < 2. */
static inline float quant_mxfp4_scale(uint8_t e) {
    uint32_t bits = e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* Q4_K's and Q5_K's eight 6-bit scales and minimums. */
static inline void quant_k_scales(const uint8_t packed[12], uint8_t sc[8], uint8_t mn[8]) {
    for (int s = 0; s < 4; s++) {
        sc[s] = packed[s] & 63;
        mn[s] = packed[s + 4] & 63;
        sc[s + 4] = (uint8_t)((packed[s + 8] & 15) | (packed[s] >> 6 << 4));
        mn[s + 4] = (uint8_t)((packed[s + 8] >> 4) | (packed[s + 4] >> 6 << 4));
    }
}

/* Q3_K's sixteen 6-bit scales, signed. */
static inline void quant_q3_scales(const uint8_t packed[12], int8_t sc[16]) {
    for (int s = 0; s < 16; s++) {
        int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
        int high = packed[8 + s % 4] >> 2 * (s / 4) & 3;
        sc[s] = (int8_t)((low | high << 4) - 32);
    }
}

/* IQ4_XS's eight 6-bit scales, signed. */
static inline void quant_iq4_xs_scales(const block_iq4_xs *b, int8_t sc[8]) {
    for (int s = 0; s < 8; s++) {
        int low = b->scales_l[s / 2] >> 4 * (s % 2) & 15;
        int high = b->scales_h >> 2 * s & 3;
        sc[s] = (int8_t)((low | high << 4) - 32);
    }
}

/* The scalar functions of every format; their contracts are quant_traits' in quant.h. */
#define X(name, stem, ...)                                                                         \
    void quant_##stem##_dequantize(const void *blocks, float *out, size_t n);                      \
    float quant_##stem##_dot(const void *row, const acts *a, size_t col);
QUANTS(X)
#undef X

#endif
