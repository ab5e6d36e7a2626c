/* gguf_parse: the walk over a GGUF header, where nothing the file says is believed unchecked.
 *
 * Every byte is read through the cursor; every sum and product of declared numbers is checked or
 * bounded by a cap above it; every array is allocated only after the bytes that would fill it are
 * known to be there. What passes here may be read afterwards without another check.
 */
#include "format/gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf_cursor.h"

/* Far above any real file (the largest models have a few thousand tensors), and low enough that
 * a hostile one costs seconds and megabytes at most. */
#define MAX_META    ((uint64_t)1 << 20)
#define MAX_TENSORS ((uint64_t)1 << 20)
/* The format's own limits: a key's length is below 2^16, a name with its NUL fits in 64 bytes. */
#define MAX_KEY_BYTES  ((uint64_t)65535)
#define MAX_NAME_BYTES ((uint64_t)63)
/* What other readers allow; whole vocabularies stay under a thousandth of it. */
#define MAX_STRING_BYTES   ((uint64_t)1 << 30)
#define MAX_ARRAY_ELEMENTS ((uint64_t)1 << 30)
/* A tensor's; signed counts hold it. Other readers draw the same two lines. */
#define MAX_ELEMENTS ((uint64_t)INT64_MAX)
#define MAX_DIMS     4u
/* The format wants a multiple of 8, which also aligns every float; 64 KiB is the largest page
 * size in use, so no writer gains by more. */
#define MIN_ALIGNMENT     8u
#define MAX_ALIGNMENT     65536u
#define DEFAULT_ALIGNMENT 32u

/* The least a metadata entry and a tensor's description take: a one-byte name, a one-byte value;
 * a one-byte name, one dimension. */
#define MIN_META_BYTES   ((uint64_t)(8 + 1 + 4 + 1))
#define MIN_TENSOR_BYTES ((uint64_t)(8 + 1 + 4 + 8 + 4 + 8))

static const ll_string no_name = {"", 0};

/* An array of n records of record_bytes for entries that take at least min_bytes in the file. */
static bool allocate(cursor *c, uint64_t n, uint64_t max, uint64_t min_bytes, size_t record_bytes,
                     void **out, const char *what) {
    if (n > max)
        return gguf_fail(c->err, LL_ERR_FORMAT, c->at,
                         "the file declares %" PRIu64 " %s; at most %" PRIu64 " are allowed", n,
                         what, max);
    if (!cursor_need(c, n * min_bytes, what)) return false; /* n <= 2^20: no overflow */
    *out = n ? calloc(n, record_bytes) : NULL;
    if (n && !*out)
        return gguf_fail(c->err, LL_ERR_MEMORY, c->at, "no memory for %" PRIu64 " %s", n, what);
    return true;
}

/* ---- names --------------------------------------------------------------------------------- */

/* Equal names stay in file order, so that a duplicate is reported where it comes second. */
static int order_names(const void *a, const void *b) {
    const ll_string *x = *(const ll_string *const *)a, *y = *(const ll_string *const *)b;
    int order = gguf_compare_names(x, y);
    return order ? order : (x->data > y->data) - (x->data < y->data);
}

_Static_assert(offsetof(ll_meta, key) == 0 && offsetof(gguf_tensor, name) == 0,
               "a pointer to the name is a pointer to the record");

/* Sorts pointers to the names that lie record_bytes apart from `first` on; refuses duplicates. */
static bool sort_names(cursor *c, const void *first, uint64_t n, size_t record_bytes,
                       const ll_string ***out, const char *what) {
    if (n == 0) return true;
    const ll_string **names = malloc(n * sizeof *names);
    if (!names)
        return gguf_fail(c->err, LL_ERR_MEMORY, c->at, "no memory to sort %" PRIu64 " names", n);
    *out = names;
    for (uint64_t i = 0; i < n; i++)
        names[i] = (const ll_string *)((const char *)first + i * record_bytes);
    qsort(names, n, sizeof *names, order_names);
    for (uint64_t i = 1; i < n; i++)
        if (gguf_compare_names(names[i - 1], names[i]) == 0)
            return gguf_fail(c->err, LL_ERR_FORMAT, cursor_offset(c, names[i]->data),
                             "the %s '%.*s' occurs twice", what, GGUF_SHOWN(*names[i]));
    return true;
}

