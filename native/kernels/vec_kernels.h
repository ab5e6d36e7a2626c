/* vec_kernels: the kernels over plain vectors, once for all instruction sets.
 *
 * Included by the *_vector.c of an instruction set, behind its vec.h and
 *   VEC_KERNEL(name)                 the name of a kernel of this set
 *   round_values(x, n, factor, q)    q[i] = the int8 nearest to x[i] * factor, n a multiple of 32
 *   sum_values(q, n, sums)           sums[i] of 16 values each
 * Lane for lane it is what the scalar functions do; values that do not fill a register go through
 * those themselves. Sums over logits, where sets differ most, stay with each.
 */
#ifndef LL_KERNELS_VEC_KERNELS_H
#define LL_KERNELS_VEC_KERNELS_H

#include <math.h>

#include "base/exact.h"
#include "kernels/kernels.h"

/* ---- rounding of activations --------------------------------------------------------------- */

/* Compared as integers, so that anything not finite wins. */
VEC_INLINE float largest_magnitude(const float *x, size_t n) {
    vec_bits largest = vec_bits_none();
    for (size_t i = 0; i < n; i += VEC_DIM)
        largest = vec_bits_max(largest, vec_magnitude(vec_load(x + i)));
    uint32_t bits = vec_bits_largest(largest);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    return amax;
}

VEC_INLINE float quantize_block(const float *x, size_t n, int8_t *q, int16_t *sums) {
    float amax = largest_magnitude(x, n);
    if (!isfinite(amax) || amax < 1e-30f) {
        memset(q, 0, n);
        memset(sums, 0, n / 16 * sizeof *sums);
        return isfinite(amax) ? 0 : NAN;
    }
    round_values(x, n, 127.0f / amax, q);
    sum_values(q, n, sums);
    return amax / 127.0f;
}

static void quantize_32(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 32;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        int16_t sums[2];
        a->d[block] = quantize_block(x + b * 32, 32, a->q + block * 32, sums);
        a->sum[block] = (float)(sums[0] + sums[1]);
    }
}

static void quantize_256(acts *a, size_t col, const float *x) {
    size_t n_blocks = a->n / 256;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t block = acts_block(a, b, col);
        a->d[block] = quantize_block(x + b * 256, 256, a->q + block * 256, a->sums + block * 16);
    }
}

void VEC_KERNEL(quantize)(acts *a, size_t col, const float *x) {
    if (a->kind == ACTS_Q8_32) {
        quantize_32(a, col, x);
    } else if (a->kind == ACTS_Q8_256) {
        quantize_256(a, col, x);
    } else {
        acts_quantize(a, col, x);
    }
}

/* ---- norms and sums ------------------------------------------------------------------------ */

static float sum_squares(const float *x, size_t n) {
    enum { N_VECS = 64 / VEC_DIM, IN_16 = 16 / VEC_DIM };
    vec v[N_VECS];
#pragma GCC unroll 16
    for (int k = 0; k < N_VECS; k++) v[k] = vec_all(0);
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 16
        for (size_t k = 0; k < N_VECS; k++) {
            vec t = vec_load(x + i + VEC_DIM * k);
            v[k] = vec_fma(t, t, v[k]);
        }
    }
    if (i < n) {
        float lanes[64];
#pragma GCC unroll 16
        for (size_t k = 0; k < N_VECS; k++) vec_store(lanes + VEC_DIM * k, v[k]);
        for (size_t l = 0; i + l < n; l++) lanes[l] = fmaf(x[i + l], x[i + l], lanes[l]);
#pragma GCC unroll 16
        for (size_t k = 0; k < N_VECS; k++) v[k] = vec_load(lanes + VEC_DIM * k);
    }
    vec sixteen[IN_16];
#pragma GCC unroll 4
    for (int k = 0; k < IN_16; k++) {
        vec low = vec_add(v[k], v[k + IN_16]);
        sixteen[k] = vec_add(low, vec_add(v[k + 2 * IN_16], v[k + 3 * IN_16]));
    }
    return vec_tree16(sixteen);
}

void VEC_KERNEL(rms_norm)(const float *x, const float *weight, float eps, float *y, size_t n) {
    const float scale = 1.0f / sqrtf(sum_squares(x, n) / (float)n + eps);
    const vec scales = vec_all(scale);
    size_t i = 0;
    for (; i + VEC_DIM <= n; i += VEC_DIM) {
        vec t = vec_mul(vec_load(x + i), scales);
        if (weight) t = vec_mul(t, vec_load(weight + i));
        vec_store(y + i, t);
    }
    for (; i < n; i++) y[i] = weight ? (x[i] * scale) * weight[i] : x[i] * scale;
}

void VEC_KERNEL(add)(const float *x, float *y, size_t n) {
    size_t i = 0;
    for (; i + VEC_DIM <= n; i += VEC_DIM)
        vec_store(y + i, vec_add(vec_load(x + i), vec_load(y + i)));
    for (; i < n; i++) y[i] = x[i] + y[i];
}

/* ---- gates and conversions ----------------------------------------------------------------- */

void VEC_KERNEL(silu_mul)(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + VEC_DIM <= n; i += VEC_DIM)
        vec_store(y + i, vec_mul(vec_silu(vec_load(gate + i)), vec_load(up + i)));
    for (; i < n; i++) y[i] = exact_silu(gate[i]) * up[i];
}

void VEC_KERNEL(gelu_mul)(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + VEC_DIM <= n; i += VEC_DIM)
        vec_store(y + i, vec_mul(vec_gelu(vec_load(gate + i)), vec_load(up + i)));
    for (; i < n; i++) y[i] = exact_gelu(gate[i]) * up[i];
}

void VEC_KERNEL(to_f16)(const float *x, uint16_t *y, size_t n) {
    size_t i = 0;
    for (; i + VEC_DIM <= n; i += VEC_DIM) vec_store_f16(y + i, vec_load(x + i));
    for (; i < n; i++) y[i] = exact_f32_to_f16(x[i]);
}

/* ---- the largest logit --------------------------------------------------------------------- */

float VEC_KERNEL(largest)(const float *x, size_t n) {
    const uint32_t infinity = 0x7f800000;
    if (n < VEC_DIM) return exact_largest(x, n);
    vec most = vec_load(x + n - VEC_DIM); /* what does not fill a register, and some before it */
    vec_bits bits = vec_magnitude(most);
    for (size_t i = 0; i + VEC_DIM <= n; i += VEC_DIM) {
        vec t = vec_load(x + i);
        most = vec_max(most, t);
        bits = vec_bits_max(bits, vec_magnitude(t));
    }
    return vec_bits_largest(bits) >= infinity ? NAN : vec_largest(most) + 0.0f;
}

#endif
