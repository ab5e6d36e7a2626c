/* special: see special.h. */
#include "text/special.h"

#include <stdlib.h>
#include <string.h>

static bool is_special(const vocabulary *v, uint32_t id) {
    uint8_t type = v->types[id];
    bool cut = type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN;
    return cut && vocabulary_text(v, (int32_t)id).n_bytes > 0;
}

static int compare(const void *left, const void *right) {
    const special_text *a = left, *b = right;
    int order = memcmp(a->data, b->data, a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes);
    if (order != 0) return order;
    return a->n_bytes < b->n_bytes ? -1 : a->n_bytes > b->n_bytes;
}

bool special_open(special *s, const vocabulary *v, ll_error *err) {
    *s = (special){0};
    size_t n = 0;
    for (uint32_t i = 0; i < v->n_tokens; i++) n += is_special(v, i);
    if (n == 0) return true;
    s->sorted = malloc(n * sizeof *s->sorted);
    if (!s->sorted) return ll_fail(err, LL_ERR_MEMORY, "no memory for %zu special tokens", n);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        if (!is_special(v, i)) continue;
        ll_string text = vocabulary_text(v, (int32_t)i);
        s->sorted[s->n++] = (special_text){text.data, (uint32_t)text.n_bytes, (int32_t)i};
        uint8_t byte = (uint8_t)text.data[0];
        s->first[byte + 1]++;
        if (v->types[i] == TOKEN_USER_DEFINED) s->users[byte] = 1;
    }
    for (size_t b = 0; b < 256; b++) s->first[b + 1] += s->first[b];
    qsort(s->sorted, s->n, sizeof *s->sorted, compare);
    return true;
}

void special_close(special *s) { free(s->sorted); }

size_t special_memory_bytes(const special *s) { return s->n * sizeof *s->sorted; }

/* The first of sorted[low, high), which agree on `depth` bytes, whose byte there is `byte` or
 * more. Texts that end at `depth` come before all. */
static size_t bisect(const special *s, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        size_t middle = (low + high) / 2;
        const special_text *t = &s->sorted[middle];
        if (t->n_bytes <= depth || (uint8_t)t->data[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that starts here; n_bytes > 0. */
static special_match match_here(const special *s, const vocabulary *v, const char *text,
                                size_t n_bytes, bool control) {
    special_match best = {0, 0, -1};
    size_t low = s->first[(uint8_t)text[0]], high = s->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        const special_text *t = &s->sorted[low];
        if (t->n_bytes == depth) {
            if (control || v->types[t->id] == TOKEN_USER_DEFINED)
                best = (special_match){0, depth, t->id};
            low++;
        }
        if (depth == n_bytes) break;
        unsigned byte = (uint8_t)text[depth];
        low = bisect(s, low, high, depth, byte);
        high = bisect(s, low, high, depth, byte + 1);
    }
    return best;
}

special_match special_find(const special *s, const vocabulary *v, const char *text, size_t n_bytes,
                           size_t from, bool control) {
    for (size_t at = from; at < n_bytes; at++) {
        uint8_t byte = (uint8_t)text[at];
        if (s->first[byte] == s->first[byte + 1] || (!control && !s->users[byte])) continue;
        special_match match = match_here(s, v, text + at, n_bytes - at, control);
        if (match.id < 0) continue;
        match.at = at;
        return match;
    }
    return (special_match){n_bytes, 0, -1};
}
