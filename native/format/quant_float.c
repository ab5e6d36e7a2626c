/* quant_float: weights stored as floats.
 *
 * A dot walks 16 virtual lanes, which is how a vector register of any width can compute it: value
 * i goes to lane i mod 16 by one fmaf in ascending order, and the lanes meet in exact_tree16. A
 * row's tail leaves the lanes it does not reach as they are.
 *
 * BF16 follows the processor instruction that multiplies pairs (vdpbf16ps): pair p goes to lane
 * p mod 16, its odd value first and then its even one, and subnormals count as zero on the way in
 * and on the way out.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "format/quant_blocks.h"

enum { N_LANES = 16 };

void quant_f32_dequantize(const void *blocks, float *out, size_t n) {
    memcpy(out, blocks, n * sizeof *out);
}

float quant_f32_dot(const void *row, const acts *a, size_t col) {
    const float *w = row;
    const float *x = a->f32 + col * a->n;
    float lanes[N_LANES] = {0};
    for (size_t i = 0; i < a->n; i++) lanes[i % N_LANES] = fmaf(w[i], x[i], lanes[i % N_LANES]);
    return exact_tree16(lanes);
}

void quant_f16_dequantize(const void *blocks, float *out, size_t n) {
    const uint16_t *w = blocks;
    for (size_t i = 0; i < n; i++) out[i] = exact_f16_to_f32(w[i]);
}

float quant_f16_dot(const void *row, const acts *a, size_t col) {
    const uint16_t *w = row;
    const float *x = a->f32 + col * a->n;
    float lanes[N_LANES] = {0};
    for (size_t i = 0; i < a->n; i++) {
        float *lane = &lanes[i % N_LANES];
        *lane = fmaf(exact_f16_to_f32(w[i]), x[i], *lane);
    }
    return exact_tree16(lanes);
}

void quant_bf16_dequantize(const void *blocks, float *out, size_t n) {
    const uint16_t *w = blocks;
    for (size_t i = 0; i < n; i++) out[i] = exact_bf16_to_f32(w[i]);
}

static inline float without_subnormals(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }

static inline float bf16_step(uint16_t w, uint16_t x, float lane) {
    float wide_w = without_subnormals(exact_bf16_to_f32(w));
    float wide_x = without_subnormals(exact_bf16_to_f32(x));
    return without_subnormals(fmaf(wide_w, wide_x, lane));
}

float quant_bf16_dot(const void *row, const acts *a, size_t col) {
    const uint16_t *w = row;
    const uint16_t *x = a->bf16 + col * a->n;
    float lanes[N_LANES] = {0};
    for (size_t i = 0; i < a->n; i += 2) {
        float *lane = &lanes[i / 2 % N_LANES];
        if (i + 1 < a->n) *lane = bf16_step(w[i + 1], x[i + 1], *lane);
        *lane = bf16_step(w[i], x[i], *lane);
    }
    return exact_tree16(lanes);
}
