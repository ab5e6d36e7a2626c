/* model_config: the settings of a model's file, checked: what no table of weights says. A setting
 * that would change the forward pass and that this engine does not have is an error.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

/* Caps far above any released model; they keep products of sizes inside 64 bits. */
enum { MAX_LAYERS = 1024, MAX_DIM = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 1024 };

static void write_key(const model *m, const char *suffix, char *key, size_t capacity) {
    (void)snprintf(key, capacity, "%s.%s", m->family->name, suffix);
}

/* Reads a count within [1, most]; `required` or *out keeps its default where the key is absent. */
static bool read_count(const model *m, const char *suffix, uint32_t most, bool required,
                       uint32_t *out, ll_error *err) {
    char key[128];
    write_key(m, suffix, key, sizeof key);
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
    write_key(m, suffix, key, sizeof key);
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
        write_key(m, suffixes[i], key, sizeof key);
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
    write_key(m, "attention.sliding_window", key, sizeof key);
    if (!gguf_read_u32(m->file, key, &m->window, err)) return false;
    if (m->window == 0) return true;
    write_key(m, "attention.sliding_window_pattern", key, sizeof key);
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

bool model_read_config(model *m, ll_error *err) {
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
    m->k_dim = m->dim / m->n_heads;
    if (!read_count(m, "attention.head_count_kv", MAX_HEADS, false, &m->n_kv_heads, err) ||
        !read_count(m, "attention.key_length", MAX_HEAD_DIM, false, &m->k_dim, err))
        return false;
    m->v_dim = m->n_rot = m->k_dim;
    if (!read_count(m, "attention.value_length", MAX_HEAD_DIM, false, &m->v_dim, err) ||
        !read_count(m, "rope.dimension_count", MAX_HEAD_DIM, false, &m->n_rot, err))
        return false;
    if (m->n_heads % m->n_kv_heads != 0)
        return ll_fail(err, LL_ERR_FORMAT, "%u heads cannot share %u KV heads evenly", m->n_heads,
                       m->n_kv_heads);
    if (m->n_heads / m->n_kv_heads > MAX_SHARED_HEADS)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "%u heads share a KV head, expected at most %u",
                       m->n_heads / m->n_kv_heads, MAX_SHARED_HEADS);
    if (m->k_dim % 8 != 0 || m->n_rot % 2 != 0 || m->n_rot > m->k_dim)
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "heads of %u channels, %u of them rotated; expected "
                       "a multiple of 8 and an even number of at most that",
                       m->k_dim, m->n_rot);
    if (m->v_dim % 8 != 0)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "values of %u channels, expected a multiple of 8",
                       m->v_dim);
    char key[128];
    write_key(m, "attention.layer_norm_rms_epsilon", key, sizeof key);
    if (gguf_find_key(m->file, key) == NULL)
        return ll_fail(err, LL_ERR_FORMAT, "the key %s is missing", key);
    if (!gguf_read_f32(m->file, key, &m->eps, err)) return false;
    if (!(m->eps >= 0 && m->eps < 1))
        return ll_fail(err, LL_ERR_FORMAT, "%s is %g, expected 0 to 1", key, (double)m->eps);
    float scale = 0;
    write_key(m, "attention.scale", key, sizeof key);
    if (!gguf_read_f32(m->file, key, &scale, err)) return false;
    uint32_t scaled_dim = m->k_dim;
    if (m->family->dim_scaled_layers == m->n_layers) scaled_dim = m->dim / m->n_heads;
    m->attention_scale = scale > 0 ? scale : 1.0f / sqrtf((float)scaled_dim);
    m->embedding_scale = m->family->scales_embedding ? sqrtf((float)m->dim) : 1.0f;
    return check_uniform(m, "feed_forward_length", m->ffn_dim, err) &&
           check_uniform(m, "attention.head_count", m->n_heads, err) &&
           check_uniform(m, "attention.head_count_kv", m->n_kv_heads, err) &&
           refuse_unknown_settings(m, err) && read_windows(m, err);
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

