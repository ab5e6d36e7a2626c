/* gguf: looking things up in a file, and reading values as the type asked for.
 *
 * The walk in gguf_parse.c has checked every length, so lookups and reads touch only bytes known
 * to be there. Names are found by bisection in the sorted order the walk left behind.
 */
#include "format/gguf.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "format/gguf_cursor.h"
#include "format/gguf_internal.h"

uint64_t gguf_file_bytes(const gguf *g) { return g->file_bytes; }
uint64_t gguf_n_meta(const gguf *g) { return g->n_meta; }
const ll_meta *gguf_meta(const gguf *g, uint64_t i) { return i < g->n_meta ? &g->meta[i] : NULL; }
uint64_t gguf_n_tensors(const gguf *g) { return g->n_tensors; }
const gguf_tensor *gguf_tensors(const gguf *g) { return g->tensors; }

/* ---- types and names ------------------------------------------------------------------------ */

/* By ll_value_type. */
static const struct {
    const char *name;
    uint32_t n_bytes;
} value_types[] = {
    {"u8",     1},
    {"i8",     1},
    {"u16",    2},
    {"i16",    2},
    {"u32",    4},
    {"i32",    4},
    {"f32",    4},
    {"bool",   1},
    {"string", 0},
    {"array",  0},
    {"u64",    8},
    {"i64",    8},
    {"f64",    8},
};
_Static_assert(sizeof value_types / sizeof value_types[0] == LL_VALUE_F64 + 1, "one row a type");

uint32_t gguf_value_bytes(ll_value_type type) { return value_types[type].n_bytes; }
const char *gguf_value_name(ll_value_type type) { return value_types[type].name; }