/* ---- metadata ------------------------------------------------------------------------------ */

static bool take_type(cursor *c, ll_value_type *out, ll_string key) {
    uint64_t start = c->at;
    uint32_t type;
    if (!cursor_take_u32(c, &type, "the type")) return false;
    if (type > LL_VALUE_F64)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "key '%.*s' has value type %" PRIu32 "; types are 0 to %d",
                         GGUF_SHOWN(key), type, (int)LL_VALUE_F64);
    *out = (ll_value_type)type;
    return true;
}

static bool skip_strings(cursor *c, const ll_meta *m) {
    ll_string s;
    if (!cursor_need(c, m->n_elements * sizeof(uint64_t), "the strings")) return false;
    for (uint64_t i = 0; i < m->n_elements; i++)
        if (!cursor_take_string(c, MAX_STRING_BYTES, &s, "a string")) return false;
    return true;
}

static bool check_bools(cursor *c, const ll_meta *m) {
    for (uint64_t i = 0; i < m->n_elements; i++)
        if (m->data[i] > 1)
            return gguf_fail(c->err, LL_ERR_FORMAT, c->at + i,
                             "key '%.*s' holds %u as a bool; 0 or 1 is expected",
                             GGUF_SHOWN(m->key), m->data[i]);
    return true;
}

/* Steps over m->n_elements (at most 2^30) values of one type. */
static bool skip_values(cursor *c, const ll_meta *m, ll_value_type type) {
    if (type == LL_VALUE_STRING) return skip_strings(c, m);
    uint64_t n_bytes = m->n_elements * gguf_value_bytes(type);
    if (!cursor_need(c, n_bytes, "the value")) return false;
    if (type == LL_VALUE_BOOL && !check_bools(c, m)) return false;
    c->at += n_bytes;
    return true;
}

static bool take_array_head(cursor *c, ll_meta *m) {
    uint64_t start = c->at;
    if (!take_type(c, &m->element_type, m->key)) return false;
    if (m->element_type == LL_VALUE_ARRAY)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "key '%.*s' is an array of arrays, which is not allowed",
                         GGUF_SHOWN(m->key));
    start = c->at;
    if (!cursor_take_u64(c, &m->n_elements, "the length")) return false;
    if (m->n_elements > MAX_ARRAY_ELEMENTS)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "key '%.*s' declares %" PRIu64 " elements; at most %" PRIu64
                         " are allowed",
                         GGUF_SHOWN(m->key), m->n_elements, MAX_ARRAY_ELEMENTS);
    return true;
}

static bool take_meta(cursor *c, ll_meta *m) {
    cursor_begin(c, "", no_name);
    if (!cursor_take_name(c, MAX_KEY_BYTES, &m->key, "a metadata key")) return false;
    cursor_begin(c, " of key '", m->key);
    if (!take_type(c, &m->type, m->key)) return false;
    m->element_type = m->type;
    m->n_elements = 1;
    if (m->type == LL_VALUE_ARRAY && !take_array_head(c, m)) return false;
    m->data = c->base + c->at;
    uint64_t start = c->at;
    if (!skip_values(c, m, m->element_type)) return false;
    m->n_bytes = c->at - start;
    return true;
}

static bool take_metas(cursor *c, gguf *g, uint64_t n) {
    void *memory = NULL;
    cursor_begin(c, "", no_name);
    if (!allocate(c, n, MAX_META, MIN_META_BYTES, sizeof *g->meta, &memory, "metadata keys"))
        return false;
    g->meta = memory;
    g->n_meta = n;
    for (uint64_t i = 0; i < n; i++)
        if (!take_meta(c, &g->meta[i])) return false;
    return sort_names(c, g->meta, n, sizeof *g->meta, &g->meta_by_name, "metadata key");
}

