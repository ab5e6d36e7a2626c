/* model: walks one table of roles that says of every weight its name, its shape and whether this
 * family needs it. A tensor no role claims is an error: an engine that
 * ignored it would compute something else than the file says.
 */
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum model_size { DIM, ONE, VOCAB, ROT_PAIRS, Q, K, V, HEAD, HEADS, FFN } model_size;

enum { ALWAYS = 1 << 30, OPTIONAL = 1 << 29 }; /* beside the bits of arch_needs */

typedef struct role {
    const char *name;
    model_size n, rows;
    unsigned when;
} role;

static const role roles[N_WEIGHT_ROLES] = {
#define X(id, text, columns, lines, need)                                                          \
    [WEIGHT_##id] = {.name = text, .n = columns, .rows = lines, .when = need},
    GLOBAL_WEIGHTS(X) LAYER_WEIGHTS(X)
#undef X
};

static uint32_t size_of(const model *m, model_size s) {
    switch (s) {
    case DIM:
        return m->dim;
    case ONE:
        return 1;
    case VOCAB:
        return m->n_vocab;
    case ROT_PAIRS:
        return m->n_rot / 2;
    case Q:
        return m->n_heads * m->k_dim;
    case K:
        return m->n_kv_heads * m->k_dim;
    case V:
        return m->n_kv_heads * m->v_dim;
    case HEAD:
        return m->k_dim;
    case HEADS:
        return m->n_heads * m->v_dim;
    case FFN:
        return m->ffn_dim;
    }
    return 0;
}

static bool is_needed(const model *m, unsigned when) {
    return (when & (ALWAYS | m->family->needs)) != 0;
}

static bool is_allowed(const model *m, unsigned when) {
    return is_needed(m, when) || (when & OPTIONAL) != 0;
}

static bool check_shape(const gguf_tensor *t, uint32_t n, uint32_t rows, ll_error *err) {
    int name_bytes = (int)t->name.n_bytes;
    if (t->shape[0] != n || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return ll_fail(err, LL_ERR_FORMAT,
                       "%.*s has shape %llu x %llu x %llu x %llu, expected "
                       "%u x %u",
                       name_bytes, t->name.data, (unsigned long long)t->shape[0],
                       (unsigned long long)t->shape[1], (unsigned long long)t->shape[2],
                       (unsigned long long)t->shape[3], n, rows);
    if (t->quant == NULL)
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "%.*s is stored as ggml type %u, which this engine "
                       "does not read",
                       name_bytes, t->name.data, t->ggml_id);
    if (rows == 1 && t->quant != &quant_table[QUANT_F32])
        return ll_fail(err, LL_ERR_UNSUPPORTED, "%.*s is %s, expected F32", name_bytes,
                       t->name.data, t->quant->name);
    /* Blocks hold at most 4-byte fields, and the structs of the k-quants 2-byte ones. */
    if ((t->offset & 3) != 0)
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "%.*s starts at byte %llu, expected a multiple of 4", name_bytes,
                       t->name.data, (unsigned long long)t->offset);
    return true;
}

void model_name_weight(uint32_t id, char *name, size_t capacity) {
    uint32_t per_layer = N_WEIGHT_ROLES - N_GLOBAL_WEIGHTS;
    if (id < N_GLOBAL_WEIGHTS) {
        (void)snprintf(name, capacity, "%s", roles[id].name);
        return;
    }
    uint32_t of_layers = id - N_GLOBAL_WEIGHTS;
    (void)snprintf(name, capacity, "blk.%u.%s", of_layers / per_layer,
                   roles[N_GLOBAL_WEIGHTS + of_layers % per_layer].name);
}

static bool take_weight(model *m, weight_role r, uint32_t layer, uint64_t *n_taken, ll_error *err) {
    char name[64];
    const role *of = &roles[r];
    model_name_weight(model_weight_id(r, layer), name, sizeof name);
    const gguf_tensor *t = is_allowed(m, of->when) ? gguf_find_tensor(m->file, name) : NULL;
    if (t == NULL) {
        if (!is_needed(m, of->when)) return true;
        return ll_fail(err, LL_ERR_FORMAT, "the tensor %s is missing", name);
    }
    uint32_t n = size_of(m, of->n), rows = size_of(m, of->rows);
    if (!check_shape(t, n, rows, err)) return false;
    weight *w = &m->weights[model_weight_id(r, layer)];
    *w = (weight){.data = t->data, .type = (quant)(t->quant - quant_table), .n = n, .n_rows = rows};
    w->row_bytes = quant_row_bytes(t->quant, n);
    m->n_params += (uint64_t)n * rows;
    m->weight_bytes += t->n_bytes;
    *n_taken += 1;
    return true;
}

/* The name of a tensor no role claimed, for the message. */
static const gguf_tensor *find_unclaimed(const model *m) {
    const gguf_tensor *t = gguf_tensors(m->file);
    size_t n_weights = model_n_weights(m);
    for (uint64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        bool claimed = false;
        for (size_t w = 0; w < n_weights && !claimed; w++)
            claimed = m->weights[w].data != NULL && m->weights[w].data == t[i].data;
        if (!claimed) return &t[i];
    }
    return NULL;
}

static bool take_weights(model *m, ll_error *err) {
    size_t n_weights = model_n_weights(m);
    m->weights = calloc(n_weights, sizeof(weight));
    if (m->weights == NULL)
        return ll_fail(err, LL_ERR_MEMORY, "no memory for %zu weights", n_weights);
    uint64_t n_taken = 0;
    for (uint32_t r = 0; r < N_WEIGHT_ROLES; r++) {
        uint32_t copies = r < N_GLOBAL_WEIGHTS ? 1 : m->n_layers;
        for (uint32_t layer = 0; layer < copies; layer++)
            if (!take_weight(m, (weight_role)r, layer, &n_taken, err)) return false;
    }
    const gguf_tensor *extra = n_taken < gguf_n_tensors(m->file) ? find_unclaimed(m) : NULL;
    if (extra != NULL)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "the tensor %.*s has no place in a %s model",
                       (int)extra->name.n_bytes, extra->name.data, m->family->name);
    return true;
}

bool model_open(model *m, gguf *file, ll_error *err) {
    *m = (model){.file = file};
    return model_read_config(m, err) && take_weights(m, err) && model_read_ropes(m, err);
}

void model_close(model *m) {
    for (int i = 0; i < N_ROPES; i++) rope_close(&m->ropes[i]);
    free(m->weights);
    free(m->is_windowed);
    gguf_close(m->file);
    *m = (model){0};
}

uint64_t model_token_bytes(const model *m) {
    const weight *embd = &m->weights[WEIGHT_TOKEN_EMBD];
    bool is_tied = m->weights[WEIGHT_OUTPUT].data == NULL;
    return m->weight_bytes - (is_tied ? 0 : embd->row_bytes * (embd->n_rows - 1));
}
