/* gguf_file: opens and closes: maps a file and, of a split model, all of them. What a gguf holds is
 * given back here; what the header's walk allocated, by the walk itself.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/system.h"
#include "format/gguf_internal.h"
#include "format/gguf_split.h"

/* Maps and checks one file alone. Errors: those of gguf_open. */
static gguf *map_file(const char *path, ll_error *err) {
    const void *data;
    size_t n_bytes;
    if (!system_map_file(path, &data, &n_bytes, err)) return NULL;
    gguf *g = gguf_parse(data, n_bytes, n_bytes, err);
    if (g)
        g->mapped = true;
    else
        system_unmap(data, n_bytes);
    return g;
}

void gguf_close(gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n_others; i++) gguf_close(g->others[i]);
    free(g->others);
    if (g->mapped) system_unmap(g->base, g->header_bytes);
    gguf_release(g);
}

/* ---- the files of a split model ------------------------------------------------------------- */

/* Opens the file that s names and holds it against what its name and the first file say. */
static gguf *open_file(const split_name *s, uint32_t number, uint32_t count, const gguf *first,
                       ll_error *err) {
    ll_error cause = {.code = LL_OK};
    if (!system_file_exists(s->path)) {
        ll_fail(err, LL_ERR_FORMAT, "%.120s is missing: the model is split over %" PRIu32 " files",
                s->base, count);
        return NULL;
    }
    gguf *g = map_file(s->path, &cause);
    if (g == NULL) {
        split_fail_in(s, &cause, err);
        return NULL;
    }
    if (split_check_file(s, g, number, count, first ? first : g, err)) return g;
    gguf_close(g);
    return NULL;
}

static gguf *open_all(split_name *s, uint32_t count, ll_error *err) {
    split_set_name(s, 1, count);
    gguf *g = open_file(s, 1, count, NULL, err);
    if (g == NULL) return NULL;
    g->others = calloc(count - 1, sizeof *g->others);
    bool ok = g->others != NULL || ll_fail(err, LL_ERR_MEMORY, "no memory for %u files", count);
    for (uint32_t number = 2; ok && number <= count; number++) {
        split_set_name(s, number, count);
        gguf *other = open_file(s, number, count, g, err);
        ok = other != NULL;
        if (ok) g->others[g->n_others++] = other;
    }
    split_set_name(s, 1, count);
    if (ok && split_join_tensors(g, s, err)) return g;
    gguf_close(g);
    return NULL;
}

/* Takes the file at `path`, opens the other files of its model where it says that there are any,
 * and returns the first with everybody's tensors. `file` is closed or part of what is returned. */
static gguf *join(gguf *file, const char *path, ll_error *err) {
    uint32_t count = 1;
    bool ok = gguf_read_u32(file, "split.count", &count, err);
    if (ok && count <= 1) return file;
    gguf_close(file);
    split_name s = {.path = NULL};
    if (!ok || !split_open_name(&s, path, count, err)) return NULL;
    gguf *whole = open_all(&s, count, err);
    split_close_name(&s);
    return whole;
}

gguf *gguf_open(const char *path, ll_error *err) {
    gguf *g = map_file(path, err);
    return g ? join(g, path, err) : NULL;
}