/* ---- tensors ------------------------------------------------------------------------------- */

static bool take_shape(cursor *c, gguf_tensor *t) {
    uint64_t start = c->at, n_elements = 1;
    if (!cursor_take_u32(c, &t->n_dims, "the number of dimensions")) return false;
    if (t->n_dims < 1 || t->n_dims > MAX_DIMS)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "tensor '%.*s' has %" PRIu32 " dimensions; 1 to %u are allowed",
                         GGUF_SHOWN(t->name), t->n_dims, MAX_DIMS);
    for (uint32_t i = 0; i < MAX_DIMS; i++) t->shape[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        start = c->at;
        if (!cursor_take_u64(c, &t->shape[i], "a dimension")) return false;
        if (t->shape[i] == 0)
            return gguf_fail(c->err, LL_ERR_FORMAT, start,
                             "tensor '%.*s' has 0 as dimension %" PRIu32 "; at least 1 is expected",
                             GGUF_SHOWN(t->name), i);
        if (__builtin_mul_overflow(n_elements, t->shape[i], &n_elements) ||
            n_elements > MAX_ELEMENTS)
            return gguf_fail(c->err, LL_ERR_FORMAT, start,
                             "tensor '%.*s' has more than 2^63 - 1 elements: dimension %" PRIu32
                             " is %" PRIu64,
                             GGUF_SHOWN(t->name), i, t->shape[i]);
    }
    return true;
}

static bool take_quant(cursor *c, gguf_tensor *t) {
    uint64_t start = c->at;
    if (!cursor_take_u32(c, &t->ggml_id, "the type")) return false;
    t->quant = quant_find(t->ggml_id);
    if (!t->quant) return true;
    uint32_t block_dim = t->quant->block_dim;
    if (t->shape[0] % block_dim)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "tensor '%.*s' has rows of %" PRIu64 " values, but %s comes in blocks"
                         " of %" PRIu32,
                         GGUF_SHOWN(t->name), t->shape[0], t->quant->name, block_dim);
    t->n_bytes = t->shape[0] / block_dim;
    bool wraps = __builtin_mul_overflow(t->n_bytes, t->quant->block_bytes, &t->n_bytes);
    for (uint32_t i = 1; i < MAX_DIMS; i++)
        wraps |= __builtin_mul_overflow(t->n_bytes, t->shape[i], &t->n_bytes);
    if (wraps)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "tensor '%.*s' of type %s takes more than 2^64 - 1 bytes",
                         GGUF_SHOWN(t->name), t->quant->name);
    return true;
}

/* t->offset is from the start of the data until `place` knows where that is. */
static bool take_tensor(cursor *c, gguf_tensor *t, uint32_t alignment) {
    cursor_begin(c, "", no_name);
    if (!cursor_take_name(c, MAX_NAME_BYTES, &t->name, "a tensor's name")) return false;
    cursor_begin(c, " of tensor '", t->name);
    if (!take_shape(c, t) || !take_quant(c, t)) return false;
    uint64_t start = c->at;
    if (!cursor_take_u64(c, &t->offset, "the offset")) return false;
    if (t->offset % alignment)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "tensor '%.*s' lies at offset %" PRIu64
                         ", which is not a multiple of the alignment %" PRIu32,
                         GGUF_SHOWN(t->name), t->offset, alignment);
    return true;
}

/* Bytes a tensor is known to take: one at least, also where its type is unknown. */
static uint64_t least_bytes(const gguf_tensor *t) { return t->quant ? t->n_bytes : 1; }