static bool equals(ll_string s, const char *text) {
    return s.n_bytes == strlen(text) && memcmp(s.data, text, s.n_bytes) == 0;
}

static bool read_key_f64(const model *m, const char *suffix, double *out, ll_error *err) {
    char key[128];
    write_key(m, suffix, key, sizeof key);
    float value = (float)*out;
    if (!gguf_read_f32(m->file, key, &value, err)) return false;
    *out = (double)value;
    return true;
}

static bool read_scaling(const model *m, rope_scaling *s, ll_error *err) {
    *s = (rope_scaling){.factor = 1, .beta_fast = 32, .beta_slow = 1, .extrapolation = 1};
    uint32_t original_context = m->n_ctx_train;
    char key[128];
    write_key(m, "rope.scaling.original_context_length", key, sizeof key);
    if (!gguf_read_u32(m->file, key, &original_context, err)) return false;
    s->original_context = original_context;
    ll_string type = {"linear", 6};
    write_key(m, "rope.scaling.type", key, sizeof key);
    if (!gguf_read_string(m->file, key, &type, err)) return false;
    double factor = 0, old_factor = 0, magnitude = 1;
    if (!read_key_f64(m, "rope.scaling.factor", &factor, err) ||
        !read_key_f64(m, "rope.scale_linear", &old_factor, err) ||
        !read_key_f64(m, "rope.scaling.yarn_beta_fast", &s->beta_fast, err) ||
        !read_key_f64(m, "rope.scaling.yarn_beta_slow", &s->beta_slow, err) ||
        !read_key_f64(m, "rope.scaling.yarn_ext_factor", &s->extrapolation, err) ||
        !read_key_f64(m, "rope.scaling.attn_factor", &magnitude, err))
        return false;
    if (factor <= 0) factor = old_factor;
    if (factor <= 0 || equals(type, "none")) factor = 1;
    s->is_yarn = equals(type, "yarn") && factor > 1;
    if (!s->is_yarn && !equals(type, "linear") && !equals(type, "none") && !equals(type, "yarn"))
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "RoPE scaling \"%.*s\"; known are none, linear, yarn",
                       (int)(type.n_bytes < 64 ? type.n_bytes : 64), type.data);
    if (!(factor < 1e6) || !(s->original_context >= 1) || !(s->beta_fast > 0) ||
        !(s->beta_slow > 0) || !(magnitude > 0 && magnitude < 1e6))
        return ll_fail(err, LL_ERR_FORMAT,
                       "RoPE scaling out of range: factor %g, original context "
                       "%g, betas %g and %g",
                       factor, s->original_context, s->beta_fast, s->beta_slow);
    s->factor = factor;
    s->magnitude = magnitude;
    return true;
}

bool model_read_ropes(model *m, ll_error *err) {
    rope_scaling full, none = {.factor = 1, .magnitude = 1};
    double base = 10000, window_base = (double)m->family->window_rope_base;
    if (!read_scaling(m, &full, err) || !read_key_f64(m, "rope.freq_base", &base, err) ||
        !read_key_f64(m, "rope.freq_base_swa", &window_base, err))
        return false;
    const float *factors = m->weights[WEIGHT_ROPE_FREQS].data;
    for (uint32_t i = 0; factors != NULL && i < m->n_rot / 2; i++)
        if (!(factors[i] > 0))
            return ll_fail(err, LL_ERR_FORMAT, "rope_freqs.weight holds %g at %u, expected above 0",
                           (double)factors[i], i);
    if (!rope_open(&m->ropes[ROPE_FULL], m->n_rot, base, &full, factors, err)) return false;
    return m->window == 0 ||
           rope_open(&m->ropes[ROPE_WINDOWED], m->n_rot, window_base, &none, NULL, err);
}
