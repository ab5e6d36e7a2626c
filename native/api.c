/* api: the C interface's model, text and device functions, each a line or two over a lower floor.
 * Engine and session functions live with the engine, ll_machine_ in machine/.
 */
#include <stdlib.h>

#include "device/device_list.h"
#include "engine/engine.h"
#include "format/gguf.h"
#include "localllm_measure.h"
#include "text/tokenizer.h"

struct ll_model {
    model model;
    tokenizer *tokenizer;
    ll_model_info info;
    char arch[32], tokenizer_name[32];
};

static void copy_name(const gguf *g, const char *key, char *out, size_t capacity) {
    ll_string s = {"", 0};
    (void)gguf_read_string(g, key, &s, NULL);
    size_t n = s.n_bytes < capacity - 1 ? s.n_bytes : capacity - 1;
    for (size_t i = 0; i < n; i++) out[i] = s.data[i];
    out[n] = '\0';
}

static void fill_info(ll_model *m) {
    const model *of = &m->model;
    copy_name(of->file, "general.architecture", m->arch, sizeof m->arch);
    copy_name(of->file, "tokenizer.ggml.model", m->tokenizer_name, sizeof m->tokenizer_name);
    m->info = (ll_model_info){
        .arch = m->arch,
        .tokenizer = m->tokenizer_name,
        .n_layers = of->n_layers,
        .n_heads = of->n_heads,
        .n_kv_heads = of->n_kv_heads,
        .head_dim = of->k_dim,
        .dim = of->dim,
        .ffn_dim = of->ffn_dim,
        .n_vocab = of->n_vocab,
        .n_ctx_train = of->n_ctx_train,
        .n_params = of->n_params,
        .file_bytes = gguf_file_bytes(of->file),
        .weight_bytes = of->weight_bytes,
        .token_bytes = model_token_bytes(of),
    };
}

ll_model *ll_model_open(const char *path, ll_error *err) {
    ll_model *m = calloc(1, sizeof *m);
    if (m == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for a model");
        return NULL;
    }
    gguf *file = gguf_open(path, err);
    if (file != NULL && model_open(&m->model, file, err)) m->tokenizer = tokenizer_open(file, err);
    if (m->tokenizer == NULL) {
        ll_model_close(m);
        return NULL;
    }
    fill_info(m);
    return m;
}

void ll_model_close(ll_model *m) {
    if (m == NULL) return;
    tokenizer_close(m->tokenizer);
    model_close(&m->model);
    free(m);
}

const ll_model_info *ll_model_get_info(const ll_model *m) { return &m->info; }

uint64_t ll_model_n_meta(const ll_model *m) { return gguf_n_meta(m->model.file); }

void ll_model_get_meta(const ll_model *m, uint64_t i, ll_meta *out) {
    *out = *gguf_meta(m->model.file, i);
}

uint64_t ll_model_n_tensors(const ll_model *m) { return gguf_n_tensors(m->model.file); }

void ll_model_get_tensor(const ll_model *m, uint64_t i, ll_tensor_info *out) {
    const gguf_tensor *t = &gguf_tensors(m->model.file)[i];
    *out = (ll_tensor_info){
        .name = t->name,
        .quant = t->quant->name,
        .n_dims = t->n_dims,
        .n_bytes = t->n_bytes,
        .offset = t->offset,
        .file = gguf_file_of(m->model.file, t->name),
    };
    for (int d = 0; d < 4; d++) out->shape[d] = t->shape[d];
}

bool ll_quant_get_info(uint32_t i, ll_quant_info *out) {
    if (i >= QUANT_COUNT) return false;
    const quant_traits *q = &quant_table[i];
    *out = (ll_quant_info){q->name, q->ggml_id, q->block_dim, q->block_bytes};
    return true;
}

const char *ll_end_text(size_t i) { return tokenizer_end_text(i); }

bool ll_tokenize(const ll_model *m, const char *text, size_t n_bytes, ll_parse parse,
                 bool add_special, int32_t *ids, size_t capacity, size_t *n_ids, ll_error *err) {
    return tokenizer_encode(m->tokenizer, text, n_bytes, parse, add_special, ids, capacity, n_ids,
                            err);
}

int32_t ll_token_bytes(const ll_model *m, int32_t id, bool control, char *out, size_t capacity) {
    return tokenizer_token_bytes(m->tokenizer, id, control, out, capacity);
}

bool ll_token_is_end(const ll_model *m, int32_t id) { return tokenizer_is_end(m->tokenizer, id); }

bool ll_token_is_control(const ll_model *m, int32_t id) {
    return tokenizer_is_control(m->tokenizer, id);
}

int32_t ll_model_find_token(const ll_model *m, const char *text, size_t n_bytes) {
    return tokenizer_find(m->tokenizer, text, n_bytes);
}

bool ll_model_adds_bos(const ll_model *m) { return tokenizer_adds_bos(m->tokenizer); }
int32_t ll_model_bos(const ll_model *m) { return tokenizer_bos(m->tokenizer); }
int32_t ll_model_eos(const ll_model *m) { return tokenizer_eos(m->tokenizer); }

bool ll_engine_plan(const ll_model *m, const ll_engine_options *options, ll_memory *out,
                    ll_error *err) {
    if (!engine_plan_memory(&m->model, options, out, err)) return false;
    out->tokenizer_bytes = tokenizer_memory_bytes(m->tokenizer);
    return true;
}

ll_engine *ll_engine_open(const ll_model *m, const ll_engine_options *options, ll_error *err) {
    return engine_open(&m->model, options, err);
}

bool ll_device_get_info(const char *name, ll_device_info *out, ll_error *err) {
    const device_kind *kind = device_find(name, err);
    if (kind == NULL) return false;
    *out = (ll_device_info){.name = kind->name};
    return kind->own_memory == NULL || kind->own_memory(&out->free_bytes, &out->total_bytes, err);
}
