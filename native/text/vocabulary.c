/* vocabulary: see vocabulary.h. */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

/* A GGUF string is its length in a u64, then its bytes. */
enum { LENGTH_BYTES = sizeof(uint64_t) };

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static uint32_t hash_text(const char *text, size_t n_bytes) {
    uint64_t h = n_bytes, word;
    for (; n_bytes >= sizeof word; text += sizeof word, n_bytes -= sizeof word) {
        memcpy(&word, text, sizeof word);
        h = mix(h, word);
    }
    word = 0;
    memcpy(&word, text, n_bytes);
    h = mix(mix(h, word), 0);
    return (uint32_t)(h >> 32);
}

size_t vocabulary_slot_count(size_t n) {
    size_t count = 16;
    while (count / 4 * 3 < n) count *= 2;
    return count;
}

ll_string vocabulary_text(const vocabulary *v, int32_t id) {
    uint32_t start = v->starts[id];
    return (ll_string){v->texts + start, v->starts[id + 1] - start - LENGTH_BYTES};
}

/* The slot that holds the text, or the free one where it would go. */
static size_t find_slot(const vocabulary *v, const char *text, size_t n_bytes, uint32_t hash) {
    size_t at = hash & v->slot_mask;
    for (;; at = (at + 1) & v->slot_mask) {
        const vocabulary_slot *slot = &v->slots[at];
        if (slot->id_plus_one == 0) return at;
        if (slot->hash != hash) continue;
        ll_string other = vocabulary_text(v, (int32_t)(slot->id_plus_one - 1));
        if (other.n_bytes == n_bytes && memcmp(other.data, text, n_bytes) == 0) return at;
    }
}

int32_t vocabulary_find(const vocabulary *v, const char *text, size_t n_bytes) {
    if (n_bytes == 0 || n_bytes > v->longest) return -1;
    size_t at = find_slot(v, text, n_bytes, hash_text(text, n_bytes));
    return (int32_t)v->slots[at].id_plus_one - 1;
}

int32_t vocabulary_find_plain(const vocabulary *v, const char *text, size_t n_bytes) {
    int32_t id = vocabulary_find(v, text, n_bytes);
    if (id >= 0 && (v->types[id] == TOKEN_CONTROL || v->types[id] == TOKEN_UNKNOWN)) return -1;
    return id;
}

static bool read_texts(vocabulary *v, const ll_meta *tokens, ll_error *err) {
    const uint8_t *cursor = tokens->data;
    for (uint32_t i = 0; i < v->n_tokens; i++)
        v->starts[i] = (uint32_t)(gguf_next_string(&cursor).data - v->texts);
    v->starts[v->n_tokens] = (uint32_t)(tokens->n_bytes + LENGTH_BYTES);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        ll_string text = vocabulary_text(v, (int32_t)i);
        if (text.n_bytes == 0) continue;
        if (text.n_bytes > v->longest) v->longest = text.n_bytes;
        uint32_t hash = hash_text(text.data, text.n_bytes);
        vocabulary_slot *slot = &v->slots[find_slot(v, text.data, text.n_bytes, hash)];
        if (slot->id_plus_one != 0)
            return ll_fail(err, LL_ERR_FORMAT,
                           "tokens %u and %u of tokenizer.ggml.tokens have the same text, expected "
                           "every text once",
                           slot->id_plus_one - 1, i);
        *slot = (vocabulary_slot){hash, i + 1};
    }
    return true;
}

static bool read_types(vocabulary *v, const gguf *g, ll_error *err) {
    const ll_meta *types = gguf_find_key(g, "tokenizer.ggml.token_type");
    memset(v->types, TOKEN_NORMAL, v->n_tokens);
    if (!types) return true;
    if (types->type != LL_VALUE_ARRAY || types->element_type == LL_VALUE_STRING ||
        types->element_type == LL_VALUE_ARRAY || types->n_elements != v->n_tokens)
        return ll_fail(err, LL_ERR_FORMAT,
                       "tokenizer.ggml.token_type has %llu elements, expected "
                       "%u integers",
                       (unsigned long long)types->n_elements, v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        int32_t type = gguf_i32_at(types, i);
        v->types[i] = type >= 0 && type <= TOKEN_BYTE ? (uint8_t)type : TOKEN_UNDEFINED;
    }
    return true;
}

bool vocabulary_open(vocabulary *v, const gguf *g, ll_error *err) {
    *v = (vocabulary){0};
    const ll_meta *tokens = gguf_find_key(g, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != LL_VALUE_ARRAY || tokens->element_type != LL_VALUE_STRING)
        return ll_fail(err, LL_ERR_FORMAT, "%s, expected an array of strings",
                       tokens ? "tokenizer.ggml.tokens has another type"
                              : "tokenizer.ggml.tokens is missing");
    if (tokens->n_elements == 0 || tokens->n_elements >= INT32_MAX ||
        tokens->n_bytes >= UINT32_MAX - LENGTH_BYTES)
        return ll_fail(err, LL_ERR_FORMAT,
                       "tokenizer.ggml.tokens has %llu texts in %zu bytes, "
                       "expected 1 to 2^31 texts in under 4 GiB",
                       (unsigned long long)tokens->n_elements, tokens->n_bytes);
    size_t n = tokens->n_elements, n_slots = vocabulary_slot_count(n);
    v->n_tokens = (uint32_t)n;
    v->texts = (const char *)tokens->data;
    v->slot_mask = n_slots - 1;
    v->starts = calloc(n + 1, sizeof *v->starts);
    v->types = calloc(n, sizeof *v->types);
    v->slots = calloc(n_slots, sizeof *v->slots);
    v->memory_bytes =
        (n + 1) * sizeof *v->starts + n * sizeof *v->types + n_slots * sizeof *v->slots;
    if (!v->starts || !v->types || !v->slots)
        return ll_fail(err, LL_ERR_MEMORY, "no memory for a vocabulary of %zu tokens", n);
    return read_texts(v, tokens, err) && read_types(v, g, err);
}

void vocabulary_close(vocabulary *v) {
    free(v->starts);
    free(v->types);
    free(v->slots);
}
