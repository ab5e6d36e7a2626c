/* gguf_cursor: the only way the header's walk reads a byte.
 *
 * `cursor_need` holds a length against what is left of the file before anything of that length is
 * touched, and every other read goes through it. Messages say whose value it was, what was found,
 * what was expected and at which byte.
 */
#ifndef LL_FORMAT_GGUF_CURSOR_H
#define LL_FORMAT_GGUF_CURSOR_H

#include "format/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they lie");
_Static_assert(sizeof(size_t) == 8, "a file's extents are addresses");

typedef struct cursor {
    const uint8_t *base;
    uint64_t at;         /* at most given */
    uint64_t given;      /* bytes in memory, at most file_bytes */
    uint64_t file_bytes; /* at most 2^63 - 1 */
    const char *whose;   /* for messages: "", or " of key '" with the key as its name */
    ll_string name;
    ll_error *err;
} cursor;

/* ll_fail with the byte it is about, in err->offset and in the sentence. */
bool gguf_fail(ll_error *err, ll_error_code code, uint64_t at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Keys and names for "%.*s" in messages: whole unless hostile, as a message has 512 bytes. */
#define GGUF_SHOWN(s) (int)((s).n_bytes < 80 ? (s).n_bytes : 80), (s).data

/* What the reads that follow belong to. */
void cursor_begin(cursor *c, const char *whose, ll_string name);

/* Whether n more bytes are there. FORMAT where the file ends before, ARGUMENT where only the part
 * that was given does. */
bool cursor_need(cursor *c, uint64_t n, const char *what);

bool cursor_take_u32(cursor *c, uint32_t *out, const char *what);
bool cursor_take_u64(cursor *c, uint64_t *out, const char *what);
/* A length and that many bytes, any bytes. */
bool cursor_take_string(cursor *c, uint64_t max_bytes, ll_string *out, const char *what);
/* A key or a tensor's name: never empty, and printable ASCII as the format asks, so that it can be
 * looked up by a C string and shown on a terminal. */
bool cursor_take_name(cursor *c, uint64_t max_bytes, ll_string *out, const char *what);

/* Where in the file a byte of the header lies. */
static inline uint64_t cursor_offset(const cursor *c, const void *byte) {
    return (uint64_t)((const uint8_t *)byte - c->base);
}

#endif
