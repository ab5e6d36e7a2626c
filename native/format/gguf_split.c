/* gguf_split: the names of a split model's files, and each held against the others: its number,
 * their count, the number of tensors of all, and that no tensor occurs twice.
 */
#include "format/gguf_split.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf_cursor.h"

/* What a name adds to its prefix is -00001-of-00003.gguf. */
enum { ENDING_BYTES = 20, N_DIGITS = 5, COUNT_AT = 10, MAX_FILES = 99999 };

static bool read_digits(const char *text, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < N_DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

/* Whether a path ends as a split file's: its number, from 1, and the number of files. */
static bool read_ending(const char *path, uint32_t *number, uint32_t *count) {
    size_t n = strlen(path);
    if (n < ENDING_BYTES) return false;
    const char *ending = path + n - ENDING_BYTES;
    return ending[0] == '-' && read_digits(ending + 1, number) &&
           memcmp(ending + 1 + N_DIGITS, "-of-", 4) == 0 && read_digits(ending + COUNT_AT, count) &&
           memcmp(ending + COUNT_AT + N_DIGITS, ".gguf", 5) == 0;
}

bool split_open_name(split_name *s, const char *path, uint32_t count, ll_error *err) {
    uint32_t number, named;
    if (!read_ending(path, &number, &named) || number < 1 || number > named)
        return ll_fail(err, LL_ERR_FORMAT,
                       "the file is one of %" PRIu32
                       " of a split model, but its name does not end as"
                       " -00001-of-%05" PRIu32 ".gguf does",
                       count, count);
    if (named != count)
        return ll_fail(err, LL_ERR_FORMAT,
                       "the name says that the model is split over %" PRIu32
                       " files, the file says %" PRIu32,
                       named, count);
    size_t n = strlen(path);
    s->path = malloc(n + 1);
    if (s->path == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for a path");
    memcpy(s->path, path, n + 1);
    s->n_prefix = n - ENDING_BYTES;
    const char *slash = strrchr(s->path, '/');
    s->base = slash ? slash + 1 : s->path;
    return true;
}

void split_close_name(split_name *s) { free(s->path); }

void split_set_name(split_name *s, uint32_t number, uint32_t count) {
    (void)snprintf(s->path + s->n_prefix, ENDING_BYTES + 1, "-%05u-of-%05u.gguf",
                   number % (MAX_FILES + 1), count % (MAX_FILES + 1));
}

/* ---- one file -------------------------------------------------------------------------------- */

bool split_fail_in(const split_name *s, const ll_error *cause, ll_error *err) {
    bool first = err && err->code == LL_OK;
    ll_fail(err, cause->code, "%.120s: %.380s", s->base, cause->message);
    if (first) err->offset = cause->offset;
    return false;
}

static bool fail_split(const split_name *s, const char *what, uint32_t found, uint32_t expected,
                       ll_error *err) {
    return ll_fail(err, LL_ERR_FORMAT, "%.120s: %s is %" PRIu32 ", but %" PRIu32 " is expected",
                   s->base, what, found, expected);
}

/* A key that every file of a split model must have, equal to what is expected of it. */
static bool check_key(const split_name *s, const gguf *g, const char *key, uint32_t expected,
                      ll_error *err) {
    ll_error cause = {.code = LL_OK};
    uint32_t value = 0;
    if (gguf_find_key(g, key) == NULL)
        return ll_fail(err, LL_ERR_FORMAT, "%.120s: the key %s is missing", s->base, key);
    if (!gguf_read_u32(g, key, &value, &cause)) return split_fail_in(s, &cause, err);
    return value == expected || fail_split(s, key, value, expected, err);
}

static bool same_text(const ll_string *a, const ll_string *b) {
    return gguf_compare_names(a, b) == 0;
}

/* A later file need not say of which family it is; where it does, it must be the first one's. */
static bool check_family(const split_name *s, const gguf *first, const gguf *g, ll_error *err) {
    const char *key = "general.architecture";
    ll_string ours = {"", 0}, theirs = {"", 0};
    ll_error cause = {.code = LL_OK};
    if (!gguf_read_string(first, key, &ours, &cause) || !gguf_read_string(g, key, &theirs, &cause))
        return split_fail_in(s, &cause, err);
    if (gguf_find_key(g, key) == NULL || same_text(&ours, &theirs)) return true;
    return ll_fail(err, LL_ERR_FORMAT, "%.120s belongs to another model: it is %.*s, not %.*s",
                   s->base, GGUF_SHOWN(theirs), GGUF_SHOWN(ours));
}

bool split_check_file(const split_name *s, const gguf *g, uint32_t number, uint32_t count,
                      const gguf *first, ll_error *err) {
    uint32_t n_tensors = 0;
    if (!gguf_read_u32(first, "split.tensors.count", &n_tensors, NULL)) n_tensors = 0;
    return check_key(s, g, "split.count", count, err) &&
           check_key(s, g, "split.no", number - 1, err) &&
           check_key(s, g, "split.tensors.count", n_tensors, err) && check_family(s, first, g, err);
}

/* ---- one table of tensors ------------------------------------------------------------------- */

static int order_names(const void *a, const void *b) {
    return gguf_compare_names(*(const ll_string *const *)a, *(const ll_string *const *)b);
}

static bool sort_tensors(gguf *g, split_name *s, ll_error *err) {
    for (uint64_t i = 0; i < g->n_tensors; i++) g->tensors_by_name[i] = &g->tensors[i].name;
    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, order_names);
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        const ll_string *a = g->tensors_by_name[i - 1], *b = g->tensors_by_name[i];
        if (!same_text(a, b)) continue;
        uint32_t x = gguf_file_of(g, *a) + 1, y = gguf_file_of(g, *b) + 1, count = g->n_others + 1;
        split_set_name(s, x > y ? x : y, count);
        return ll_fail(err, LL_ERR_FORMAT,
                       "%.120s: the tensor '%.*s' is in file %" PRIu32 " of the model too", s->base,
                       GGUF_SHOWN(*a), x < y ? x : y);
    }
    return true;
}

bool split_join_tensors(gguf *g, split_name *s, ll_error *err) {
    uint64_t n = g->n_tensors;
    uint32_t declared = 0;
    for (uint32_t i = 0; i < g->n_others; i++) n += g->others[i]->n_tensors;
    if (!gguf_read_u32(g, "split.tensors.count", &declared, err)) return false;
    if (declared != n)
        return ll_fail(err, LL_ERR_FORMAT,
                       "%.120s: its %" PRIu32 " files hold %" PRIu64 " tensors, but %" PRIu32
                       " are expected",
                       s->base, g->n_others + 1, n, declared);
    gguf_tensor *all = malloc((n ? n : 1) * sizeof *all);
    const ll_string **by_name = malloc((n ? n : 1) * sizeof *by_name);
    if (all == NULL || by_name == NULL) {
        free(all);
        free(by_name);
        return ll_fail(err, LL_ERR_MEMORY, "no memory for %" PRIu64 " tensors", n);
    }
    uint64_t at = g->n_tensors;
    if (at) memcpy(all, g->tensors, at * sizeof *all);
    for (uint32_t i = 0; i < g->n_others; i++) {
        const gguf *other = g->others[i];
        if (other->n_tensors) memcpy(all + at, other->tensors, other->n_tensors * sizeof *all);
        at += other->n_tensors;
        g->file_bytes += other->file_bytes;
    }
    free(g->tensors);
    free(g->tensors_by_name);
    g->tensors = all;
    g->tensors_by_name = by_name;
    g->n_tensors = n;
    return sort_tensors(g, s, err);
}
