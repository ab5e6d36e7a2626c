/* model: one or more GGUF files as a config and named, shape-checked weights; immutable once open.
 *
 * A weight is a borrowed pointer into the mapping, a quant and a shape. Weights have ids: a role
 * alone for the global ones, a role and a layer for the others; steps of a plan hold ids.
 */
#ifndef LL_MODEL_MODEL_H
#define LL_MODEL_MODEL_H

#include "format/gguf.h"
#include "model/arch.h"
#include "model/rope.h"

/* X(role, tensor name, row length, rows, when). Sizes are those of `model_size`; norms, biases and
 * frequency factors are vectors (rows ONE) and always F32. `when` says who has the weight: ALWAYS,
 * any family; NEEDS_…, those that need it; OPTIONAL, whichever file has it, and beside a need, also
 * those of families without. */
#define GLOBAL_WEIGHTS(X)                                                                          \
    X(TOKEN_EMBD, "token_embd.weight", DIM, VOCAB, ALWAYS)                                         \
    X(OUTPUT_NORM, "output_norm.weight", DIM, ONE, ALWAYS)                                         \
    X(OUTPUT, "output.weight", DIM, VOCAB, OPTIONAL)                                               \
    X(ROPE_FREQS, "rope_freqs.weight", ROT_PAIRS, ONE, OPTIONAL)

#define LAYER_WEIGHTS(X)                                                                           \
    X(ATTN_NORM, "attn_norm.weight", DIM, ONE, ALWAYS)                                             \
    X(ATTN_Q, "attn_q.weight", DIM, Q, ALWAYS)                                                     \
    X(ATTN_K, "attn_k.weight", DIM, K, ALWAYS)                                                     \
    X(ATTN_V, "attn_v.weight", DIM, V, ALWAYS)                                                     \
    X(ATTN_Q_BIAS, "attn_q.bias", Q, ONE, OPTIONAL | NEEDS_QKV_BIAS)                               \
    X(ATTN_K_BIAS, "attn_k.bias", K, ONE, OPTIONAL | NEEDS_QKV_BIAS)                               \
    X(ATTN_V_BIAS, "attn_v.bias", V, ONE, OPTIONAL | NEEDS_QKV_BIAS)                               \
    X(ATTN_Q_NORM, "attn_q_norm.weight", HEAD, ONE, NEEDS_QK_NORM)                                 \
    X(ATTN_K_NORM, "attn_k_norm.weight", HEAD, ONE, NEEDS_QK_NORM)                                 \
    X(ATTN_OUT, "attn_output.weight", HEADS, DIM, ALWAYS)                                          \
    X(POST_ATTN_NORM, "post_attention_norm.weight", DIM, ONE, NEEDS_POST_NORM)                     \
    X(FFN_NORM, "ffn_norm.weight", DIM, ONE, ALWAYS)                                               \
    X(FFN_GATE, "ffn_gate.weight", DIM, FFN, ALWAYS)                                               \
    X(FFN_UP, "ffn_up.weight", DIM, FFN, ALWAYS)                                                   \
    X(FFN_DOWN, "ffn_down.weight", FFN, DIM, ALWAYS)                                               \
    X(POST_FFN_NORM, "post_ffw_norm.weight", DIM, ONE, NEEDS_POST_NORM)

typedef enum weight_role {
#define X(role, name, n, rows, when) WEIGHT_##role,
    GLOBAL_WEIGHTS(X)
#undef X
        N_GLOBAL_WEIGHTS,
    WEIGHT_LAST_GLOBAL = N_GLOBAL_WEIGHTS - 1, /* so that the roles of a layer follow on */
#define X(role, name, n, rows, when) WEIGHT_##role,
    LAYER_WEIGHTS(X)
#undef X
        N_WEIGHT_ROLES
} weight_role;

typedef struct weight {
    const void *data; /* NULL: the model has no such weight */
    quant type;
    uint32_t n; /* values per row */
    uint32_t n_rows;
    size_t row_bytes;
} weight;

enum { ROPE_FULL, ROPE_WINDOWED, N_ROPES }; /* of layers that see everything, of windowed ones */

enum { MAX_SHARED_HEADS = 64 }; /* query heads of one KV head */

typedef struct model {
    gguf *file;
    const arch *family;
    uint32_t n_layers, n_heads, n_kv_heads, dim, ffn_dim, n_vocab, n_ctx_train;
    uint32_t k_dim, v_dim; /* channels of a head: of queries and keys, of values */
    uint32_t n_rot;        /* rotated channels of a head */
    uint32_t window;       /* positions a windowed layer sees; 0: no layer is windowed */
    bool *is_windowed;     /* [n_layers] */
    float eps;             /* of every RMS norm */
    float attention_scale;
    float embedding_scale; /* 1: none */
    rope ropes[N_ROPES];   /* ROPE_WINDOWED has no table where no layer is windowed */
    weight *weights;       /* [N_GLOBAL_WEIGHTS + n_layers * (roles of a layer)] */
    uint64_t n_params;
    uint64_t weight_bytes;
} model;

/* Checks and names everything in the file; the model owns `file` from here on, also on failure. */
bool model_open(model *m, gguf *file, ll_error *err);
void model_close(model *m);

/* model_config.c, for model_open: fills the members before `ropes`, and those. Errors: FORMAT,
 * UNSUPPORTED, MEMORY. */
bool model_read_config(model *m, ll_error *err);
bool model_read_ropes(model *m, ll_error *err); /* once the weights are known */

/* Index into m->weights; layer is ignored for the global roles. */
static inline uint32_t model_weight_id(weight_role role, uint32_t layer) {
    if (role < N_GLOBAL_WEIGHTS) return (uint32_t)role;
    uint32_t per_layer = N_WEIGHT_ROLES - N_GLOBAL_WEIGHTS;
    return N_GLOBAL_WEIGHTS + layer * per_layer + ((uint32_t)role - N_GLOBAL_WEIGHTS);
}

static inline size_t model_n_weights(const model *m) {
    return N_GLOBAL_WEIGHTS + (size_t)m->n_layers * (N_WEIGHT_ROLES - N_GLOBAL_WEIGHTS);
}

/* The name in the file of the tensor with this id. */
void model_name_weight(uint32_t id, char *name, size_t capacity);

/* Bytes of weights one token with logits reads. */
uint64_t model_token_bytes(const model *m);

#endif
