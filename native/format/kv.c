/* kv: the types' names, sizes and elements. */
#include "format/kv.h"

#include <string.h>

#include "base/exact.h"

const char *const kv_names[KV_TYPE_COUNT] = {[KV_F16] = "f16", [KV_Q8_0] = "q8_0"};

bool kv_find(const char *name, kv_type *out) {
    for (kv_type type = 0; type < KV_TYPE_COUNT; type++) {
        if (strcmp(name, kv_names[type]) != 0) continue;
        *out = type;
        return true;
    }
    return false;
}

static size_t code_bytes(kv_type type, size_t head_dim) {
    return type == KV_F16 ? head_dim * sizeof(uint16_t) : head_dim;
}

size_t kv_position_bytes(kv_type type, size_t head_dim) {
    size_t scale_bytes = type == KV_F16 ? 0 : kv_n_blocks(head_dim) * sizeof(uint16_t);
    return code_bytes(type, head_dim) + scale_bytes;
}

uint16_t *kv_scales(kv_type type, const void *memory, size_t head_dim) {
    uintptr_t at = (uintptr_t)memory + KV_CHUNK * code_bytes(type, head_dim);
    return (uint16_t *)at;
}

/* Code i times scale s, or the F16 number i. */
static float element(kv_type type, const void *memory, size_t head_dim, size_t i, size_t s) {
    if (type == KV_F16) return exact_f16_to_f32(((const uint16_t *)memory)[i]);
    float scale = exact_f16_to_f32(kv_scales(type, memory, head_dim)[s]);
    return scale * (float)((const int8_t *)memory)[i];
}

float kv_key(kv_type type, const void *keys, size_t head_dim, size_t j, size_t channel) {
    return element(type, keys, head_dim, channel * KV_CHUNK + j,
                   channel / KV_BLOCK_DIM * KV_CHUNK + j);
}

float kv_value(kv_type type, const void *values, size_t head_dim, size_t j, size_t channel) {
    return element(type, values, head_dim, j * head_dim + channel,
                   j * kv_n_blocks(head_dim) + channel / KV_BLOCK_DIM);
}