int gguf_compare_names(const ll_string *a, const ll_string *b) {
    size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
    int order = n ? memcmp(a->data, b->data, n) : 0;
    if (order) return order;
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

/* ---- lookup -------------------------------------------------------------------------------- */

static const void *find_name(const ll_string *const *sorted, uint64_t n, const char *name) {
    ll_string wanted = {name, strlen(name)};
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int order = gguf_compare_names(&wanted, sorted[middle]);
        if (order == 0) return sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const ll_meta *gguf_find_key(const gguf *g, const char *key) {
    return find_name(g->meta_by_name, g->n_meta, key);
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    return find_name(g->tensors_by_name, g->n_tensors, name);
}

uint32_t gguf_file_of(const gguf *g, ll_string name) {
    for (uint32_t i = 0; i < g->n_others; i++) {
        uintptr_t at = (uintptr_t)name.data, base = (uintptr_t)g->others[i]->base;
        if (at >= base && at - base < g->others[i]->header_bytes) return i + 1;
    }
    return 0;
}

/* ---- one value ----------------------------------------------------------------------------- */

/* A number of any type, wide enough to be exact. */
typedef struct number {
    enum { NOT_A_NUMBER, NEGATIVE, NATURAL, REAL } kind;
    int64_t negative;
    uint64_t natural;
    double real;
} number;

static number from_signed(int64_t v) {
    if (v < 0) return (number){.kind = NEGATIVE, .negative = v};
    return (number){.kind = NATURAL, .natural = (uint64_t)v};
}

/* Element i (below n_elements) of an array, or a scalar with i = 0. */
static number number_at(const ll_meta *m, uint64_t i) {
    uint32_t n_bytes = gguf_value_bytes(m->element_type);
    uint64_t bits = 0;
    memcpy(&bits, m->data + i * n_bytes, n_bytes);
    float f32;
    double f64;
    switch (m->element_type) {
    case LL_VALUE_U8:
    case LL_VALUE_U16:
    case LL_VALUE_U32:
    case LL_VALUE_U64:
        return (number){.kind = NATURAL, .natural = bits};
    case LL_VALUE_I8:
        return from_signed((int8_t)bits);
    case LL_VALUE_I16:
        return from_signed((int16_t)bits);
    case LL_VALUE_I32:
        return from_signed((int32_t)bits);
    case LL_VALUE_I64:
        return from_signed((int64_t)bits);
    case LL_VALUE_F32:
        memcpy(&f32, &bits, sizeof f32);
        return (number){.kind = REAL, .real = (double)f32};
    case LL_VALUE_F64:
        memcpy(&f64, &bits, sizeof f64);
        return (number){.kind = REAL, .real = f64};
    default:
        return (number){.kind = NOT_A_NUMBER};
    }
}

/* ---- typed reads --------------------------------------------------------------------------- */

static bool wrong_type(const gguf *g, const ll_meta *m, const char *expected, ll_error *err) {
    bool array = m->type == LL_VALUE_ARRAY;
    return gguf_fail(err, LL_ERR_FORMAT, (uint64_t)(m->data - g->base),
                     "key '%.*s' is %s%s; %s is expected", GGUF_SHOWN(m->key),
                     array ? "an array of " : "", gguf_value_name(m->element_type), expected);
}

static bool out_of_range(const gguf *g, const ll_meta *m, const char *range, ll_error *err) {
    return gguf_fail(err, LL_ERR_FORMAT, (uint64_t)(m->data - g->base),
                     "key '%.*s' holds a value outside %s", GGUF_SHOWN(m->key), range);
}

/* The entry a scalar read is about: *found is NULL where the key is absent. */
static bool find_scalar(const gguf *g, const char *key, const char *expected, const ll_meta **found,
                        ll_error *err) {
    *found = gguf_find_key(g, key);
    return !*found || (*found)->type != LL_VALUE_ARRAY || wrong_type(g, *found, expected, err);
}

/* The entry and the index that an _at read is about. */
static bool find_element(const gguf *g, const char *key, uint64_t *i, const ll_meta **found,
                         ll_error *err) {
    const ll_meta *m = *found = gguf_find_key(g, key);
    if (!m) return true;
    if (m->type != LL_VALUE_ARRAY) *i = 0;
    if (*i < m->n_elements) return true;
    return gguf_fail(err, LL_ERR_FORMAT, (uint64_t)(m->data - g->base),
                     "key '%.*s' has %" PRIu64 " elements; more than %" PRIu64 " are expected",
                     GGUF_SHOWN(m->key), m->n_elements, *i);
}

static bool to_u32(const gguf *g, const ll_meta *m, uint64_t i, uint32_t *out, ll_error *err) {
    number v = number_at(m, i);
    if (v.kind == NOT_A_NUMBER || v.kind == REAL) return wrong_type(g, m, "an integer", err);
    if (v.kind == NEGATIVE || v.natural > UINT32_MAX)
        return out_of_range(g, m, "0 to 4294967295", err);
    *out = (uint32_t)v.natural;
    return true;
}

static bool to_bool(const gguf *g, const ll_meta *m, uint64_t i, bool *out, ll_error *err) {
    if (m->element_type != LL_VALUE_BOOL) return wrong_type(g, m, "a bool", err);
    *out = m->data[i] == 1;
    return true;
}

bool gguf_read_u32(const gguf *g, const char *key, uint32_t *out, ll_error *err) {
    const ll_meta *m;
    if (!find_scalar(g, key, "an integer", &m, err)) return false;
    return !m || to_u32(g, m, 0, out, err);
}

bool gguf_read_i32(const gguf *g, const char *key, int32_t *out, ll_error *err) {
    const ll_meta *m;
    if (!find_scalar(g, key, "an integer", &m, err)) return false;
    if (!m) return true;
    number v = number_at(m, 0);
    if (v.kind == NOT_A_NUMBER || v.kind == REAL) return wrong_type(g, m, "an integer", err);
    if (v.kind == NEGATIVE ? v.negative < INT32_MIN : v.natural > INT32_MAX)
        return out_of_range(g, m, "-2147483648 to 2147483647", err);
    *out = v.kind == NEGATIVE ? (int32_t)v.negative : (int32_t)v.natural;
    return true;
}

bool gguf_read_f32(const gguf *g, const char *key, float *out, ll_error *err) {
    const ll_meta *m;
    if (!find_scalar(g, key, "a float", &m, err)) return false;
    if (!m) return true;
    number v = number_at(m, 0);
    if (v.kind != REAL) return wrong_type(g, m, "a float", err);
    if (isfinite(v.real) && fabs(v.real) > (double)FLT_MAX)
        return out_of_range(g, m, "the range of f32", err);
    *out = (float)v.real;
    return true;
}

bool gguf_read_bool(const gguf *g, const char *key, bool *out, ll_error *err) {
    const ll_meta *m;
    if (!find_scalar(g, key, "a bool", &m, err)) return false;
    return !m || to_bool(g, m, 0, out, err);
}

bool gguf_read_string(const gguf *g, const char *key, ll_string *out, ll_error *err) {
    const ll_meta *m = gguf_find_key(g, key);
    if (!m) return true;
    if (m->type != LL_VALUE_STRING) return wrong_type(g, m, "a string", err);
    const uint8_t *at = m->data;
    *out = gguf_next_string(&at);
    return true;
}

bool gguf_read_u32_at(const gguf *g, const char *key, uint64_t i, uint32_t *out, ll_error *err) {
    const ll_meta *m;
    if (!find_element(g, key, &i, &m, err)) return false;
    return !m || to_u32(g, m, i, out, err);
}

bool gguf_read_bool_at(const gguf *g, const char *key, uint64_t i, bool *out, ll_error *err) {
    const ll_meta *m;
    if (!find_element(g, key, &i, &m, err)) return false;
    return !m || to_bool(g, m, i, out, err);
}

/* ---- arrays -------------------------------------------------------------------------------- */

ll_string gguf_next_string(const uint8_t **at) {
    uint64_t n_bytes;
    memcpy(&n_bytes, *at, sizeof n_bytes);
    ll_string s = {(const char *)*at + sizeof n_bytes, n_bytes};
    *at += sizeof n_bytes + n_bytes;
    return s;
}

float gguf_f32_at(const ll_meta *array, uint64_t i) {
    if (i >= array->n_elements) return 0.0f;
    number v = number_at(array, i);
    if (v.kind == NEGATIVE) return (float)v.negative;
    if (v.kind == NATURAL) return (float)v.natural;
    return v.kind == REAL ? (float)v.real : 0.0f;
}

int32_t gguf_i32_at(const ll_meta *array, uint64_t i) {
    if (i >= array->n_elements) return 0;
    number v = number_at(array, i);
    if (v.kind == NEGATIVE) return v.negative < INT32_MIN ? INT32_MIN : (int32_t)v.negative;
    if (v.kind == NATURAL) return v.natural > INT32_MAX ? INT32_MAX : (int32_t)v.natural;
    return 0;
}
