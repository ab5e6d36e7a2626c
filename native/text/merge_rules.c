/* merge_rules: see merge_rules.h. */
#include "text/merge_rules.h"

#include <stdlib.h>
#include <string.h>

static merge_made *find_slot(const merge_rules *r, int32_t left, int32_t right) {
    uint64_t hash =
        ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xd6e8feb86659fd93);
    size_t at = (hash >> 32) & r->slot_mask;
    for (;; at = (at + 1) & r->slot_mask) {
        merge_made *slot = &r->slots[at];
        if (slot->rank == 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

const merge_made *merge_rules_find(const merge_rules *r, int32_t left, int32_t right) {
    const merge_made *slot = find_slot(r, left, right);
    return slot->rank ? slot : NULL;
}

/* "left right", cut at the first space that is not the first byte. `joined` has room for the
 * longest token. */
static bool add_rule(merge_rules *r, const vocabulary *v, ll_string text, uint32_t index,
                     char *joined, ll_error *err) {
    int shown = text.n_bytes < 80 ? (int)text.n_bytes : 80;
    const char *space = text.n_bytes > 1 ? memchr(text.data + 1, ' ', text.n_bytes - 1) : NULL;
    if (!space)
        return ll_fail(err, LL_ERR_FORMAT, "merge %u is '%.*s', expected two texts and a space",
                       index, shown, text.data);
    size_t n_left = (size_t)(space - text.data), n_right = text.n_bytes - n_left - 1;
    int32_t left = vocabulary_find(v, text.data, n_left);
    int32_t right = vocabulary_find(v, space + 1, n_right);
    int32_t id = -1;
    if (left >= 0 && right >= 0 && n_left + n_right <= v->longest) {
        memcpy(joined, text.data, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        id = vocabulary_find(v, joined, n_left + n_right);
    }
    if (id < 0)
        return ll_fail(
            err, LL_ERR_FORMAT,
            "merge %u is '%.*s', expected two tokens of the vocabulary that make a third", index,
            shown, text.data);
    /* Plain text never becomes a control token, also not by merging. */
    if (v->types[id] == TOKEN_CONTROL || v->types[id] == TOKEN_UNKNOWN) return true;
    merge_made *slot = find_slot(r, left, right);
    if (slot->rank == 0) *slot = (merge_made){left, right, id, index + 1};
    return true;
}

bool merge_rules_open(merge_rules *r, const gguf *g, const vocabulary *v, ll_error *err) {
    *r = (merge_rules){0};
    const ll_meta *merges = gguf_find_key(g, "tokenizer.ggml.merges");
    if (!merges || merges->type != LL_VALUE_ARRAY || merges->element_type != LL_VALUE_STRING ||
        merges->n_elements >= UINT32_MAX)
        return ll_fail(err, LL_ERR_FORMAT, "%s, expected an array of strings",
                       merges ? "tokenizer.ggml.merges has another type"
                              : "tokenizer.ggml.merges is missing");
    size_t n_slots = vocabulary_slot_count(merges->n_elements);
    r->slot_mask = n_slots - 1;
    r->slots = calloc(n_slots, sizeof *r->slots);
    char *joined = malloc(v->longest + 1);
    bool ok = r->slots && joined;
    if (!ok)
        (void)ll_fail(err, LL_ERR_MEMORY, "no memory for %llu merges",
                      (unsigned long long)merges->n_elements);
    const uint8_t *cursor = merges->data;
    for (uint32_t i = 0; ok && i < merges->n_elements; i++)
        ok = add_rule(r, v, gguf_next_string(&cursor), i, joined, err);
    free(joined);
    return ok;
}

void merge_rules_close(merge_rules *r) { free(r->slots); }

size_t merge_rules_memory_bytes(const merge_rules *r) {
    return r->slots ? (r->slot_mask + 1) * sizeof *r->slots : 0;
}
