/* kernels_data: weights and activations, ordinary and awkward, for comparing kernels. */
#include "kernels_data.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/exact.h"
#include "format/quant_blocks.h"

void fail_with(const char *message) {
    fprintf(stderr, "kernels_equal: %s\n", message);
    exit(2);
}

void *allocate(size_t n_bytes) {
    void *memory = aligned_alloc(64, (n_bytes + 64) / 64 * 64);
    if (!memory) fail_with("no memory");
    return memset(memory, 0, n_bytes);
}

enum { PAGE = 64 * 1024 }; /* the largest there is */

static uint64_t state;

void draw_from(uint64_t seed) { state = seed; }

uint32_t draw(void) { /* splitmix64 */
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t draw_below(uint32_t n) { return draw() % n; }

float draw_unit(void) { return (float)(int32_t)draw() * 0x1p-31f; }

float draw_scaled(int low, int high) {
    float x = ldexpf(1 + fabsf(draw_unit()), low + (int)draw_below((uint32_t)(high - low)));
    return draw() & 1 ? -x : x;
}

float *draw_vector(size_t n, float scale) {
    float *x = allocate(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = draw_unit() * scale;
    return x;
}

/* Where a block has f16 values; every other byte may hold anything. */
static const struct {
    unsigned n;
    size_t offset[2];
} f16_fields[QUANT_COUNT] = {
    [QUANT_Q4_0] = {1, {offsetof(block_q4_0, d)}                            },
    [QUANT_Q4_1] = {2, {offsetof(block_q4_1, d), offsetof(block_q4_1, m)}   },
    [QUANT_Q5_0] = {1, {offsetof(block_q5_0, d)}                            },
    [QUANT_Q5_1] = {2, {offsetof(block_q5_1, d), offsetof(block_q5_1, m)}   },
    [QUANT_Q8_0] = {1, {offsetof(block_q8_0, d)}                            },
    [QUANT_IQ4_NL] = {1, {offsetof(block_iq4_nl, d)}                          },
    [QUANT_Q2_K] = {2, {offsetof(block_q2_k, d), offsetof(block_q2_k, dmin)}},
    [QUANT_Q3_K] = {1, {offsetof(block_q3_k, d)}                            },
    [QUANT_Q4_K] = {2, {offsetof(block_q4_k, d), offsetof(block_q4_k, dmin)}},
    [QUANT_Q5_K] = {2, {offsetof(block_q5_k, d), offsetof(block_q5_k, dmin)}},
    [QUANT_Q6_K] = {1, {offsetof(block_q6_k, d)}                            },
    [QUANT_IQ4_XS] = {1, {offsetof(block_iq4_xs, d)}                          },
};

static uint16_t draw_f16(data_kind kind) {
    /* the largest, the smallest normal, subnormals, zeros; then only the smallest ones */
    static const uint16_t ends[] = {0x7bff, 0xfbff, 0x0400, 0x0001, 0x8001, 0x03ff, 0, 0x8000};
    if (kind == ENDS) return ends[draw_below(8)];
    if (kind == TINY) return ends[3 + draw_below(2)];
    return exact_f32_to_f16(draw_unit() * 0.1f);
}

static void draw_float_weight(quant q, data_kind kind, uint8_t *to) {
    static const int exponents[DATA_KINDS][2] = {
        [PLAIN] = {-8,  2  },
          [ENDS] = {-24, 15 },
          [TINY] = {-24, -20}
    };
    float x = draw_scaled(exponents[kind][0], exponents[kind][1]);
    if (q == QUANT_BF16 && kind == ENDS) x = draw_scaled(-140, 60);
    if (q == QUANT_BF16 && kind == TINY) x = draw_scaled(-133, -60);
    if (q == QUANT_F32 && kind == ENDS) x = draw_scaled(-100, 50);
    if (kind == TINY) x = fabsf(x); /* so that a column of one sign has products of one sign */
    uint16_t half = q == QUANT_BF16 ? exact_f32_to_bf16(x) : exact_f32_to_f16(x);
    if (q == QUANT_F32) {
        memcpy(to, &x, sizeof x);
    } else {
        memcpy(to, &half, sizeof half);
    }
}

static void draw_block(quant q, data_kind kind, uint8_t *to) {
    static const uint8_t ends[] = {0x00, 0x80, 0x7f, 0xff};
    static const uint8_t exponents[DATA_KINDS][2] = {
        [PLAIN] = {120, 121},
          [ENDS] = {150, 0  },
          [TINY] = {0,   1  }
    };
    const bool at_end = kind == ENDS && draw() & 1; /* all codes and scales at one end */
    const uint8_t end = ends[draw_below(4)];
    for (size_t i = 0; i < quant_table[q].block_bytes; i++) to[i] = at_end ? end : (uint8_t)draw();
    for (unsigned i = 0; i < f16_fields[q].n; i++) {
        uint16_t h = draw_f16(kind);
        memcpy(to + f16_fields[q].offset[i], &h, sizeof h);
    }
    if (q == QUANT_MXFP4) to[offsetof(block_mxfp4, e)] = exponents[kind][draw() & 1];
}

uint8_t *draw_rows(quant q, data_kind kind, size_t n_rows, size_t n) {
    const quant_traits *traits = &quant_table[q];
    const size_t n_bytes = n_rows * quant_row_bytes(traits, n);
    const size_t readable = (n_bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *pages =
        mmap(NULL, readable + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + readable, PAGE, PROT_NONE)) fail_with("no pages");
    uint8_t *rows = pages + readable - n_bytes;
    for (size_t at = 0; at < n_bytes; at += traits->block_bytes) {
        if (traits->block_dim == 1) {
            draw_float_weight(q, kind, rows + at);
        } else {
            draw_block(q, kind, rows + at);
        }
    }
    return rows;
}

void release_rows(uint8_t *rows, size_t n_bytes) {
    const size_t readable = (n_bytes + PAGE - 1) / PAGE * PAGE;
    munmap(rows + n_bytes - readable, readable + PAGE);
}

/* Of ENDS all round to 127 or -127, a column of one sign first and last, the others begin with
 * zeros. */
acts draw_acts(acts_kind acts_as, data_kind kind, size_t n, size_t n_cols) {
    acts a;
    acts_place(&a, acts_as, n, n_cols, allocate(acts_bytes(acts_as, n, n_cols)));
    for (size_t c = 0; c < n_cols; c++) {
        float *x = draw_vector(n, kind == TINY ? 0x1p-122f : 1.0f);
        if (kind == TINY && acts_as == ACTS_F32) {
            for (size_t i = 0; i < n; i++) x[i] = c % 2 ? -0x1p-147f : x[i];
        }
        if (kind == TINY && acts_as == ACTS_BF16) {
            for (size_t i = 0; i < n; i++) {
                x[i] = c % 2 ? -fabsf(draw_scaled(-133, -120)) : draw_scaled(-133, -50);
            }
        }
        if (kind == ENDS) {
            const float one = c ? -0.37f : 0.37f;
            const bool is_mixed = c && c + 1 < n_cols;
            for (size_t i = 0; i < n; i++) x[i] = is_mixed ? copysignf(one, x[i]) : one;
            if (is_mixed) memset(x, 0, n / 2 * sizeof *x);
        }
        acts_quantize(&a, c, x);
        free(x);
    }
    return a;
}
