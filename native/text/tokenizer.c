/* tokenizer: opening one from a file's keys, and the contracts of tokenizer.h.
 *
 * Everything that is the same for every algorithm is here: which ids begin and end a text, cutting
 * out special tokens, and what a token's type says about its bytes.
 */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_kind.h"

static const tokenizer_kind *const kinds[] = {&tokenizer_bpe, &tokenizer_spm};
enum {
    N_KINDS = sizeof kinds / sizeof kinds[0],
    /* Offsets in a fragment with every space as three bytes fit 32 bits. */
    TEXT_MAX_BYTES = 1 << 30,
};

/* ---- opening ------------------------------------------------------------------------------- */

static bool find_kind(tokenizer *t, const gguf *g, ll_error *err) {
    ll_string model = {"", 0};
    if (!gguf_read_string(g, "tokenizer.ggml.model", &model, err)) return false;
    for (size_t i = 0; i < N_KINDS; i++) {
        size_t n = strlen(kinds[i]->model);
        if (n == model.n_bytes && memcmp(kinds[i]->model, model.data, n) == 0) t->kind = kinds[i];
    }
    if (t->kind) return true;
    if (model.n_bytes == 0) return ll_fail(err, LL_ERR_FORMAT, "tokenizer.ggml.model is missing");
    return ll_fail(err, LL_ERR_UNSUPPORTED, "tokenizer model '%.*s' is unknown; known: %s, %s",
                   (int)(model.n_bytes < 60 ? model.n_bytes : 60), model.data, kinds[0]->model,
                   kinds[1]->model);
}

/* The id a key names, `missing` where there is no key; an id without a token counts as none. */
static bool read_id(const tokenizer *t, const gguf *g, const char *key, int32_t missing,
                    int32_t *id, ll_error *err) {
    uint32_t value = (uint32_t)missing;
    if (!gguf_read_u32(g, key, &value, err)) return false;
    *id = value < t->vocab.n_tokens ? (int32_t)value : -1;
    return true;
}

static bool read_settings(tokenizer *t, const gguf *g, ll_error *err) {
    const char *bos = "tokenizer.ggml.bos_token_id", *eos = "tokenizer.ggml.eos_token_id";
    if (!read_id(t, g, bos, t->kind->bos, &t->bos, err)) return false;
    if (!read_id(t, g, eos, t->kind->eos, &t->eos, err)) return false;
    if (t->pre && t->pre->no_bos) t->bos = -1;
    return gguf_read_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err) &&
           gguf_read_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, err) &&
           gguf_read_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, err);
}

tokenizer *tokenizer_open(const gguf *g, ll_error *err) {
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        (void)ll_fail(err, LL_ERR_MEMORY, "no memory for a tokenizer");
        return NULL;
    }
    bool ok = find_kind(t, g, err) && vocabulary_open(&t->vocab, g, err) &&
              special_open(&t->special, &t->vocab, err);
    if (ok) {
        t->add_bos = t->kind->add_bos;
        t->add_space_prefix = t->kind->add_space_prefix;
        ok = t->kind->open(t, g, err) && read_settings(t, g, err) && tokenizer_mark_ends(t, g, err);
    }
    if (ok) return t;
    tokenizer_close(t);
    return NULL;
}

void tokenizer_close(tokenizer *t) {
    if (!t) return;
    vocabulary_close(&t->vocab);
    special_close(&t->special);
    merge_rules_close(&t->rules);
    free(t->ends);
    free(t);
}

size_t tokenizer_memory_bytes(const tokenizer *t) {
    return sizeof *t + t->vocab.memory_bytes + special_memory_bytes(&t->special) +
           merge_rules_memory_bytes(&t->rules) + (t->vocab.n_tokens + 7) / 8;
}

/* ---- text to ids --------------------------------------------------------------------------- */

static bool encode_text(const tokenizer *t, const char *text, size_t n_bytes, bool control,
                        encode_work *w, ll_error *err) {
    for (size_t at = 0; at < n_bytes;) {
        special_match cut = special_find(&t->special, &t->vocab, text, n_bytes, at, control);
        if (cut.at > at && !t->kind->encode(t, text + at, cut.at - at, w, err)) return false;
        if (cut.id >= 0) encode_emit(w, cut.id);
        at = cut.at + cut.n_bytes;
    }
    return true;
}

bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, ll_parse parse,
                      bool add_special, int32_t *ids, size_t capacity, size_t *n_ids,
                      ll_error *err) {
    if (n_bytes > TEXT_MAX_BYTES)
        return ll_fail(err, LL_ERR_ARGUMENT, "a text of %zu bytes, expected at most %d", n_bytes,
                       TEXT_MAX_BYTES);
    encode_work w = {.ids = ids, .capacity = capacity};
    if (add_special && tokenizer_adds_bos(t)) encode_emit(&w, t->bos);
    bool ok = encode_text(t, text, n_bytes, parse == LL_PARSE_CONTROL, &w, err);
    if (add_special && t->add_eos && t->eos >= 0) encode_emit(&w, t->eos);
    merger_release(&w.merger);
    free(w.text.data);
    free(w.word.data);
    if (ok) *n_ids = w.n_ids;
    return ok;
}

/* ---- ids to text --------------------------------------------------------------------------- */

static size_t copy_text(ll_string text, char *out, size_t capacity) {
    size_t n = text.n_bytes < capacity ? text.n_bytes : capacity;
    if (n > 0) memcpy(out, text.data, n);
    return text.n_bytes;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A byte token is spelled <0xHH>; one that is not stands for its own text. */
static size_t copy_byte(ll_string text, char *out, size_t capacity) {
    int high = text.n_bytes == 6 ? hex_digit(text.data[3]) : -1;
    int low = text.n_bytes == 6 ? hex_digit(text.data[4]) : -1;
    if (high < 0 || low < 0) return copy_text(text, out, capacity);
    if (capacity > 0) out[0] = (char)(high * 16 + low);
    return 1;
}

int32_t tokenizer_token_bytes(const tokenizer *t, int32_t id, bool control, char *out,
                              size_t capacity) {
    if (!vocabulary_has(&t->vocab, id)) return -1;
    ll_string text = vocabulary_text(&t->vocab, id);
    switch ((token_type)t->vocab.types[id]) {
    case TOKEN_NORMAL:
        return (int32_t)t->kind->decode(text, out, capacity);
    case TOKEN_USER_DEFINED:
        return (int32_t)copy_text(text, out, capacity);
    case TOKEN_BYTE:
        return (int32_t)copy_byte(text, out, capacity);
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN:
        return control ? (int32_t)copy_text(text, out, capacity) : 0;
    case TOKEN_UNUSED:
    case TOKEN_UNDEFINED:
        break;
    }
    return 0;
}

/* ---- what a token is ----------------------------------------------------------------------- */

uint32_t tokenizer_n_vocab(const tokenizer *t) { return t->vocab.n_tokens; }

bool tokenizer_is_end(const tokenizer *t, int32_t id) {
    return vocabulary_has(&t->vocab, id) && (t->ends[id / 8] >> id % 8 & 1);
}

bool tokenizer_is_control(const tokenizer *t, int32_t id) {
    return vocabulary_has(&t->vocab, id) &&
           (t->vocab.types[id] == TOKEN_CONTROL || t->vocab.types[id] == TOKEN_UNKNOWN);
}

int32_t tokenizer_find(const tokenizer *t, const char *text, size_t n_bytes) {
    return vocabulary_find(&t->vocab, text, n_bytes);
}

bool tokenizer_adds_bos(const tokenizer *t) { return t->add_bos && t->bos >= 0; }
int32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
