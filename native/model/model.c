/* model: reads the config, then walks one table of roles that says of every weight its name, its
 * shape and whether this family needs it. A tensor no role claims is an error: an engine that
 * ignored it would compute something else than the file says.
 */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/rope.h"

/* Caps far above any released model; they keep products of sizes inside 64 bits. */
enum { MAX_LAYERS = 1024, MAX_DIM = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 1024 };

typedef enum size_name { DIM, ONE, VOCAB, ROT_PAIRS, Q, KV, HEAD, FFN } size_name;
typedef enum needed { ALWAYS, OPTIONAL, QKV_BIAS, QK_NORM, POST_NORM } needed;

typedef struct role {
    const char *name;
    size_name n, rows;
    needed when;
} role;

static const role roles[N_WEIGHT_ROLES] = {
#define X(id, text, columns, lines, need)                                                          \
    [WEIGHT_##id] = {.name = text, .n = columns, .rows = lines, .when = need},
    GLOBAL_WEIGHTS(X) LAYER_WEIGHTS(X)
#undef X
};

static uint32_t size_of(const model *m, size_name s) {
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
        return m->n_heads * m->head_dim;
    case KV:
        return m->n_kv_heads * m->head_dim;
    case HEAD:
        return m->head_dim;
    case FFN:
        return m->ffn_dim;
    }
    return 0;
}

static bool is_needed(const model *m, needed when) {
    switch (when) {
    case ALWAYS:
        return true;
    case OPTIONAL:
        return false;
    case QKV_BIAS:
        return (m->family->needs & NEEDS_QKV_BIAS) != 0;
    case QK_NORM:
        return (m->family->needs & NEEDS_QK_NORM) != 0;
    case POST_NORM:
        return (m->family->needs & NEEDS_POST_NORM) != 0;
    }
    return false;
}

/* What may be there without being needed: biases that some files of a family carry. */
static bool is_allowed(const model *m, needed when) {
    return is_needed(m, when) || when == OPTIONAL || when == QKV_BIAS;
}

void model_key(const model *m, const char *suffix, char *key, size_t capacity) {
    (void)snprintf(key, capacity, "%s.%s", m->family->name, suffix);
}

/* ---- config ---------------------------------------------------------------------------------- */

/* Reads a count within [1, most]; `required` or *out keeps its default where the key is absent. */
static bool read_count(const model *m, const char *suffix, uint32_t most, bool required,
                       uint32_t *out, ll_error *err) {
    char key[128];
    model_key(m, suffix, key, sizeof key);
    if (required && gguf_find_key(m->file, key) == NULL)
        return ll_fail(err, LL_ERR_FORMAT, "the key %s is missing", key);
    if (!gguf_read_u32_at(m->file, key, 0, out, err)) return false;
    if (*out < 1 || *out > most)
        return ll_fail(err, LL_ERR_FORMAT, "%s is %u, expected 1 to %u", key, *out, most);
    return true;
}

/* Keys that may hold one value a layer must hold the same one in each. */
static bool check_uniform(const model *m, const char *suffix, uint32_t value, ll_error *err) {
    char key[128];
    model_key(m, suffix, key, sizeof key);
    for (uint32_t i = 1; i < m->n_layers; i++) {
        uint32_t other = value;
        if (!gguf_read_u32_at(m->file, key, i, &other, err)) return false;
        if (other != value)
            return ll_fail(err, LL_ERR_UNSUPPORTED, "%s differs by layer (%u and %u)", key, value,
                           other);
    }
    return true;
}

/* Settings that would change the forward pass and that this engine does not have. */
static bool refuse_unknown_settings(const model *m, ll_error *err) {
    static const char *const suffixes[] = {
        "expert_count",        "final_logit_softcapping",  "attn_logit_softcapping",
        "logit_scale",         "residual_scale",           "embedding_scale",
        "attention.clamp_kqv", "attention.max_alibi_bias",
    };
    char key[128];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        float value = 0;
        uint32_t count = 0;
        model_key(m, suffixes[i], key, sizeof key);
        const ll_meta *meta = gguf_find_key(m->file, key);
        if (meta == NULL) continue;
        bool is_float = meta->type == LL_VALUE_F32 || meta->type == LL_VALUE_F64;
        if (is_float ? !gguf_read_f32(m->file, key, &value, err)
                     : !gguf_read_u32(m->file, key, &count, err))
            return false;
        if (value != 0 || count != 0)
            return ll_fail(err, LL_ERR_UNSUPPORTED, "the setting %s is not supported", key);
    }
    return true;
}

static bool read_windows(model *m, ll_error *err) {
    m->is_windowed = calloc(m->n_layers, sizeof(bool));
    if (m->is_windowed == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for layers");
    uint32_t period = m->family->window_period;
    if (period == 0) return true;
    char key[128];
    model_key(m, "attention.sliding_window", key, sizeof key);
    if (!gguf_read_u32(m->file, key, &m->window, err)) return false;
    if (m->window == 0) return true;
    model_key(m, "attention.sliding_window_pattern", key, sizeof key);
    const ll_meta *pattern = gguf_find_key(m->file, key);
    bool by_layer = pattern != NULL && pattern->type == LL_VALUE_ARRAY;
    if (!by_layer && !gguf_read_u32(m->file, key, &period, err)) return false;
    if (by_layer && pattern->n_elements < m->n_layers)
        return ll_fail(err, LL_ERR_FORMAT, "%s has %llu entries for %u layers", key,
                       (unsigned long long)pattern->n_elements, m->n_layers);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        m->is_windowed[i] = period == 0 || i % period != period - 1;
        if (by_layer && !gguf_read_bool_at(m->file, key, i, &m->is_windowed[i], err)) return false;
    }
    return true;
}

