/* gguf_cursor: checked reads from the bytes of a header, and the sentences of their failures. */
#include "format/gguf_cursor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool gguf_fail(ll_error *err, ll_error_code code, uint64_t at, const char *format, ...) {
    char text[440];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bool first = err && err->code == LL_OK;
    ll_fail(err, code, "%s (at byte %" PRIu64 ")", text, at);
    if (first) err->offset = at;
    return false;
}

/* Arguments for "%s%.*s%s". */
#define WHOSE(c) (c)->whose, GGUF_SHOWN((c)->name), *(c)->whose ? "'" : ""

void cursor_begin(cursor *c, const char *whose, ll_string name) {
    c->whose = whose;
    c->name = name;
}

bool cursor_need(cursor *c, uint64_t n, const char *what) {
    uint64_t in_file = c->file_bytes - c->at, given = c->given - c->at;
    if (n > in_file)
        return gguf_fail(c->err, LL_ERR_FORMAT, c->at,
                         "the file ends within %s%s%.*s%s: %" PRIu64 " bytes are expected, %" PRIu64
                         " are left",
                         what, WHOSE(c), n, in_file);
    if (n > given)
        return gguf_fail(c->err, LL_ERR_ARGUMENT, c->at,
                         "the part of the file that was given ends within %s%s%.*s%s: %" PRIu64
                         " bytes are expected, %" PRIu64 " are left",
                         what, WHOSE(c), n, given);
    return true;
}

bool cursor_take_u32(cursor *c, uint32_t *out, const char *what) {
    if (!cursor_need(c, sizeof *out, what)) return false;
    memcpy(out, c->base + c->at, sizeof *out);
    c->at += sizeof *out;
    return true;
}

bool cursor_take_u64(cursor *c, uint64_t *out, const char *what) {
    if (!cursor_need(c, sizeof *out, what)) return false;
    memcpy(out, c->base + c->at, sizeof *out);
    c->at += sizeof *out;
    return true;
}

bool cursor_take_string(cursor *c, uint64_t max_bytes, ll_string *out, const char *what) {
    uint64_t start = c->at, n;
    if (!cursor_take_u64(c, &n, what)) return false;
    if (n > max_bytes)
        return gguf_fail(c->err, LL_ERR_FORMAT, start,
                         "%s%s%.*s%s is declared %" PRIu64 " bytes long; at most %" PRIu64
                         " are allowed",
                         what, WHOSE(c), n, max_bytes);
    if (!cursor_need(c, n, what)) return false;
    *out = (ll_string){(const char *)c->base + c->at, n};
    c->at += n;
    return true;
}

bool cursor_take_name(cursor *c, uint64_t max_bytes, ll_string *out, const char *what) {
    if (!cursor_take_string(c, max_bytes, out, what)) return false;
    uint64_t start = c->at - out->n_bytes;
    if (out->n_bytes == 0) return gguf_fail(c->err, LL_ERR_FORMAT, start, "%s is empty", what);
    for (size_t i = 0; i < out->n_bytes; i++) {
        uint8_t b = (uint8_t)out->data[i];
        if (b < 0x20 || b > 0x7e)
            return gguf_fail(c->err, LL_ERR_FORMAT, start + i,
                             "%s holds byte 0x%02x, where printable ASCII is expected", what, b);
    }
    return true;
}
