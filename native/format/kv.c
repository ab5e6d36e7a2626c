/* kv: the types' names, sizes and elements. */
#include "format/kv.h"

#include <math.h>
#include <string.h>

#include "base/exact.h"

const char *const kv_names[KV_TYPE_COUNT] = {
    [KV_F16] = "f16", [KV_Q8_0] = "q8_0", [KV_Q4_0] = "q4_0"};

bool kv_find(const char *name, kv_type *out) {
    for (kv_type type = 0; type < KV_TYPE_COUNT; type++) {
        if (strcmp(name, kv_names[type]) != 0) continue;
        *out = type;
        return true;
    }
    return false;
}

static size_t code_bytes(kv_type type, size_t head_dim) {
    static const size_t bits[KV_TYPE_COUNT] = {[KV_F16] = 16, [KV_Q8_0] = 8, [KV_Q4_0] = 4};
    return head_dim * bits[type] / 8;
}

size_t kv_position_bytes(kv_type type, size_t head_dim) {
    size_t scale_bytes = type == KV_F16 ? 0 : kv_n_blocks(head_dim) * sizeof(uint16_t);
    return code_bytes(type, head_dim) + scale_bytes;
}

uint16_t *kv_scales(kv_type type, const void *memory, size_t head_dim) {
    uintptr_t at = (uintptr_t)memory + KV_CHUNK * code_bytes(type, head_dim);
    return (uint16_t *)at;
}

void kv_rotate(float *x, size_t head_dim) {
    const size_t group = head_dim & (~head_dim + 1);
    for (size_t half = 1; half < group; half *= 2) {
        for (size_t start = 0; start < head_dim; start += 2 * half) {
            for (size_t i = start; i < start + half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
        }
    }
    const float scale = 1.0f / sqrtf((float)group);
    for (size_t i = 0; i < head_dim; i++) x[i] *= scale;
}

float kv_round_q4(const float *x, int8_t *codes) {
    float extreme = 0;
    bool is_finite = true;
    for (size_t i = 0; i < KV_BLOCK_DIM; i++) {
        if (!isfinite(x[i])) is_finite = false;
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    }
    memset(codes, 0, KV_BLOCK_DIM);
    if (!is_finite) return NAN;
    if (fabsf(extreme) < 1e-30f) return 0;
    const float inverse = -8.0f / extreme;
    for (size_t i = 0; i < KV_BLOCK_DIM; i++) {
        float code = rintf(x[i] * inverse);
        codes[i] = (int8_t)(code < 7 ? code : 7);
    }
    return extreme / -8.0f;
}

/* Number i of a chunk, less what its type adds to codes; of u4, i counts them. */
static float number(kv_type type, const void *memory, size_t i) {
    if (type == KV_F16) return exact_f16_to_f32(((const uint16_t *)memory)[i]);
    if (type == KV_Q8_0) return (float)((const int8_t *)memory)[i];
    return (float)((((const uint8_t *)memory)[i / 2] >> i % 2 * 4 & 15) - 8);
}

static float scale_of(kv_type type, const void *memory, size_t head_dim, size_t i) {
    return type == KV_F16 ? 1 : exact_f16_to_f32(kv_scales(type, memory, head_dim)[i]);
}

float kv_key(kv_type type, const void *keys, size_t head_dim, size_t j, size_t channel) {
    size_t i = channel * KV_CHUNK + j;
    if (type == KV_Q4_0) i = (channel / 2 * KV_CHUNK + j) * 2 + channel % 2;
    return number(type, keys, i) *
           scale_of(type, keys, head_dim, channel / KV_BLOCK_DIM * KV_CHUNK + j);
}

float kv_value(kv_type type, const void *values, size_t head_dim, size_t j, size_t channel) {
    return number(type, values, j * head_dim + channel) *
           scale_of(type, values, head_dim, j * kv_n_blocks(head_dim) + channel / KV_BLOCK_DIM);
}
