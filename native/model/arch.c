/* arch: the table of families. A new family whose forward pass is of a known shape is one row. */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

static const arch table[] = {
    {.name = "llama", .pairing = ROPE_ADJACENT, .act = ACTIVATION_SILU},
    {.name = "qwen2", .needs = NEEDS_QKV_BIAS, .pairing = ROPE_HALVES, .act = ACTIVATION_SILU},
    {.name = "qwen3", .needs = NEEDS_QK_NORM, .pairing = ROPE_HALVES, .act = ACTIVATION_SILU},
    {.name = "gemma3",
     .needs = NEEDS_QK_NORM | NEEDS_POST_NORM,
     .pairing = ROPE_HALVES,
     .act = ACTIVATION_GELU,
     .scales_embedding = true,
     .window_period = 6,
     .window_rope_base = 10000.0f,
     .dim_scaled_layers = 62},
};

const arch *arch_find(const char *name, size_t n_bytes) {
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strlen(table[i].name) == n_bytes && memcmp(table[i].name, name, n_bytes) == 0)
            return &table[i];
    return NULL;
}

void arch_write_names(char *out, size_t capacity) {
    size_t used = 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0] && used < capacity; i++)
        used += (size_t)snprintf(out + used, capacity - used, i > 0 ? ", %s" : "%s", table[i].name);
}