static bool place(cursor *c, gguf_tensor *t, uint64_t data_start) {
    uint64_t at = cursor_offset(c, t->name.data), end;
    if (__builtin_add_overflow(data_start, t->offset, &t->offset) ||
        __builtin_add_overflow(t->offset, least_bytes(t), &end))
        return gguf_fail(c->err, LL_ERR_FORMAT, at, "tensor '%.*s' would end beyond byte 2^64",
                         GGUF_SHOWN(t->name));
    if (end > c->file_bytes)
        return gguf_fail(c->err, LL_ERR_FORMAT, at,
                         "tensor '%.*s' needs bytes %" PRIu64 " to %" PRIu64
                         ", but the file ends at %" PRIu64 ": it is cut off or damaged",
                         GGUF_SHOWN(t->name), t->offset, end, c->file_bytes);
    if (t->quant && end <= c->given) t->data = c->base + t->offset;
    return true;
}

static int order_offsets(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    int order = (x->offset > y->offset) - (x->offset < y->offset);
    return order ? order : (x > y) - (x < y);
}

static bool check_overlap(cursor *c, const gguf *g) {
    if (g->n_tensors == 0) return true;
    const gguf_tensor **sorted = malloc(g->n_tensors * sizeof *sorted);
    if (!sorted)
        return gguf_fail(c->err, LL_ERR_MEMORY, c->at, "no memory to sort %" PRIu64 " tensors",
                         g->n_tensors);
    for (uint64_t i = 0; i < g->n_tensors; i++) sorted[i] = &g->tensors[i];
    qsort(sorted, g->n_tensors, sizeof *sorted, order_offsets);
    bool apart = true;
    for (uint64_t i = 1; i < g->n_tensors && apart; i++) {
        const gguf_tensor *a = sorted[i - 1], *b = sorted[i];
        if (b->offset - a->offset < least_bytes(a))
            apart = gguf_fail(c->err, LL_ERR_FORMAT, cursor_offset(c, b->name.data),
                              "tensor '%.*s' begins at byte %" PRIu64
                              ", inside tensor '%.*s', which ends at %" PRIu64,
                              GGUF_SHOWN(b->name), b->offset, GGUF_SHOWN(a->name),
                              a->offset + least_bytes(a));
    }
    free(sorted);
    return apart;
}

