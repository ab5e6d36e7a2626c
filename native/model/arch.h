/* arch: what a model family needs that its file does not say, one row a family.
 *
 * A GGUF file gives sizes and tensors; it does not say how RoPE pairs its channels, which
 * activation gates the FFN, or that embeddings are scaled. Presence of optional tensors (biases)
 * is the file's to say; what a family cannot do without is a flag here.
 */
#ifndef LL_MODEL_ARCH_H
#define LL_MODEL_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum rope_pairing {
    ROPE_ADJACENT, /* channels 2i and 2i + 1: the files' q and k rows were permuted for it */
    ROPE_HALVES,   /* channels i and i + n_rot / 2 */
} rope_pairing;

typedef enum activation { ACTIVATION_SILU, ACTIVATION_GELU } activation;

/* What a family cannot do without, a bit each; see the column `when` of the weights in model.h. */
typedef enum arch_needs {
    NEEDS_NOTHING = 0,
    NEEDS_QKV_BIAS = 1 << 0,
    NEEDS_QK_NORM = 1 << 1,   /* RMS norm of each head's q and k before RoPE */
    NEEDS_POST_NORM = 1 << 2, /* RMS norm of the attention's and the FFN's output */
} arch_needs;

typedef struct arch {
    const char *name; /* general.architecture */
    unsigned needs;   /* arch_needs */
    rope_pairing pairing;
    activation act;
    bool scales_embedding;      /* by sqrt(dim) */
    uint32_t window_period;     /* layer i slides unless i % period == period - 1; 0: no windows */
    float window_rope_base;     /* RoPE base of windowed layers where the file gives none */
    uint32_t dim_scaled_layers; /* with this many layers, attention scales by sqrt(dim / heads) */
} arch;

/* NULL where the family is unknown. */
const arch *arch_find(const char *name, size_t n_bytes);

/* Writes "llama, qwen2, …", as much as fits, for messages. */
void arch_write_names(char *out, size_t capacity);

#endif