static bool read_config(model *m, ll_error *err) {
    ll_string name = {"", 0};
    if (!gguf_read_string(m->file, "general.architecture", &name, err)) return false;
    m->family = arch_find(name.data, name.n_bytes);
    if (m->family == NULL) {
        char known[256];
        arch_write_names(known, sizeof known);
        return ll_fail(err, LL_ERR_UNSUPPORTED, "the architecture \"%.*s\"; known are %s",
                       (int)(name.n_bytes < 64 ? name.n_bytes : 64), name.data, known);
    }
    const ll_meta *tokens = gguf_find_key(m->file, "tokenizer.ggml.tokens");
    if (tokens == NULL || tokens->type != LL_VALUE_ARRAY || tokens->n_elements < 1 ||
        tokens->n_elements > MAX_DIM * 16)
        return ll_fail(err, LL_ERR_FORMAT, "the key tokenizer.ggml.tokens is missing or no list");
    m->n_vocab = (uint32_t)tokens->n_elements;
    if (!read_count(m, "block_count", MAX_LAYERS, true, &m->n_layers, err) ||
        !read_count(m, "embedding_length", MAX_DIM, true, &m->dim, err) ||
        !read_count(m, "feed_forward_length", MAX_DIM, true, &m->ffn_dim, err) ||
        !read_count(m, "context_length", 1u << 30, true, &m->n_ctx_train, err) ||
        !read_count(m, "attention.head_count", MAX_HEADS, true, &m->n_heads, err))
        return false;
    m->n_kv_heads = m->n_heads;
    m->head_dim = m->dim / m->n_heads;
    if (!read_count(m, "attention.head_count_kv", MAX_HEADS, false, &m->n_kv_heads, err) ||
        !read_count(m, "attention.key_length", MAX_HEAD_DIM, false, &m->head_dim, err))
        return false;
    uint32_t value_dim = m->head_dim;
    m->n_rot = m->head_dim;
    if (!read_count(m, "attention.value_length", MAX_HEAD_DIM, false, &value_dim, err) ||
        !read_count(m, "rope.dimension_count", MAX_HEAD_DIM, false, &m->n_rot, err))
        return false;
    if (value_dim != m->head_dim)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "keys of %u channels and values of %u", m->head_dim,
                       value_dim);
    if (m->n_heads % m->n_kv_heads != 0)
        return ll_fail(err, LL_ERR_FORMAT, "%u heads cannot share %u KV heads evenly", m->n_heads,
                       m->n_kv_heads);
    if (m->n_heads / m->n_kv_heads > MAX_SHARED_HEADS)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "%u heads share a KV head, expected at most %u",
                       m->n_heads / m->n_kv_heads, MAX_SHARED_HEADS);
    if (m->head_dim % 8 != 0 || m->n_rot % 2 != 0 || m->n_rot > m->head_dim)
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "heads of %u channels, %u of them rotated; expected "
                       "a multiple of 8 and an even number of at most that",
                       m->head_dim, m->n_rot);
    char key[128];
    model_key(m, "attention.layer_norm_rms_epsilon", key, sizeof key);
    if (gguf_find_key(m->file, key) == NULL)
        return ll_fail(err, LL_ERR_FORMAT, "the key %s is missing", key);
    if (!gguf_read_f32(m->file, key, &m->eps, err)) return false;
    if (!(m->eps >= 0 && m->eps < 1))
        return ll_fail(err, LL_ERR_FORMAT, "%s is %g, expected 0 to 1", key, (double)m->eps);
    float scale = 0;
    model_key(m, "attention.scale", key, sizeof key);
    if (!gguf_read_f32(m->file, key, &scale, err)) return false;
    uint32_t scaled_dim = m->head_dim;
    if (m->family->dim_scaled_layers == m->n_layers) scaled_dim = m->dim / m->n_heads;
    m->attention_scale = scale > 0 ? scale : 1.0f / sqrtf((float)scaled_dim);
    m->embedding_scale = m->family->scales_embedding ? sqrtf((float)m->dim) : 1.0f;
    return check_uniform(m, "feed_forward_length", m->ffn_dim, err) &&
           check_uniform(m, "attention.head_count", m->n_heads, err) &&
           check_uniform(m, "attention.head_count_kv", m->n_kv_heads, err) &&
           refuse_unknown_settings(m, err) && read_windows(m, err);
}

/* ---- weights --------------------------------------------------------------------------------- */

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
    return read_config(m, err) && take_weights(m, err) && rope_open(m, err);
}

void model_close(model *m) {
    rope_close(m);
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