static bool take_tensors(cursor *c, gguf *g, uint64_t n, uint32_t alignment) {
    void *memory = NULL;
    cursor_begin(c, "", no_name);
    if (!allocate(c, n, MAX_TENSORS, MIN_TENSOR_BYTES, sizeof *g->tensors, &memory, "tensors"))
        return false;
    g->tensors = memory;
    g->n_tensors = n;
    for (uint64_t i = 0; i < n; i++)
        if (!take_tensor(c, &g->tensors[i], alignment)) return false;
    uint64_t data_start = c->at + (alignment - c->at % alignment) % alignment; /* c->at < 2^63 */
    for (uint64_t i = 0; i < n; i++)
        if (!place(c, &g->tensors[i], data_start)) return false;
    return sort_names(c, g->tensors, n, sizeof *g->tensors, &g->tensors_by_name, "tensor name") &&
           check_overlap(c, g);
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* What is often found under a model's name, by its first four bytes. */
static const struct {
    char magic[5];
    const char *what;
} impostors[] = {
    {"vers",   "a Git LFS pointer, not the file it points to"},
    {"<!do",   "a web page"                                  },
    {"<!DO",   "a web page"                                  },
    {"<htm",   "a web page"                                  },
    {"PK\3\4", "a zip archive or a PyTorch checkpoint"       },
    {"lmgg",   "a GGML file, older than GGUF"                },
    {"fmgg",   "a GGML file, older than GGUF"                },
    {"tjgg",   "a GGML file, older than GGUF"                },
};

static bool take_magic(cursor *c) {
    uint8_t found[4];
    if (c->file_bytes == 0)
        return gguf_fail(c->err, LL_ERR_FORMAT, 0, "the file is empty; a GGUF file is expected");
    if (!cursor_need(c, sizeof found, "the letters GGUF")) return false;
    memcpy(found, c->base, sizeof found);
    c->at += sizeof found;
    if (memcmp(found, "GGUF", sizeof found) == 0) return true;
    for (size_t i = 0; i < sizeof impostors / sizeof impostors[0]; i++)
        if (memcmp(found, impostors[i].magic, sizeof found) == 0)
            return gguf_fail(c->err, LL_ERR_FORMAT, 0,
                             "the file looks like %s; a GGUF file is expected", impostors[i].what);
    return gguf_fail(c->err, LL_ERR_FORMAT, 0,
                     "the file begins with bytes %02x %02x %02x %02x; a GGUF file begins with"
                     " 47 47 55 46",
                     found[0], found[1], found[2], found[3]);
}

static bool take_version(cursor *c) {
    uint64_t start = c->at;
    uint32_t version;
    if (!cursor_take_u32(c, &version, "the GGUF version")) return false;
    if (version == 2 || version == 3) return true;
    if (version == 0)
        return gguf_fail(c->err, LL_ERR_FORMAT, start, "GGUF version 0 does not exist");
    if (version == 1)
        return gguf_fail(c->err, LL_ERR_UNSUPPORTED, start,
                         "GGUF version 1 is no longer read; versions 2 and 3 are, so the model"
                         " has to be converted again");
    if ((version & 0xffff) == 0)
        return gguf_fail(c->err, LL_ERR_UNSUPPORTED, start,
                         "the file is big-endian; only little-endian GGUF files are read");
    return gguf_fail(c->err, LL_ERR_UNSUPPORTED, start,
                     "GGUF version %" PRIu32 " is newer than this engine; versions 2 and 3 are"
                     " read",
                     version);
}

static bool find_alignment(cursor *c, const gguf *g, uint32_t *out) {
    *out = DEFAULT_ALIGNMENT;
    const ll_meta *m = gguf_find_key(g, "general.alignment");
    if (!m) return true;
    uint64_t at = cursor_offset(c, m->data);
    if (m->type != LL_VALUE_U32)
        return gguf_fail(c->err, LL_ERR_FORMAT, at, "general.alignment is %s; u32 is expected",
                         gguf_value_name(m->type));
    memcpy(out, m->data, sizeof *out);
    if (*out < MIN_ALIGNMENT || *out > MAX_ALIGNMENT || (*out & (*out - 1)))
        return gguf_fail(c->err, LL_ERR_FORMAT, at,
                         "general.alignment is %" PRIu32 "; a power of two from %u to %u is"
                         " expected",
                         *out, MIN_ALIGNMENT, MAX_ALIGNMENT);
    return true;
}

static bool walk(cursor *c, gguf *g) {
    uint64_t n_tensors, n_meta;
    uint32_t alignment;
    return take_magic(c) && take_version(c) &&
           cursor_take_u64(c, &n_tensors, "the number of tensors") &&
           cursor_take_u64(c, &n_meta, "the number of metadata keys") && take_metas(c, g, n_meta) &&
           find_alignment(c, g, &alignment) && take_tensors(c, g, n_tensors, alignment);
}

void gguf_release(gguf *g) {
    free(g->tensors_by_name);
    free(g->meta_by_name);
    free(g->tensors);
    free(g->meta);
    free(g);
}

gguf *gguf_parse(const void *header, size_t header_bytes, uint64_t file_bytes, ll_error *err) {
    if (header_bytes > file_bytes || file_bytes > INT64_MAX) {
        ll_fail(err, LL_ERR_ARGUMENT, "%zu header bytes were given of a file of %" PRIu64 " bytes",
                header_bytes, file_bytes);
        return NULL;
    }
    gguf *g = calloc(1, sizeof *g);
    if (!g) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for a file's description");
        return NULL;
    }
    g->base = header;
    g->header_bytes = header_bytes;
    g->file_bytes = file_bytes;
    cursor c = {.base = header, .given = header_bytes, .file_bytes = file_bytes, .err = err};
    cursor_begin(&c, "", no_name);
    if (walk(&c, g)) return g;
    gguf_release(g);
    return NULL;
}
